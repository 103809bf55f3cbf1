"""Options and progress that several commands share."""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from typing import Any

from ..errors import InputError


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


def keep_memory() -> None:
    """Tell glibc to keep freed memory instead of returning it after every operation.

    Activations of a small model are just large enough to be mapped and unmapped each time, which costs a fifth of
    the run time on a CPU. Elsewhere than glibc this does nothing.
    """
    import ctypes

    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    for option in (trim_threshold, mmap_threshold):
        mallopt(option, 1 << 30)


def quiet() -> None:
    """Keep the libraries' banners and progress bars off the terminal; our own notes go to standard error."""
    keep_memory()
    warnings.filterwarnings("ignore", module="(diffusers|transformers|torch).*")
    logging.basicConfig(level=logging.WARNING, format="note: %(message)s", stream=sys.stderr)
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
    warnings.showwarning = lambda message, *_: print(f"note: {message}", file=sys.stderr)
