"""README.md, done line by line by someone who has just cloned the repository."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
NOT_CLONED = (".git", ".venv", "out", "build", "dist", "*.egg-info", "*.so", "__pycache__", ".*_cache")
# Marked in the README by a comment before the block: these need a model that nobody can ship here.
DOWNLOAD = "<!-- needs a download -->\n"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not README.is_file(), reason="needs a checkout: README.md is not here"),
]


def blocks() -> list[tuple[str, str, bool]]:
    """Language, text and whether it needs a download, of every block in order."""
    text = README.read_text(encoding="utf-8")
    found = re.findall(rf"^({re.escape(DOWNLOAD)})?```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [(language, block, bool(mark)) for mark, language, block in found]


def test_it_is_short_and_its_links_lead_somewhere():
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 150
    links = re.findall(r"\]\((?!https?:)([^)#\s]+)(?:#([^)\s]+))?\)", text)
    assert len(links) > 10
    for target, anchor in links:
        assert (ROOT / target).exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", (ROOT / target).read_text(encoding="utf-8"), re.MULTILINE)
            slugs = [re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings]
            assert anchor in slugs, f"{target}#{anchor}"


def test_its_lines_run_in_order(tmp_path):
    if shutil.which("make") is None or shutil.which("bash") is None:
        pytest.skip("needs make and bash")
    clone = tmp_path / "clone"
    shutil.copytree(ROOT, clone, ignore=shutil.ignore_patterns(*NOT_CLONED))
    script = ["set -euo pipefail"]
    for number, (language, block, needs_download) in enumerate(blocks(), start=1):
        assert language in ("", "python"), f"a block of {language}"
        if needs_download:
            continue
        script.append(f"echo '--- block {number}'; date +%T")
        script.append(block if not language else f"python - <<'END OF BLOCK'\n{block}END OF BLOCK")
    environment = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "PYTHONPATH", "TRITON_INTERPRET")}
    environment["PERSONALIZER_CACHE"] = str(tmp_path / "cache")
    done = subprocess.run(["bash", "-c", "\n".join(script)], cwd=clone, env=environment, text=True)
    assert done.returncode == 0
    for made in (
        *("beach/000.png", "pets/personalizer.json", "merged/model_index.json", "my-pets/attention.png"),
        *("pictures/00-03.png", "more/01-03.png", "report/report.html", "deployed/personalizer_onnx.json"),
        "app/bin/personalizer",
    ):
        assert (clone / made).is_file(), made
    assert any((clone / "compared").glob("*.html"))


def test_its_lines_that_need_a_download():
    from sdk.commands.main import build_parser

    lines = [line for _, block, needs_download in blocks() if needs_download for line in block.splitlines()]
    assert len(lines) == 1
    for line in lines:
        program, *arguments = line.split()
        assert program == "personalizer"
        build_parser().parse_args(arguments)
    pytest.skip("its lines are well formed, but not run: no Stable Diffusion 1.x can be downloaded in a test")
