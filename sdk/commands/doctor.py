"""Show what this machine has: device, precision, attention backends and why, optional packages."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform

from .common import say, speak_briefly

EXAMPLE = "personalizer doctor"
_REQUIRED = ("torch", "diffusers", "transformers", "safetensors", "accelerate", "peft")
_OPTIONAL = ("triton", "xformers", "onnxruntime", "onnxruntime-gpu", "tensorboard")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``doctor`` has no options."""


def run(arguments: argparse.Namespace) -> None:
    speak_briefly()
    import torch

    from .. import __version__
    from ..data.prior_cache import cache_folder
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
    say(f"cache of prior pictures: {cache_folder()}")
