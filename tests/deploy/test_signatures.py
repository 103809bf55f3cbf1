"""What torch's side and ONNX Runtime's are asked by: the same keywords, but for those that docs/deployment.md lists."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "deployment.md"
METHODS = ("from_pretrained", "check_prompt", "generate", "img2img", "inpaint")
pytestmark = pytest.mark.skipif(not PAGE.is_file(), reason="needs a checkout: docs/deployment.md is not here")


def listed() -> dict[tuple[str, str], str]:
    """The table: by method and keyword, the side that has it."""
    text = PAGE.read_text(encoding="utf-8")
    table = text[text.index("| method | keyword | side | why |") :].split("\n\n")[0]
    rows = [re.split(r"\s*(?<!\\)\|\s*", line.strip().strip("|").strip()) for line in table.splitlines()[2:]]
    assert all(len(row) == 4 and row[3] for row in rows), "every line has four cells, and a reason"
    found = {(row[0].strip("`"), row[1].strip("`")): row[2].strip("`") for row in rows}
    assert len(found) == len(rows), "a keyword is listed twice"
    return found


def differences() -> dict[tuple[str, str], str]:
    """The code: keywords that one side has alone, or both with another default or kind."""
    from sdk import Personalizer
    from sdk.deploy import OnnxPersonalizer

    found = {}
    for method in METHODS:
        torch_side, onnx_side = (
            inspect.signature(getattr(kind, method)).parameters for kind in (Personalizer, OnnxPersonalizer)
        )
        for name in {**torch_side, **onnx_side}:
            if name not in onnx_side:
                found[method, name] = "Personalizer"
            elif name not in torch_side:
                found[method, name] = "OnnxPersonalizer"
            elif (torch_side[name].default, torch_side[name].kind) != (onnx_side[name].default, onnx_side[name].kind):
                found[method, name] = "both"
    return found


def test_keywords_differ_where_the_page_says_so_and_nowhere_else():
    page, code = listed(), differences()
    assert not code.keys() - page.keys(), "these differ, and docs/deployment.md does not say so and why"
    assert not page.keys() - code.keys(), "docs/deployment.md lists these, but they do not differ"
    assert page == code
