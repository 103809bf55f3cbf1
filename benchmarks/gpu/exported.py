"""O: the exported folder, merged and shared, under ONNX Runtime's providers, beside the same picture in PyTorch."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from sdk import ConceptPack, Personalizer
from sdk.deploy import OnnxPersonalizer

from .fit import settings, timed_fit
from .models import PROMPT, stable_diffusion
from .rows import Row, compared
from .sizes import Sizes
from .timing import FAILURES, Call, in_turns, reason_of


def measure(sizes: Sizes) -> Iterator[Row]:
    """Yield the rows of section O."""
    personalizer = stable_diffusion(sizes)
    quick = settings(sizes, None, steps=sizes.warm_from + 1, accelerate="eager")
    pack, _ = timed_fit(personalizer, quick, sizes.warm_from)
    with tempfile.TemporaryDirectory() as temporary:
        for kind in sizes.kinds:
            folder = (sizes.exports or Path(temporary)) / kind
            try:
                if not folder.exists():
                    _export(personalizer, pack, folder, kind, sizes)
            except FAILURES as error:
                yield Row("O", kind, None, note=reason_of(error))
                continue
            adapter = pack.export_adapter(Path(temporary) / "mine.onnx_adapter") if kind == "shared" else None
            yield from _compared(personalizer, pack, folder, adapter, sizes)


def _export(personalizer: Personalizer, pack: ConceptPack, folder: Path, kind: str, sizes: Sizes) -> None:
    dtype = torch.float32 if sizes.tiny else torch.float16
    if kind == "shared":
        personalizer.export_onnx(folder, shared=True, dtype=dtype)
    else:
        personalizer.export_onnx(folder, concepts=pack, dtype=dtype)


def _compared(
    personalizer: Personalizer, pack: ConceptPack, folder: Path, adapter: Path | None, sizes: Sizes
) -> Iterator[Row]:
    numbers: dict[str, Any] = {"num_inference_steps": sizes.draw_steps, "scheduler": "ddim", "eta": 0.0, "seed": 0}
    opened: dict[str, OnnxPersonalizer] = {}

    def draw(name: str, providers: list[str]) -> Any:
        if name not in opened:
            one = OnnxPersonalizer.from_pretrained(folder, providers=providers, engine="onnxruntime")
            taken = one.model.graphs["unet"].session.get_providers()[0]
            if taken != providers[0]:  # it takes the next one and only prints a warning
                raise RuntimeError(f"ONNX Runtime could not load {providers[0]} and took {taken}")
            if adapter is not None:
                one.add_pack("mine", adapter)
            opened[name] = one
        return opened[name].generate(PROMPT, concepts=None if adapter is None else "mine", **numbers).images

    calls: dict[str, Call] = {"PyTorch": lambda: personalizer.generate(PROMPT, concepts=pack, **numbers).images}
    calls |= {name: lambda name=name, p=providers: draw(name, p) for name, providers in sizes.providers.items()}
    medians, first, failed = in_turns(calls, sizes.device, sizes.rounds)
    kind = "merged" if adapter is None else "shared"
    yield from compared("O", kind, medians, "PyTorch", failed)
    yield from compared("O", f"{kind}, the first time", first, "PyTorch", {})
