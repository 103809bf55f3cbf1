"""Options that several commands share, and how commands talk: results on standard output, notes on standard error."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from typing import Any

from ..errors import InputError
from ..printable import printable
from ..runtime import keep_memory, quiet, without_warnings

_LINE = 4000  # characters that are shown of a line
_lost: list[str] = []


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose the base model and where it runs."""
    parser.add_argument("--model", help="'bundled', a Stable Diffusion folder, a checkpoint file or a Hub id")
    parser.add_argument("--variant", help="of the model's files, such as fp16; a folder's only one is found by itself")
    parser.add_argument("--revision", help="of a model on the Hub")
    parser.add_argument("--config-from", metavar="DIR", help="where a single file's configuration and vocabulary are")
    parser.add_argument("--offline", action="store_true", help="ask nobody, even for a model that --model names")
    parser.add_argument("--device", help="cuda, mps or cpu; default the best there is")
    parser.add_argument("--memory", metavar="GB", help="that everything may take; default what is free")
    parser.add_argument("--dtype", choices=("fp32", "bf16", "fp16"), help="of the frozen weights; default fp16 on CUDA")


def say(text: object = "") -> None:
    """Print a result, each line made printable; a reader that has gone away is no reason to stop working."""
    if sys.stdout is None:  # closed before the program began
        return
    try:
        for line in str(text).split("\n"):
            print(printable(line, _LINE))
        sys.stdout.flush()
    except OSError as error:
        if not isinstance(error, BrokenPipeError):  # a full disk behind it
            _lost.append(error.strerror or str(error))
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  for as long as the program runs


def lost_output() -> str | None:
    """Return why results could not be written to standard output; ``None``: they were, or nobody wants them."""
    return _lost[0] if _lost else None


def say_aside(text: object) -> None:
    """Print a note or an error on standard error, on a line of its own even while a bar is shown."""
    line = printable(text, _LINE)
    tqdm = sys.modules.get("tqdm")  # whoever shows a bar has loaded it
    try:
        if tqdm is None:
            print(line, file=sys.stderr)
        else:
            tqdm.tqdm.write(line, file=sys.stderr)
    except OSError:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115


class _Notes(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say_aside(f"note: {record.getMessage()}")


def speak_briefly(draws: bool = True) -> None:
    """Set this process up as a command: notes in one line each on standard error, no banners, memory kept.

    Args:
        draws: whether this process loads models; if others do, the libraries are not loaded just to be quiet.
    """
    keep_memory()
    root = logging.getLogger()
    if not any(isinstance(handler, _Notes) for handler in root.handlers):
        root.addHandler(_Notes(logging.WARNING))
    warnings.showwarning = lambda message, *_: say_aside(f"note: {message}")
    (quiet if draws else without_warnings)()


def loading_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the options say about loading the model."""
    given = {"variant": arguments.variant, "revision": arguments.revision, "config": arguments.config_from}
    chosen = {name: value for name, value in given.items() if value is not None}
    return chosen | ({"local_files_only": True} if arguments.offline else {})


def _budget(text: str | None) -> float | str:
    if text is None or text == "auto":
        return "auto"
    try:
        return float(text)
    except ValueError as error:
        raise InputError(f"--memory is a number of GB, such as 8, got {text!r}") from error


def load_personalizer(arguments: argparse.Namespace, model: str) -> Any:
    """Load the base model that the options name, or else ``model``, which a pack may state: it is not fetched."""
    speak_briefly()
    from ..personalizer import Personalizer

    return Personalizer.from_pretrained(**loading_arguments(arguments, model))


def loading_arguments(arguments: argparse.Namespace, model: str) -> dict[str, Any]:
    """Return what :meth:`sdk.Personalizer.from_pretrained` is given; see :func:`load_personalizer`."""
    device = dtype = None
    if arguments.device or arguments.dtype:
        import torch
    try:
        if arguments.device:
            device = torch.device(arguments.device)
            torch.empty(0, device=device)
        if arguments.dtype:
            dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[arguments.dtype]
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"the device {arguments.device!r} is not there; see 'personalizer doctor'") from error
    return {
        "model": arguments.model or model,
        "device": device,
        "dtype": dtype,
        "memory": _budget(arguments.memory),
        "stated_by_file": not arguments.model,
        **loading_options(arguments),
    }
