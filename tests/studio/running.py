"""The command ``personalizer studio`` in a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def studio(library: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen]]:
    """Start a studio; yield its address and its process."""
    command = [sys.executable, "-m", "sdk.commands.main", "studio", "--library", str(library), "--port", "0"]
    said = library.with_suffix(".log")  # no pipe, which would fill
    with said.open("w") as log, subprocess.Popen([*command, "--no-browser", *options], stderr=log) as process:
        try:
            until = time.monotonic() + 180
            while not (found := re.search(r"the studio is at (http://\S+);", said.read_text())):
                assert process.poll() is None, said.read_text()
                assert time.monotonic() < until
                time.sleep(0.05)
            yield found[1], process
        finally:
            process.kill()
