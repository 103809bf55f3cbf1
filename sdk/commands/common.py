"""Options that several commands share."""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from typing import Any

from ..errors import InputError
from ..runtime import keep_memory, quiet


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose the base model and where it runs."""
    parser.add_argument("--model", help="'bundled', a Stable Diffusion folder, a checkpoint file or a Hub id")
    parser.add_argument("--device", help="cuda, mps or cpu; default the best there is")
    parser.add_argument("--dtype", choices=("fp32", "bf16", "fp16"), help="of the frozen weights; default fp16 on CUDA")


def speak_briefly() -> None:
    """Set this process up as a command: notes in one line each on standard error, no banners, memory kept."""
    keep_memory()
    logging.basicConfig(level=logging.WARNING, format="note: %(message)s", stream=sys.stderr)
    warnings.showwarning = lambda message, *_: print(f"note: {message}", file=sys.stderr)
    quiet()


def load_personalizer(arguments: argparse.Namespace, model: str) -> Any:
    """Load the base model that the options name, or else ``model``, which a pack may state: it is not fetched."""
    speak_briefly()
    import torch

    from ..personalizer import Personalizer

    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    try:
        device = torch.device(arguments.device) if arguments.device else None
        if device is not None:
            torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"the device {arguments.device!r} is not there; see 'personalizer doctor'") from error
    return Personalizer.from_pretrained(
        arguments.model or model,
        device=device,
        dtype=dtypes.get(arguments.dtype),
        stated_by_file=not arguments.model,
    )
