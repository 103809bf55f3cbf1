"""Mixed pictures: some of the subjects, cut out and put together anew, and named exactly."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from sdk.concepts import resolve_concepts
from sdk.config import FitConfig
from sdk.data.batch import View
from sdk.data.mixing import Cuttings, filled
from sdk.errors import InputError
from sdk.methods import method_class
from sdk.miniworld.references import reference_scene
from sdk.miniworld.renderer import render

GROUND, LEFT, RIGHT = (40, 160, 60), (220, 30, 30), (30, 30, 220)


@pytest.fixture
def painted():
    """A green picture with a red and a blue square, and masks of 16 x 16 cells."""
    image = Image.new("RGB", (64, 64), GROUND)
    image.paste(LEFT, (8, 24, 24, 48))
    image.paste(RIGHT, (40, 24, 56, 48))
    masks = torch.zeros(2, 16, 16)
    masks[0, 6:12, 2:6] = masks[1, 6:12, 10:14] = 1
    return image, masks


def near(image, colour):
    return (np.abs(np.asarray(image, float) - colour).max(-1) < 30).mean()


def test_what_is_filled_in_comes_from_around_and_what_is_known_stays():
    values, known = torch.rand(3, 20, 12), torch.ones(1, 20, 12)
    assert torch.equal(filled(values, known), values)
    known[:, 5:9, 4:8] = 0
    found = filled(values * 0 + 0.25, known)
    torch.testing.assert_close(found, torch.full_like(found, 0.25))
    found = filled(values, known)
    assert torch.equal(found * known, values * known)
    assert not filled(values, known * 0).any()


def test_a_ground_goes_on_beside_and_not_above(painted):
    sky = torch.zeros(3, 32, 32)
    sky[:, 16:] = 1
    known = torch.ones(1, 32, 32)
    known[:, 12:24, 10:20] = 0
    found = filled(sky, known)
    assert found[:, 14, 15].max() < 0.35
    assert found[:, 18, 15].min() > 0.65


def test_the_background_is_what_was_behind_and_cuts_are_exact(painted):
    image, masks = painted
    cuttings = Cuttings(image, masks)
    assert near(cuttings.background, GROUND) == 1
    for cut, box in zip(cuttings.cuts, ((8, 24, 24, 48), (40, 24, 56, 48)), strict=True):
        assert cut.getbbox() == box  # a mask's rim of plain ground is not cut out with it


def test_a_cut_takes_no_rim_of_what_is_behind_and_leaves_no_ear(painted):
    """Behind is a horizon, the mask is a cell too wide all around, and something sticks out of it."""
    _, masks = painted
    image = Image.new("RGB", (64, 64), (120, 180, 240))
    image.paste(GROUND, (0, 36, 64, 64))
    image.paste(LEFT, (10, 26, 22, 46))
    image.paste(LEFT, (14, 19, 17, 26))
    image.paste(RIGHT, (42, 26, 54, 46))
    cuttings = Cuttings(image, masks)
    for cut, colour in zip(cuttings.cuts, (LEFT, RIGHT), strict=True):
        shown = np.asarray(image, float)[np.asarray(cut) > 127]
        assert (np.abs(shown - colour).max(-1) < 30).mean() > 0.97
        assert len(shown) >= 0.97 * 12 * 20
    assert near(cuttings.background, LEFT) == near(cuttings.background, RIGHT) == 0


def test_where_colours_say_nothing_the_mask_is_what_is_cut(painted):
    _, masks = painted
    cuttings = Cuttings(Image.new("RGB", (64, 64), GROUND), masks)
    assert [np.asarray(cut).astype(bool).sum() > 200 for cut in cuttings.cuts] == [True, True]


def test_pictures_show_whom_they_name_and_nobody_else(painted):
    cuttings = Cuttings(*painted)
    sizes = set()
    for seed in range(20):
        shown, places = cuttings.mixed((1,), random.Random(seed))
        assert near(shown, LEFT) == 0
        assert not places[0].any()
        sizes.add(int(places[1].sum()))
        cells = F.interpolate(places[1:][None], (64, 64))[0, 0].bool().numpy()
        blue = np.abs(np.asarray(shown, float) - RIGHT).max(-1) < 30
        assert (blue & cells).sum() > 0.7 * blue.sum()
        both, where = cuttings.mixed((0, 1), random.Random(seed))
        assert near(both, LEFT) > 0.02
        assert near(both, RIGHT) > 0.02
        assert where[0].any()
        assert where[1].any()
        assert not (where[0] * where[1]).any()
    assert len(sizes) > 3
    one, other = (np.asarray(cuttings.mixed((0, 1), random.Random(5))[0]) for _ in range(2))
    assert np.array_equal(one, other)


def test_a_subject_without_a_mask_is_left_out():
    image, true = render(reference_scene("tune", 0))
    masks = (F.adaptive_avg_pool2d(torch.from_numpy(true).float(), 16) > 0.5).float()
    masks[0] = 0
    shown, places = Cuttings(image, masks).mixed((0, 1), random.Random(0))
    assert shown.size == image.size
    assert not places[0].any()
    assert places[1].any()
    bare, nowhere = Cuttings(image, masks * 0).mixed((0, 1), random.Random(0))
    assert np.array_equal(np.asarray(bare), np.asarray(image))
    assert not nowhere.any()


@pytest.mark.parametrize("method", ["disendiff", "attencraft", "break_a_scene", "dreambooth"])
def test_so_many_rows_are_mixed_whatever_the_method(personalizer, method):
    config = FitConfig.preset("reference", method, mix=0.5)
    learner = method_class(method)(personalizer, resolve_concepts(["cat", "dog"]), config)
    learner.scores = torch.ones(2)
    drawn = [learner.row(step, random.Random(step)) for step in range(1, 301)]
    views = [view for view in drawn if view.mixed]
    assert len(views) == pytest.approx(150, abs=30)
    assert {view.named for view in views} == {(0,), (1,), (0, 1)}
    assert not any(view.window for view in views)
    single = FitConfig.preset("reference", method, mix=0.5, mix_most=1)
    learner = method_class(method)(personalizer, resolve_concepts(["cat", "dog"]), single)
    learner.scores = torch.ones(2)
    drawn = [learner.row(step, random.Random(step)) for step in range(1, 301)]
    assert {view.named for view in drawn if view.mixed} == {(0,), (1,)}
    plain = FitConfig.preset("reference", method)
    learner = method_class(method)(personalizer, resolve_concepts(["cat", "dog"]), plain)
    learner.scores = torch.ones(2)
    seen = [(learner.row(s, random.Random(s)), learner.view(s, random.Random(s))) for s in range(1, 50)]
    assert all(row == view for row, view in seen)
    with pytest.raises(InputError, match="mix is a share"):
        FitConfig(mix=1.5)


def test_rows_carry_where_mixed_subjects_are_now(personalizer, picture):
    from tests.sdk.test_rows import CELLS, references_of

    masks = torch.zeros(2, CELLS, CELLS)
    masks[0, 4:12, 1:6] = masks[1, 4:12, 9:15] = 1
    rows = references_of(personalizer, [picture], [masks], size=1)
    noise = torch.zeros(4, CELLS, CELLS)
    variants = [
        rows.draw(random.Random(i), noise, View((1,), with_masks=True, mixed=True))[0].concept_masks for i in range(8)
    ]
    assert all(each.shape == (3, CELLS, CELLS) and not each[0].any() and each[1].any() for each in variants)
    assert all(torch.equal(each[2], 1 - each[1]) for each in variants)
    assert len({each.numpy().tobytes() for each in variants}) > 4
    assert rows.draw(random.Random(0), noise, View((1,), mixed=True))[0].concept_masks is None


@pytest.mark.parametrize(
    "places", [{}, {"mix_prompts": ("{all} in the snow",), "prior_steps": 2}], ids=["own", "other"]
)
def test_a_fit_with_mixed_pictures_goes_on_to_the_same_bits(personalizer, picture, quick, tmp_path, places):
    config = quick.with_changes(mix=0.7, **places)

    def stop(report):
        if report.step == 2:
            raise ConnectionError

    whole = personalizer.fit(picture, ["cat", "dog"], config=config)
    with pytest.raises(ConnectionError):
        personalizer.fit(picture, ["cat", "dog"], config=config, output_dir=tmp_path / "cut", callback=stop)
    again = personalizer.fit(picture, ["cat", "dog"], config=config, output_dir=tmp_path / "cut", resume=True)
    assert again.content_hash() == whole.content_hash()
    assert whole.content_hash() != personalizer.fit(picture, ["cat", "dog"], config=quick).content_hash()
