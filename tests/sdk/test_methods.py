"""Every method trains what its paper trains, and each of its terms pulls."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from sdk import ConceptPack
from sdk.concepts import resolve_concepts
from sdk.config import FitConfig
from sdk.data.batch import Batch
from sdk.errors import InputError
from sdk.masks.concept_masks import ConceptMasks
from sdk.methods import METHODS, method_class
from sdk.methods.attencraft import sampling_shares

BOTH, FIRST, PRIOR = "photo of a <new1> cat and <new2> dog", "photo of a <new1> cat", "photo of a cat and a dog"


def learner_on(personalizer, method, preset="reference", nouns=("cat", "dog"), **changes):
    config = FitConfig.preset(preset, method, **changes).for_method(method)
    return method_class(method)(personalizer, resolve_concepts(nouns), config)


def batch_of(captions, named, side=16, masks=True):
    generator = torch.Generator().manual_seed(0)
    count = len(captions)
    own = torch.zeros(3, side, side)
    own[0, 2:7, 2:7] = 1
    own[1, 9:15, 8:14] = 1
    own[2] = 1 - own[:2].amax(0)
    shown = torch.stack([own if some else torch.zeros_like(own) for some in named])
    return Batch(
        latents=torch.randn(count, 4, 16, 16, generator=generator),
        noise=torch.randn(count, 4, 16, 16, generator=generator),
        timesteps=torch.randint(0, 1000, (count,), generator=generator),
        captions=captions,
        masks=torch.ones(count, 1, 16, 16),
        named=named,
        concept_masks=shown if masks else None,
    )


def step(learner, batch):
    with learner.installed():
        losses = learner.losses(batch)
        losses["loss"].backward()
    return losses


TRAINED = {  # weights beside the embeddings: (some of K and V, some of the rest)
    "disendiff": (True, False),
    "custom_diffusion": (True, False),
    "attencraft": (True, False),
    "textual_inversion": (False, False),
    "dreambooth": (True, True),
    "break_a_scene": (True, True),
}


@pytest.mark.parametrize("method", METHODS)
def test_what_trains(personalizer, picture, tmp_path, quick, method):
    config = FitConfig.preset(
        "reference", method, steps=4, batch_size=4, prior=quick.prior, prior_count=quick.prior_count, prior_steps=2
    )
    before = {name: p.clone() for name, p in personalizer.pipe.unet.named_parameters()}
    pack = personalizer.fit(picture, ["cat", "dog"], method=method, config=config)
    for name, own in personalizer.pipe.unet.named_parameters():
        assert torch.equal(own, before[name]), f"{name} of the base model changed"
    key_value, rest = TRAINED[method]
    assert (bool(pack.key_value), bool(pack.unet)) == (key_value, rest)
    pack.save_pretrained(tmp_path / "pack")
    again = ConceptPack.from_pretrained(tmp_path / "pack")
    assert again.content_hash() == pack.content_hash()
    assert again.method == method
    both = personalizer.generate([pack.prompt, "a cat"], concepts=[again, None], seed=0, num_inference_steps=2).images
    alone = personalizer.generate(["a cat"], concepts=[None], seed=1, num_inference_steps=2).images
    difference = np.asarray(both[1]).astype(int) - np.asarray(alone[0]).astype(int)
    assert abs(difference).max() <= 2  # the plain model is drawn as if no pack were there, but for rounding


def test_a_fit_is_repeatable_with_every_method(personalizer, picture, quick):
    for method in METHODS:
        config = FitConfig.preset("best", method, steps=2, batch_size=4, prior="none")
        packs = [personalizer.fit(picture, ["cat", "dog"], method=method, config=config, seed=3) for _ in range(2)]
        assert packs[0].content_hash() == packs[1].content_hash(), method


def test_custom_diffusion_is_disendiff_without_calibration(personalizer):
    batch = batch_of([BOTH, PRIOR], [(0, 1), ()])
    plain = step(learner_on(personalizer, "custom_diffusion"), batch)
    without = step(learner_on(personalizer, "disendiff", disendiff={"calibration_weight": 0.0}), batch)
    with_it = step(learner_on(personalizer, "disendiff"), batch)
    assert torch.equal(plain["loss"], without["loss"])
    assert set(plain) == set(without) == {"loss", "denoise"}
    assert with_it["loss"] > plain["loss"]


@pytest.mark.parametrize("left_out", ["bind", "separate"])
def test_disendiff_binds_and_separates(personalizer, left_out):
    """Each part adds to the calibration, and nothing else to the rest."""
    batch = batch_of([BOTH], [(0, 1)])
    both = step(learner_on(personalizer, "disendiff"), batch)
    one = step(learner_on(personalizer, "disendiff", disendiff={"calibration": {left_out: 0.0}}), batch)
    assert 0 < one["calibration"] < both["calibration"]
    torch.testing.assert_close(one["denoise"], both["denoise"])


def test_disendiff_trains_queries_when_asked(personalizer):
    learner = learner_on(personalizer, "disendiff", disendiff={"train_query": True})
    step(learner, batch_of([BOTH], [(0, 1)]))
    gradients = {name: w.grad.abs().max() for name, w in learner.weights.items() if name.endswith("to_q.weight")}
    assert len(gradients) == len(learner.layers)
    assert all(g > 0 for g in gradients.values())
    assert set(learner.other_weights()) == set(gradients)


def test_disendiff_calibrates_all_scales_when_asked(personalizer):
    batch = batch_of([BOTH], [(0, 1)])
    usual, every = (learner_on(personalizer, "disendiff", disendiff={"all_scales": value}) for value in (False, True))
    a, b = step(usual, batch), step(every, batch)
    assert len(every.denoiser.recorder.columns) == len(every.layers) > len(usual.denoiser.recorder.columns)
    torch.testing.assert_close(a["denoise"], b["denoise"])
    assert a["calibration"] != b["calibration"]


def test_a_layout_is_forgotten_when_asked(personalizer, picture, quick):
    """The middle block's V trains, which changes the rest, but the pack has the base model's."""
    kept = personalizer.fit(picture, ["cat", "dog"], config=quick.with_changes(steps=3))
    pack = personalizer.fit(picture, ["cat", "dog"], config=quick.with_changes(steps=3, forget_layout=True))
    middle = [name for name in pack.key_value if name.startswith("mid_block.")]
    assert middle
    for name, pair in pack.key_value.items():
        module = personalizer.pipe.unet.get_submodule(name)
        assert not torch.equal(pair[0], module.to_k.weight.half())
        assert torch.equal(pair[0], kept.key_value[name][0])
        assert torch.equal(pair[1], module.to_v.weight.half()) == (name in middle)


def test_dreambooth_keeps_its_identifiers_and_trains_the_whole_unet(personalizer):
    learner = learner_on(personalizer, "dreambooth")
    assert set(learner.weights) == {name for name, _ in personalizer.pipe.unet.named_parameters()}
    assert learner.rates(0) == [learner.settings.learning_rate, 0.0]
    first, second = learner.embeddings
    assert (first @ second / first.norm() / second.norm()).abs() < 0.5  # words of their own, not the nouns
    step(learner, batch_of([BOTH, PRIOR], [(0, 1), ()]))
    silent = [name for name, w in learner.weights.items() if w.grad is None or w.grad.abs().max() == 0]
    assert not silent


def test_textual_inversion_trains_the_tokens_alone(personalizer):
    learner = learner_on(personalizer, "textual_inversion")
    assert list(learner.parameters()) == ["embeddings"]
    step(learner, batch_of([FIRST], [(0,)]))
    assert learner.embeddings.grad[0].abs().max() > 0
    assert learner.embeddings.grad[1].abs().max() == 0


def test_break_a_scene_has_two_phases(personalizer):
    learner = learner_on(personalizer, "break_a_scene", steps=10)
    first, second = learner.rates(4), learner.rates(5)
    assert first == [0.0, learner.options.first_token_rate]
    assert second == [learner.settings.learning_rate, learner.settings.token_learning_rate]


def test_a_step_of_priors_alone_teaches_the_tokens_nothing(personalizer, picture):
    config = FitConfig.preset("reference", "break_a_scene", steps=12, batch_size=1, prior_count=2, prior_steps=1)
    priors = []
    pack = personalizer.fit(
        picture,
        ["cat", "dog"],
        method="break_a_scene",
        config=config,
        callback=lambda r: priors.append(r.losses["prior"]),
    )
    assert any(priors[:6])  # in the first phase, in which the tokens alone train
    assert not all(priors)
    assert pack.embeddings.isfinite().all()


def test_break_a_scene_draws_every_union(personalizer):
    learner = learner_on(personalizer, "break_a_scene", nouns=("cat", "dog", "car"))
    drawn = [learner.view(0, random.Random(seed)).named for seed in range(600)]
    assert len(set(drawn)) == 7
    sizes = [sum(len(d) == k for d in drawn) / 600 for k in (1, 2, 3)]
    assert sizes == pytest.approx([1 / 3] * 3, abs=0.06)


@pytest.mark.parametrize("method", ["break_a_scene", "attencraft"])
def test_only_the_named_concepts_are_painted(personalizer, method):
    """Noise outside the mask of the one that is named changes no loss; inside, it does."""
    base = batch_of([FIRST], [(0,)])
    values = []
    for box in (None, (slice(9, 15), slice(8, 14)), (slice(2, 7), slice(2, 7))):
        learner = learner_on(personalizer, method)
        noise = base.noise.clone()
        _, target = None, base.noise.clone()
        if box is not None:
            target[:, :, box[0], box[1]] += 1.0
        learner.predict = lambda batch, tracked, t=target, n=noise, real=learner.predict: (real(batch, tracked)[0], t)
        values.append(step(learner, base)["denoise"].item())
    assert values[0] == values[1]
    assert values[2] > values[0]


@pytest.mark.parametrize(("method", "group"), [("break_a_scene", "break_a_scene"), ("attencraft", "attencraft")])
def test_maps_are_pulled_towards_their_masks(personalizer, method, group):
    """A few steps on the attention term alone raise the share of a token's map that lies inside its mask."""
    learner = learner_on(personalizer, method, loss_scale=1e-9, **{group: {"attention_weight": 100.0}})
    batch = batch_of([BOTH], [(0, 1)])
    optimizer = torch.optim.Adam([learner.embeddings, *learner.weights.values()], lr=1e-3)
    seen = []
    for _ in range(6):
        optimizer.zero_grad()
        seen.append(step(learner, batch)["attention"].item())
        optimizer.step()
    assert seen[-1] < 0.95 * seen[0]


@pytest.mark.parametrize("method", ["break_a_scene", "attencraft"])
def test_priors_are_whole_and_quiet(personalizer, method):
    """A prior row counts without a target's scale, everywhere, and has no maps."""
    losses = step(learner_on(personalizer, method), batch_of([PRIOR], [()]))
    assert losses["denoise"] == 0
    assert losses["attention"] == 0
    assert torch.equal(losses["loss"], losses["prior"])
    assert losses["prior"] > 0


def test_attencraft_holds_the_start_token_to_the_background(personalizer):
    """What the background's mask is matters, even where every concept's stays as it is."""
    batch, other = batch_of([BOTH], [(0, 1)]), batch_of([BOTH], [(0, 1)])
    other.concept_masks[:, -1] = 0
    losses = [step(learner_on(personalizer, "attencraft"), each) for each in (batch, other)]
    assert losses[0]["attention"] != losses[1]["attention"]
    assert losses[0]["denoise"] == losses[1]["denoise"]


def test_attencraft_weighs_small_concepts_up_when_asked(personalizer):
    batch = batch_of([FIRST], [(0,)])
    plain = step(learner_on(personalizer, "attencraft"), batch)["denoise"]
    by_area = step(learner_on(personalizer, "attencraft", attencraft={"area_normalised": True}), batch)["denoise"]
    assert (by_area / plain).item() == pytest.approx(256 / 25, rel=1e-4)


def test_attencraft_without_masks_paints_everything(personalizer):
    batch = batch_of([FIRST], [(0,)])
    masked = step(learner_on(personalizer, "attencraft"), batch)["denoise"]
    whole = step(learner_on(personalizer, "attencraft", attencraft={"masked": False}), batch)["denoise"]
    assert whole > 3 * masked


def test_attencraft_shows_each_concept_and_all_equally_often(personalizer):
    learner = learner_on(personalizer, "attencraft", steps=500)
    drawn = [learner.view(index, random.Random(index)).named for index in range(6000)]
    shares = [drawn.count(named) / 6000 for named in ((0,), (1,), (0, 1))]
    assert shares == pytest.approx([0.3167, 0.3167, 0.3667], abs=0.02)
    assert all(drawn[index] == (0, 1) for index in range(0, 6000, 20))


def test_attencraft_shows_weakly_attended_concepts_more(personalizer):
    assert sampling_shares(torch.tensor([0.1, 0.3])).tolist() == pytest.approx([0.75, 0.25])
    assert sampling_shares(torch.tensor([0.001, 0.3])).tolist() == pytest.approx([0.8, 0.2], abs=1e-5)
    assert sampling_shares(torch.tensor([0.2, 0.2, 0.2])).tolist() == pytest.approx([1 / 3] * 3)
    learner = learner_on(personalizer, "attencraft", preset="paper")
    learner.scores = torch.tensor([0.1, 0.3])
    drawn = [learner.view(1, random.Random(index)).named for index in range(3000)]
    assert drawn.count((0,)) > 2 * drawn.count((1,))


def test_attencraft_renews_masks_that_resemble_the_old_ones(personalizer, monkeypatch):
    learner = learner_on(personalizer, "attencraft")
    old = torch.zeros(3, 16, 16)
    old[0, 2:7, 2:7] = 1
    old[1, 9:15, 8:14] = 1
    old[2] = 1 - old[:2].amax(0)
    moved, stranger = old.clone(), old.flip(2)
    moved[0, 2, 2] = 0
    learner.pictures = [torch.zeros(4, 16, 16)]
    for new, accepted in ((stranger, False), (moved, True), (torch.zeros_like(old), False)):
        learner.masks = ConceptMasks([old], 2, 16)
        monkeypatch.setattr(learner.probe, "masks_at", lambda *rest, new=new: (new, new))
        learner.before_step(21)
        assert learner.masks.version == 0
        learner.before_step(20)
        assert learner.masks.version == accepted
        assert torch.equal(learner.masks[0], new if accepted else old)


def test_masks_of_the_user_are_used_and_shown(personalizer, picture, tmp_path, quick):
    from PIL import Image

    masks = [Image.new("L", picture.size) for _ in range(2)]
    masks[0].paste(255, (0, 0, picture.width // 2, picture.height))
    masks[1].paste(255, (picture.width // 2, 0, picture.width, picture.height))
    config = quick.with_changes(steps=1)
    personalizer.fit(picture, ["cat", "dog"], config=config, masks=masks, output_dir=tmp_path / "pack")
    with Image.open(tmp_path / "pack" / "mask-new1.png") as shown:
        left = shown.resize((2, 1), Image.Resampling.BOX)
        assert left.getpixel((0, 0)) > 200 > 50 > left.getpixel((1, 0))
    again = personalizer.fit(picture, ["cat", "dog"], config=config.with_changes(alone=1.0), masks=masks)
    other = personalizer.fit(picture, ["cat", "dog"], config=config.with_changes(alone=1.0), masks=masks[::-1])
    assert again.content_hash() != other.content_hash()
    with pytest.raises(InputError, match="one mask for each"):
        personalizer.fit(picture, ["cat", "dog"], config=config, masks=masks[:1])


def test_an_interrupted_attencraft_fit_ends_with_the_same_masks(personalizer, picture, tmp_path):
    renewing = {"refresh_every": 1, "refresh_similarity": -1.0}
    config = FitConfig.preset("code", "attencraft", steps=4, prior="none", checkpoint_every=2, attencraft=renewing)
    whole = personalizer.fit(picture, ["cat", "dog"], method="attencraft", config=config)

    class Stop(Exception):
        pass

    def stop(report):
        if report.step == 3:
            raise Stop

    with pytest.raises(Stop):
        personalizer.fit(
            picture, ["cat", "dog"], method="attencraft", config=config, output_dir=tmp_path / "p", callback=stop
        )
    resumed = personalizer.fit(
        picture, ["cat", "dog"], method="attencraft", config=config, output_dir=tmp_path / "p", resume=True
    )
    assert resumed.content_hash() == whole.content_hash()
