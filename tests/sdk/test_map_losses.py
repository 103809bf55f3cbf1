"""Losses on maps beside calibration: against their definitions, and what they do in a fit."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from sdk.config import FitConfig
from sdk.errors import InputError
from sdk.fit.step.accelerate import unrecordable
from sdk.methods import method_class
from sdk.methods.map_losses import closeness, outside_loss
from tests.sdk.test_step import BOTH, FIRST, PRIOR, batch_of, learner_on


@pytest.fixture
def maps():
    return torch.rand(3, 4, 6, 6, generator=torch.Generator().manual_seed(1)) + 0.01


@pytest.fixture
def masks():
    own = torch.zeros(3, 2, 6, 6)
    own[:, 0, :3, :3] = 1
    own[:, 1, 4:, 2:] = 1
    own[2, 1] = 0  # attention found none
    return own


def test_outside_is_what_lies_off_the_masks(maps, masks):
    named = torch.tensor([[1.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    found = outside_loss(maps, masks, named)

    def of(row, concept):
        words = []
        for word in (2 * concept, 2 * concept + 1):
            scaled = maps[row, word] / maps[row, word].max()
            words.append(scaled[masks[row, concept] == 0].square().mean())
        return sum(words) / 2

    torch.testing.assert_close(found, torch.stack([(of(0, 0) + of(0, 1)) / 2, of(1, 0), of(2, 0)]))
    assert (outside_loss(maps, masks, torch.zeros(3, 2)) == 0).all()
    inside = maps * masks.repeat_interleave(2, 1)[:1] + 1e-12
    assert outside_loss(inside, masks, named)[0] < 1e-6


def test_closeness_is_minus_the_mean_divergence_of_pairs(maps):
    three = torch.rand(2, 6, 4, 4, generator=torch.Generator().manual_seed(2)) + 0.01
    named = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 1.0]])
    phrases = (three[:, 0::2] + three[:, 1::2]).flatten(2)
    shares = phrases / phrases.sum(-1, keepdim=True)

    def symmetric(row, i, j):
        p, q = shares[row, i], shares[row, j]
        return ((p * (p / q).log()).sum() + (q * (q / p).log()).sum()) / 2

    pairs = [(0, 1), (0, 2), (1, 2)]
    expected = torch.stack([sum(symmetric(0, i, j) for i, j in pairs) / 3, symmetric(1, 0, 2)])
    torch.testing.assert_close(closeness(three, named), -expected)
    assert (closeness(three, torch.tensor([[1.0, 0.0, 0.0]] * 2)) == 0).all()  # nobody to be apart from
    apart = torch.zeros(1, 4, 4, 4)
    apart[0, :2, :2], apart[0, 2:, 2:] = 1, 1
    both = torch.ones(1, 2)
    assert -20 < closeness(apart, both).item() < -5  # bounded where nothing is shared
    assert closeness(torch.zeros(1, 4, 4, 4), both).isfinite().all()


def step(learner, batch):
    with learner.installed():
        return learner.losses(batch)


def test_they_add_up_by_their_weights(personalizer):
    batch = replace(batch_of([BOTH, FIRST, PRIOR], [(0, 1), (0,), ()]), step=100, timesteps=torch.tensor([100] * 3))
    options = {"outside_weight": 0.5, "divergence_weight": 0.25, "calibration_weight": 0.0}
    losses = step(learner_on(personalizer, disendiff=options), batch)
    assert losses.keys() == {"loss", "denoise", "outside", "closeness"}
    assert losses["outside"] > 0 > losses["closeness"]
    whole = losses["denoise"] + 0.5 * losses["outside"] + 0.25 * losses["closeness"]
    torch.testing.assert_close(losses["loss"], whole)
    plain = step(learner_on(personalizer, disendiff={"calibration_weight": 0.0}), batch)
    torch.testing.assert_close(losses["denoise"], plain["denoise"])


def test_parts_of_a_step_add_up(personalizer):
    batch = replace(batch_of([BOTH, FIRST, BOTH, PRIOR], [(0, 1), (0,), (0, 1), ()]), step=100)
    options = {"outside_weight": 0.5, "divergence_weight": 0.25, "calibration_weight": 0.1}
    learner = learner_on(personalizer, disendiff=options)
    whole = step(learner, batch)
    parts = [step(learner, part) for part in batch.parts(1)]
    for name, value in whole.items():
        torch.testing.assert_close(sum(p[name] for p in parts), value, rtol=1e-4, atol=1e-6)


def test_outside_waits_and_noisy_rows_do_not_count(personalizer):
    learner = learner_on(personalizer, disendiff={"outside_weight": 1.0, "outside_from": 0.5})
    batch = replace(batch_of([BOTH], [(0, 1)]), timesteps=torch.tensor([100]))
    half = learner.settings.steps // 2
    assert step(learner, replace(batch, step=half - 1))["outside"] == 0
    assert step(learner, replace(batch, step=half))["outside"] > 0
    assert step(learner, replace(batch, step=half, timesteps=torch.tensor([950])))["outside"] == 0
    assert step(learner, replace(batch, step=half, concept_masks=None))["outside"] == 0


def test_words_leave_what_is_not_theirs(personalizer):
    options = {"outside_weight": 1.0, "outside_from": 0.0, "calibration_weight": 0.0}
    learner = learner_on(personalizer, loss_scale=1e-9, disendiff=options)
    batch = replace(batch_of([BOTH], [(0, 1)]), timesteps=torch.tensor([100]))
    optimizer = torch.optim.Adam([learner.embeddings, *learner.weights.values()], lr=1e-3)
    seen = []
    for _ in range(6):
        optimizer.zero_grad()
        losses = step(learner, batch)
        losses["loss"].backward()
        seen.append(losses["outside"].item())
        optimizer.step()
    assert seen[-1] < 0.95 * seen[0]


def test_calibration_fades(personalizer):
    learner = learner_on(personalizer, disendiff={"calibration_until": 0.5})
    batch, steps = batch_of([BOTH], [(0, 1)]), learner.settings.steps
    first, quarter, half, last = (
        step(learner, replace(batch, step=s))["calibration"].item() for s in (0, steps // 4, steps // 2, steps - 1)
    )
    assert quarter == pytest.approx(first * (1 - (steps // 4) / (steps / 2)))
    assert first > 0
    assert half == last == 0
    recorded = learner.fixed_inputs(replace(batch, step=steps // 4))["shares"]
    assert recorded.sum().item() == pytest.approx(1 - (steps // 4) / (steps / 2))


def test_rows_bring_masks_where_they_count(personalizer):
    learner = learner_on(personalizer, alone=0.5, disendiff={"outside_weight": 1.0})
    views = [learner.row(0, random.Random(i)) for i in range(40)]
    assert {(view.window, view.with_masks) for view in views} == {(True, False), (False, True)}
    mixing = learner_on(personalizer, alone=0.5, mix=0.5, disendiff={"outside_weight": 1.0})
    rows = [mixing.row(0, random.Random(i)) for i in range(40)]
    assert all(view.with_masks for view in rows if view.mixed)
    assert any(view.mixed for view in rows)
    assert not any(learner_on(personalizer).row(0, random.Random(i)).with_masks for i in range(10))


def test_what_cannot_be_set_or_recorded_is_refused():
    for name in ("outside_weight", "divergence_weight"):
        with pytest.raises(InputError, match=name):
            FitConfig.preset("reference", disendiff={name: -0.1})
    for name in ("outside_from", "calibration_until"):
        with pytest.raises(InputError, match=name):
            FitConfig.preset("reference", disendiff={name: 1.5})
    config = FitConfig.preset("reference", disendiff={"outside_weight": 0.1}).for_method("disendiff")
    assert "outside_weight" in unrecordable(config, method_class("disendiff"), torch.float32)
    plain = FitConfig.preset("reference").for_method("disendiff")
    assert unrecordable(plain, method_class("disendiff"), torch.float32) is None


def test_a_fit_with_all_of_them_is_repeatable(personalizer, picture, quick):
    options = {"outside_weight": 0.1, "outside_from": 0.0, "divergence_weight": 0.01, "calibration_until": 0.5}
    config = quick.with_changes(alone=0.3, mix=0.3, disendiff=options)
    one, other = (personalizer.fit(picture, ["cat", "dog"], config=config, seed=3) for _ in range(2))
    assert one.content_hash() == other.content_hash()
    plain = personalizer.fit(picture, ["cat", "dog"], config=quick.with_changes(alone=0.3, mix=0.3), seed=3)
    assert plain.content_hash() != one.content_hash()
