"""Write a pack for other tools: ONNX Runtime, LoRA loaders, diffusers, A1111/Forge/ComfyUI."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..exports import FORMATS, LORA_DIALECTS
from .common import add_model_arguments, load_personalizer

EXAMPLE = "personalizer export my-pets --format onnx --output deployed"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pack", metavar="PACK", help="folder that a fit wrote")
    parser.add_argument("--format", choices=FORMATS, required=True)
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to write to")
    add_model_arguments(parser)
    onnx = parser.add_argument_group("onnx")
    onnx.add_argument(
        "--shared", action="store_true", help="the base once, in DIR/base, and the pack as an adapter beside it"
    )
    onnx.add_argument("--adapter-only", action="store_true", help="for a base that was exported with --shared before")
    onnx.add_argument("--half", action="store_true", help="float16 instead of float32")
    lora = parser.add_argument_group("lora")
    lora.add_argument("--dialect", choices=LORA_DIALECTS, default="peft", help="kohya: for every other tool")
    lora.add_argument("--error", type=float, default=0.05, help="largest relative error of the changes; default 0.05")
    lora.add_argument("--rank", type=int, help="instead of --error")
    parser.add_argument("--pickle", action="store_true", help="diffusers: also the .bin that diffusers loads by itself")
    parser.add_argument("--name", help="webui: of files and in prompts; default the pack folder's")


def run(arguments: argparse.Namespace) -> None:
    from ..files import prepare_output_folder
    from ..pack import ConceptPack

    pack = ConceptPack.from_pretrained(arguments.pack)
    personalizer = load_personalizer(arguments, pack.base.name)
    personalizer.load_pack(pack)
    output = Path(arguments.output)
    if arguments.format != "onnx" or arguments.shared or arguments.adapter_only:
        prepare_output_folder(output)
    {"onnx": _onnx, "lora": _lora, "diffusers": _diffusers, "webui": _webui}[arguments.format](
        arguments, pack, personalizer, output
    )


def _onnx(arguments: argparse.Namespace, pack, personalizer, output: Path) -> None:
    import torch

    together = arguments.shared or arguments.adapter_only
    base, adapter = (
        output / "base" if together else output,
        output / f"{Path(arguments.pack).resolve().name}.onnx_adapter",
    )
    if not arguments.adapter_only:
        dtype = torch.float16 if arguments.half else torch.float32
        concepts = None if together else pack
        for part, error in personalizer.export_onnx(base, concepts=concepts, shared=together, dtype=dtype).items():
            print(f"{base / part}: differs from PyTorch by at most {error:.1e} of the largest value")
    if together:
        print(pack.export_adapter(adapter))
        print(f'try: o = OnnxPersonalizer.from_pretrained("{base}"); o.add_pack("mine", "{adapter}")')
        print(f'     o.generate({pack.prompt!r}, packs="mine")')
    else:
        print(f'try: OnnxPersonalizer.from_pretrained("{base}").generate({pack.prompt!r})')


def _lora(arguments: argparse.Namespace, pack, personalizer, output: Path) -> None:
    from ..exports.diffusers_layout import export_tokens
    from ..exports.lora import export_lora

    result = export_lora(
        pack, personalizer, output, dialect=arguments.dialect, error=arguments.error, rank=arguments.rank
    )
    print(f"{result.path}: rank {result.rank}, relative error {result.error:.3f}")
    for path in export_tokens(pack, output):
        print(path)
    print(f"try: load_lora_weights and load_textual_inversion of diffusers, prompt {pack.prompt!r}")


def _diffusers(arguments: argparse.Namespace, pack, personalizer, output: Path) -> None:
    from ..exports.diffusers_layout import export_diffusers

    for path in export_diffusers(pack, personalizer, output, pickle=arguments.pickle):
        print(path)
    print(f"try: sdk.exports.diffusers_layout.load_into(pipe, pack), prompt {pack.prompt!r}")


def _webui(arguments: argparse.Namespace, pack, personalizer, output: Path) -> None:
    from ..exports.webui import default_name, export_webui

    result = export_webui(pack, personalizer, output, arguments.name or default_name(arguments.pack))
    for path in result.paths:
        print(path)
    print(f"A1111, Forge: {result.prompt}")
    print(f"ComfyUI: {result.comfy_prompt}")
