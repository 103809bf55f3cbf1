"""Comparing methods: names, one noise for all, a page, and the field's encoders."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from sdk import Personalizer, compare
from sdk.commands.main import main
from sdk.comparison.report import save_comparison
from sdk.comparison.variants import resolve_arm, resolve_arms
from sdk.concepts import resolve_concepts
from sdk.errors import BaseModelError, InputError
from sdk.eval.drawing import Drawn
from sdk.eval.encoders import ClipEncoder, DinoEncoder, EncoderScorer, clip_score, cut_out_on_black, plain_prompt
from sdk.eval.prompt_sets import photograph_prompts, photograph_sets
from sdk.methods import METHODS
from sdk.methods.disendiff import ABLATIONS, BEST_WITHOUT
from sdk.miniworld.scorer import JudgeScorer
from sdk.runtime import keep_memory, peak_memory


def test_arms_by_name():
    assert [arm.method for arm in resolve_arms(None)] == [*METHODS, "disendiff"]
    assert resolve_arm("attencraft").preset == "reference"
    assert resolve_arm("attencraft:paper").preset == "paper"
    assert resolve_arm("disendiff:no-bind").changes == {"disendiff": {"calibration": {"bind": 0.0}}}
    for name in ABLATIONS:
        assert resolve_arm(f"disendiff:{name}").preset == "reference"
    bundled = Personalizer.from_pretrained("bundled")
    whole = bundled.default_config("best").to_dict()
    for name in BEST_WITHOUT:
        arm = resolve_arm(f"disendiff:{name}")
        less = bundled.default_config(arm.preset, **arm.changes).to_dict()
        assert [key for key in whole if whole[key] != less[key]] == list(arm.changes), name  # each was switched on
    with pytest.raises(InputError, match="no method 'magic'"):
        resolve_arm("magic")
    with pytest.raises(InputError, match="no preset or ablation 'no-bind'"):
        resolve_arm("dreambooth:no-bind")
    with pytest.raises(InputError, match="twice"):
        resolve_arms(["disendiff", "disendiff"])
    with pytest.raises(InputError, match="at least one"):
        resolve_arms([])


def test_memory_is_measured_at_its_peak():
    keep_memory()  # as the command line does: what was freed stays with the process
    freed = torch.ones(80_000_000)
    del freed
    with peak_memory(torch.device("cpu")) as peak:
        held = torch.ones(60_000_000)  # 240 MB
        for _ in range(20):
            held.add_(1)
        del held
    assert 150e6 < peak[0] < 600e6


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    """Folders of a tiny CLIP and a tiny vision transformer with random weights."""
    from transformers import (
        CLIPConfig,
        CLIPImageProcessor,
        CLIPModel,
        CLIPTextConfig,
        CLIPVisionConfig,
        ViTConfig,
        ViTImageProcessor,
        ViTModel,
    )

    from sdk.miniworld.tokenizer import build_tokenizer

    torch.manual_seed(0)
    clip, dino = (tmp_path_factory.mktemp("encoders") / name for name in ("clip", "dino"))
    tokenizer = build_tokenizer()
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = CLIPTextConfig(
        **small,
        vocab_size=len(tokenizer),
        max_position_embeddings=tokenizer.model_max_length,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vision = CLIPVisionConfig(**small, image_size=32, patch_size=8)
    CLIPModel(
        CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=16)
    ).save_pretrained(clip)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(clip)
    tokenizer.save_pretrained(clip)
    ViTModel(ViTConfig(**small, image_size=32, patch_size=8)).save_pretrained(dino)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(dino)
    return clip, dino


def noise_picture(seed: int) -> Image.Image:
    pixels = torch.randint(0, 256, (48, 48, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def test_encoders_give_unit_vectors_and_clip_score_is_scaled(encoders):
    clip, dino = ClipEncoder.from_pretrained(encoders[0]), DinoEncoder.from_pretrained(encoders[1])
    images = [noise_picture(0), noise_picture(1)]
    for encoder in (clip, dino):
        vectors = encoder.pictures(images)
        torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(2))
        torch.testing.assert_close(encoder.pictures(images[:1]), vectors[:1])
    text = clip.texts(["A photo depicts a cat"])[0]
    want = 2.5 * (clip.pictures(images) @ text).clamp(min=0)
    torch.testing.assert_close(clip_score(clip, images, "a <new1> cat"), want)
    assert plain_prompt("a <new1> cat and a <new2>  dog") == "a cat and a dog"


def test_photographs_are_scored_per_concept_against_their_crops(encoders):
    scorer = EncoderScorer.from_pretrained(*encoders)
    reference = Image.new("RGB", (48, 48))
    reference.paste(noise_picture(1).crop((0, 0, 24, 48)), (0, 0))
    reference.paste(noise_picture(2).crop((0, 0, 24, 48)), (24, 0))
    masks = [Image.new("L", (48, 48)) for _ in range(2)]
    masks[0].paste(255, (0, 0, 24, 48))
    masks[1].paste(255, (24, 0, 48, 48))
    concepts = resolve_concepts(["cat", "dog"])
    scorer.look_at(reference, concepts, masks)
    assert [crop.size for crop in scorer.crops] == [(24, 48), (24, 48)]
    drawn = [Drawn("a <new1> cat", (0,), None, [scorer.crops[0]]), Drawn("a <new2> dog", (1,), None, [scorer.crops[1]])]
    scores = scorer.score(drawn)
    assert scores.matrix[0][0] == pytest.approx(1, abs=1e-5)
    assert scores.matrix[0][1] < 0.999
    assert scores.others["dino"][1][1] == pytest.approx(1, abs=1e-5)
    assert scores.together is None


def test_a_crop_holds_nothing_but_its_concept():
    picture = Image.new("RGB", (32, 32), (10, 200, 30))
    mask = Image.new("L", (32, 32))
    mask.paste(255, (8, 8, 16, 12))
    mask.putpixel((20, 20), 255)
    crop = cut_out_on_black(picture, mask)
    assert crop.size == (13, 13)
    assert crop.getpixel((0, 0)) == (10, 200, 30)
    assert crop.getpixel((10, 2)) == (0, 0, 0)
    assert cut_out_on_black(picture, Image.new("L", (32, 32))) is picture


def test_an_encoder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(BaseModelError, match="CLIP encoder"):
        ClipEncoder.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(BaseModelError, match="DINO encoder"):
        DinoEncoder.from_pretrained(tmp_path / "nowhere")


def test_every_arm_gets_the_same_noise_and_a_row(personalizer, picture, tmp_path, quick):
    changes = {"steps": 1}
    names = ["textual_inversion", "disendiff:best"]
    seen = []
    comparison = compare(
        personalizer, picture, ["cat", "dog"], methods=names, prompts=1, num_images=1, num_inference_steps=2,
        progress=seen.append, settings=quick_settings(quick) | changes,
    )  # fmt: skip
    assert [(e.phase, e.done, e.total) for e in seen if e.phase.endswith("fit")] == [
        (f"{n}: fit", done, 1) for n in names for done in (0, 1)
    ]
    assert [e.phase for e in seen if e.done == e.total == 2] == [f"{n}: draw" for n in (*names, "untouched")]
    assert [r.name for r in comparison.results] == [*names, "untouched"]
    assert all(len(r.drawn) == 3 for r in comparison.results)
    assert comparison.results[-1].pack is None
    page = save_comparison(comparison, tmp_path / "report")
    text = page.read_text(encoding="utf-8")
    assert text.count("<details>") == 3
    assert "http" not in text
    data = json.loads((tmp_path / "report" / "comparison.json").read_text(encoding="utf-8"))
    assert [r["name"] for r in data["results"]] == [*names, "untouched"]
    assert data["results"][0]["settings"]["steps"] == 1
    assert data["results"][0]["pack"] == comparison.results[0].pack.content_hash()
    conditions = data["conditions"]
    assert conditions["seed"] == 0
    assert conditions["drawing"] == {"num_images": 1, "num_inference_steps": 2, "seed": 1000}
    assert conditions["base_model"] == personalizer.base.name
    assert {"unet", "scheduler", "libraries", "versions", "device", "prompts"} <= conditions.keys()
    assert (tmp_path / "report" / "packs" / "disendiff-best" / "personalizer.json").is_file()
    with Image.open(tmp_path / "report" / "sheet.png") as sheet:
        assert sheet.width > 200


def quick_settings(quick):
    return {"prior": "none", "target_share": 1.0, "batch_size": quick.batch_size}


def test_mistakes_of_the_command_show_at_once(tmp_path, picture, capsys):
    picture.save(tmp_path / "p.png")
    base = ["compare", str(tmp_path / "p.png"), "--concept", "cat", "--output", str(tmp_path / "o")]
    assert main([*base, "--methods", "magic"]) == 2
    assert "no method 'magic'" in capsys.readouterr().err
    assert main([*base, "--mask", str(tmp_path / "none.png")]) == 2
    assert "none.png" in capsys.readouterr().err


def test_ten_sets_of_prompts_for_photographs():
    sets = photograph_sets()
    assert len(sets) == 10
    counts = [sum(len(entry[kind]) for entry in sets.values()) for kind in ("together", "1", "2")]
    assert counts == [101, 100, 102]  # as many as the paper's
    for entry in sets.values():
        assert all("{1}" in text and "{2}" in text for text in entry["together"])
        for kind, other in (("1", "{2}"), ("2", "{1}")):
            assert all(f"{{{kind}}}" in text and other not in text for text in entry[kind])
        assert all(len(set(entry[kind])) == len(entry[kind]) for kind in ("together", "1", "2"))


def test_prompts_fit_the_classes_or_anything():
    cat_dog = photograph_prompts(resolve_concepts(["cat", "dog"]), 3)
    assert [p.asked for p in cat_dog] == [(0,)] * 3 + [(1,)] * 3 + [(0, 1)] * 3
    assert cat_dog[0].learned == "photo of a <new1> cat"
    assert cat_dog[0].plain == "photo of a cat"
    others = photograph_prompts(resolve_concepts(["teapot", "owl", "drum"]), 2)
    assert len(others) == 8
    assert others[-2].learned == "photo of a <new1> teapot, a <new2> owl, and a <new3> drum"
    assert len(photograph_prompts(resolve_concepts(["teapot"]))) == 10


def test_the_judge_scores_drawn_pictures_alone(monkeypatch):
    from sdk.eval import encoders, scorers

    monkeypatch.setattr(encoders.EncoderScorer, "from_pretrained", classmethod(lambda cls: "encoders"))
    concepts = resolve_concepts(["cat", "dog"])
    assert isinstance(scorers.default_scorer(64, concepts), JudgeScorer)
    assert scorers.default_scorer(512, concepts) == "encoders"  # a photograph of a cat and a dog
    assert scorers.default_scorer(64, resolve_concepts(["cat", "lamp"])) == "encoders"


def test_a_plugin_that_does_not_load_or_know_is_passed_over(monkeypatch, personalizer, picture, quick):
    from importlib.metadata import EntryPoint

    from sdk.eval import scorers

    class Stranger:
        def knows(self, concepts, resolution):
            return False

    real = list(scorers.entry_points(group=scorers.GROUP))
    assert [point.name for point in real] == ["drawn-world"]
    monkeypatch.setattr(scorers, "entry_points", lambda group: [EntryPoint("a-broken", "no.such:Scorer", group), *real])
    scorers._registered.cache_clear()
    try:
        assert isinstance(scorers.default_scorer(64, resolve_concepts(["cat"])), JudgeScorer)
        monkeypatch.setattr(scorers, "_registered", lambda: [Stranger, JudgeScorer])
        pack = personalizer.fit(picture, ["cat"], config=quick)
        assert isinstance(scorers.looked_at(pack, 64), JudgeScorer)
        monkeypatch.setattr(scorers, "_registered", list)
        with pytest.raises(InputError, match="no scorer is registered"):
            scorers.looked_at(pack, 64)
    finally:
        monkeypatch.undo()
        scorers._registered.cache_clear()


def test_settings_of_one_method_are_for_its_arms_alone(personalizer, picture):
    from sdk.comparison.runs import arm_config

    settings = {"steps": 2, "alone": 0.5, "disendiff": {"micro_batch": 4}}
    own, other = (arm_config(personalizer, resolve_arm(name), settings) for name in ("disendiff", "attencraft"))
    assert (own.steps, own.alone, own.method_options.micro_batch) == (2, 0.5, 4)
    assert (other.steps, other.alone) == (2, 0.0)
    seen = []
    with pytest.raises(InputError, match="no setting 'stepps'"):
        compare(personalizer, picture, ["cat", "dog"], settings={"stepps": 2}, progress=seen.append)
    assert not seen


@pytest.mark.parametrize("wrong", ["prompts", "num_images", "num_inference_steps"])
def test_nothing_to_draw_is_said_before_a_fit(personalizer, picture, wrong):
    with pytest.raises(InputError, match=f"{wrong} must be .*1"):
        compare(personalizer, picture, ["cat", "dog"], **{wrong: 0})


def test_masks_of_another_size_are_refused_before_a_fit(personalizer, picture):
    with pytest.raises(InputError, match="resize it"):
        compare(personalizer, picture, ["cat", "dog"], masks=[Image.new("L", (40, 30), 255)] * 2)
