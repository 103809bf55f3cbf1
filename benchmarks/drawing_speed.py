"""What drawing with an exported folder costs in each engine, beside plain diffusers in float32.

Of a folder of any size: one step of the UNet for two rows, all ways in turns, medians, and their errors to float32.
With ``--picture`` a whole picture each: diffusers' 50 steps of DDIM in float32, and every speed of every precision,
with its PSNR to the exact one. Diffusers' weights are random, which costs the same.

Usage: python -m benchmarks.drawing_speed FOLDER [--rounds 5] [--ways diffusers,ORT] [--picture] [--csv FILE]
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.kernels_cpu import processor
from sdk.bindings.arrays import instruction_set
from sdk.deploy import OnnxPersonalizer
from sdk.runtime import quiet

ENGINES = {
    "ORT": {"engine": "onnxruntime"},
    "OpenVINO fp32": {"engine": "openvino", "precision": "fp32"},
    "OpenVINO bf16": {"engine": "openvino", "precision": "bf16"},
    "OpenVINO int8": {"engine": "openvino", "precision": "int8"},
}
PEER, OURS = "diffusers", "torch bf16"
GOALS = {OURS: 1.6, "OpenVINO bf16": 2.2, "OpenVINO int8": 3.5}
FIELDS = ("processor", "instructions", "threads", "what", "way", "seconds", "ratio", "goal", "error")
PROMPT = "a photo of a cat"


def config_of(folder: Path, part: str) -> dict[str, Any]:
    """A part's configuration."""
    return json.loads((folder / part / "config.json").read_text(encoding="utf-8"))


def diffusers_unet(folder: Path, dtype: torch.dtype) -> Any:
    """A UNet of the folder's size with random weights."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    return UNet2DConditionModel.from_config(config_of(folder, "unet")).to(dtype).eval()


def steps(folder: Path, ways: list[str]) -> dict[str, Callable[[], np.ndarray]]:
    """Functions that compute one step of two rows, by way."""
    unet = config_of(folder, "unet")
    rng = np.random.default_rng(0)
    side, channels, context = unet["sample_size"], unet["in_channels"], unet["cross_attention_dim"]
    sample = rng.standard_normal((2, channels, side, side)).astype(np.float32)
    length = config_of(folder, "text_encoder")["max_position_embeddings"]
    states = rng.standard_normal((2, length, context)).astype(np.float32)
    found: dict[str, Callable[[], np.ndarray]] = {}
    for name, dtype in ((PEER, torch.float32), (OURS, torch.bfloat16)):
        if name in ways:
            found[name] = torch_step(diffusers_unet(folder, dtype), sample, states, name == OURS)
    for name, how in ENGINES.items():
        if name in ways:
            graphs = OnnxPersonalizer.from_pretrained(folder, **how).model.graphs
            inputs = graphs["unet"].inputs
            given = {"sample": sample, "timestep": np.asarray(500)}
            if "encoder_hidden_states" in inputs:
                given["encoder_hidden_states"] = states
            else:
                given |= graphs["kv_projection"].run({"encoder_hidden_states": states})
            bound = graphs["unet"].bound({n: v for n, v in given.items() if n in inputs})
            found[name] = lambda bound=bound: bound.run({}, ["out_sample"])[0]
    return found


def torch_step(unet: Any, sample: np.ndarray, states: np.ndarray, ours: bool) -> Callable[[], np.ndarray]:
    """One step in torch: as diffusers takes it, or as this package does."""
    from sdk.unet import attention_processors, plain_processors

    dtype = next(unet.parameters()).dtype
    arguments = torch.from_numpy(sample).to(dtype), torch.tensor(500), torch.from_numpy(states).to(dtype)

    @torch.no_grad()
    def step() -> np.ndarray:
        with attention_processors(unet, plain_processors(unet) if ours else {}):
            return unet(*arguments).sample.float().numpy()

    return step


def pictures(folder: Path, ways: list[str]) -> dict[tuple[str, str], Callable[[], np.ndarray]]:
    """Functions that draw one picture, by way and speed."""
    found: dict[tuple[str, str], Callable[[], np.ndarray]] = {}
    if PEER in ways:
        found[PEER, "50 DDIM steps"] = diffusers_picture(folder)
    for name, how in ENGINES.items():
        if name in ways:
            opened = OnnxPersonalizer.from_pretrained(folder, **how)
            for speed in ("exact", "balanced", "fast"):

                def draw(opened: OnnxPersonalizer = opened, speed: str = speed) -> np.ndarray:
                    return np.asarray(opened.generate(PROMPT, seed=0, speed=speed, eta=0.0).images[0])

                found[name, speed] = draw
    return found


def diffusers_picture(folder: Path) -> Callable[[], np.ndarray]:
    """Fifty steps of diffusers' pipeline for models with one text encoder, text states given."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline

    vae = AutoencoderKL.from_config(config_of(folder, "vae_decoder")).eval()
    scheduler = DDIMScheduler.from_pretrained(folder / "scheduler")
    unet = diffusers_unet(folder, torch.float32)
    pipe = StableDiffusionPipeline(
        vae=vae,
        unet=unet,
        scheduler=scheduler,
        text_encoder=None,
        tokenizer=None,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    length = config_of(folder, "text_encoder")["max_position_embeddings"]
    states = torch.randn(1, length, unet.config.cross_attention_dim)

    def draw() -> np.ndarray:
        return np.asarray(
            pipe(
                prompt_embeds=states,
                negative_prompt_embeds=torch.zeros_like(states),
                num_inference_steps=50,
                guidance_scale=6.0,
            ).images[0]
        )

    return draw


def four_pictures(scratch: Path, rounds: int) -> dict[str, float]:
    """Seconds for four pictures of the bundled model in twenty steps, medians of turns, by way."""
    from diffusers import StableDiffusionPipeline

    from sdk import Personalizer
    from sdk.model import BUNDLED_FOLDER

    prompt, asked = "a cat on the beach", {"num_images": 4, "seed": 0, "num_inference_steps": 20}
    personalizer = Personalizer.from_pretrained("bundled", device="cpu")
    personalizer.export_onnx(scratch / "base", shared=True, int8=True)
    plain = StableDiffusionPipeline.from_pretrained(BUNDLED_FOLDER, safety_checker=None)
    plain.set_progress_bar_config(disable=True)
    ways: dict[str, Callable[[], object]] = {
        PEER: lambda: plain([prompt] * 4, num_inference_steps=20, guidance_scale=4.0),
        "torch": lambda: personalizer.generate(prompt, **asked),
    }
    for name, how in ENGINES.items():
        opened = OnnxPersonalizer.from_pretrained(scratch / "base", **how)
        ways[name] = lambda opened=opened: opened.generate(prompt, **asked)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, draw in ways.items():
            begin = time.perf_counter()
            draw()
            if turn:
                seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in seconds.items()}


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """In decibels."""
    error = np.square(one.astype(float) - other.astype(float)).mean()
    return float("inf") if error == 0 else 10 * np.log10(255**2 / error)


def measure_steps(folder: Path, ways: list[str], rounds: int) -> list[dict[str, Any]]:
    """Rows of the table for one step."""
    found = steps(folder, ways)
    seconds: dict[str, list[float]] = {name: [] for name in found}
    answers = {}
    for turn in range(rounds + 1):
        for name, step in found.items():
            begin = time.perf_counter()
            answers[name] = step()
            if turn:
                seconds[name].append(time.perf_counter() - begin)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    right = next((answers[name] for name in ("OpenVINO fp32", "ORT") if name in answers), None)
    rows = []
    for name, median in medians.items():
        row = {"what": "UNet, 2 rows", "way": name, "seconds": round(median, 4), "goal": GOALS.get(name, "")}
        if PEER in medians:
            row["ratio"] = round(medians[PEER] / median, 2)
        if right is not None and name in ENGINES:
            row["error"] = f"{np.linalg.norm(answers[name] - right) / np.linalg.norm(right):.1e}"
        rows.append(row)
    return rows


def measure_pictures(folder: Path, ways: list[str]) -> list[dict[str, Any]]:
    """Rows of the table for whole pictures; what is compiled when first used was drawn once before."""
    rows, right, peer = [], None, None
    for (way, speed), draw in pictures(folder, ways).items():
        if way != PEER:
            draw()
        begin = time.perf_counter()
        drawn = draw()
        taken = time.perf_counter() - begin
        if way == PEER:
            peer = taken
        elif right is None:
            right = drawn
        row = {"what": "picture", "way": f"{way}, {speed}", "seconds": round(taken, 2)}
        row["goal"] = 15.0 if (way, speed) == ("OpenVINO int8", "fast") else ""
        if peer is not None:
            row["ratio"] = round(peer / taken, 2)
        if way != PEER and right is not None:
            row["error"] = f"{psnr(drawn, right):.1f} dB"
        rows.append(row)
        print(row, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="an exported folder")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ways", default=",".join((PEER, OURS, *ENGINES)), help="default: all that are there")
    parser.add_argument("--picture", action="store_true", help="whole pictures instead of steps")
    parser.add_argument("--csv", type=Path, help="append the figures there")
    arguments = parser.parse_args()
    quiet()
    ways = arguments.ways.split(",")
    if not (arguments.folder / "unet_int8").is_dir():
        ways = [name for name in ways if "int8" not in name]
    rows = (
        measure_pictures(arguments.folder, ways)
        if arguments.picture
        else measure_steps(arguments.folder, ways, arguments.rounds)
    )
    about = {"processor": processor(), "instructions": instruction_set(), "threads": torch.get_num_threads()}
    print(f"{about['processor']}, {about['instructions']}, {about['threads']} threads, {platform.machine()}\n")
    print("| what | way | seconds | x diffusers | goal | error or PSNR |\n|---|---|---|---|---|---|")
    for row in rows:
        cells = [str(row.get(name, "")) for name in ("what", "way", "seconds", "ratio", "goal", "error")]
        print("| " + " | ".join(cells) + " |")
    if arguments.csv:
        fresh = not arguments.csv.exists()
        with arguments.csv.open("a", newline="") as opened:
            writer = csv.DictWriter(opened, FIELDS)
            if fresh:
                writer.writeheader()
            writer.writerows(about | row for row in rows)


if __name__ == "__main__":
    main()
