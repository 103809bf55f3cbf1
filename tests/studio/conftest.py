"""A studio's parts with a tiny model."""

from __future__ import annotations

import pytest


@pytest.fixture
def shop(tiny_model, tmp_path):
    pytest.importorskip("gradio", reason="gradio is not installed")
    from sdk import Personalizer
    from sdk.library import Library
    from sdk.serve import Fitter, TorchPainter
    from sdk.studio import Workshop

    model, learner = (Personalizer.from_pretrained(tiny_model, device="cpu") for _ in range(2))
    with (
        Library(tmp_path / "library") as library,
        Fitter(learner, library, looks=2) as fitter,
        Workshop(library, TorchPainter(model), fitter) as shop,
    ):
        yield shop


@pytest.fixture
def packs(shop, picture, quick):
    """Two packs of the studio, of a cat and a dog each."""
    names = ["pets", "others"]
    for seed, name in enumerate(names):
        shop.keep_pack(name, shop.model.fit(picture, ["cat", "dog"], config=quick, seed=seed))
    return names
