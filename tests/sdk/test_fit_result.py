"""What a fit leaves: the pack and where it comes from, sheets and masks, the log, and what counts as the same fit."""

from __future__ import annotations

import importlib.metadata
import json
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from sdk import Concept, FitConfig, Personalizer
from sdk.concepts import resolve_concepts
from sdk.errors import InputError, OutputError
from sdk.fit import priors_for


def halves(size, *boxes):
    """Masks, white in boxes that are given in shares of the picture."""
    found = []
    for left, top, right, bottom in boxes:
        mask = Image.new("L", size)
        width, height = size
        mask.paste(255, (int(left * width), int(top * height), int(right * width), int(bottom * height)))
        found.append(mask)
    return found


LEFT, RIGHT, UPPER, LOWER = (0, 0, 0.5, 1), (0.5, 0, 1, 1), (0, 0, 1, 0.5), (0, 0.5, 1, 1)


def shares(mask):
    """White share of the left, right, upper and lower half."""
    white = np.asarray(mask.convert("L")) > 127
    rows, columns = white.shape
    parts = (white[:, : columns // 2], white[:, columns // 2 :], white[: rows // 2], white[rows // 2 :])
    return tuple(round(float(part.mean()), 2) for part in parts)


def test_a_pack_says_where_it_comes_from(personalizer, picture, quick, tmp_path):
    config = quick.with_changes(steps=1, initializers=("car", "house"))
    concepts = [Concept("cat", "<tom>"), Concept("dog", "<rex>")]
    pack = personalizer.fit(picture, concepts, method="break_a_scene", config=config, seed=11)
    assert pack.concepts == concepts
    assert pack.method == "break_a_scene"
    assert pack.base.difference(personalizer.base) is None
    assert FitConfig.from_dict(pack.settings, "break_a_scene") == config.for_method("break_a_scene")
    assert pack.reference.size == (personalizer.base.resolution,) * 2
    assert abs(np.asarray(pack.reference, int) - np.asarray(picture.resize(pack.reference.size), int)).mean() < 20
    provenance = dict(pack.provenance)
    assert len(provenance.pop("identity_sha256")) == 64
    found = provenance.pop("depends_on")
    assert found["concepts"] == [["<tom>", "cat"], ["<rex>", "dog"]]
    assert {f"base model ({part})" for part in ("unet", "vae", "text_encoder", "scheduler")} < found.keys()
    versions = provenance.pop("libraries")
    assert versions == {name: importlib.metadata.version(name) for name in versions}
    assert set(versions) == {"personalizer-sdk", "torch", "diffusers", "transformers"}
    assert provenance == {"seed": 11, "initializers": ["car", "house"], "device": "cpu"}


def test_tokens_start_from_the_words_that_are_given(personalizer, picture, quick):
    config = quick.with_changes(steps=1, learning_rate=1e-9, initializers=("car", "house"))
    pack = personalizer.fit(picture, ["cat", "dog"], config=config)
    table = personalizer.pipe.text_encoder.get_input_embeddings().weight
    ids = personalizer.pipe.tokenizer(["car", "house"], add_special_tokens=False).input_ids
    torch.testing.assert_close(pack.embeddings.float(), table[[i[0] for i in ids]], atol=1e-3, rtol=1e-3)


def test_the_first_step_is_as_long_as_the_learning_rates(personalizer, picture, quick):
    """AdamW's first step moves a weight by its rate, towards where the loss falls."""
    config = quick.with_changes(steps=1, learning_rate=2e-2, token_learning_rate=5e-2, weight_decay=0.0)
    pack = personalizer.fit(picture, ["cat", "dog"], config=config)
    start = personalizer.fit(
        picture, ["cat", "dog"], config=config.with_changes(learning_rate=1e-9, token_learning_rate=1e-9)
    )
    assert (pack.embeddings - start.embeddings).abs().max().item() == pytest.approx(5e-2, rel=0.02)
    for name, pair in pack.key_value.items():
        module = personalizer.pipe.unet.get_submodule(name)
        for learned, base in zip(pair, (module.to_k.weight, module.to_v.weight), strict=True):
            assert (learned.float() - base).abs().max().item() == pytest.approx(2e-2, rel=0.02)


def test_weights_decay_as_asked_for(personalizer, picture, quick):
    config = quick.with_changes(steps=1, learning_rate=1e-3, weight_decay=100.0)
    pack = personalizer.fit(picture, ["cat", "dog"], config=config)
    for name, (key, _) in pack.key_value.items():
        base = personalizer.pipe.unet.get_submodule(name).to_k.weight
        assert (key.float() - 0.9 * base).abs().max() < 1.5e-3  # one step of 1e-3 from nine tenths


def test_fewer_steps_are_the_first_of_more(personalizer, picture, quick):
    seen = {}
    for steps in (2, 4):
        reports = []
        personalizer.fit(picture, ["cat", "dog"], config=quick.with_changes(steps=steps), callback=reports.append)
        assert [(r.step, r.steps) for r in reports] == [(i, steps) for i in range(1, steps + 1)]
        assert all(r.seconds_left > 0 for r in reports[:-1])
        assert reports[-1].seconds_left == 0
        seen[steps] = [r.losses for r in reports]
    assert seen[4][:2] == seen[2]


@pytest.mark.parametrize("resume", [False, True])
def test_the_log_is_of_this_fit(personalizer, picture, quick, tmp_path, resume):
    """The same numbers as the callback's, each step once even where the fit broke off in between."""

    class Stop(Exception):
        pass

    def stop(report):
        if report.step == 3:
            raise Stop

    with pytest.raises(Stop):
        personalizer.fit(picture, ["cat"], config=quick, output_dir=tmp_path / "p", callback=stop)
    reports = []
    personalizer.fit(picture, ["cat"], config=quick, output_dir=tmp_path / "p", callback=reports.append, resume=resume)
    header, *lines = [json.loads(line) for line in (tmp_path / "p/metrics.jsonl").read_text().splitlines()]
    assert set(header) == {"header"}
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert [r.step for r in reports] == [4]
    for report in reports:
        line = lines[report.step - 1]
        assert {"step": report.step, **report.losses} == {k: line[k] for k in line if k not in ("rate", "seconds")}


def test_given_masks_are_shown_as_given(personalizer, picture, quick, tmp_path):
    """One file a concept and nothing for the background; the sheet lays each over the picture."""
    masks = halves(picture.size, LEFT, LOWER)
    personalizer.fit(
        picture, ["cat", "dog"], config=quick.with_changes(steps=1), masks=masks, output_dir=tmp_path / "pack"
    )
    assert {p.name for p in (tmp_path / "pack").glob("mask*")} == {"mask-new1.png", "mask-new2.png", "masks.png"}
    for name, wanted in (("mask-new1", (1, 0, 0.5, 0.5)), ("mask-new2", (0.5, 0.5, 0, 1))):
        with Image.open(tmp_path / "pack" / f"{name}.png") as shown:
            assert shown.size == (personalizer.base.resolution,) * 2
            assert shares(shown) == pytest.approx(wanted, abs=0.02)
            assert set(np.unique(np.asarray(shown))) == {0, 255}


def test_sheets_have_a_row_a_prompt_and_a_map_a_word(personalizer, picture, quick, tmp_path):
    strong = quick.with_changes(steps=2, learning_rate=3e-2, prior="none", target_share=1.0)
    personalizer.fit(picture, ["cat", "dog"], config=strong, output_dir=tmp_path / "two")
    personalizer.fit(picture, ["cat"], config=strong, output_dir=tmp_path / "one")
    tile, gap, line = 128, 6, 20
    sizes = {name: Image.open(tmp_path / name / "samples.png").size for name in ("one", "two")}
    assert sizes["two"][1] == 3 * (tile + line + gap) + gap  # each alone, and both
    assert sizes["one"][1] == tile + line + 2 * gap
    assert sizes["two"][0] >= 4 * (tile + gap) + gap
    with Image.open(tmp_path / "two" / "attention.png") as sheet:
        assert sheet.size == (5 * (tile + gap) + gap, 2 * (tile + line + gap) + gap)
        cells = [
            [
                np.asarray(sheet.crop((x, y, x + tile, y + tile)), int)
                for x in range(gap, sheet.width - tile, tile + gap)
            ]
            for y in (gap + line, 2 * gap + 2 * line + tile)
        ]
    assert np.array_equal(cells[0][0], cells[1][0])  # the picture
    assert all((before != after).any() for before, after in zip(cells[0][1:], cells[1][1:], strict=True))


def test_samples_are_drawn_with_the_new_pack(personalizer, picture, quick, tmp_path):
    strong = quick.with_changes(steps=2, learning_rate=3e-2)
    pack = personalizer.fit(picture, ["cat"], config=strong, output_dir=tmp_path / "pack")
    drawn = personalizer.generate(
        "photo of a <new1> cat", num_images=4, seed=0, concepts=pack, num_inference_steps=25
    ).images
    with Image.open(tmp_path / "pack" / "samples.png") as sheet:
        for index, image in enumerate(drawn):
            left = 6 + index * (128 + 6)
            shown = np.asarray(sheet.crop((left, 26, left + 128, 154)), int)
            assert abs(shown - np.asarray(image.resize((128, 128), Image.Resampling.NEAREST), int)).max() <= 1


def test_what_changes_the_result_makes_another_fit(personalizer, tiny_model, picture, quick, tmp_path):
    """A finished pack is returned for the very same fit alone; how often it was saved changes nothing."""
    config = quick.with_changes(steps=1, prior="none", target_share=1.0)
    masks = halves(picture.size, LEFT, RIGHT)
    usual = {"image": [picture], "concepts": ["cat", "dog"], "method": "disendiff", "config": config, "seed": 0}
    usual |= {"masks": masks, "output_dir": tmp_path / "pack", "resume": True}
    first = personalizer.fit(**usual)
    ran = []
    for same in ({}, {"config": config.with_changes(checkpoint_every=7)}):
        assert personalizer.fit(**(usual | same), callback=ran.append).content_hash() == first.content_hash()
    assert not ran
    others = {
        "noun": {"concepts": ["cat", "car"]},
        "token": {"concepts": ["cat", Concept("dog", "<rex>")]},
        "order": {"concepts": ["dog", "cat"]},
        "method": {"method": "custom_diffusion"},
        "config": {"config": config.with_changes(flip=0.25)},
        "seed": {"seed": 1},
        "picture": {"image": [picture.rotate(90)]},
        "second picture": {"image": [picture, picture], "masks": [*masks, *masks]},
        "masks": {"masks": masks[::-1]},
        "dtype": {},
    }
    for name, change in others.items():
        if name == "dtype":
            personalizer = Personalizer.from_pretrained(tiny_model, device="cpu", dtype=torch.bfloat16)
        with pytest.raises(OutputError, match="already holds a pack"):
            personalizer.fit(**(usual | change), callback=ran.append)
        assert not ran, name


def test_every_picture_teaches(personalizer, picture, quick):
    """The second of two pictures and its masks change the losses."""
    other = picture.rotate(180)
    config = FitConfig.preset("code", "break_a_scene", steps=6, batch_size=4, prior="none", target_share=1.0, flip=0.0)
    first, second = halves(picture.size, LEFT, RIGHT), halves(picture.size, UPPER, LOWER)

    def losses(pictures, masks):
        seen = []
        personalizer.fit(
            pictures, ["cat", "dog"], method="break_a_scene", config=config, masks=masks, callback=seen.append
        )
        return [r.losses["denoise"] for r in seen]

    one = losses([picture], first)
    both = losses([picture, other], [*first, *second])
    twice = losses([picture, picture], [*first, *first])
    moved = losses([picture, other], [*first, *second[::-1]])
    assert both != one
    assert both != twice
    assert both != moved


def test_a_missing_prior_is_warned_of_only_where_rows_would_show_one(personalizer, picture, quick):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        personalizer.fit(picture, ["cat"], config=quick.with_changes(steps=1, prior="none", target_share=1.0))
    with pytest.warns(UserWarning, match="without prior"):
        personalizer.fit(picture, ["cat"], config=quick.with_changes(steps=1, prior="none", target_share=0.9))


def test_priors_of_a_folder_keep_their_captions_and_the_rest_get_the_prompt(personalizer, quick, tmp_path):
    for index in range(3):
        Image.new("RGB", (48, 40), (40 * index, 0, 0)).save(tmp_path / f"{index}.png")
    (tmp_path / "1.txt").write_text("  a cat\n in the   snow\n")
    (tmp_path / "2.txt").write_text(" \n")
    priors = priors_for(personalizer, resolve_concepts(["cat", "dog"]), quick.with_changes(prior=str(tmp_path)))
    assert [p.caption for p in priors] == ["photo of a cat and a dog", "a cat in the snow", "photo of a cat and a dog"]
    assert [p.image.size for p in priors] == [(personalizer.base.resolution,) * 2] * 3
    assert [p.image.getpixel((0, 0)) for p in priors] == [(0, 0, 0), (40, 0, 0), (80, 0, 0)]


@pytest.mark.parametrize(
    "change",
    [{"prior_steps": 3}, {"prior_guidance": 2.0}, {"prior_prompts": ("{all}",)}, {"prior_count": 3}],
    ids=lambda change: next(iter(change)),
)
def test_priors_are_kept_apart_by_all_they_depend_on(personalizer, quick, tmp_path, monkeypatch, change):
    monkeypatch.setenv("PERSONALIZER_CACHE", str(tmp_path))
    concepts = resolve_concepts(["cat", "dog"])

    def drawn(config):
        steps = []
        hook = personalizer.pipe.unet.register_forward_hook(lambda *_: steps.append(1))
        priors = priors_for(personalizer, concepts, config)
        hook.remove()
        return len(steps), [(p.image.tobytes(), p.caption) for p in priors]

    count, first = drawn(quick)
    assert count == quick.prior_steps
    assert drawn(quick) == (0, first)
    count, other = drawn(quick.with_changes(**change))
    assert count == change.get("prior_steps", quick.prior_steps)
    assert other != first
    assert drawn(quick) == (0, first)


def test_tensorboard_has_every_loss_and_the_callback_is_called_too(personalizer, picture, quick, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reports = []
    personalizer.fit(
        picture, ["cat"], config=quick, output_dir=tmp_path / "p", report_to="tensorboard", callback=reports.append
    )
    logged = EventAccumulator(str(tmp_path / "p.tensorboard"))
    logged.Reload()
    for name in reports[0].losses:
        scalars = logged.Scalars(name)
        assert [s.step for s in scalars] == [r.step for r in reports] == [1, 2, 3, 4]
        assert [s.value for s in scalars] == pytest.approx([r.losses[name] for r in reports])
    with pytest.raises(InputError, match="must be 'tensorboard' or 'none'"):
        personalizer.fit(picture, ["cat"], config=quick, report_to="wandb")
    personalizer.fit(picture, ["cat"], config=quick.with_changes(steps=1), report_to="none")
