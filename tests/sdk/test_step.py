"""A training step against its definition: what the UNet sees, what it should say, and what each term weighs."""

from __future__ import annotations

import json
import random

import pytest
import torch
from tokenizers import Tokenizer

from sdk.concepts import resolve_concepts
from sdk.config import FitConfig
from sdk.data.batch import Batch
from sdk.kernels import calibration_loss
from sdk.masks.similarity import js_divergence
from sdk.methods import method_class

BOTH, FIRST, PRIOR = "photo of a <new1> cat and <new2> dog", "photo of a <new1> cat", "photo of a cat and a dog"
PLAIN = {BOTH: "photo of a cat cat and dog dog", FIRST: "photo of a cat cat", PRIOR: PRIOR}  # tokens start as nouns


def learner_on(personalizer, method="disendiff", preset="reference", nouns=("cat", "dog"), **changes):
    config = FitConfig.preset(preset, method, **changes)
    return method_class(method)(personalizer, resolve_concepts(nouns), config)


def batch_of(captions, named):
    """Rows with masks of two boxes and the background; the first row has a margin that does not count."""
    generator = torch.Generator().manual_seed(0)
    count = len(captions)
    own = torch.zeros(3, 16, 16)
    own[0, 2:7, 2:7] = 1
    own[1, 9:15, 8:14] = 1
    own[2] = 1 - own[:2].amax(0)
    counted = torch.ones(count, 1, 16, 16)
    counted[0, :, :4] = 0
    return Batch(
        latents=torch.randn(count, 4, 16, 16, generator=generator),
        noise=torch.randn(count, 4, 16, 16, generator=generator),
        timesteps=torch.randint(0, 1000, (count,), generator=generator),
        captions=captions,
        masks=counted,
        named=named,
        concept_masks=torch.stack([own if some else torch.zeros_like(own) for some in named]),
    )


def noisy(personalizer, batch):
    alpha = personalizer.pipe.scheduler.alphas_cumprod[batch.timesteps].view(-1, 1, 1, 1)
    return alpha.sqrt() * batch.latents + (1 - alpha).sqrt() * batch.noise


@torch.no_grad()
def untrained(personalizer, batch):
    """What the plain pipeline predicts for a batch, ``[B, C, h, w]``: a fit starts from there."""
    states = personalizer.pipe.encode_prompt([PLAIN[c] for c in batch.captions], "cpu", 1, False)[0]
    return personalizer.pipe.unet(noisy(personalizer, batch), batch.timesteps, states).sample


def errors(personalizer, batch):
    """Mean over channels of the squared error of the plain pipeline, ``[B, h, w]``."""
    return (untrained(personalizer, batch) - batch.noise).square().mean(1)


def step(learner, batch):
    with learner.installed():
        return learner.losses(batch)


@pytest.mark.parametrize("method", ["disendiff", "dreambooth", "textual_inversion"])
def test_a_fit_starts_from_what_the_plain_pipeline_predicts(personalizer, method):
    batch = batch_of([BOTH, PRIOR, FIRST], [(0, 1), (), (0,)])
    learner = learner_on(personalizer, method, initializers=("cat", "dog"))
    with learner.installed():
        prediction, target = learner.predict(batch)
    torch.testing.assert_close(prediction, untrained(personalizer, batch), atol=1e-4, rtol=1e-4)
    assert torch.equal(target, batch.noise)


@pytest.mark.parametrize("method", ["disendiff", "break_a_scene"])
def test_a_model_of_velocities_is_trained_towards_them(personalizer, method):
    """v = sqrt(a) noise - sqrt(1 - a) picture (Salimans and Ho, 2022), for the very noise that was added."""
    batch = batch_of([BOTH, PRIOR], [(0, 1), ()])
    personalizer.pipe.scheduler.register_to_config(prediction_type="v_prediction")
    learner = learner_on(personalizer, method)
    with learner.installed():
        _, target = learner.predict(batch)
    alpha = personalizer.pipe.scheduler.alphas_cumprod[batch.timesteps].view(-1, 1, 1, 1)
    torch.testing.assert_close(target, alpha.sqrt() * batch.noise - (1 - alpha).sqrt() * batch.latents)


@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize("method", ["disendiff", "custom_diffusion", "textual_inversion"])
def test_the_denoising_loss_of_a_step(personalizer, method, scale):
    """The scale times the mean over rows of the error where it counts; a prior's counts like any other row's."""
    batch = batch_of([BOTH, PRIOR, FIRST], [(0, 1), (), (0,)])
    error, where = errors(personalizer, batch), batch.masks[:, 0]
    expected = scale * ((error * where).sum((1, 2)) / where.sum((1, 2))).mean()
    learner = learner_on(personalizer, method, initializers=("cat", "dog"), loss_scale=scale)
    found = step(learner, batch)["denoise"]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"calibration": {"normalize": False}},
        {"calibration": {"sigma": 1.5}},
        {"calibration": {"suppress": 0}},
        {"calibration": {"suppress": 2}},
        {"calibration": {"smooth": 0.25}},
        {"all_scales": True},
        {"nouns": ("xyz", "dog")},  # of several pieces
    ],
    ids=str,
)
def test_disendiff_gives_each_term_its_own_weight_and_each_switch_its_place(personalizer, changes):
    nouns = changes.get("nouns", ("cat", "dog"))
    options = changes.get("calibration", {})
    own = {"calibration": {"bind": 3.0, "separate": 0.5} | options, "all_scales": changes.get("all_scales", False)}
    caption = f"photo of a <new1> {nouns[0]} and <new2> {nouns[1]}"
    learner = learner_on(personalizer, nouns=nouns, disendiff=own)
    losses = step(learner, batch_of([caption], [(0, 1)]))
    maps = learner.positions.maps(learner.denoiser.recorder.mean()).float()

    def term(bind, separate):
        return calibration_loss(maps, **(options | {"bind": bind, "separate": separate})).mean()

    bind, separate = term(1.0, 0.0), term(0.0, 1.0)
    assert abs(bind - separate) > 1e-3
    torch.testing.assert_close(losses["calibration"], 3 * bind + 0.5 * separate)
    torch.testing.assert_close(losses["loss"], losses["denoise"] + 0.01 * losses["calibration"])


@pytest.mark.parametrize("size", [2, 3, 4])
def test_calibration_is_a_mean_over_micro_batches(personalizer, size):
    """Of the means over their rows that name all; a micro-batch without any counts as zero."""
    batch = batch_of([BOTH, BOTH, FIRST, BOTH, PRIOR, PRIOR], [(0, 1), (0, 1), (0,), (0, 1), (), ()])
    learner = learner_on(personalizer, disendiff={"micro_batch": size})
    found = step(learner, batch)["calibration"]
    maps = learner.positions.maps(learner.denoiser.recorder.mean())[[0, 1, 3]].float()
    options = {"normalize": True, "sigma": 0.5**0.5, "suppress": 1, "smooth": 1.0, "bind": 1.0, "separate": 1.0}
    a, b, c = calibration_loss(maps, **options)
    expected = {2: ((a + b) / 2 + c + 0) / 3, 3: ((a + b) / 2 + c) / 2, 4: ((a + b + c) / 3 + 0) / 2}[size]
    torch.testing.assert_close(found, expected)


def test_calibration_reaches_the_queries_and_whatever_comes_before_the_maps(personalizer):
    """Of the last recorded layer its map, so its Q and K; of all before it V too; of nothing else anything."""
    learner = learner_on(personalizer, disendiff={"train_query": True})
    step(learner, batch_of([BOTH], [(0, 1)]))["calibration"].backward()
    reached = {name for name, w in learner.weights.items() if w.grad is not None and w.grad.abs().max() > 0}
    last = [name for name in learner.layers if name.startswith("up_blocks.")][-1]
    assert set(learner.weights) - reached == {f"{last}.to_v.weight"}
    assert (learner.embeddings.grad.abs().amax(1) > 0).all()


@pytest.mark.parametrize("detach", [True, False])
def test_the_start_token_teaches_keys_and_values_only_if_asked_to(personalizer, detach):
    """Of a text whose states are zero but for the start token's, a detached start token leaves no gradient."""
    learner = learner_on(personalizer, detach_start_token=detach)
    for name, layer in learner.layers.items():
        states = torch.zeros(1, 6, layer.to_k.in_features)
        states[:, 0] = 1
        hidden = torch.randn(1, 16, layer.to_q.in_features, generator=torch.Generator().manual_seed(0))
        (gradient,) = torch.autograd.grad(
            learner.denoiser._processors[name](layer, hidden, states).square().sum(),
            learner.weights[f"{name}.to_v.weight"],
        )
        assert (gradient.abs().max() == 0) == detach, name


def test_break_a_scenes_losses(personalizer):
    """Its equations: the error under the union of the named masks, the maps' distance from theirs, and the priors."""
    batch = batch_of([BOTH, FIRST, PRIOR], [(0, 1), (0,), ()])
    learner = learner_on(personalizer, "break_a_scene", initializers=("cat", "dog"), loss_scale=4.0)
    losses = step(learner, batch)
    error, own, where = errors(personalizer, batch), batch.concept_masks[0], batch.masks[:, 0]
    named = [own[:2].amax(0) * where[0], own[0] * where[1]]
    denoise = sum(4 * (error[row] * mask).mean() for row, mask in enumerate(named)) / 3
    assert learner.denoiser.recorder.token_indices.tolist() == [
        [4, 7],
        [4, -1],
        [-1, -1],
    ]  # the tokens, not their nouns
    maps = learner.denoiser.recorder.mean()
    maps = maps / maps.amax((2, 3), keepdim=True)
    attention = ((maps[0, :2] - own[:2]).square().mean() + (maps[1, 0] - own[0]).square().mean()) / 3
    prior = error[2].mean() / 3
    torch.testing.assert_close(losses["denoise"], denoise, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(losses["prior"], prior, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(losses["attention"], attention, atol=1e-4, rtol=1e-4)
    weight = learner.options.attention_weight
    torch.testing.assert_close(losses["loss"], denoise + prior + weight * attention, atol=1e-4, rtol=1e-4)


def test_attencrafts_losses(personalizer):
    """Its equations: the error under the union of the named masks, maps' divergence from masks, and the priors."""
    batch = batch_of([BOTH, FIRST, PRIOR], [(0, 1), (0,), ()])
    learner = learner_on(personalizer, "attencraft", initializers=("cat", "dog"), loss_scale=4.0)
    losses = step(learner, batch)
    error, own, where = errors(personalizer, batch), batch.concept_masks[0], batch.masks[:, 0]
    named = [own[:2].amax(0) * where[0], own[0] * where[1]]
    denoise = sum(4 * (error[row] * mask).sum() / where[row].sum() for row, mask in enumerate(named)) / 3
    assert learner.denoiser.recorder.token_indices.tolist() == [[4, 7, 0], [4, -1, 0], [-1, -1, -1]]  # start token last
    maps = learner.denoiser.recorder.mean()
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    apart = js_divergence((maps - low) / (high - low).clamp(min=1e-8), own.expand(3, -1, -1, -1))
    attention = (apart[0, [0, 1, 2]].mean() + apart[1, [0, 2]].mean()) / 3  # the start token's map is the background's
    prior = error[2].mean() / 3
    torch.testing.assert_close(losses["denoise"], denoise, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(losses["prior"], prior, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(losses["attention"], attention, atol=1e-4, rtol=1e-4)
    weight = learner.options.attention_weight
    torch.testing.assert_close(losses["loss"], denoise + prior + weight * attention, atol=1e-4, rtol=1e-4)


def test_rates_of_every_method(personalizer):
    """UNet's and tokens', at the first step and in the middle of a fade over the last half."""
    settings = {"steps": 10, "learning_rate": 1e-3, "token_learning_rate": 4e-3, "decay": 0.5}
    expected = {
        "disendiff": [[1e-3, 4e-3], [4e-4, 1.6e-3]],
        "custom_diffusion": [[1e-3, 4e-3], [4e-4, 1.6e-3]],
        "attencraft": [[1e-3, 4e-3], [4e-4, 1.6e-3]],
        "dreambooth": [[1e-3, 0], [4e-4, 0]],
        "textual_inversion": [[4e-3], [1.6e-3]],
        "break_a_scene": [[0, 5e-2], [4e-4, 1.6e-3]],
    }
    for method, rates in expected.items():
        changes = {"break_a_scene": {"token_share": 0.3, "first_token_rate": 5e-2}} if method == "break_a_scene" else {}
        own = {name: value for name, value in settings.items() if name not in method_class(method).unused}
        learner = learner_on(personalizer, method, **own, **changes)
        assert [learner.rates(index) for index in (0, 8)] == [pytest.approx(each) for each in rates], method
        same = own | ({"token_learning_rate": None} if "token_learning_rate" in own else {})
        same = learner_on(personalizer, method, **same, **changes)
        assert same.rates(8)[-1] == pytest.approx(0 if method == "dreambooth" else 4e-4), method


def test_disendiff_shows_all_concepts_or_one_in_a_window(personalizer):
    whole = learner_on(personalizer, nouns=("cat", "dog", "car"))
    assert len({whole.view(0, random.Random(seed)) for seed in range(20)}) == 1
    assert whole.view(0, random.Random(0)).named == (0, 1, 2)
    assert not whole.view(0, random.Random(0)).needs_masks
    alone = learner_on(personalizer, nouns=("cat", "dog", "car"), alone=1.0)
    views = [alone.view(0, random.Random(seed)) for seed in range(300)]
    assert all(view.window and view.needs_masks for view in views)
    assert [sum(view.named == (i,) for view in views) / 300 for i in range(3)] == pytest.approx([1 / 3] * 3, abs=0.09)


def of_size(tokenizer, size):
    """A tokenizer with further words of its own."""
    definition = json.loads(tokenizer.to_str())
    vocabulary = definition["model"]["vocab"]
    vocabulary |= {f"word{number}</w>": number for number in range(len(vocabulary), size)}
    return Tokenizer.from_str(json.dumps(definition))


def test_in_clips_vocabulary_tokens_start_from_words_it_hardly_saw(personalizer):
    """The released code's, for one to three concepts; DreamBooth's stay there. Added words change nothing."""
    encoder, tokenizer = personalizer.pipe.text_encoder, personalizer.pipe.tokenizer
    tokenizer._tokenizer = of_size(tokenizer._tokenizer, 49408)
    nouns = ("cat", "dog", "car", "house")
    for added in ([], ["<mine>", "<new1>"]):
        tokenizer.add_tokens(added)
        encoder.resize_token_embeddings(49408 + len(added), mean_resizing=False)
        table = encoder.get_input_embeddings().weight
        for method in ("disendiff", "dreambooth"):
            for rows in ([42170], [47629, 42170], [43514, 47629, 42170]):
                learner = learner_on(personalizer, method, nouns=nouns[: len(rows)])
                assert torch.equal(learner.embeddings.detach(), table[rows])
    learner = learner_on(personalizer, nouns=nouns)
    ids = [learner.conditioner.pieces(noun)[0] for noun in nouns]
    assert torch.equal(learner.embeddings.detach(), table[ids])


def test_dreambooths_identifiers_elsewhere_are_as_long_as_words_and_like_none(personalizer):
    learner = learner_on(personalizer, "dreambooth", nouns=("cat", "dog", "car"))
    rows, nouns = learner.embeddings.detach(), learner.probe.noun_embeddings()
    torch.testing.assert_close(rows.norm(dim=1), nouns.norm(dim=1))
    directions = torch.nn.functional.normalize(torch.cat([rows, nouns]))
    assert (directions @ directions.T - torch.eye(6)).abs().max() < 0.75
    given = learner_on(personalizer, "dreambooth", nouns=("cat", "dog"), initializers=("car", "house"))
    ids = [given.conditioner.pieces(word)[0] for word in ("car", "house")]
    assert torch.equal(given.embeddings.detach(), personalizer.pipe.text_encoder.get_input_embeddings().weight[ids])


def test_the_backend_that_is_asked_for_computes_attention_and_loss(personalizer, monkeypatch):
    from sdk.methods import disendiff
    from sdk.unet import attention

    asked = []
    for module, name in ((attention, "attention_with_columns"), (disendiff, "columns_loss")):
        real = getattr(module, name)

        def noting(*arguments, real=real, **keywords):
            asked.append(keywords["backend"])
            return real(*arguments, **keywords)

        monkeypatch.setattr(module, name, noting)
    for backend in ("reference", None):
        asked.clear()
        step(learner_on(personalizer, backend=backend), batch_of([BOTH], [(0, 1)]))
        assert len(asked) > 1
        assert set(asked) == {backend}
