"""Options that several commands share."""

from __future__ import annotations

import argparse
from typing import Any

from ..errors import InputError
from ..runtime import quiet


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose the base model and where it runs."""
    parser.add_argument("--model", help="'bundled', a Stable Diffusion folder, a checkpoint file or a Hub id")
    parser.add_argument("--device", help="cuda, mps or cpu; default the best there is")
    parser.add_argument("--dtype", choices=("fp32", "bf16", "fp16"), help="of the frozen weights; default fp16 on CUDA")


def load_personalizer(arguments: argparse.Namespace, model: str) -> Any:
    """Load the base model that the options, or else ``model``, name."""
    quiet()
    import torch

    from ..personalizer import Personalizer

    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    try:
        device = torch.device(arguments.device) if arguments.device else None
        if device is not None:
            torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"the device {arguments.device!r} is not there; see 'personalizer doctor'") from error
    return Personalizer.from_pretrained(arguments.model or model, device=device, dtype=dtypes.get(arguments.dtype))
