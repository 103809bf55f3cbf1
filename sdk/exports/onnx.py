"""A pack for ONNX Runtime: merged into its base model, or as an adapter beside a base that was exported once."""

from __future__ import annotations

import argparse
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..deploy.onnx_folder import MANIFEST
from ..disk.file_names import check_name
from ..disk.reading import read_json
from ..errors import BaseModelError
from .result import Export, default_name

if TYPE_CHECKING:
    from ..model.base_model import BaseModel
    from ..pack import ConceptPack
    from ..runtime import Progress


def add_arguments(group: argparse._ArgumentGroup) -> None:
    """Options of the command line."""
    group.add_argument(
        "--shared", action="store_true", help="the base once, in DIR/base, and the pack as an adapter beside it"
    )
    group.add_argument("--adapter-only", action="store_true", help="for a base that was exported with --shared before")
    group.add_argument("--half", action="store_true", help="float16 instead of float32")
    group.add_argument("--int8", action="store_true", help="the UNet in 8-bit integers, too, for OpenVINO on CPUs")


def options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Keywords of :func:`export`."""
    return {
        "shared": arguments.shared,
        "adapter_only": arguments.adapter_only,
        "half": arguments.half,
        "int8": arguments.int8,
        "name": default_name(arguments.pack),
    }


def export(
    pack: ConceptPack,
    base: BaseModel,
    folder: str | Path,
    *,
    shared: bool = False,
    adapter_only: bool = False,
    half: bool = False,
    int8: bool = False,
    name: str = "pack",
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> Export:
    """Write a pack for :class:`sdk.deploy.OnnxPersonalizer`.

    Args:
        pack: what to export.
        base: its base model.
        folder: where to write; with an adapter, the base goes to ``base`` in it.
        shared: write the base without the pack, and the pack as an adapter.
        adapter_only: write the adapter alone.
        half: float16 instead of float32.
        int8: write the UNet quantised, too, with prompts of the pack to choose ranges by; for OpenVINO.
        name: of the adapter's file; at most 64 letters, digits, ``-`` and ``_``.
        progress: called with a :class:`sdk.runtime.Event` after each part of the model.
        cancel: an event; once set, :class:`sdk.runtime.Cancelled` is raised before the next part.

    Returns:
        Its figures are the largest differences from PyTorch, relative to the largest value, by part.

    Raises:
        InputError: packages that are missing, or a pack that an adapter cannot hold.
        OutputError: a part that computes something else, int8 that draws worse, or a folder that holds other files.
    """
    import torch

    from .onnx_export import export_model

    dtype = torch.float16 if half else torch.float32
    output = Path(folder)
    told: dict[str, Any] = {"progress": progress, "cancel": cancel}
    check_name(name)
    if not (shared or adapter_only):
        figures = export_model(base, output, pack, dtype=dtype, int8=int8, **told)
        line = f"try: OnnxPersonalizer.from_pretrained({str(output)!r}).generate({pack.prompt!r})"
        usage = [*_compared(figures), *(_int8_of(output) if int8 else []), line]
        return Export([output], usage, figures=figures)
    told |= {"dtype": dtype, "int8": int8, "drawn": pack}
    figures = {} if adapter_only else export_model(base, output / "base", shared=True, **told)
    adapter = pack.export_adapter(output / f"{name}.onnx_adapter")
    usage = [
        *_compared(figures),
        *(_int8_of(output / "base") if int8 and not adapter_only else []),
        f"try: o = OnnxPersonalizer.from_pretrained({str(output / 'base')!r}); o.add_pack('mine', {str(adapter)!r})",
        f"     o.generate({pack.prompt!r}, concepts='mine')",
    ]
    return Export([adapter] if adapter_only else [output / "base", adapter], usage, figures=figures)


def _compared(figures: dict[str, float]) -> list[str]:
    return [f"{part}: differs from PyTorch by at most {e:.1e} of the largest value" for part, e in figures.items()]


def _int8_of(folder: Path) -> list[str]:
    """What was measured of the quantised UNet."""
    about = read_json(folder / MANIFEST, kind=BaseModelError, advice="export again")["int8"]
    lines = [
        f"unet_int8: errors add up to {about['drift']:.1%} of the noise; not quantised: {', '.join(about['kept'])}"
    ]
    judged = [f"{name} {before:.2f} and {after:.2f}" for name, (before, after) in about["judged"].items()]
    return lines + ([f"unet_int8: pictures in float32 and int8: {', '.join(judged)}"] if judged else [])


def loads_in(pack: ConceptPack, command: str, name: str) -> list[str]:
    """What loads the export, for ``verify``."""
    return [f"  {command} onnx       ONNX Runtime, {pack.prompt!r}"]
