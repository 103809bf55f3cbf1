"""What works with which kind of base model, tried: ``python -m tests.families.matrix`` prints the table of the docs.

Models are tiny and random, of the true architectures (:mod:`tests.families.tiny`). Every cell does it, by command where
there is one, without any network, and looks at what came out; what fails is printed in the place of a "yes".
"""

from __future__ import annotations

import contextlib
import io
import socket
import sys
import tempfile
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from sdk import ConceptPack, FitConfig, Personalizer
from sdk.combine import merge, route
from sdk.commands.main import main as command
from sdk.deploy import OnnxPersonalizer
from sdk.errors import SdkError
from sdk.families.layers import cross_attention_layers
from sdk.miniworld.references import demo_picture
from tests.families import tiny
from tests.families.single import checkpoint

SETTINGS = {
    "steps": 3,
    "batch_size": 3,
    "target_pool": 2,
    "prior": "none",
    "learning_rate": 1e-2,
    "checkpoint_every": 1,
}
DRAWN = {"seed": 3, "num_inference_steps": 3}
PROMPT = "a <new1> cat and a <new2> dog"
REFUSED = "refused in one line"
FINE = ("yes", REFUSED)
TITLES = {
    "sd1": "1.5",
    "sd2": "2.1 (velocity)",
    "sd2-base": "2.1-base",
    "sdxl": "XL",
    "inpainting": "1.5 inpainting",
    "turbo": "SD-Turbo",
    "sdxl-turbo": "SDXL-Turbo",
    "lcm": "LCM",
    "zero-snr": "2.1 zero-SNR",
}
assert TITLES.keys() == tiny.MODELS.keys()


class Case:
    """One model, and what was made with it so far."""

    def __init__(self, name: str, work: Path) -> None:
        self.name, self.work, self.picture = name, work, demo_picture()
        self.folder = tiny.write(name, work / "model")
        self.photo = work / "photo.png"
        self.picture.save(self.photo)
        self.settings = work / "settings.toml"
        lines = [
            f'{key} = "{value}"' if isinstance(value, str) else f"{key} = {value}" for key, value in SETTINGS.items()
        ]
        self.settings.write_text("\n".join(lines))

    @cached_property
    def base(self) -> Personalizer:
        return Personalizer.from_pretrained(self.folder, device="cpu")

    @cached_property
    def file(self) -> Path:
        file = self.work / "model.safetensors"
        save_file(checkpoint(self.base.pipe), file)
        return file

    @cached_property
    def pack(self) -> ConceptPack:
        return ConceptPack.from_pretrained(self.work / "pack")

    @cached_property
    def drawn(self) -> Image.Image:
        return self.draw()

    def draw(self, prompt: str = PROMPT, **how: Any) -> Image.Image:
        return self.base.generate(prompt, **{"concepts": self.pack, **DRAWN, **how}).images[0]

    def run(self, *words: Any, model: Path | None = None) -> str:
        """Do a command offline and return what it said; one that fails is an error."""
        chosen = model or self.folder
        given = ["--model", chosen, "--offline", *(["--config-from", self.folder] if chosen.is_file() else [])]
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = command([str(word) for word in (*words, *given)])
        if code:
            raise AssertionError(err.getvalue().strip().splitlines()[-1])
        return out.getvalue()

    def fit_by_command(self, output: Path, model: Path | None = None) -> ConceptPack:
        words = ("--concept", "cat", "--concept", "dog", "--config", self.settings, "--seed", 3, "--output", output)
        self.run("fit", self.photo, *words, model=model)
        return ConceptPack.from_pretrained(output)


def same(first: Image.Image, second: Image.Image, least: float = 40.0) -> None:
    error = np.square(np.asarray(first, float) - np.asarray(second, float)).mean()
    found = 10 * np.log10(255**2 / max(error, 1e-9))
    assert found >= least, f"{found:.0f} dB instead of {least:.0f}"


def differs(first: Image.Image, second: Image.Image) -> None:
    assert first.tobytes() != second.tobytes(), "the same picture"


def folder(case: Case) -> None:
    assert case.base.family.name == case.base.base.family


def fit(case: Case) -> None:
    case.fit_by_command(case.work / "pack")
    differs(case.draw(), case.draw("a cat and a dog", concepts=None))


def single_file(case: Case) -> str | None:
    """Fit, draw, export and verify by command; the pack is that of the folder."""
    if case.base.takes_guidance:
        with pytest.raises(AssertionError, match="is a latent consistency model"):
            case.fit_by_command(case.work / "of-file", case.file)
        return REFUSED
    pack = case.fit_by_command(case.work / "of-file", case.file)
    assert pack.content_hash() == case.pack.content_hash(), "another pack than from the folder"
    words = ("--prompt", PROMPT, "--num-images", 1, "--steps", 3, "--seed", 3, "--output", case.work / "of-file-drawn")
    case.run("generate", case.work / "of-file", *words, model=case.file)
    same(Image.open(case.work / "of-file-drawn" / "00-00.png"), case.drawn, 90)
    case.run("export", case.work / "of-file", "--format", "lora", "--output", case.work / "f", model=case.file)
    assert "base model: matches" in case.run("verify", case.work / "of-file", model=case.file)
    return None


def resume(case: Case) -> None:
    def stop(report: Any) -> None:
        if report.step == 2:
            raise ConnectionError

    usual = {"config": FitConfig(**SETTINGS), "seed": 3, "output_dir": case.work / "resumed"}
    with contextlib.suppress(ConnectionError):
        case.base.fit(case.picture, ["cat", "dog"], callback=stop, **usual)
    pack = case.base.fit(case.picture, ["cat", "dog"], resume=True, **usual)
    case.base.unload_pack()
    plain = case.base.fit(case.picture, ["cat", "dog"], config=FitConfig(**SETTINGS), seed=3)
    case.base.unload_pack()
    assert pack.content_hash() == plain.content_hash(), "other bits"


def generate(case: Case) -> None:
    words = ("--prompt", PROMPT, "--num-images", 1, "--steps", 3, "--seed", 3, "--output", case.work / "drawn")
    case.run("generate", case.work / "pack", *words)
    same(Image.open(case.work / "drawn" / "00-00.png"), case.drawn, 90)
    assert case.draw(height=64, width=96, negative_prompt="a red car").size == (96, 64)


def inpaint(case: Case) -> None:
    hole = Image.new("L", case.picture.size)
    hole.paste(255, (0, 0, 32, 64))
    painted = case.base.inpaint(case.picture, hole, PROMPT, concepts=case.pack, **DRAWN).images[0]
    kept, changed = (np.asarray(painted)[:, 40:], np.asarray(painted)[:, :32])
    assert np.array_equal(kept, np.asarray(case.picture)[:, 40:])
    assert not np.array_equal(changed, np.asarray(case.picture)[:, :32])
    differs(case.base.img2img(case.picture, PROMPT, concepts=case.pack, strength=0.5, **DRAWN).images[0], case.picture)


def masks(case: Case) -> None:
    case.run("masks", case.photo, "--concept", "cat", "--concept", "dog", "--output", case.work / "masks")
    assert len(list((case.work / "masks").glob("*.png"))) >= 2


def pack(case: Case) -> None:
    written = case.pack.save_pretrained(case.work / "again")
    again = ConceptPack.from_pretrained(written)
    assert again.content_hash() == case.pack.content_hash()
    differs(case.draw(concepts=merge(case.base, [case.pack, renamed(case)])), case.draw("a cat", concepts=None))
    case.draw(f"{PROMPT} and a <new3> cat", concepts=route([case.pack, renamed(case)]))
    assert case.draw(concepts=again).tobytes() == case.drawn.tobytes()


def renamed(case: Case) -> ConceptPack:
    """The pack with tokens of another name."""
    from dataclasses import replace

    concepts = [replace(c, token=f"<new{index + 3}>") for index, c in enumerate(case.pack.concepts)]
    return replace(case.pack, concepts=concepts)


def lora(case: Case) -> None:
    """Both dialects, which diffusers reads into every layer."""
    for dialect in ("kohya", "peft"):
        output = case.work / dialect
        case.run("export", case.work / "pack", "--format", "lora", "--dialect", dialect, "--output", output)
        pipe = plain_pipe(case)
        pipe.load_lora_weights(output)
        wrapped = sum(hasattr(m, "lora_A") for m in pipe.unet.modules())
        assert wrapped == 2 * len(cross_attention_layers(case.base.pipe.unet)), f"{wrapped} layers"


def lora_beside(case: Case) -> None:
    base = Personalizer.from_pretrained(case.folder, device="cpu")
    before = base.generate("a cat and a dog", **DRAWN).images[0]
    base.load_lora_weights(case.work / "peft")
    base.generate(PROMPT, concepts=case.pack, **DRAWN)
    differs(base.generate("a cat and a dog", **DRAWN).images[0], before)
    base.unload_lora_weights()
    assert base.generate("a cat and a dog", **DRAWN).images[0].tobytes() == before.tobytes()


def textual_inversion(case: Case) -> None:
    """The token files, by diffusers' own loader, in each encoder's table."""
    pipe, parts = plain_pipe(case), case.base.text_parts
    for index, token in enumerate(case.pack.tokens):
        held = load_file(case.work / "peft" / f"new{index + 1}.safetensors")
        keys = case.base.family.token_keys or tuple(held)
        for part, key in zip(parts, keys, strict=True):
            rows = held[key]
            tools = {"text_encoder": getattr(pipe, part.name), "tokenizer": getattr(pipe, part.tokenizer_name)}
            pipe.load_textual_inversion(rows, token=token, **tools)
            found = tools["text_encoder"].get_input_embeddings().weight[tools["tokenizer"].convert_tokens_to_ids(token)]
            torch.testing.assert_close(found.detach().float(), rows.reshape(-1).float(), atol=1e-6, rtol=1e-6)


def webui(case: Case) -> None:
    case.run("export", case.work / "pack", "--format", "webui", "--name", "pets", "--output", case.work / "webui")
    assert len(list((case.work / "webui").glob("*.safetensors"))) == 3


def onnx(case: Case) -> None:
    case.run("export", case.work / "pack", "--format", "onnx", "--output", case.work / "onnx")
    case.run("export", case.work / "pack", "--format", "onnx", "--shared", "--output", case.work / "shared")


def deploy(case: Case) -> None:
    merged = OnnxPersonalizer.from_pretrained(case.work / "onnx", engine="onnxruntime")
    same(merged.generate(PROMPT, **DRAWN).images[0], case.drawn)
    shared = OnnxPersonalizer.from_pretrained(case.work / "shared" / "base", engine="onnxruntime")
    (adapter,) = (case.work / "shared").glob("*.onnx_adapter")
    shared.add_pack("pets", adapter)
    same(shared.generate(PROMPT, concepts="pets", **DRAWN).images[0], case.drawn)


def verify(case: Case) -> None:
    assert "base model: matches" in case.run("verify", case.work / "pack")
    with contextlib.redirect_stdout(io.StringIO()):
        assert command(["verify", str(case.work / "onnx")]) == 0


CELLS: dict[str, Callable[[Case], str | None]] = {
    "load a folder": folder,
    "fit": fit,
    "resume": resume,
    "single file": single_file,
    "generate": generate,
    "inpaint, img2img": inpaint,
    "masks": masks,
    "pack, merge, route": pack,
    "LoRA export": lora,
    "textual inversion": textual_inversion,
    "webui export": webui,
    "LoRA beside": lora_beside,
    "ONNX export": onnx,
    "deploy": deploy,
    "verify": verify,
}


def plain_pipe(case: Case) -> Any:
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(case.folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@contextlib.contextmanager
def no_network():
    def refuse(*asked: Any, **_: Any) -> Any:
        raise AssertionError(f"asked for {asked[0]}")

    own, socket.getaddrinfo = socket.getaddrinfo, refuse
    try:
        yield
    finally:
        socket.getaddrinfo = own


def tried(name: str, cells: dict[str, Callable[[Case], str | None]] = CELLS) -> dict[str, str]:
    """Try every cell of a model; return "yes" or what was wrong, by cell."""
    found = {}
    with tempfile.TemporaryDirectory() as work, no_network():
        case = Case(name, Path(work))
        for title, cell in cells.items():
            try:
                found[title] = cell(case) or "yes"
            except (AssertionError, SdkError) as error:  # not as it should be, or refused; anything else is a bug
                found[title] = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return found


def table(found: dict[str, dict[str, str]]) -> str:
    """As Markdown: a row for each thing that can be done."""
    lines = ["| | " + " | ".join(TITLES[name] for name in found) + " |", "|---|" + "---|" * len(found)]
    for title in CELLS:
        lines.append(f"| {title} | " + " | ".join(cells[title] for cells in found.values()) + " |")
    return "\n".join(lines)


def main() -> int:
    from sdk import quiet

    quiet()
    found = {name: tried(name) for name in (sys.argv[1:] or tiny.MODELS)}
    print(table(found))
    return 0 if all(cell in FINE for cells in found.values() for cell in cells.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
