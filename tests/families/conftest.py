"""Models of every family, written once a session."""

from __future__ import annotations

import pytest

from tests.families import tiny


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """Return a function from a model's name to its folder."""
    root = tmp_path_factory.mktemp("families")

    def folder(name):
        path = root / name
        return path if path.exists() else tiny.write(name, path)

    return folder


@pytest.fixture(scope="session")
def loaded(model_folder):
    """Return a function from a model's name to a personalizer of it; tests leave it as it is."""
    from sdk import Personalizer

    found = {}

    def load(name):
        if name not in found:
            found[name] = Personalizer.from_pretrained(model_folder(name), device="cpu")
        return found[name]

    return load
