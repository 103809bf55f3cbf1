"""A fit on a tiny model: what trains, what does not, what is written, and going on after an interruption."""

from __future__ import annotations

import json

import pytest
import torch

from sdk import Concept, ConceptPack, FitConfig, Personalizer
from sdk.errors import InputError, OutputError


def weights_of(personalizer):
    parts = (personalizer.pipe.unet, personalizer.pipe.text_encoder, personalizer.pipe.vae)
    return [p.detach().clone() for part in parts for p in part.parameters()]


def weighing(config, calibration_weight):
    """The same settings with another weight of the calibration loss."""
    return config.with_changes(disendiff={"calibration_weight": calibration_weight})


def test_a_fit_learns_and_leaves_the_base_alone(personalizer, picture, quick):
    before = weights_of(personalizer)
    vocabulary = len(personalizer.pipe.tokenizer)
    pack = personalizer.fit(picture, ["cat", "dog"], config=quick)
    assert pack.tokens == ["<new1>", "<new2>"]
    assert all(torch.equal(a, b) for a, b in zip(before, weights_of(personalizer), strict=True))
    assert len(personalizer.pipe.tokenizer) == vocabulary
    processors = {type(m).__name__ for m in personalizer.pipe.unet.attn_processors.values()}
    assert not processors & {"AttentionProcessor", "CachedKeyValueProcessor"}
    for layer, (key, value) in pack.key_value.items():
        module = personalizer.pipe.unet.get_submodule(layer)
        assert not torch.equal(key.float(), module.to_k.weight.half().float())
        assert not torch.equal(value.float(), module.to_v.weight.half().float())
    assert personalizer.pack is pack


def test_calibration_changes_what_is_learned(personalizer, picture, quick):
    plain = personalizer.fit(picture, ["cat", "dog"], config=weighing(quick, 0.0))
    calibrated = personalizer.fit(picture, ["cat", "dog"], config=weighing(quick, 10.0))
    assert plain.content_hash() != calibrated.content_hash()
    assert not torch.equal(plain.embeddings, calibrated.embeddings)


@pytest.mark.parametrize(
    "change",
    [
        {"disendiff": {"calibration": {"bind": 0.0}}},
        {"disendiff": {"calibration": {"separate": 0.0}}},
        {"disendiff": {"calibration": {"suppress": 0}}},
        {"disendiff": {"calibration": {"suppress": 2}}},
        {"disendiff": {"calibration": {"sigma": 0.0}}},
        {"disendiff": {"calibration": {"normalize": False}}},
        {"disendiff": {"calibration": {"smooth": 0.0}}},
        {"detach_start_token": False},
        {"swap_order": 1.0},
        {"flip": 1.0},
        {"scale_augmentation": False},
        {"loss_scale": 1.0},
        {"disendiff": {"micro_batch": 4}},
    ],
    ids=str,
)
def test_every_switch_changes_the_result(personalizer, picture, quick, change):
    config = weighing(quick, 1.0).with_changes(steps=2, batch_size=6)
    usual = personalizer.fit(picture, ["cat", "dog"], config=config)
    other = personalizer.fit(picture, ["cat", "dog"], config=config.with_changes(**change))
    assert usual.content_hash() != other.content_hash()


def test_the_loss_falls(personalizer, picture, quick):
    seen = []
    config = weighing(quick, 100.0).with_changes(steps=40, prior="none", target_share=1.0, learning_rate=1e-2)
    personalizer.fit(picture, ["cat", "dog"], config=config, callback=lambda r: seen.append(r.losses["calibration"]))
    assert sum(seen[-8:]) < sum(seen[:8])


def test_same_seed_same_pack_other_seed_other_pack(personalizer, picture, quick):
    first = personalizer.fit(picture, ["cat", "dog"], config=quick, seed=3)
    again = personalizer.fit(picture, ["cat", "dog"], config=quick, seed=3)
    other = personalizer.fit(picture, ["cat", "dog"], config=quick, seed=4)
    assert first.content_hash() == again.content_hash() != other.content_hash()


def test_the_output_folder_holds_everything(personalizer, picture, quick, tmp_path):
    pack = personalizer.fit(picture, ["cat", "dog"], config=quick, output_dir=tmp_path / "pack")
    names = {p.name for p in (tmp_path / "pack").iterdir()}
    assert names >= {
        "personalizer.json",
        "attention.png",
        "samples.png",
        "metrics.jsonl",
        "reference.png",
        "new1.safetensors",
    }
    lines = [json.loads(line) for line in (tmp_path / "pack/metrics.jsonl").read_text().splitlines()]
    header = lines.pop(0)["header"]
    assert header["concepts"] == [{"token": "<new1>", "class": "cat"}, {"token": "<new2>", "class": "dog"}]
    assert (header["method"], header["seed"], header["steps"]) == ("disendiff", 0, 4)
    assert header["settings"]["batch_size"] == 4
    assert "torch" in header["libraries"]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert set(lines[0]) == {"step", "loss", "denoise", "calibration", "rate", "seconds"}
    assert [line["rate"] for line in lines] == [1e-3] * 4
    assert all(line["seconds"] > 0 for line in lines)
    assert ConceptPack.from_pretrained(tmp_path / "pack").content_hash() == pack.content_hash()
    assert {p.name for p in tmp_path.iterdir()} == {"pack"}


class _Stop(Exception):
    pass


@pytest.mark.parametrize("stop_at", [1, 3])
def test_resume_gives_the_same_bits(personalizer, picture, quick, tmp_path, stop_at):
    whole = personalizer.fit(picture, ["cat", "dog"], config=quick, output_dir=tmp_path / "whole")

    def interrupt(report):
        if report.step == stop_at:
            raise _Stop

    with pytest.raises(_Stop):
        personalizer.fit(picture, ["cat", "dog"], config=quick, output_dir=tmp_path / "cut", callback=interrupt)
    assert not (tmp_path / "cut").exists()
    steps = []
    resumed = personalizer.fit(
        picture,
        ["cat", "dog"],
        config=quick,
        output_dir=tmp_path / "cut",
        resume=True,
        callback=lambda report: steps.append(report.step),
    )
    assert steps[0] == stop_at + 1
    assert resumed.content_hash() == whole.content_hash()
    assert logged(tmp_path / "cut") == logged(tmp_path / "whole")
    assert {p.name for p in tmp_path.iterdir()} == {"whole", "cut"}


def logged(pack):
    """The log without the seconds, which alone differ from run to run."""
    lines = [json.loads(line) for line in (pack / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def test_a_checkpoint_of_another_fit_is_not_continued(personalizer, picture, quick, tmp_path):
    """What differs is said, and nothing is touched."""

    def interrupt(report):
        if report.step == 2:
            raise _Stop

    with pytest.raises(_Stop):
        personalizer.fit(picture, ["cat", "dog"], config=quick, output_dir=tmp_path / "cut", callback=interrupt)
    left = {p.name: p.read_bytes() for p in (tmp_path / "cut.partial").iterdir()}
    usual = {"image": picture, "concepts": ["cat", "dog"], "config": quick, "output_dir": tmp_path / "cut"}
    personalizer.pipe.vae.decoder.conv_out.bias.data += 1e-3  # outside of K and V, and of the UNet
    with pytest.raises(OutputError, match=r"differs in base model \(vae\);"):
        personalizer.fit(**usual, resume=True)
    personalizer.pipe.vae.decoder.conv_out.bias.data -= 1e-3
    for change, said in (
        ({"seed": 1}, r"seed \(it was 0, now 1\)"),
        ({"config": quick.with_changes(learning_rate=2e-3)}, r"learning_rate \(it was 0.001, now 0.002\)"),
        ({"concepts": ["cat", "car"]}, "concepts"),
        ({"image": picture.rotate(90)}, "pictures"),
        ({"config": quick.with_changes(steps=1)}, "already did 2 steps"),
    ):
        with pytest.raises(OutputError, match=said):
            personalizer.fit(**(usual | change), resume=True)
        assert {p.name: p.read_bytes() for p in (tmp_path / "cut.partial").iterdir()} == left


def test_more_steps_than_before_go_on_from_where_it_stopped(personalizer, picture, quick, tmp_path):
    whole = personalizer.fit(picture, ["cat"], config=quick.with_changes(steps=6), output_dir=tmp_path / "whole")

    def interrupt(report):
        if report.step == 3:
            raise _Stop

    with pytest.raises(_Stop):
        personalizer.fit(picture, ["cat"], config=quick, output_dir=tmp_path / "cut", callback=interrupt)
    steps = []
    more = personalizer.fit(
        picture,
        ["cat"],
        config=quick.with_changes(steps=6),
        output_dir=tmp_path / "cut",
        resume=True,
        callback=lambda report: steps.append(report.step),
    )
    assert steps == [4, 5, 6]
    assert more.content_hash() == whole.content_hash()


def test_a_finished_pack_is_never_overwritten(personalizer, picture, quick, tmp_path):
    pack = personalizer.fit(picture, ["cat"], config=quick, output_dir=tmp_path / "pack")
    with pytest.raises(OutputError, match="already holds a pack"):
        personalizer.fit(picture, ["cat"], config=quick, output_dir=tmp_path / "pack")
    again = personalizer.fit(picture, ["cat"], config=quick, output_dir=tmp_path / "pack", resume=True)
    assert again.content_hash() == pack.content_hash()
    with pytest.raises(OutputError, match="already holds a pack"):
        personalizer.fit(picture, ["cat"], config=quick, seed=9, output_dir=tmp_path / "pack", resume=True)


@pytest.mark.parametrize("concepts", [["cat"], ["cat", "dog", "car"], ["cat", "cat"], ["teddy bear", "dog"]])
def test_one_three_same_and_multi_word_concepts(personalizer, picture, quick, concepts):
    pack = personalizer.fit(picture, concepts, config=quick)
    assert len(pack.embeddings) == len(concepts)
    prompt = "photo of " + " and ".join(f"a {c.phrase}" for c in pack.concepts)
    assert len(personalizer.generate(prompt, num_inference_steps=2).images) == 1


def test_own_tokens(personalizer, picture, quick):
    pack = personalizer.fit(picture, [Concept("cat", "<tom>"), Concept("dog", "<rex>")], config=quick)
    assert pack.tokens == ["<tom>", "<rex>"]
    personalizer.generate("a <rex> dog", num_inference_steps=1)


@pytest.mark.parametrize(
    ("concepts", "message"),
    [
        ([], "at least one"),
        ("cat", "are a list"),
        (["cat"] * 20, "too many"),
        ([""], "empty class"),
        (["<new1> cat"], "holds a token"),
        ([Concept("cat", "new1")], "angle brackets"),
        ([Concept("cat", "<a>"), Concept("dog", "<a>")], "token of its own"),
    ],
)
def test_bad_concepts_are_refused(personalizer, picture, quick, concepts, message):
    with pytest.raises(InputError, match=message):
        personalizer.fit(picture, concepts, config=quick)


def test_priors_are_generated_once(personalizer, picture, quick, monkeypatch, tmp_path):
    monkeypatch.setenv("PERSONALIZER_CACHE", str(tmp_path / "cache"))
    calls = []
    original = Personalizer.draw
    monkeypatch.setattr(Personalizer, "draw", lambda self, *a, **k: calls.append(a) or original(self, *a, **k))
    personalizer.fit(picture, ["cat", "dog"], config=quick)
    personalizer.fit(picture, ["cat", "dog"], config=quick)
    assert len(calls) == 1
    personalizer.fit(picture, ["cat", "dog"], config=quick.with_changes(prior_steps=3))
    assert len(calls) == 2


def test_priors_from_a_folder_and_without(personalizer, picture, quick, tmp_path):
    for index in range(2):
        picture.save(tmp_path / f"{index}.png")
    (tmp_path / "0.txt").write_text("a cat in the snow\n")
    folder = personalizer.fit(picture, ["cat", "dog"], config=quick.with_changes(prior=str(tmp_path)))
    with pytest.warns(UserWarning, match="without prior"):
        without = personalizer.fit(picture, ["cat", "dog"], config=quick.with_changes(prior="none"))
    assert folder.content_hash() != without.content_hash()


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
def test_precisions(personalizer, picture, quick, precision):
    pack = personalizer.fit(picture, ["cat"], config=quick.with_changes(precision=precision))
    assert all(torch.isfinite(k).all() for pair in pack.key_value.values() for k in pair)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_frozen_weights_of_low_precision(tiny_model, picture, quick, dtype):
    low = Personalizer.from_pretrained(tiny_model, device="cpu", dtype=dtype)
    pack = low.fit(picture, ["cat", "dog"], config=quick)
    assert all(torch.isfinite(k).all() for pair in pack.key_value.values() for k in pair)
    assert low.generate("a <new1> cat", num_inference_steps=1).images


def test_gradient_checkpointing_changes_nothing_but_memory(personalizer, picture, quick):
    usual = personalizer.fit(picture, ["cat", "dog"], config=quick)
    frugal = personalizer.fit(picture, ["cat", "dog"], config=quick.with_changes(gradient_checkpointing=True))
    for layer, pair in usual.key_value.items():
        for a, b in zip(pair, frugal.key_value[layer], strict=True):
            torch.testing.assert_close(a, b, atol=2e-3, rtol=1e-2)


def test_several_pictures(personalizer, picture, quick):
    personalizer.fit([picture, picture.rotate(90)], ["cat"], config=quick)
    with pytest.raises(InputError, match="at least one reference"):
        personalizer.fit([], ["cat"], config=quick)


def test_tensorboard_on_request(personalizer, picture, quick, tmp_path):
    personalizer.fit(picture, ["cat"], config=quick, output_dir=tmp_path / "pack", report_to="tensorboard")
    assert any((tmp_path / "pack.tensorboard").iterdir())
    with pytest.raises(InputError, match="needs an output_dir"):
        personalizer.fit(picture, ["cat"], config=quick, report_to="tensorboard")


def test_v_prediction_is_trained_towards_the_velocity(personalizer, picture, quick):
    epsilon = personalizer.fit(picture, ["cat"], config=quick)
    personalizer.pipe.scheduler.register_to_config(prediction_type="v_prediction")
    velocity = personalizer.fit(picture, ["cat"], config=quick)
    assert epsilon.content_hash() != velocity.content_hash()


def test_presets():
    assert FitConfig.preset("reference") == FitConfig().for_method("disendiff")
    assert FitConfig.preset("paper").method_options.calibration.normalize is False
    assert FitConfig.preset("best").alone > 0
    with pytest.raises(InputError, match="no preset"):
        FitConfig.preset("magic")
    code, best = (FitConfig.preset(name, "attencraft") for name in ("code", "best"))
    assert code == FitConfig.preset("reference", "attencraft")
    assert (code.masks.power, best.masks.power) == (4, 1)
    assert FitConfig.preset("paper", "attencraft").method_options.sampling == "attention"
    changed = FitConfig.preset("code", "attencraft", masks={"draws": 2})
    assert (changed.masks.draws, changed.masks.power) == (2, 4)
    assert FitConfig.from_dict(changed.to_dict(), "attencraft") == changed


@pytest.mark.parametrize(
    "values",
    [
        {"steps": 0},
        {"steps": 2.5},
        {"step": 3},
        {"flip": 2.0},
        {"precision": "fp8"},
        {"disendiff": {"calibration": {"sigma": -1.0}}},
        {"disendiff": {"calibration": {"blur": 1.0}}},
        {"disendiff": {"calibration": 1.0}},
        {"disendiff": 1.0},
        {"calibration_weight": 1.0},
        {"attencraft": {}},
        {"flip": True},
        {"prior_prompts": [1]},
        {"prior_guidance": float("nan")},
        {"weight_decay": -1.0},
        {"token_learning_rate": 0.0},
        {"masks": 4},
        {"masks": {"strength": 4}},
        {"masks": {"power": -1}},
        {"masks": {"background": "dark"}},
    ],
)
def test_bad_settings_are_refused(values):
    with pytest.raises(InputError):
        FitConfig.from_dict(values)


@pytest.mark.parametrize(
    ("method", "options"),
    [("attencraft", {"sampling": "often"}), ("break_a_scene", {"token_share": 1.0}), ("dreambooth", {"rank": 4})],
)
def test_bad_settings_of_a_method_are_refused(method, options):
    with pytest.raises(InputError, match=method):
        FitConfig.from_dict({method: options}, method)


def test_settings_that_a_method_does_not_have_are_refused(personalizer, picture, quick):
    with pytest.raises(InputError, match="disendiff holds the settings of another method"):
        FitConfig.preset("best", "attencraft", disendiff={"calibration_weight": 1.0})
    with pytest.raises(InputError, match="attencraft does not have the setting alone"):
        FitConfig.preset("best", "attencraft", alone=0.5)
    with pytest.raises(InputError, match="write it as disendiff.calibration.sigma"):
        FitConfig.preset("best", sigma=0.5)
    with pytest.raises(InputError, match="break_a_scene does not have the setting alone"):
        personalizer.fit(picture, ["cat"], method="break_a_scene", config=quick.with_changes(alone=0.5))
    with pytest.raises(InputError, match="DisenDiffOptions, which attencraft does not have"):
        personalizer.fit(picture, ["cat"], method="attencraft", config=weighing(quick, 1.0))
    with pytest.raises(InputError, match="backend 'abacus' does not exist"):
        personalizer.fit(picture, ["cat"], config=quick.with_changes(backend="abacus"))
    with pytest.raises(InputError, match="backend 'cpp' "):  # not built, or not for this type
        personalizer.fit(picture, ["cat"], config=quick.with_changes(backend="cpp", precision="fp16"))
    with pytest.raises(InputError, match="must be a FitConfig"):
        personalizer.fit(picture, ["cat"], config={"steps": 1})
    with pytest.raises(InputError, match="no setting 'stepps'"):
        quick.with_changes(stepps=1)


def test_settings_survive_a_round_trip():
    config = FitConfig.preset("paper", steps=7, initializers=("cat", "dog"), masks={"draws": 2})
    assert FitConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
