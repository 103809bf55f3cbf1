"""Where the package keeps what it can make again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return where what can be made again is kept: ``$PERSONALIZER_CACHE`` or ``~/.cache/personalizer``."""
    given = os.environ.get("PERSONALIZER_CACHE")
    return Path(os.path.expanduser(given or os.path.join("~", ".cache", "personalizer")))
