"""``personalizer``: the command line. Results on standard output, progress on standard error."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

from .. import __version__
from ..errors import SdkError
from ..lazy import needed_extra
from ..printable import printable
from ..runtime import Cancelled
from .common import lost_output, say_aside

_COMMANDS = {
    "fit": "learn the concepts of one picture",
    "fit-many": "fit a table of pictures, on this machine or a cluster",
    "generate": "draw pictures with a pack",
    "generate-many": "draw a table of prompts with many packs",
    "compare": "fit one picture with several methods, side by side",
    "evaluate": "measure fidelity and leakage of a pack on the bundled world",
    "masks": "find where the concepts are in a picture",
    "merge": "join packs that were fitted apart",
    "export": "write a pack for ONNX Runtime or other tools",
    "studio": "open a page to learn and draw on",
    "serve": "draw over HTTP, many packs at once",
    "verify": "check a pack's files and its base model, and say which tools load it",
    "doctor": "show what this machine has",
}


def _module(command: str) -> ModuleType:
    return import_module(f".{command.replace('-', '_')}", __package__)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        # One line, as for every other mistake; the full usage is a --help away.
        say_aside(f"{self.prog}: {printable(message)} (see {self.prog} --help)")
        self.exit(2)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser with all commands."""
    parser = _Parser(prog="personalizer", description="Teach a text-to-image model several things from one picture.")
    parser.add_argument("--version", action="version", version=f"personalizer {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    for name, text in _COMMANDS.items():
        module = _module(name)
        sub = commands.add_parser(
            name,
            help=text,
            description=module.__doc__,
            epilog=f"example:\n  {module.EXAMPLE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(sub)
        sub.set_defaults(run=module.run)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return 0 when done, 2 for bad input, 130 when interrupted, 1 for anything else."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that cannot show a character is no reason to stop
            stream.reconfigure(errors="backslashreplace")
    try:
        parsed = build_parser().parse_args(arguments)
    except KeyboardInterrupt:
        return 130
    # Commands import these before they come to `quiet`; transformers would tell which of its classes it replaces.
    for library in ("DIFFUSERS", "TRANSFORMERS"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    try:
        parsed.run(parsed)
    except SdkError as error:
        say_aside(f"personalizer {parsed.command}: {error}")
        return 2
    except ModuleNotFoundError as error:
        needed = needed_extra(error)
        if needed is None:
            raise
        say_aside(f"personalizer {parsed.command}: this {needed}")
        return 2
    except (KeyboardInterrupt, Cancelled):
        go_on = getattr(_module(parsed.command), "go_on", lambda arguments: "")
        say_aside(f"personalizer {parsed.command}: interrupted{go_on(parsed)}")
        return 130
    lost = lost_output()
    if lost is not None:
        say_aside(f"personalizer {parsed.command}: the results could not be written to standard output: {lost}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
