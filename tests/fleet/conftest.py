"""Short fits of one picture."""

from __future__ import annotations

import pytest

from sdk.fleet import Job
from tests.fleet.quick import QUICK


@pytest.fixture
def jobs(picture, tmp_path):
    """Return three jobs of one picture."""
    picture.save(tmp_path / "pets.png")
    usual = {"image": tmp_path / "pets.png", "concepts": ("cat", "dog")}
    return [Job(**usual, settings=QUICK, seed=seed, name=f"seed {seed}") for seed in range(3)]
