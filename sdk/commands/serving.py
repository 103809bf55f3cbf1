"""How commands run a server until they are stopped."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


def server(config: Any, up: Callable[[str], Any], end: Callable[[], Any]) -> Any:
    """Return uvicorn's server, which says where it is once it answers, and leaves what it is ended by at that.

    Args:
        config: uvicorn's.
        up: told the address once it answers.
        end: called when it is stopped, before it waits for what is being answered.
    """
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            if self.started:
                place = self.servers[0].sockets[0].getsockname()
                host = f"[{place[0]}]" if ":" in place[0] else place[0]
                up(f"http://{host}:{place[1]}")

        async def shutdown(self, sockets: Any = None) -> None:
            end()  # or it would wait for all who wait
            await super().shutdown(sockets)

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            # uvicorn's own raises the signal again, which would end the program before fits and library are closed.
            before = {each: signal.signal(each, self.handle_exit) for each in (signal.SIGINT, signal.SIGTERM)}
            try:
                yield
            finally:
                for each, handler in before.items():
                    signal.signal(each, handler)

    return Server(config)
