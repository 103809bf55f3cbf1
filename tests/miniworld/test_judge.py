"""How the judge is taught, calibrated and measured."""

from __future__ import annotations

import random

import pytest
import torch

from sdk.miniworld.judge import Judge
from sdk.miniworld.scene import SceneObject, Vocabulary, is_reserved
from sdk.miniworld.training import calibration
from sdk.miniworld.training.judge import changed, grouped_scenes, identity_loss, judge_loss, render_scenes
from sdk.miniworld.training.redrawn import Redrawer, still_true
from sdk.model.loading import BUNDLED_FOLDER


def test_groups_hold_the_same_objects_twice_and_twice_changed():
    vocabulary = Vocabulary(sketch=0.0)
    scenes = grouped_scenes(80, vocabulary, seed=0)
    assert scenes == grouped_scenes(80, vocabulary, seed=0)
    for start in range(0, 80, 4):
        same, again, other, too = ({o.noun: o for o in s.objects} for s in scenes[start : start + 4])
        for noun, item in same.items():
            assert item.identity == again[noun].identity
            assert other[noun].identity == too[noun].identity
            differences = [a != b for a, b in zip(item.identity, other[noun].identity, strict=True)]
            assert sum(differences) == 1
    assert not any(is_reserved(o.identity) for s in scenes for o in s.objects)
    held = grouped_scenes(40, vocabulary, seed=0, reserved=True)
    assert all(any(is_reserved(o.identity) for s in held[i : i + 4] for o in s.objects) for i in range(0, 40, 4))


def test_a_changed_object_keeps_colour_and_accent_apart():
    rng = random.Random(0)
    for _ in range(100):
        item = changed(SceneObject("cat", "red", "blue"), rng, Vocabulary())
        assert item.colour != item.accent
        assert item != SceneObject("cat", "red", "blue")


def test_labels_leave_out_what_a_sketch_does_not_show():
    vocabulary = Vocabulary(sketch=0.5)
    scenes = grouped_scenes(40, vocabulary, seed=1)
    pictures, labels = render_scenes(scenes, vocabulary)
    assert pictures.shape == (40, 3, 64, 64)
    sketches = labels["sketch"] > 0.5
    assert sketches.any()
    assert not sketches.all()
    for name in ("colour", "accent", "background"):
        assert (labels[name][sketches] == -100).all()
    assert (labels["identity"][sketches] == -1).all()
    assert (labels["pattern"] >= 0).sum() == labels["presence"].sum()
    assert labels["background"][~sketches].min() >= 0


def test_identity_loss_wants_equal_objects_together_and_others_apart():
    names = torch.tensor([[1], [1], [2], [2]])
    together = torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]], [[0.0, 1.0]], [[0.0, 1.0]]])
    mixed = together[[0, 2, 1, 3]]
    assert identity_loss(together, names) < 0.01 < 1 < identity_loss(mixed, names)
    alone = torch.tensor([[1], [2], [-1], [-1]])
    assert identity_loss(together, alone) == 0


def test_the_judges_loss_ignores_attributes_of_absent_classes():
    torch.manual_seed(0)
    index = torch.tensor([[1, -100, -100], [-100, 0, 1]])
    logits = {
        "presence": torch.randn(2, 3),
        "hat": torch.randn(2, 3),
        "sketch": torch.randn(2),
        "place": torch.randn(2, 3, 4, 4),
        "background": torch.randn(2, 4),
        "colour": torch.randn(2, 3, 5),
        "accent": torch.randn(2, 3, 5),
        "pattern": torch.randn(2, 3, 2),
        "identity": torch.nn.functional.normalize(torch.randn(2, 3, 4), dim=-1),
    }
    labels = {
        "presence": (index >= 0).float(),
        "hat": torch.zeros(2, 3),
        "sketch": torch.zeros(2),
        "place": torch.zeros(2, 3, 4, 4),
        "background": torch.tensor([0, 1]),
        "colour": index,
        "accent": index,
        "pattern": index,
        "identity": index.clamp(min=-1),
    }
    before = judge_loss(logits, labels)
    logits["colour"][0, 1] += torch.randn(5)
    logits["hat"][0, 1] += 3
    assert torch.equal(before, judge_loss(logits, labels))
    logits["colour"][0, 0, 0] += 5
    assert judge_loss(logits, labels) > before


def test_temperature_undoes_overconfidence(monkeypatch):
    torch.manual_seed(0)
    honest = torch.randn(4000, 3)
    truth = torch.distributions.Categorical(logits=honest).sample()
    either = torch.randn(4000)
    yes = torch.bernoulli(either.sigmoid())
    answers = dict.fromkeys(("colour", "accent", "pattern", "background"), (3 * honest, truth))
    answers |= dict.fromkeys(("presence", "hat", "sketch"), (0.5 * either, yes))
    monkeypatch.setattr(calibration, "_answers", lambda *_: answers)
    found = calibration.fit_temperatures(Judge(Vocabulary(), width=8), torch.empty(0), {})
    assert found["colour"] == pytest.approx(3, rel=0.1)
    assert found["hat"] == pytest.approx(0.5, rel=0.15)


def test_calibration_error():
    confidence = torch.full((1000,), 0.8)
    right = (torch.arange(1000) % 10 < 8).double()
    assert calibration.calibration_error(confidence, right) == pytest.approx(0, abs=1e-6)
    assert calibration.calibration_error(torch.full((1000,), 0.95), right) == pytest.approx(0.15, abs=1e-6)


def test_threshold_is_where_both_mistakes_are_equally_frequent(monkeypatch):
    products = torch.linspace(0, 1, 101)
    same = products > 0.6
    same[55], same[65] = True, False  # one mistake either way
    monkeypatch.setattr(calibration, "identity_pairs", lambda *_: (products, same))
    values, false, true = calibration.roc(products, same)
    assert (false.diff() >= 0).all()
    assert (true.diff() >= 0).all()
    assert false[-1] == true[-1] == 1
    assert 0.55 < calibration.same_threshold(Judge(Vocabulary(), width=8), torch.empty(0), {}) <= 0.66
    assert values[0] == 1


def test_a_saved_judge_says_the_same(tmp_path):
    torch.manual_seed(0)
    judge = Judge(Vocabulary(), width=8).eval()
    judge.temperatures, judge.same = {"colour": 2.0}, 0.7
    judge.half().float().save(tmp_path)
    again = Judge.load(tmp_path)
    assert again.vocabulary == judge.vocabulary
    assert (again.temperatures, again.same) == ({"colour": 2.0}, 0.7)
    from PIL import Image

    picture = Image.new("RGB", (64, 64), "red")
    assert torch.equal(judge.judge([picture]).colour, again.judge([picture]).colour)


def test_a_redrawn_render_still_shows_what_stands_where():
    scenes = grouped_scenes(4, Vocabulary(sketch=0.0), seed=5)
    pictures, labels = render_scenes(scenes, Vocabulary())
    redraw = Redrawer(BUNDLED_FOLDER, torch.device("cpu"))
    drawn = redraw(pictures, scenes, seed=0)
    assert drawn.dtype == torch.uint8
    assert torch.equal(drawn, redraw(pictures, scenes, seed=0))
    difference = (drawn.float() - pictures.float()).abs().mean()
    strangers = (drawn.float() - pictures.float().roll(2, 0)).abs().mean()
    assert 1 < difference < strangers / 2
    kept = still_true(labels)
    assert all(torch.equal(kept[name], labels[name]) for name in ("presence", "place", "colour", "hat", "background"))
    assert (kept["pattern"] == -100).all()
    assert (kept["accent"] == -100).all()
    assert (kept["identity"] == -1).all()
    assert (labels["identity"] >= 0).any()


def test_a_picture_and_its_mirror_image_are_read_alike():
    judge = Judge(Vocabulary(), width=8).eval()
    pictures = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    seen, mirrored = judge.read(pictures), judge.read(pictures.flip(-1))
    for name in seen.keys() - {"place"}:
        torch.testing.assert_close(seen[name], mirrored[name])
    torch.testing.assert_close(seen["place"], mirrored["place"].flip(-1))
    torch.testing.assert_close(seen["identity"].norm(dim=-1), torch.ones(2, 6))
    assert not torch.allclose(judge(pictures)["presence"], judge(pictures.flip(-1))["presence"])
