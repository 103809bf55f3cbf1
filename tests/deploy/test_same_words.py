"""torch's side and ONNX Runtime's refuse the same arguments, and say the same about them."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from PIL import Image

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")

from sdk import Personalizer
from sdk.deploy import OnnxPersonalizer
from sdk.errors import InputError, NotFiniteError
from sdk.images.record import record_of

ONCE = {"num_inference_steps": 1, "seed": 1}


@pytest.fixture(scope="module")
def sides(tiny_model, shared_export):
    return Personalizer.from_pretrained(tiny_model, device="cpu"), OnnxPersonalizer.from_pretrained(
        shared_export, engine="onnxruntime"
    )


WRONG = [
    ({"seed": "7"}, "seed must be a whole number, got '7' (str)"),
    ({"seed": 1.5}, "seed must be a whole number, got 1.5 (float)"),
    ({"seed": True}, "seed must be a whole number, got True (bool)"),
    ({"seed": np.array([1, 2])}, "seed must be a whole number, got array([1, 2]) (ndarray)"),
    ({"seed": -1}, "seed must be at least 0, got -1"),
    ({"seed": 2**64}, "seed must lie between 0 and 2**63 - 1, for the last picture of a call, too"),
    ({"seed": 2**63 - 1, "num_images": 2}, "seed must lie between 0 and 2**63 - 1"),
    ({"seed": [1, 2]}, "give one seed, or one for each of the 1 prompts, got 2"),
    ({"seed": [-1]}, "seed must be at least 0, got -1"),
    ({"seed": [2**63 - 1], "num_images": 2}, "seed must lie between 0 and 2**63 - 1"),
    ({"num_images": 2.0}, "num_images must be a whole number, got 2.0 (float)"),
    ({"num_images": 0}, "num_images must be between 1 and 10000, got 0"),
    ({"num_images": 10**9}, "num_images must be between 1 and 10000, got 1000000000"),
    ({"num_inference_steps": "5"}, "num_inference_steps must be a whole number, got '5' (str)"),
    ({"num_inference_steps": 1000}, "num_inference_steps must be between 1 and 999, got 1000"),
    ({"guidance_scale": float("nan")}, "guidance_scale must be a finite number, got nan"),
    ({"guidance_scale": "6"}, "guidance_scale must be a number, got '6' (str)"),
    ({"guidance_scale": -1}, "guidance_scale must be at least 0, got -1"),
    ({"eta": 1.5}, "eta must be between 0 and 1, got 1.5"),
    ({"eta": True}, "eta must be a number, got True (bool)"),
    ({"scheduler": "heun"}, "there is no scheduler 'heun' (str); choose one of ddim, dpm++, unipc, euler"),
    ({"scheduler": 5}, "scheduler must be a text, got 5 (int)"),
    ({"scheduler": "dpm++", "num_inference_steps": 999}, "num_inference_steps may be at most 998"),
    ({"speed": "slow"}, "speed must be one of exact, balanced, fast, got 'slow' (str)"),
    ({"speed": 5}, "speed must be a text, got 5 (int)"),
    ({"height": 33}, "height must be a positive multiple of 8, got 33"),
    ({"width": 32.0}, "width must be a whole number, got 32.0 (float)"),
    ({"height": 10**6}, "height may be at most 4096 pixels, got 1000000"),
    ({"negative_prompt": 5}, "negative prompt must be a text or a list of texts, got 5 (int)"),
    ({"negative_prompt": [5]}, "negative prompt must be a text, got 5 (int)"),
    ({"negative_prompt": "a <new9> cat"}, "the negative prompt uses <new9>, which was not learned"),
    ({"progress": 5}, "progress must be a function, got 5 (int)"),
    ({"cancel": True}, "cancel must be a threading.Event, got True (bool)"),
    ({"prompt": 5}, "prompt must be a text or a list of texts, got 5 (int)"),
    ({"prompt": {"a cat"}}, "prompt must be a text or a list of texts, got {'a cat'} (set)"),
    ({"prompt": ["a cat", None]}, "prompt must be a text, got None (NoneType)"),
    ({"prompt": []}, "give at least one prompt"),
    ({"prompt": "a \ud800 cat"}, "prompt holds half a character"),
    ({"prompt": ["a cat"] * 101, "num_images": 100}, "101 prompts with 100 pictures each are more than 10000"),
]


@pytest.mark.parametrize(("given", "sentence"), WRONG)
def test_the_same_arguments_are_refused_in_the_same_words(sides, given, sentence):
    for side in sides:
        with pytest.raises(InputError) as caught:
            side.generate(**{"prompt": "a cat", **ONCE, **given})
        assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize("strength", [0, 1.1, float("nan"), "0.5"])
def test_strengths_likewise(sides, picture, strength):
    said = []
    for side in sides:
        with pytest.raises(InputError, match="strength must") as caught:
            side.img2img(picture, "a cat", strength=strength, **ONCE)
        said.append(str(caught.value))
    assert said[0] == said[1]


@pytest.mark.parametrize(
    ("given", "notes"),
    [
        ({}, []),
        ({"prompt": "a (cat:1.3)"}, ["weights in brackets are read as words, as in '(cat:1.3)'"]),
        ({"prompt": "a giraffe, a cat and a Zebra"}, ["the model does not know 'giraffe' and 'Zebra'"]),
        ({"negative_prompt": "teddy"}, ["the model does not know 'teddy'"]),
        ({"negative_prompt": "cat " * 100}, ["the negative prompt is longer than 32 tokens"]),
        ({"prompt": "cat " * 100}, ["the prompt is longer than 32 tokens"]),
        ({"negative_prompt": "night", "guidance_scale": 1}, ["the negative prompt has no effect"]),
        ({"prompt": ["a giraffe"] * 2}, ["the model does not know 'giraffe'"]),
    ],
)
def test_the_same_is_noted(sides, given, notes):
    found = [side.generate(**{"prompt": "a cat", **ONCE, **given}).notes for side in sides]
    assert found[0] == found[1]
    assert len(found[0]) == len(notes)
    for note, start in zip(found[0], notes, strict=True):
        assert note.startswith(start)


def test_numbers_of_numpy_are_numbers(sides):
    for side in sides:
        want = side.generate("a cat", seed=3, num_images=2, num_inference_steps=2, guidance_scale=2.0).images
        got = side.generate(
            ("a cat",),
            seed=np.int64(3),
            num_images=np.uint8(2),
            num_inference_steps=np.int32(2),
            guidance_scale=np.float32(2.0),
        ).images
        assert [image.tobytes() for image in got] == [image.tobytes() for image in want]


@pytest.mark.parametrize(
    ("prompt", "negative"), [("a cat", ""), ("a giraffe", "a zebra"), ("cat " * 100, "cat " * 100), ("a (cat:1.2)", "")]
)
def test_checking_a_prompt_notes_what_drawing_does(sides, prompt, negative):
    for side in sides:
        drawn = side.generate(prompt, negative_prompt=negative, **ONCE)
        assert side.check_prompt(prompt, negative_prompt=negative) == drawn.notes
        for wrong, message in (
            ({"prompt": ""}, "empty"),
            ({"prompt": 5}, "text"),
            ({"negative_prompt": "<new9>"}, "<new9>"),
        ):
            with pytest.raises(InputError, match=message):
                side.check_prompt(**{"prompt": "a cat", **wrong})


def test_each_prompt_may_have_its_seed(sides):
    for side in sides:
        both = side.generate(["a cat", "a dog"], seed=[7, 3], num_images=2, num_inference_steps=2).images
        cats = side.generate("a cat", seed=7, num_images=2, num_inference_steps=2).images
        dogs = side.generate("a dog", seed=3, num_images=2, num_inference_steps=2).images
        assert [record_of(image).seed for image in both] == [7, 8, 3, 4]
        for one, other in zip(both, [*cats, *dogs], strict=True):
            assert np.abs(np.asarray(one, int) - np.asarray(other, int)).max() <= 1


def test_one_side_given_the_other_is_the_models(sides):
    for side in sides:
        assert side.generate("a cat", height=48, **ONCE).images[0].size == (32, 48)
        assert side.generate("a cat", width=48, **ONCE).images[0].size == (48, 32)


def test_a_novel_is_cut_before_it_is_split_into_words(sides):
    novel = "a cat and " * 100_000
    for side in sides:
        drawn = side.generate(novel, negative_prompt=novel, **ONCE)
        short = side.generate("a cat and " * 40, negative_prompt="a cat and " * 40, **ONCE)
        assert drawn.images[0].tobytes() == short.images[0].tobytes()
        assert drawn.notes == short.notes
        assert len(drawn.notes) == 2


def test_steps_count_on_through_all_batches(sides):
    """More pictures than a batch holds: one rising count, to the steps of all of them."""
    for side, batches in zip(sides, (2, 3), strict=True):
        seen = []
        told = lambda event, seen=seen: seen.append((event.phase, event.done, event.total))  # noqa: E731
        side.generate("a cat", num_images=18, num_inference_steps=2, seed=0, progress=told)
        assert seen == [("draw", done, 2 * batches) for done in range(2 * batches + 1)]
        cancel, seen = threading.Event(), []

        def stop(event, cancel=cancel, seen=seen):
            seen.append(event.done)
            if event.done == 3:  # in the second batch
                cancel.set()

        from sdk.runtime import Cancelled

        with pytest.raises(Cancelled):
            side.generate("a cat", num_images=18, num_inference_steps=2, seed=0, progress=stop, cancel=cancel)
        assert seen == [0, 1, 2, 3]


@pytest.mark.parametrize("name", ["dpm++", "unipc", "euler"])
def test_faster_schedulers_draw_the_same_on_both_sides(sides, picture, name):
    torch_side, runtime = sides
    hole = Image.new("L", picture.size)
    hole.paste(255, (0, 0, 32, 64))
    usual = {"seed": 1, "scheduler": name, "negative_prompt": "a car"}
    pairs = [
        [side.generate("a cat", num_inference_steps=5, num_images=2, **usual) for side in sides],
        [side.img2img(picture, "a cat", num_inference_steps=6, strength=0.5, **usual) for side in sides],
        [side.inpaint(picture, hole, "a cat", num_inference_steps=4, **usual) for side in sides],
    ]
    for one, other in pairs:
        for mine, theirs in zip(one.images, other.images, strict=True):
            assert np.abs(np.asarray(mine, int) - np.asarray(theirs, int)).max() <= 2
    ddim = torch_side.generate("a cat", num_inference_steps=5, eta=0.0, seed=1, negative_prompt="a car")
    assert ddim.images[0].tobytes() != pairs[0][0].images[0].tobytes()
    for side in sides:
        (note,) = side.generate("a cat", scheduler=name, eta=0.5, **ONCE).notes
        assert note.startswith("eta has no effect with ")
        assert side.generate("a cat", scheduler=name, **ONCE).notes == []
        assert side.generate("a cat", eta=0.5, **ONCE).notes == []


def test_any_scheduler_of_diffusers_may_be_given(sides):
    """Of a call alone; nothing of it stays, and it stays as it was."""
    torch_side, _ = sides
    own = DPMSolverMultistepScheduler.from_config(torch_side.sampling_scheduler().config)
    before = own.timesteps.tolist()
    given, named = (
        torch_side.generate("a cat", scheduler=each, num_inference_steps=4, seed=1).images[0] for each in (own, "dpm++")
    )
    assert given.tobytes() == named.tobytes()
    assert own.timesteps.tolist() == before
    assert torch_side.generate("a cat", num_inference_steps=4, seed=1).images[0].tobytes() != named.tobytes()


@pytest.mark.parametrize("part", ["text_encoder", "unet", "vae_decoder", "vae_encoder"])
def test_a_graph_that_gives_nan_draws_nothing(sides, picture, monkeypatch, part):
    _, runtime = sides
    graph = runtime.model.graphs[part]
    if part == "unet":
        bound = graph.bound

        class Broken:
            def __init__(self, fixed):
                self.bound = bound(fixed)

            def run(self, feeds, outputs):
                return [value * np.float32("nan") for value in self.bound.run(feeds, outputs)]

        monkeypatch.setattr(graph, "bound", Broken)
    else:
        run = graph.run
        monkeypatch.setattr(graph, "run", lambda feeds: {n: v * np.float32("nan") for n, v in run(feeds).items()})
    with pytest.raises(NotFiniteError, match="NaN or infinite values, nothing was drawn"):
        runtime.img2img(picture, "a cat", strength=1.0, **ONCE)


def test_folders_names_and_packs_of_other_types(sides):
    _, runtime = sides
    for call in (
        lambda: OnnxPersonalizer.from_pretrained(5),
        lambda: OnnxPersonalizer.from_pretrained("x" * 300),
        lambda: OnnxPersonalizer.from_pretrained("there", providers="CPUExecutionProvider"),
        lambda: OnnxPersonalizer.from_pretrained("there", providers=[5]),
        lambda: runtime.generate("a cat", scheduler=5),
        lambda: runtime.generate("a cat", packs=5),
        lambda: runtime.generate("a cat", concepts={"a": 1}),
    ):
        with pytest.raises(InputError, match="must be|no path"):
            call()


def test_torch_tensors_are_numbers_too(sides):
    torch_side, _ = sides
    assert torch_side.generate("a cat", seed=torch.tensor(1), num_inference_steps=1).images
