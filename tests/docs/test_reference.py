"""The site's reference text is made from the code: nothing that a user may set, type or import is left out."""

from __future__ import annotations

import argparse
import importlib.util
import re
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
pytestmark = pytest.mark.skipif(not (DOCS / "_tools").is_dir(), reason="needs a checkout: docs/ is not here")


@pytest.fixture(scope="module")
def reference():
    spec = importlib.util.spec_from_file_location("docs_reference", DOCS / "_tools" / "reference.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def first_cells(text: str) -> list[str]:
    return re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)


def test_every_setting_is_in_the_tables(reference):
    from sdk import FitConfig
    from sdk.methods import METHODS

    text = reference.settings_tables()
    found = first_cells(text)
    wanted = set()
    for method in METHODS:
        wanted |= {name for name, _ in reference._flat(FitConfig.preset("best", method).to_dict())}
    assert {"steps", "masks.power", "disendiff.calibration.sigma", "attencraft.sampling"} <= wanted
    assert wanted <= set(found)
    for row in text.splitlines():
        if row.startswith("| `") and row.count("|") == 5:
            assert row.split("|")[4].strip(), f"no text says what this is: {row}"


def test_the_tables_name_defaults_as_toml_reads_them(reference):
    from sdk import FitConfig
    from sdk.methods import METHODS

    lines = re.findall(r"^\| `([^`]+)` \| [^|]+ \| `([^`]+)` \|", reference.settings_tables(), re.MULTILINE)
    assert len(lines) > 40
    for method in METHODS:
        own = [
            f"{name} = {value}" for name, value in lines if "." not in name or name.split(".")[0] in ("masks", method)
        ]
        made = FitConfig.from_dict(tomllib.loads("\n".join(own)), method).for_method(method)
        for name, value in reference._flat(FitConfig().for_method(method).to_dict()):
            got = dict(reference._flat(made.to_dict()))[name]
            assert got == pytest.approx(value, rel=1e-5) if isinstance(value, float) else got == value, name


def test_every_setting_says_what_it_is(reference):
    from sdk.masks import MaskOptions
    from sdk.methods import METHODS, method_class
    from sdk.settings import FitSettings

    for kind in (FitSettings, MaskOptions, *(method_class(name).Options for name in METHODS)):
        assert all(len(each.text) > 10 for each in reference.settings_of(kind)), kind


def test_presets_show_exactly_what_differs_from_the_defaults(reference):
    text = reference.presets_tables()
    disendiff = text[text.index("### DisenDiff") : text.index("### AttenCraft")]
    assert "| `alone` | `0.0` | `0.5` |  |  |" in disendiff
    assert "| `disendiff.calibration.sigma` | `0.707107` |  |  | `0.5` |" in disendiff
    assert "`steps`" not in disendiff


def test_every_command_and_option_is_in_the_text(reference):
    from sdk.commands.main import build_parser

    text = reference.commands_text()
    commands = next(a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    assert "fit" in commands.choices
    for name, parser in commands.choices.items():
        start = text.index(f"## personalizer {name}\n")
        section = text[start : text.find("\n## ", start) if "\n## " in text[start:] else None]
        for action in parser._actions:
            for option in action.option_strings:
                assert option in ("-h", "--help") or f"`{option}" in section, f"{name} {option}"
    assert "| `--seed SEED` | `0` |" in text
    assert "With `--format onnx`:" in text


def test_every_public_name_has_a_place_in_the_reference(reference):
    pages = reference.api_pages()
    text = "\n".join(pages.values())
    for room in reference.ROOMS:
        module = import_module(room)
        names = [n for n in getattr(module, "__all__", []) if not n.startswith("__")]
        page = pages[f"{room.removeprefix('sdk.')}.md"]
        for name in names:
            assert re.search(rf"^::: [\w.]+\.{name}$|\[`{name}`\]", page, re.MULTILINE), f"{room}.{name}"
    described = re.findall(r"^::: (\S+)$", text, re.MULTILINE)
    assert len(described) == len(set(described))
    assert "sdk.errors.PackError" in described
    assert "sdk.kernels.api.calibration_loss" in described
    for path in described:
        module, _, name = path.rpartition(".")
        assert hasattr(import_module(module), name), path


def test_text_survives_as_a_cell(reference):
    assert reference.cell("a | b <new1> `<new1>`\n  and :func:`fit`") == "a \\| b &lt;new1> `<new1>` and `fit`"


def test_settings_written_in_the_pages_are_settings():
    from sdk import FitConfig

    text = "\n".join(page.read_text(encoding="utf-8") for page in DOCS.glob("*.md"))
    blocks = re.findall(r"^ *```toml\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 2
    for block in blocks:
        FitConfig.from_dict(tomllib.loads(block), "disendiff").for_method("disendiff")
