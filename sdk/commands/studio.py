"""Open a page to learn and draw on, in the browser of this machine; nothing of it needs the network.

DIR keeps what was learned and drawn. Stop it with Ctrl-C: a fit goes on where it was at the next start.
"""

from __future__ import annotations

import argparse
import importlib.util
import threading
import webbrowser
from contextlib import ExitStack
from pathlib import Path

from ..errors import InputError, OutputError
from .common import add_model_arguments, load_personalizer, say_aside
from .serving import server

EXAMPLE = "personalizer studio --library my-studio"
_LOOKS = 8  # times that samples are drawn while a fit runs
_GRACE = 5  # seconds for what is being answered when the studio is stopped


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--library", metavar="DIR", default="~/personalizer-studio", help="of packs and pictures; default %(default)s"
    )
    add_model_arguments(parser)
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--no-browser", action="store_true", help="do not open the page")


def run(arguments: argparse.Namespace) -> None:
    if importlib.util.find_spec("gradio") is None:
        raise InputError("the studio needs gradio; run: pip install 'personalizer-sdk[studio]'")
    if not 0 <= arguments.port < 1 << 16:
        raise InputError(f"--port must be between 0 and 65535, got {arguments.port}")
    import uvicorn

    from ..library import Library
    from ..serve import Fitter, TorchPainter
    from ..studio import Workshop, create_studio

    loaded = load_personalizer(arguments, "bundled")
    learner = type(loaded)(loaded.pipe, loaded.base.name)  # a fit makes its pack active, which drawings go without
    learner.memory = loaded.memory
    with ExitStack() as stack:
        library = stack.enter_context(Library(Path(arguments.library).expanduser()))
        fitter = stack.enter_context(Fitter(learner, library, looks=_LOOKS))
        shop = stack.enter_context(Workshop(library, TorchPainter(loaded), fitter))
        app = create_studio(shop)

        def up(address: str) -> None:
            say_aside(f"the studio is at {address}; Ctrl-C ends it")
            if not arguments.no_browser:
                threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()

        config = uvicorn.Config(
            app,
            host="127.0.0.1",
            port=arguments.port,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_GRACE,
        )
        try:
            server(config, up, shop.stop).run()
        except SystemExit as error:  # uvicorn's way to say that a port is taken
            raise OutputError(f"port {arguments.port} cannot be had; give another with --port") from error
