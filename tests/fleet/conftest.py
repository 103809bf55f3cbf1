"""Short fits of one picture."""

from __future__ import annotations

import pytest

from sdk.fleet import Job, fit_many
from tests.fleet.quick import QUICK


@pytest.fixture
def jobs(picture, tmp_path):
    """Return three jobs of one picture."""
    picture.save(tmp_path / "pets.png")
    usual = {"image": tmp_path / "pets.png", "concepts": ("cat", "dog")}
    return [Job(**usual, settings=QUICK, seed=seed, name=f"seed {seed}") for seed in range(3)]


@pytest.fixture(scope="module")
def two_packs(tiny_model, tmp_path_factory):
    """Return the output of a fleet of two packs, and their names."""
    from sdk.miniworld.references import demo_picture

    folder = tmp_path_factory.mktemp("packs")
    demo_picture().save(folder / "pets.png")
    jobs = [Job(image=folder / "pets.png", concepts=("cat",), settings=QUICK, seed=seed) for seed in range(2)]
    result = fit_many(jobs, folder / "out", model=tiny_model, device="cpu", threads=1)
    return folder / "out", [each.id for each in result.outcomes]
