"""Pictures that are looked at, and drawn again until they are right."""

from __future__ import annotations

import gc
import json
import threading
import weakref

import numpy as np
import pytest
import torch
from PIL import Image

from sdk import Concept, ConceptPack, Personalizer
from sdk.errors import InputError
from sdk.eval.checking import PackChecker
from sdk.eval.expectations import expected
from sdk.eval.photographs import PhotographChecks
from sdk.miniworld import JudgeScorer, render, task_scene
from sdk.runtime import Cancelled
from sdk.sampling.engine import Engine

PROMPT = "a <new1> cat and a <new2> dog"


class Strict:
    """Finds fault with the pictures it sees by number, the first is 0; remembers what it was asked."""

    def __init__(self, faults):
        self.wrong, self.seen, self.asked = dict(faults), 0, []

    def faults(self, images, prompt, pack):
        self.asked.append((len(images), prompt, pack))
        numbers = range(self.seen, self.seen + len(images))
        self.seen += len(images)
        return [list(self.wrong.get(n, [])) for n in numbers]


@pytest.fixture
def pack(personalizer, picture, quick):
    return personalizer.fit(picture, ["cat", "dog"], config=quick, seed=0)


def drawn(personalizer, prompt=PROMPT, **arguments):
    return personalizer.generate(prompt, num_inference_steps=2, **{"seed": 7, "num_images": 3} | arguments)


def seeds(result):
    return [json.loads(image.info["personalizer"])["seed"] for image in result.images]


def test_faulty_pictures_are_drawn_again_with_noise_of_their_own(personalizer, pack):
    checker = Strict({1: ["no dog"], 2: ["no cat", "no dog"], 4: ["no cat"]})
    result = drawn(personalizer, attempts=3, checker=checker)
    assert [count for count, _, _ in checker.asked] == [3, 2, 1]
    assert all(prompt == PROMPT and given is pack for _, prompt, given in checker.asked)
    assert result.attempts == [1, 2, 3]
    assert result.faults == [[], [], []]
    assert seeds(result) == [7, 8 + 3, 9 + 2 * 3]
    for image, seed in zip(result.images, seeds(result), strict=True):
        again = drawn(personalizer, num_images=1, seed=seed).images[0]
        assert np.abs(np.asarray(again).astype(int) - np.asarray(image)).max() <= 1


def test_of_faulty_ones_the_least_faulty_stays_the_first_among_equals(personalizer, pack):
    checker = Strict({0: ["a", "b"], 1: ["a"], 2: ["b"]})
    result = drawn(personalizer, num_images=1, attempts=3, checker=checker)
    assert (result.attempts, result.faults, seeds(result)) == ([3], [["a"]], [8])
    assert result.notes == ["picture 0: a, after 3 attempts"]


def test_one_attempt_looks_and_draws_nothing_again(personalizer, pack):
    result = drawn(personalizer, checker=Strict({1: ["no dog"]}))
    assert (result.attempts, result.faults, seeds(result)) == ([1, 1, 1], [[], ["no dog"], []], [7, 8, 9])
    plain = drawn(personalizer)
    assert (plain.attempts, plain.faults) == ([], [])
    assert all(np.array_equal(a, b) for a, b in zip(result.images, plain.images, strict=True))


def test_each_prompt_is_looked_at_with_its_pack_and_the_plain_model_is_not(personalizer, pack):
    checker = Strict({0: ["no cat"]})
    prompts = [PROMPT, "a cat", "a <new1> cat"]
    result = drawn(personalizer, prompts, concepts=[pack, None, pack], num_images=1, attempts=2, checker=checker)
    assert [prompt for _, prompt, _ in checker.asked] == [PROMPT, "a <new1> cat", PROMPT]
    assert result.attempts == [2, 1, 1]
    assert seeds(result) == [7 + 3, 8, 9]


def test_seeds_of_a_list_are_never_used_twice(personalizer, pack):
    prompts = [PROMPT, "a <new1> cat"]
    result = drawn(personalizer, prompts, num_images=1, seed=[0, 2], attempts=2, checker=Strict({0: ["no dog"]}))
    assert seeds(result) == [3, 2]


def test_a_checker_that_answers_otherwise_is_told_so(personalizer, pack):
    for answer in ([[]], ["no dog", "", ""], [[], [], [], []]):
        odd = Strict({})
        odd.faults = lambda images, prompt, pack, answer=answer: answer
        with pytest.raises(InputError, match="a list of faults for each of 3 pictures"):
            drawn(personalizer, checker=odd)


def test_cancelled_while_drawing_again_what_there_is_is_kept(personalizer, pack):
    stop = threading.Event()

    class Cancels(Strict):
        def faults(self, images, prompt, pack):
            stop.set()
            return super().faults(images, prompt, pack)

    with pytest.raises(Cancelled) as error:
        drawn(personalizer, attempts=2, checker=Cancels({0: ["no dog"]}), cancel=stop)
    assert sorted(error.value.finished) == [0, 1, 2]


def test_what_cannot_be_asked_is_refused(personalizer, pack):
    for attempts in (0, 101, 1.5, "three"):
        with pytest.raises(InputError, match="attempts"):
            drawn(personalizer, attempts=attempts)
    with pytest.raises(InputError, match="checker must be a Checker"):
        drawn(personalizer, attempts=2, checker=print)
    noise = [torch.Generator().manual_seed(i) for i in range(3)]
    with pytest.raises(InputError, match="fresh noise"):
        drawn(personalizer, attempts=2, generator=noise, seed=None)
    one = drawn(personalizer, attempts=2, checker=Strict({0: ["x"]}), generator=noise[0], seed=None)
    assert one.attempts == [2, 1, 1]


def test_what_a_prompt_lets_expect():
    concepts = [Concept("cat", "<new1>"), Concept("dog", "<new2>"), Concept("teddy bear", "<new3>")]

    def found(prompt):
        wanted = expected(prompt, concepts)
        return wanted.there, wanted.once, wanted.absent

    assert found("a <new1> cat on the beach") == ((0,), (0,), (1, 2))
    assert found("a <new1> cat and another Cat") == ((0,), (), (1, 2))
    assert found("a cat beside a <new3> teddy bear") == ((2,), (2,), (1,))
    assert found("a cathedral") == ((), (), (0, 1, 2))


def test_the_judge_says_what_is_wrong_with_renders():
    scene = task_scene("two", "tune", 0)
    picture, _ = render(scene)
    concepts = [Concept(item.noun, f"<new{i}>") for i, item in enumerate(scene.objects, start=1)]
    first, second = (c.noun for c in concepts)
    scorer = JudgeScorer()
    scorer.look_at(picture, concepts)
    both = expected(" and ".join(f"a {c.phrase}" for c in concepts), concepts)
    alone = expected(f"a {concepts[0].phrase}", concepts)
    other, _ = render(task_scene("two", "tune", next(i for i in range(1, 20) if _nouns(i) == {first, second})))
    assert scorer.faults([picture, other], both) == [[], [f"another {first}", f"another {second}"]]
    assert scorer.faults([picture], alone) == [[f"a {second} that was not asked for"]]


def _nouns(index):
    return {item.noun for item in task_scene("two", "tune", index).objects}


def test_the_default_checker_looks_at_the_reference_and_outlives_nobody(picture, quick):
    personalizer = Personalizer.from_pretrained("bundled", device="cpu")
    scene = task_scene("two", "tune", 0)
    shown, _ = render(scene)
    nouns = [item.noun for item in scene.objects]
    pack = personalizer.fit(shown, nouns, config=personalizer.default_config(steps=2, prior="none"))
    asked = {"num_inference_steps": 4, "seed": 0, "attempts": 2}
    result = personalizer.generate(pack.prompt, **asked)
    assert result.attempts == [2]
    assert result.faults[0]
    assert result.notes
    assert personalizer.generate(f"a {nouns[0]}", **asked).attempts == [1]  # names no token
    drew, bare = [], ConceptPack(pack.concepts, pack.base, pack.key_value, pack.embeddings)
    with pytest.raises(InputError, match="no reference picture"):  # before anything is drawn
        personalizer.generate(pack.prompt, concepts=bare, progress=drew.append, **asked)
    assert not drew
    pack.reference = None
    assert personalizer.generate(pack.prompt, **asked).attempts == [2]  # it was looked at
    with pytest.raises(InputError, match="no reference picture"):
        PackChecker(personalizer).faults(result.images, pack.prompt, pack)
    pack.reference, pack.concepts = shown, [Concept(nouns[0], "<new1>"), Concept(nouns[0], "<new2>")]
    with pytest.raises(InputError, match="of one class"):
        PackChecker(personalizer).faults(result.images, pack.prompt, pack)
    gone = weakref.ref(personalizer)
    del personalizer
    gc.collect()
    assert gone() is None


def test_nobody_looks_for_an_engine_alone(personalizer):
    assert not hasattr(Engine, "default_checker")
    assert isinstance(personalizer.default_checker(), PackChecker)
    assert personalizer.default_checker() is personalizer.default_checker()


class Colours:
    """Stands for DINO: a picture's mean colour where it is not black."""

    def pictures(self, images):
        found = []
        for image in images:
            pixels = np.asarray(image.convert("RGB")).reshape(-1, 3).astype(np.float32)
            shown = pixels[pixels.sum(-1) > 0]
            found.append(shown.mean(0) if len(shown) else np.ones(3, np.float32))
        return torch.nn.functional.normalize(torch.from_numpy(np.stack(found)), dim=-1)


def test_photographs_are_told_by_comparison(picture):
    """On the bundled world, whose attention finds things: who is not there, and who looks like the other."""
    personalizer = Personalizer.from_pretrained("bundled", device="cpu")
    scene = task_scene("two", "tune", 0)
    shown, masks = render(scene)
    concepts = [Concept(item.noun, f"<new{i}>") for i, item in enumerate(scene.objects, start=1)]
    checks = PhotographChecks(personalizer, shown, concepts, dino=Colours())
    both = expected(" and ".join(f"a {c.phrase}" for c in concepts), concepts)
    swapped = np.asarray(shown).copy()
    colours = [swapped[mask].mean(0) for mask in masks]
    for mask, colour in zip(masks, reversed(colours), strict=True):
        swapped[mask] = colour.astype(np.uint8)
    right, wrong = checks.faults([shown, Image.fromarray(swapped)], both)
    assert right == []
    assert len(wrong) == 2
