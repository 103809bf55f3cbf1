"""Serve pictures over HTTP: requests with different packs share batches. DIR keeps packs, pictures and fits.

With an exported folder as model it needs no torch; with any other model it learns, too. Without tokens the server
answers its own machine alone. Stop it with Ctrl-C: what is being drawn is finished, a fit goes on at the next start.
"""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ..deploy.onnx_folder import MANIFEST
from ..disk.reading import read_text
from ..errors import InputError, OutputError
from .common import add_model_arguments, load_personalizer, say_aside
from .serving import server

EXAMPLE = "personalizer serve packs --model deployed/base --port 8000"
_TOKENS = "PERSONALIZER_TOKENS"
_SHORTEST = 16  # characters of a token
_GRACE = 60  # seconds for what is being drawn when the server is stopped


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("library", metavar="DIR", help="of packs and pictures; made if it is not there")
    add_model_arguments(parser)
    parser.add_argument("--engine", default="auto", help="of an exported folder: auto, onnxruntime or openvino")
    parser.add_argument("--precision", default="auto", help="of OpenVINO: auto, fp32, bf16 or int8")
    parser.add_argument("--host", default="127.0.0.1", help="to listen on; others than loopback need tokens")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument(
        "--token-file", metavar="FILE", help=f"tokens of those who may ask, one a line; default ${_TOKENS}, by commas"
    )
    parser.add_argument("--line", type=int, default=64, help="pictures that may wait")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds that a request may take")
    parser.add_argument("--pack-memory", type=float, default=1.0, metavar="GB", help="of packs that are held in memory")
    parser.add_argument("--log-prompts", action="store_true", help="let notes on prompts into the log")


def run(arguments: argparse.Namespace) -> None:
    import uvicorn

    from ..library import Library
    from ..serve import Limits, create_app
    from ..serve.guards import is_loopback
    from ..serve.logs import log_to

    tokens = _tokens(arguments.token_file)
    if not tokens and not is_loopback(arguments.host):
        raise InputError(
            f"without tokens this machine alone is served; give --token-file, or leave --host {arguments.host} out"
        )
    if arguments.line < 1 or not arguments.timeout > 0 or not arguments.pack_memory > 0:
        raise InputError("--line, --timeout and --pack-memory must be above 0")
    if not 0 <= arguments.port < 1 << 16:
        raise InputError(f"--port must be between 0 and 65535, got {arguments.port}")
    limits = Limits(line=arguments.line, seconds=arguments.timeout, packs=int(arguments.pack_memory * 1e9))
    painter, learner = _painter(arguments)
    log_to(sys.stderr, prompts=arguments.log_prompts)
    with ExitStack() as stack:
        library = stack.enter_context(Library(arguments.library))
        fitter = None
        if learner is not None:
            from ..serve import Fitter

            fitter = stack.enter_context(Fitter(learner, library))
        app = create_app(library, painter, tokens=tokens, limits=limits, fitter=fitter)
        config = uvicorn.Config(
            app,
            host=arguments.host,
            port=arguments.port,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=bool(tokens),  # without, the address that asks must be the true one
            timeout_graceful_shutdown=_GRACE,
        )
        try:
            server(config, lambda address: say_aside(f"serving on {address}; Ctrl-C ends it"), app.end).run()
        except SystemExit as error:  # uvicorn's way to say that a port is taken
            raise OutputError(f"port {arguments.port} of {arguments.host} cannot be had; give another") from error


def _painter(arguments: argparse.Namespace) -> tuple[Any, Any]:
    """What draws, an exported folder or else a model in torch, and what learns then."""
    given = arguments.model or "bundled"
    if os.path.isfile(Path(given) / MANIFEST):
        from ..serve import ExportedPainter

        return ExportedPainter(given, arguments.engine, arguments.precision), None
    if (arguments.engine, arguments.precision) != ("auto", "auto"):
        raise InputError("--engine and --precision are of exported folders; export the model, or leave them out")
    from ..serve import TorchPainter

    loaded = load_personalizer(arguments, "bundled")
    learner = type(loaded)(loaded.pipe, loaded.base.name)  # a fit makes its pack active, which drawings go without
    learner.memory = loaded.memory
    return TorchPainter(loaded), learner


def _tokens(file: str | None) -> list[str]:
    if file is None:
        found = os.environ.get(_TOKENS, "").split(",")
    else:
        found = read_text(file, advice="check the path of --token-file").splitlines()
    tokens = [token.strip() for token in found if token.strip()]
    if file is not None and not tokens:
        raise InputError(f"{file} holds no token; write one a line")
    if any(len(token) < _SHORTEST or not token.isascii() for token in tokens):
        raise InputError(
            f"a token has at least {_SHORTEST} letters and digits, so that nobody guesses it; "
            "python -c 'import secrets; print(secrets.token_urlsafe())' makes one"
        )
    return tokens
