"""A training step at the size of SD 1.5 on a CPU, in bfloat16: as a fit computes it, and as stock PyTorch would.

``ready`` holds frozen weights ready and has the compiled library's gradient of attention; ``stock attention`` leaves
that out, and ``stock`` converts the weights in every pass, too.

Random weights; both ways in one process, in turns, medians. Without --side the latents are those of 512 pixels.

Usage: python -m benchmarks.fit_step [--rows 1] [--rounds 5] [--side 64]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import CLIPTextConfig, CLIPTextModel

from sdk import Concept, FitConfig, Personalizer, quiet
from sdk.bindings.arrays import instruction_set
from sdk.data import Batch
from sdk.families import CONFIGURATIONS
from sdk.methods import method_class
from sdk.runtime import keep_memory

WAYS = ("stock", "stock attention", "ready")
CAPTION = "photo of a <new1> cat and <new2> dog"


def random_model() -> Personalizer:
    """SD 1.5's UNet and text encoder with random weights; the bundled model's tokenizer, for want of CLIP's words."""
    torch.manual_seed(0)
    parts = CONFIGURATIONS["sd1"]
    tokenizer = Personalizer.from_pretrained("bundled", device="cpu").pipe.tokenizer
    ends = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    read = CLIPTextConfig(**parts["text_encoder"] | {"vocab_size": len(tokenizer)} | ends)
    unet = UNet2DConditionModel.from_config(parts["unet"])
    for weight in unet.parameters():
        if weight.ndim > 1:  # as large as what comes in, or activations vanish
            torch.nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    levels = {name: parts["scheduler"][name] for name in ("beta_start", "beta_end", "beta_schedule")}
    pipe = StableDiffusionPipeline(
        unet=unet,
        vae=AutoencoderKL(**blocks, block_out_channels=(8, 8, 8, 8), norm_num_groups=4, sample_size=512),
        text_encoder=CLIPTextModel(read),
        tokenizer=tokenizer,
        scheduler=DDIMScheduler(**levels, clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return Personalizer(pipe)


@contextmanager
def attending(way: str) -> Iterator[None]:
    """Compute a block's attention as a way does."""
    kernels = import_module("sdk.kernels")
    own = kernels.attention
    if way != "ready":
        kernels.attention = F.scaled_dot_product_attention
    try:
        yield
    finally:
        kernels.attention = own


class Counted(TorchDispatchMode):
    """Counts what torch is asked for: on a GPU most of it would be a kernel of its own."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def seconds(learner, batch: Batch) -> tuple[float, float]:
    """A step forwards and backwards, and its loss."""
    begin = time.perf_counter()
    with learner.installed():
        losses = learner.losses(batch)
        losses["loss"].backward()
    taken = time.perf_counter() - begin
    for weight in learner.parameters().values():
        weight.grad = None
    return taken, losses["loss"].item()


@dataclass(frozen=True)
class Way:
    """One way to compute a step.

    Attributes:
        seconds: of each round.
        operations: that are asked of torch, views not counted.
        loss: of the step.
    """

    seconds: list[float]
    operations: int
    loss: float


def measure(rows: int, rounds: int, side: int) -> dict[str, Way]:
    """Compute a step both ways in turns.

    Args:
        rows: of the step.
        rounds: after a first one, which is slower.
        side: of the latents.
    """
    personalizer = random_model()
    config = FitConfig.preset("best", "disendiff", precision="bf16").for_method("disendiff")
    concepts = [Concept("cat", "<new1>"), Concept("dog", "<new2>")]
    ways = {name: method_class("disendiff")(personalizer, concepts, config) for name in WAYS}
    for name in WAYS[1:]:
        ways[name].hold_ready()
    generator = torch.Generator().manual_seed(0)
    shape = (rows, 4, side, side)
    latents, noise = (torch.randn(shape, generator=generator) for _ in range(2))
    batch = Batch(
        latents=latents,
        noise=noise,
        timesteps=torch.randint(0, 1000, shape[:1], generator=generator),
        captions=[CAPTION] * rows,
        masks=torch.ones(rows, 1, *shape[2:]),
        named=[(0, 1)] * rows,
    )
    found: dict[str, list[float]] = {name: [] for name in ways}
    losses, counts = {}, {}
    for name, learner in ways.items():
        with Counted() as counted, attending(name):
            seconds(learner, batch)
        counts[name] = counted.count
    for _ in range(rounds):
        for name, learner in ways.items():
            with attending(name):
                taken, losses[name] = seconds(learner, batch)
            found[name].append(taken)
    return {name: Way(found[name], counts[name], losses[name]) for name in ways}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", type=int, default=64)
    arguments = parser.parse_args()
    quiet()
    keep_memory()
    ways = measure(arguments.rows, arguments.rounds, arguments.side)
    print("| way | seconds a step | operations | loss |\n|---|---:|---:|---:|")
    for name, way in ways.items():
        print(f"| {name} | {statistics.median(way.seconds):.2f} | {way.operations} | {way.loss:.4f} |")
    for name in WAYS[1:]:
        ratios = sorted(a / b for a, b in zip(ways["stock"].seconds, ways[name].seconds, strict=True))
        print(f"{name}: {statistics.median(ratios):.2f} times stock's speed ({ratios[0]:.2f} to {ratios[-1]:.2f})")
    print(f"torch {torch.__version__}, {instruction_set()}")


if __name__ == "__main__":
    main()
