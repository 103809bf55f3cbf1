"""Show what this machine has: device, precision, attention backends and why, optional packages.

With --model, what a fit of that model needs, too: memory by rows at once, and seconds.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform

from .common import add_model_arguments, load_personalizer, say, speak_briefly

EXAMPLE = "personalizer doctor --model path/to/stable-diffusion-v1-5"
_REQUIRED = ("torch", "diffusers", "transformers", "safetensors", "accelerate", "peft")
_OPTIONAL = (
    "triton",
    "xformers",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "nncf",
    "fastapi",
    "uvicorn",
    "tensorboard",
)
_ROWS = (1, 2, 4, 8)
_METHOD = "disendiff"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)


def run(arguments: argparse.Namespace) -> None:
    speak_briefly()
    import torch

    from .. import __version__
    from ..disk.caching import cache_folder
    from ..kernels import available_backends, fastest_backend
    from ..model.base_model import best_device

    device = best_device()
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine()
    say(f"personalizer {__version__}, Python {platform.python_version()}, {platform.system()}")
    say(f"device: {device.type} ({name}), {torch.get_num_threads()} CPU threads")
    say(f"frozen weights: {'float16' if device.type == 'cuda' else 'float32'}; --dtype changes it")
    say("attention backends:")
    for backend, status in available_backends().items():
        say(f"  {backend}: {status}")
    say(f"  in use for recorded layers: {fastest_backend(torch.empty(0, device=device))}")
    say("packages:")
    for package in (*_REQUIRED, *_OPTIONAL):
        try:
            say(f"  {package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            say(f"  {package}: not installed{'' if package in _REQUIRED else ' (optional)'}")
    say(f"cache: {cache_folder()}")
    if arguments.model:
        _tell_of_model(arguments)


def _tell_of_model(arguments: argparse.Namespace) -> None:
    """What a fit with K and V of a model needs, at the method's batch of eight rows, and what will be chosen for it."""
    from ..fit.need.choose import need_of, within_memory
    from ..fit.need.pace import seconds_of_a_row

    base = load_personalizer(arguments, arguments.model)
    config = base.default_config().for_method(_METHOD)
    say(f"model: {base.family.title}, {base.resolution} pixels, {str(base.pipe.unet.dtype).removeprefix('torch.')}")
    free = (base.held + base.memory_left()) / 1e9 if isinstance(base.memory, str) else base.memory
    say(f"memory: {free:.1f} GB for it and a fit")
    say("a fit of K and V needs about (GB):")
    say("  rows_at_once            " + "".join(f"{rows:>7}" for rows in _ROWS))
    for checkpointing in (False, True):
        needs = [need_of(base, config, _METHOD, rows, checkpointing).total for rows in _ROWS]
        name = "gradient_checkpointing" if checkpointing else ""
        say(f"  {name:<24}" + "".join(f"{need / 1e9:>7.1f}" for need in needs))
    chosen = within_memory(base, config, _METHOD)
    rows = chosen.rows_at_once or chosen.batch_size
    again = ", gradient_checkpointing = true" if chosen.gradient_checkpointing else ""
    say(f"a fit takes by itself: rows_at_once = {rows}{again}")
    seconds = seconds_of_a_row(base)
    steps = chosen.steps
    say(f"time: {8 * seconds:.1f} s a step of eight rows, {8 * seconds * steps / 60:.0f} min for {steps} steps")
