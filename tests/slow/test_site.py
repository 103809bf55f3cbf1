"""The site builds strictly, a broken link is an error, and its pages load nothing from elsewhere."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / "mkdocs.yml").is_file(), reason="needs a checkout: mkdocs.yml is not here"),
]


def build(folder: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", folder / "mkdocs.yml"]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with what the site is built from."""
    pytest.importorskip("mkdocs", reason="needs the extra docs; `make test-slow` installs it")
    folder = tmp_path_factory.mktemp("site")
    shutil.copy(ROOT / "mkdocs.yml", folder)
    shutil.copytree(ROOT / "docs" / "_tools", folder / "docs" / "_tools")
    prepare = [sys.executable, ROOT / "docs" / "_tools" / "prepare.py", folder / "out" / "docs"]
    subprocess.run(prepare, check=True)
    return folder


def test_it_builds_and_loads_nothing_from_elsewhere(prepared):
    done = build(prepared)
    assert done.returncode == 0, done.stderr
    site = prepared / "out" / "site"
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe|source)[^>]*\ssrc=[\"']?((?:https?:)?//[^\s\"'>]+)", text)
        loaded += re.findall(r"<link[^>]*\shref=[\"']?((?:https?:)?//[^\s\"'>]+)", text)
        assert not loaded, f"{page.relative_to(site)} loads {loaded}"
        assert "generated: " not in text, f"{page.relative_to(site)} has a place that nothing filled"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", sheet.read_text(encoding="utf-8")), sheet
    assert (site / "search" / "search_index.js").is_file()  # search without a server
    assert "calibration.sigma" in (site / "settings.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "link", ["[a](nowhere.md)", "[a](settings.md#nowhere)", "[a](../../setup.py)", "[a][sdk.nowhere]"]
)
def test_a_broken_link_is_an_error(prepared, link):
    page = prepared / "out" / "docs" / "pages" / "glossary.md"
    whole = page.read_text(encoding="utf-8")
    page.write_text(f"{whole}\n{link}\n", encoding="utf-8")
    try:
        done = build(prepared)
    finally:
        page.write_text(whole, encoding="utf-8")
    assert done.returncode == 1
    assert "glossary.md" in done.stderr
