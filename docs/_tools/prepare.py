"""Lay out what the site is built from: pages of docs/, pages made from code or from elsewhere, and their links.

Usage: python docs/_tools/prepare.py FOLDER     writes FOLDER/pages, and FOLDER/code for the API reference
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path, PurePosixPath

import notebooks
import reference

import sdk

ROOT = Path(__file__).resolve().parents[2]
# Files elsewhere in the repository that are pages too. Links between them and docs/ work in both places.
ELSEWHERE = {
    "CHANGELOG.md": "changelog.md",
    "benchmarks/bases/natural/README.md": "natural-base.md",
    "CONTRIBUTING.md": "contribute/index.md",
    "DESIGN.md": "contribute/house.md",
    "bindings/node/README.md": "node.md",
    "sdk/bundled/model/README.md": "bundled-model.md",
}
# The package as it is installed: two of its rooms live in folders of their own.
CODE = {"sdk": "sdk", "sdk/kernels": "kernels/fused", "sdk/bindings": "bindings"}
_PLACE = re.compile(r"<!-- generated: (\w+) -->")
_LINK = re.compile(r"(\]\()(?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?(\))")


def prepare(folder: Path) -> None:
    """Write the pages and the code that the site is built from."""
    pages, code = folder / "pages", folder / "code"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "docs", pages, ignore=shutil.ignore_patterns("_tools", "__pycache__"))
    for page in pages.rglob("*.md"):
        text = _PLACE.sub(lambda match: reference.GENERATED[match[1]](), page.read_text(encoding="utf-8"))
        page.write_text(moved_links(text, f"docs/{page.relative_to(pages).as_posix()}"), encoding="utf-8")
    for source, page in ELSEWHERE.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)  # a model card's metadata
        write(pages / page, moved_links(text, source))
    for name, text in reference.api_pages().items():
        write(pages / "api" / name, text)
    for script in (pages / "notebooks").glob("*.py"):
        text = script.read_text(encoding="utf-8")
        write(script.with_suffix(".md"), notebooks.to_page(text, script.stem))
        write(script.with_suffix(".ipynb"), notebooks.to_notebook(text))
    for name, source in CODE.items():
        for file in (ROOT / source).rglob("*.py"):
            write(code / name / file.relative_to(ROOT / source), file.read_text(encoding="utf-8"))


def write(file: Path, text: str) -> None:
    """Write a file and the folders above it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def moved_links(markdown: str, source: str) -> str:
    """Return Markdown with relative links as they must be on the site.

    Args:
        markdown: of a file.
        source: its path in the repository.
    """
    page = ELSEWHERE.get(source, source.removeprefix("docs/"))

    def moved(match: re.Match[str]) -> str:
        target = os.path.normpath(PurePosixPath(source).parent / match[2])
        if target in ELSEWHERE:
            target = ELSEWHERE[target]
        elif target.startswith("docs/"):
            target = target.removeprefix("docs/")
        else:
            return match[0]  # the build reports it
        link = os.path.relpath(target, PurePosixPath(page).parent)
        return f"{match[1]}{link}{match[3] or ''}{match[4]}"

    return _LINK.sub(moved, markdown)


if __name__ == "__main__":
    sdk.quiet()
    prepare(Path(sys.argv[1]).resolve())
