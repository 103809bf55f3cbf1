"""The judge and the scores on renders, where the right answer is known."""

from __future__ import annotations

import dataclasses
import random

import pytest
import torch

from sdk import Concept
from sdk.errors import InputError
from sdk.eval.drawing import Drawn
from sdk.eval.report import save_report
from sdk.miniworld.captions import WORDS
from sdk.miniworld.counting import count_objects
from sdk.miniworld.judge import bundled_judge
from sdk.miniworld.references import demo_scene
from sdk.miniworld.renderer import render
from sdk.miniworld.scene import BACKGROUNDS, SceneObject, arrange, is_reserved, sample_object, sample_scene
from sdk.miniworld.scorer import identities_in, leak, likeness, recognise, score
from sdk.miniworld.world_prompts import COUNT, benchmark_prompts


@pytest.fixture(scope="module")
def judge():
    return bundled_judge()


def picture_of(*objects: SceneObject, background="beach", seed=0):
    return render(arrange(random.Random(seed), list(objects), background))[0]


CAT, DOG = demo_scene().objects  # purple with yellow; spotted white with red


@pytest.fixture(scope="module")
def identities(judge):
    return identities_in(render(demo_scene())[0], [Concept("cat", "<new1>"), Concept("dog", "<new2>")], judge)


def test_the_judge_reads_held_out_renders(judge):
    rng = random.Random(3)
    coloured = dataclasses.replace(judge.vocabulary, sketch=0.0)  # a sketch shows no colours
    scenes = [sample_scene(rng, coloured, split="held_out") for _ in range(200)]
    verdict = judge.judge([render(scene)[0] for scene in scenes])
    wrong = 0
    for row, scene in enumerate(scenes):
        nouns = {o.noun for o in scene.objects}
        there = {judge.vocabulary.classes[i] for i in (verdict.presence[row] > 0.5).nonzero()[:, 0]}
        wrong += there != nouns
        for item in scene.objects:
            slot = judge.vocabulary.classes.index(item.noun)
            wrong += judge.vocabulary.colours[int(verdict.colour[row, slot].argmax())] != item.colour
            wrong += judge.vocabulary.patterns[int(verdict.pattern[row, slot].argmax())] != item.pattern
            peak = int(verdict.place[row, slot].argmax())
            assert abs((peak % 16 + 0.5) / 16 - item.x) < item.width
    assert wrong <= 4


def test_identities_are_read_off_the_reference(judge, identities):
    vocabulary = judge.vocabulary
    for identity, item in zip(identities, (CAT, DOG), strict=True):
        assert vocabulary.classes[identity.slot] == item.noun
        assert vocabulary.colours[identity.colour] == item.colour
        assert vocabulary.colours[identity.accent] == item.accent
        assert vocabulary.patterns[identity.pattern] == item.pattern


def test_likeness_falls_with_every_wrong_attribute(judge, identities):
    cat = SceneObject("cat", "purple", "yellow")
    variants = [
        cat,
        SceneObject("cat", "purple", "red"),
        SceneObject("cat", "green", "red"),
        SceneObject("dog", "purple", "yellow"),
    ]
    scores = likeness(judge.judge([picture_of(v) for v in variants]), identities[0])
    assert scores[0] > 0.95
    assert scores.diff().max() < -0.2


def test_leaks_are_seen_in_both_forms(judge, identities):
    clean = picture_of(SceneObject("cat", "purple", "yellow"))
    company = picture_of(SceneObject("cat", "purple", "yellow"), SceneObject("dog", "blue", "green"))
    dyed = picture_of(SceneObject("cat", "white", "red"))
    values = leak(judge.judge([clean, company, dyed]), identities[0], identities[1])
    assert values[0] < 0.05
    assert values[1] > 0.95
    assert values[2] > 0.95


def test_recognised_is_what_looks_the_same(judge, identities):
    both = picture_of(SceneObject("cat", "purple", "yellow"), SceneObject("dog", "white", "red", "spotted"))
    hats = picture_of(SceneObject("cat", "purple", "yellow", hat=True), SceneObject("dog", "white", "red", "spotted"))
    swapped = picture_of(SceneObject("cat", "white", "red", "spotted"), SceneObject("dog", "purple", "yellow"))
    nearly = picture_of(SceneObject("cat", "purple", "red"), SceneObject("dog", "white", "red", "striped"))
    verdict = judge.judge([both, hats, swapped, nearly])
    assert recognise(verdict, identities[0], judge.same).tolist() == [True, True, False, False]
    assert recognise(verdict, identities[1], judge.same).tolist() == [True, True, False, False]


def test_a_perfect_and_a_blended_model(judge, identities):
    perfect = [
        Drawn("", (0,), "beach", [picture_of(CAT, seed=s) for s in range(3)]),
        Drawn("", (1,), None, [picture_of(DOG, seed=s) for s in range(3)]),
        Drawn("", (0, 1), None, [picture_of(CAT, DOG, seed=s) for s in range(3)]),
    ]
    scores = score(perfect, identities, judge)
    assert scores.fidelity > 0.95
    assert scores.leakage < 0.05
    assert scores.together == 1
    assert scores.recognised == scores.clean == scores.once == [1, 1]
    assert scores.text_alignment > 0.95
    blend = SceneObject("cat", "white", "red"), SceneObject("dog", "purple", "yellow")
    blended = [
        Drawn("", (0,), "snow", [picture_of(blend[0])]),
        Drawn("", (1,), None, [picture_of(blend[1])]),
        Drawn("", (0, 1), None, [picture_of(*blend)]),
    ]
    worse = score(blended, identities, judge)
    assert worse.fidelity < 0.6
    assert worse.leakage > 0.9
    assert worse.together == 0
    assert worse.recognised == [0, 0]
    assert worse.clean == [1, 1]
    assert worse.text_alignment < scores.text_alignment


def test_objects_are_counted(judge):
    """On renders of identities that no training has shown, one and two of a class."""
    for count in (1, 2):
        rng = random.Random(count)
        scenes = []
        while len(scenes) < 200:
            item = sample_object(rng, rng.choice(judge.vocabulary.classes), judge.vocabulary)
            if is_reserved(item.identity):
                scenes.append(arrange(rng, [item] * count, rng.choice(list(BACKGROUNDS))))
        slots = [judge.vocabulary.classes.index(scene.objects[0].noun) for scene in scenes]
        place = judge.judge([render(scene)[0] for scene in scenes]).place[torch.arange(200), slots]
        right = (count_objects(place) == count).float().mean().item()
        print(f"{count} of a class: counted right in {right:.1%}")
        assert right >= 0.97
    assert count_objects(torch.zeros(1, 16, 16)).tolist() == [0]


def test_a_concept_that_comes_twice_is_not_single(judge, identities):
    twins = Drawn("", (0,), None, [picture_of(CAT, CAT), picture_of(CAT)])
    alone = Drawn("", (1,), None, [picture_of(DOG)])
    assert score([twins, alone], identities, judge).once == [0.5, 1]


def test_prompts_cover_each_concept_alone_and_all():
    prompts = benchmark_prompts(["<new1> cat", "<new2> dog"], ["cat", "dog"])
    assert [p.asked for p in prompts] == [(0,)] * COUNT + [(1,)] * COUNT + [(0, 1)] * COUNT
    assert (prompts[1].learned, prompts[1].plain) == ("a <new1> cat on the beach", "a cat on the beach")
    texts = [p.learned for p in prompts]
    assert "a <new2> dog and a <new1> cat on the beach" in texts
    assert len(set(texts)) == 3 * COUNT
    assert {p.background for p in prompts} == {None, *BACKGROUNDS}
    for prompt in prompts:
        assert set(prompt.plain.split()) <= set(WORDS)
        assert ("dog" in prompt.plain) == (1 in prompt.asked)
    assert len(benchmark_prompts(["<new1> cat"], ["cat"], 4)) == 4
    three = benchmark_prompts(["<new1> cat", "<new2> dog", "<new3> car"], ["cat", "dog", "car"])
    assert len({p.learned for p in three}) == 4 * COUNT
    assert three[-1].asked == (0, 1, 2)


def test_report_is_one_self_contained_page(personalizer, picture, quick, tmp_path):
    from sdk import evaluate

    pack = personalizer.fit(picture, ["cat", "dog"], config=quick)
    report = evaluate(personalizer, pack, num_images=1, num_inference_steps=1)
    page = save_report(report, tmp_path / "report").read_text()
    assert page.count("data:image/png;base64,") == 1 + 2 * 12
    assert "http" not in page
    assert "&lt;new1&gt; cat" in page
    assert {p.name for p in (tmp_path / "report").iterdir()} == {"report.html", "metrics.json", "gallery.png"}
    assert "fidelity" in report.table()
    assert 0 <= report.to_dict()["fitted"]["fidelity"] <= 1


def test_what_cannot_be_evaluated(personalizer, picture, quick):
    from sdk import evaluate

    with pytest.raises(InputError, match="does not know teddy bear"):
        evaluate(personalizer, personalizer.fit(picture, ["teddy bear"], config=quick))
    with pytest.raises(InputError, match="different classes"):
        evaluate(personalizer, personalizer.fit(picture, ["cat", "cat"], config=quick))
