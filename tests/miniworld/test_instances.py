"""The judge that finds every object: grouping, pairing, and what it makes of drawn pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from sdk.concepts import Concept
from sdk.errors import InputError
from sdk.eval.drawing import Drawn
from sdk.miniworld.instance_scorer import (
    InstanceScorer,
    Subject,
    cells_of,
    mixes,
    paired,
    subjects_in,
    wears_another,
)
from sdk.miniworld.instances import CELLS, Found, InstanceJudge, Sight, bundled_instance_judge, regions_of
from sdk.miniworld.judge import bundled_judge
from sdk.miniworld.renderer import render
from sdk.miniworld.scene import CLASSES, COLOURS, Vocabulary
from sdk.miniworld.tasks import task_scene
from sdk.miniworld.training import instances as training
from sdk.miniworld.training.judge import grouped_scenes
from sdk.miniworld.training.pools import to_unit

BUNDLED = Path(__file__).parents[2] / "sdk" / "bundled" / "judge"
ALIKE = Vocabulary(sketch=0.1, alike=0.5)


@pytest.fixture(scope="module")
def rendered():
    """Pictures with the truth, half of those of several objects with two of one class."""
    return training.render_truth(grouped_scenes(48, ALIKE, seed=0), ALIKE)


def oracle(truth, row):
    """What a judge that makes no mistake says."""
    kind, mark, offset = training.targets(truth.of(slice(row, row + 1)), len(CLASSES))
    return regions_of(F.one_hot(kind[0], len(CLASSES) + 1).permute(2, 0, 1).float(), mark[0], offset[0])


def test_true_maps_give_every_object_back_also_two_of_one_class(rendered):
    _, truth = rendered
    alike = 0
    for row in range(48):
        there = [(truth.region[row, slot], noun) for slot, noun in enumerate(truth.noun[row].tolist()) if noun >= 0]
        found = oracle(truth, row)
        assert sorted(noun for _, noun in found) == sorted(noun for _, noun in there)
        for region, noun in found:
            overlap = max((region & r).sum() / (region | r).sum() for r, n in there if n == noun)
            assert overlap > 0.9
        alike += len({noun for _, noun in there}) < len(there)
    assert alike >= 4


def test_nothing_is_found_where_nothing_is():
    kind = torch.zeros(len(CLASSES) + 1, CELLS, CELLS)
    kind[-1] = 1
    assert regions_of(kind, torch.ones(CELLS, CELLS), torch.zeros(2, CELLS, CELLS)) == []
    kind[0, :2, :2] = 2  # a stray mark
    assert regions_of(kind, torch.rand(CELLS, CELLS), torch.zeros(2, CELLS, CELLS)) == []
    kind[0] = 2
    assert regions_of(kind, torch.zeros(CELLS, CELLS), torch.zeros(2, CELLS, CELLS)) == []


def test_it_learns_and_comes_back_from_disk(rendered, tmp_path):
    pictures, truth = rendered
    torch.manual_seed(0)
    judge = InstanceJudge(ALIKE, width=16)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=2e-3)
    losses = []
    for _ in range(12):
        loss = training.loss_of(judge, to_unit(pictures[:16]), truth.of(slice(16)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    judge.save(tmp_path)
    again = InstanceJudge.load(tmp_path)
    assert again.vocabulary == ALIKE
    states = zip(judge.state_dict().values(), again.state_dict().values(), strict=True)
    assert all(torch.equal(a.half().float(), b) for a, b in states)
    assert len(again.find(to_unit(pictures[:4]))) == 4


def test_redrawn_pictures_keep_what_a_caption_says(rendered):
    _, truth = rendered
    kept = truth.redrawn()
    assert (kept.accent == training.NONE).all()
    assert (kept.identity == training.NONE).all()
    assert torch.equal(kept.colour, truth.colour)


def vector(*values):
    return F.normalize(torch.tensor(values, dtype=torch.float32), dim=0)


def item(noun, colour, accent, pattern, identity):
    return Found(noun, colour, accent, pattern, False, torch.zeros(CELLS, CELLS, dtype=torch.bool), identity)


REX, ACE = vector(1, 0, 0), vector(0, 1, 0)
STRANGER = vector(0, 0, 1)
DOGS = [Subject("dog", "red", "blue", "plain", REX), Subject("dog", "white", "green", "spotted", ACE)]
PETS = [Subject("cat", "red", "blue", "plain", REX), Subject("dog", "white", "green", "spotted", ACE)]


def test_as_many_as_possible_are_paired():
    both = item("dog", "red", "blue", "plain", vector(1, 1, 0))
    rex = item("dog", "red", "blue", "plain", REX)
    assert paired([both], DOGS, 0.6) == {0: 0}
    assert paired([both, rex], DOGS, 0.6) == {0: 1, 1: 0}
    assert paired([rex, rex], DOGS, 0.6) == {0: 0}
    assert paired([item("cat", "red", "blue", "plain", REX)], DOGS, 0.6) == {}
    assert paired([], DOGS, 0.6) == {}


def test_whose_looks_an_object_wears():
    assert wears_another(item("cat", "white", "green", "plain", STRANGER), PETS[0], PETS[1:])
    assert not wears_another(item("cat", "red", "blue", "plain", STRANGER), PETS[0], PETS[1:])
    assert not wears_another(item("cat", "pink", "orange", "striped", STRANGER), PETS[0], PETS[1:])
    assert mixes(item("dog", "red", "green", "striped", STRANGER), DOGS)
    assert not mixes(item("dog", "red", "blue", "striped", STRANGER), DOGS)


class Told:
    """A judge that says what it is told of each picture, which is named by its width."""

    same = 0.6

    def __init__(self, *answers):
        self.answers = answers

    def look_at(self, images):
        return [Sight(self.answers[image.width - 1], "beach") for image in images]


def drawn(asked, *numbers, background=None):
    return Drawn("", asked, background, [Image.new("RGB", (number + 1, 1)) for number in numbers])


def scored(pictures, subjects, judge):
    scorer = InstanceScorer(judge)
    scorer.subjects = subjects
    return scorer.score(pictures)


def test_what_pictures_of_two_of_one_class_come_to():
    rex, ace = item("dog", "red", "blue", "plain", REX), item("dog", "white", "green", "spotted", ACE)
    stranger, blend = (
        item("dog", "pink", "pink", "striped", STRANGER),
        item("dog", "red", "green", "plain", STRANGER),
    )
    judge = Told([rex, ace], [rex, rex], [rex], [rex, blend], [rex, ace, stranger], [ace])
    scores = scored([drawn((0, 1), 0, 1, 2, 3, 4)], DOGS, judge)
    assert scores.together == pytest.approx(2 / 5)
    assert scores.collapse == pytest.approx(3 / 10)
    assert (scores.missing, scores.doubled) == (pytest.approx(1 / 5), pytest.approx(1 / 5))
    assert scores.exchange == pytest.approx(2 / 5)  # a second rex, and the blend
    alone = scored([drawn((0,), 0, 2, 5)], DOGS, judge)
    assert alone.recognised == [pytest.approx(2 / 3), 0]
    assert alone.once == [pytest.approx(2 / 3), 0]
    assert alone.exchange == pytest.approx(2 / 3)  # ace was not asked for
    assert alone.together is alone.collapse is None
    assert alone.matrix[0] == [pytest.approx(2 / 3), pytest.approx(2 / 3)]  # the last picture shows ace, twice over
    assert alone.clean[0] == pytest.approx(1 / 3)


def test_what_pictures_of_two_classes_come_to():
    cat, dog = item("cat", "red", "blue", "plain", REX), item("dog", "white", "green", "spotted", ACE)
    swapped = item("cat", "white", "green", "plain", STRANGER)
    judge = Told([cat, dog], [swapped, dog], [cat, cat, dog], [dog], [])
    scores = scored([drawn((0, 1), 0, 1, 2, 3, 4)], PETS, judge)
    assert (scores.together, scores.collapse) == (pytest.approx(2 / 5), pytest.approx(4 / 10))
    assert (scores.missing, scores.doubled) == (pytest.approx(2 / 5), pytest.approx(1 / 5))
    assert scores.exchange == pytest.approx(1 / 5)
    assert scores.text_alignment == pytest.approx((3 + 0.5) / 5)
    alone = scored([drawn((0,), 0, 1, 2, background="snow")], PETS, judge)
    assert alone.matrix[0] == [pytest.approx((1 + 1 / 3 + 1) / 3), 1.0]  # a dog shows each time
    assert alone.clean[0] == 0
    assert alone.text_alignment == pytest.approx(0.5)
    assert scored([drawn((0,), 5)], PETS, Told(*[[]] * 5, [swapped])).matrix[0] == [
        pytest.approx(1 / 3),
        pytest.approx(2 / 3),
    ]


def test_two_of_one_class_are_told_apart_by_masks():
    left, right = Image.new("L", (64, 64)), Image.new("L", (64, 64))
    left.paste(255, (0, 0, 32, 64))
    right.paste(255, (32, 0, 64, 64))
    places = [cells_of(mask) for mask in (left, right)]
    found = [
        Found("dog", "red", "blue", "plain", False, places[0], REX),
        Found("dog", "white", "green", "spotted", False, places[1], ACE),
    ]
    concepts = [Concept("dog", "<a>"), Concept("dog", "<b>")]
    judge = Told(found)
    picture = Image.new("RGB", (1, 1))
    assert [s.colour for s in subjects_in(picture, concepts, judge, [right, left])] == ["white", "red"]
    with pytest.raises(InputError, match="give masks"):
        subjects_in(picture, concepts, judge)
    with pytest.raises(InputError, match="sees no car"):
        subjects_in(picture, [Concept("car", "<a>")], judge)


def test_looks_are_shares_of_what_is_there(rendered):
    pictures, truth = rendered
    torch.manual_seed(0)
    judge = InstanceJudge(ALIKE, width=8).eval()
    looked = training.looked_at(judge, pictures[:8])
    shares = training.accuracy(judge, looked, truth.of(slice(8)).redrawn())
    assert all(0 <= value <= 1 for value in shares.values())
    words = ALIKE
    perfect = [
        [
            Found(
                words.classes[noun],
                words.colours[max(0, int(truth.colour[row, slot]))],
                words.colours[max(0, int(truth.accent[row, slot]))],
                words.patterns[int(truth.pattern[row, slot])],
                bool(truth.hat[row, slot]),
                truth.region[row, slot],
                F.one_hot(torch.tensor(max(0, int(truth.identity[row, slot]))), 400).float(),
            )
            for slot, noun in enumerate(truth.noun[row].tolist())
            if noun >= 0
        ]
        for row in range(48)
    ]
    shares = training.accuracy(judge, perfect, truth)
    assert shares == {name: 0.0 if name.startswith("others") else 1.0 for name in shares}
    assert 0 < training.threshold(judge, perfect, truth) <= 1


def test_the_one_that_ships_is_as_good_as_its_file_says():
    judge = bundled_instance_judge()
    scenes = grouped_scenes(160, judge.vocabulary, seed=77, reserved=True)
    pictures, truth = training.render_truth(scenes, judge.vocabulary)
    shares = training.accuracy(judge, training.looked_at(judge, pictures), truth)
    stated = json.loads((BUNDLED / "instances_accuracy.json").read_text("utf-8"))["renders"]
    assert shares.keys() == stated.keys()
    for name, value in stated.items():
        assert shares[name] == pytest.approx(value, abs=0.02), name
    assert shares["exact with two of one class"] >= 0.98


def test_it_sees_what_the_first_judge_sees():
    """Of another build and trained apart, on the reference pictures of the benchmark."""
    first, second = bundled_judge(), bundled_instance_judge()
    scenes = [task_scene("two", "tune", index) for index in range(20)]
    sights = second.look_at([render(scene)[0] for scene in scenes])
    verdict = first.judge([render(scene)[0] for scene in scenes])
    for row, (scene, sight) in enumerate(zip(scenes, sights, strict=True)):
        assert sight.background == scene.background
        looks = {(o.noun, o.colour, o.accent, o.pattern) for o in sight.objects}
        assert looks == {o.identity for o in scene.objects}
        for item in sight.objects:
            slot = CLASSES.index(item.noun)
            assert verdict.presence[row, slot] > 0.5
            assert list(COLOURS)[int(verdict.colour[row, slot].argmax())] == item.colour
