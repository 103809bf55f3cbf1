"""What one request, and all together, may ask for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of a server.

    Attributes:
        body: bytes of a request.
        side: of a picture, pixels; ``None``: twice the model's own.
        steps: of the sampler.
        images: of one request.
        line: pictures that may wait.
        fits: that may wait.
        seconds: that a request may take, its wait included.
        packs: bytes of packs that are held in memory.
        kept: seconds for which pictures that are asked for by address can be fetched.
    """

    body: int = 64 << 20
    side: int | None = None
    steps: int = 150
    images: int = 16
    line: int = 64
    fits: int = 16
    seconds: float = 600.0
    packs: int = 1 << 30
    kept: float = 3600.0
