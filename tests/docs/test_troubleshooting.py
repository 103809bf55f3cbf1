"""What docs/troubleshooting.md says keeps transformers' lines about torchvision away does so."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

QUIET = "import sdk; sdk.quiet(); from sdk import Personalizer"


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        pytest.param(["-c", QUIET], {}, id="quiet"),
        pytest.param(["-c", "from sdk import Personalizer"], {"TRANSFORMERS_VERBOSITY": "error"}, id="environment"),
        pytest.param(["-m", "sdk.commands.main", "merge", "a", "b", "--output", "c"], {}, id="command line"),
    ],
)
def test_nothing_is_said_about_torchvision(command, extra, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "TRANSFORMERS_VERBOSITY"} | extra
    done = subprocess.run([sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "torchvision" not in done.stderr
    assert done.returncode == (2 if "merge" in command else 0)
