"""Frozen layers held ready: the same numbers as before, a base model that nothing happened to, a fit that resumes."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from sdk.concepts import resolve_concepts
from sdk.config import FitConfig
from sdk.data.batch import Batch
from sdk.methods import method_class
from sdk.runtime import Cancelled
from sdk.unet import frozen
from sdk.unet.frozen import hold_ready, ready_bytes
from sdk.views import private_view

BF16 = torch.bfloat16


@pytest.fixture
def all_sizes(monkeypatch):
    """Hold small models ready, too."""
    monkeypatch.setattr(hold_ready, "__kwdefaults__", hold_ready.__kwdefaults__ | {"worth": 0})


def learner_on(personalizer, method="disendiff", **changes):
    config = FitConfig.preset("reference", method, precision="bf16", **changes)
    return method_class(method)(personalizer, resolve_concepts(["cat", "dog"]), config)


def batch():
    generator = torch.Generator().manual_seed(0)
    return Batch(
        latents=torch.randn(3, 4, 16, 16, generator=generator),
        noise=torch.randn(3, 4, 16, 16, generator=generator),
        timesteps=torch.tensor([100, 500, 900]),
        captions=["photo of a <new1> cat and <new2> dog", "photo of a <new2> dog", "photo of a cat"],
        masks=torch.ones(3, 1, 16, 16),
        named=[(0, 1), (1,), ()],
    )


def step(learner):
    with learner.installed():
        losses = learner.losses(batch())
        losses["loss"].backward()
    return losses["loss"].item(), {name: weight.grad for name, weight in learner.parameters().items()}


LAST = torch.randn(2, 16, 16, 32, generator=torch.Generator().manual_seed(0)).to(BF16).movedim(-1, 1)
LAYERS = {
    "3x3": (lambda: nn.Conv2d(32, 48, 3, padding=1), LAST.float().contiguous()),
    "3x3, channels last": (lambda: nn.Conv2d(32, 48, 3, padding=1), LAST),
    "1x1": (lambda: nn.Conv2d(32, 16, 1), LAST),
    "downwards": (lambda: nn.Conv2d(32, 32, 3, 2, 1), LAST),
    "to few": (lambda: nn.Conv2d(32, 4, 3, padding=1, bias=False), LAST),
    "linear": (lambda: nn.Linear(32, 24), torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(0))),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_gives_what_autocast_gives(name):
    """Forwards and backwards; to the bit, but where a processor has other convolutions for other layouts."""
    torch.manual_seed(0)
    make, given = LAYERS[name]
    own = nn.Sequential(make()).requires_grad_(False)
    ready = private_view(own)
    assert hold_ready(ready, BF16, worth=0) > 0
    results = []
    for module in (own, ready):
        inner = given.clone().requires_grad_()
        with torch.autocast("cpu", BF16):
            out = module(inner)
        out.float().square().sum().backward()
        results.append((out, inner.grad))
    assert results[0][0].dtype == results[1][0].dtype == BF16
    for plain, held in zip(*results, strict=True):
        torch.testing.assert_close(plain, held, rtol=2**-7, atol=2**-7 * plain.abs().mean().item())


def test_kernels_of_one_cell_are_not_sorted():
    """They are products of matrices; sorted, some processors take fifty times as long for them."""
    ready = private_view(nn.Sequential(nn.Conv2d(32, 32, 1), nn.Conv2d(32, 32, 3, padding=1)).requires_grad_(False))
    hold_ready(ready, BF16, worth=0)
    assert [type(layer).__name__ for layer in ready][0] == "_ReadyConv2d"
    assert ready[0]._ready[0].is_contiguous(memory_format=torch.channels_last)


def test_what_is_computed_in_another_type_uses_the_layers_own_weights():
    own = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, 2), nn.Linear(7, 5))
    ready = private_view(own)
    hold_ready(ready, BF16, worth=0)
    picture = torch.randn(1, 16, 16, 16)
    assert torch.equal(own(picture), ready(picture))


@pytest.mark.parametrize("changes", [{}, {"kv_rank": 4}, {"disendiff": {"train_query": True}}], ids=str)
def test_a_step_is_the_same_but_for_the_order_in_which_norms_add(personalizer, changes):
    loss, gradients = step(learner_on(personalizer, **changes))
    learner = learner_on(personalizer, **changes)
    assert hold_ready(learner.unet, BF16, list(learner.weights), worth=0) > 0
    found, ready = step(learner)
    assert found == pytest.approx(loss, rel=2e-3)
    for name, gradient in gradients.items():
        assert (gradient - ready[name]).norm() <= 0.05 * gradient.norm(), name


def test_without_convolutions_a_step_is_the_same_to_the_bit(personalizer, monkeypatch):
    loss, gradients = step(learner_on(personalizer))
    learner = learner_on(personalizer)
    linear = [layer for layer in frozen._frozen(learner.unet, learner.weights) if isinstance(layer, nn.Linear)]
    monkeypatch.setattr(frozen, "_frozen", lambda *_: iter(linear))
    assert hold_ready(learner.unet, BF16, worth=0) > 0
    found, ready = step(learner)
    assert found == loss
    assert all(torch.equal(gradient, ready[name]) for name, gradient in gradients.items())


def test_the_base_model_is_as_it_was(personalizer, all_sizes):
    pipe = personalizer.pipe
    before = {name: (type(m), set(vars(m))) for name, m in pipe.unet.named_modules()}
    weights = {name: (id(w), w.clone()) for name, w in pipe.unet.named_parameters()}
    learner = learner_on(personalizer)
    assert learner.hold_ready() > 0
    step(learner)
    assert {name: (type(m), set(vars(m))) for name, m in pipe.unet.named_modules()} == before
    for name, weight in pipe.unet.named_parameters():
        assert (id(weight), True) == (weights[name][0], torch.equal(weight, weights[name][1]))
        if weight.ndim != 1:  # in a view, too, a layer's parameters are the model's own
            assert learner.unet.get_parameter(name) is weight
    assert isinstance(learner.unet.conv_in, nn.Conv2d)


def test_layers_that_train_are_left_alone(personalizer, all_sizes):
    learner = learner_on(personalizer, "dreambooth")
    assert learner.denoiser.hold_ready() == 0
    assert all("_ready" not in vars(module) for module in learner.unet.modules())


def test_nothing_is_copied_of_small_models_and_in_float32(personalizer):
    assert learner_on(personalizer).hold_ready() == 0
    assert ready_bytes(personalizer.pipe.unet, BF16) == 0


def test_bytes_are_counted_as_they_are_taken(monkeypatch):
    monkeypatch.setattr(frozen, "WORTH_IT", 0)
    own = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1, bias=False), nn.Linear(64, 64, bias=False))
    taken = hold_ready(private_view(own), BF16, worth=0)
    assert taken <= ready_bytes(own, BF16) == 2 * (2 * 64 * 64 * 9 + 64 * 64)


def test_a_fit_that_was_interrupted_ends_with_the_bits_of_one_that_was_not(
    personalizer, picture, quick, tmp_path, all_sizes
):
    config = quick.with_changes(precision="bf16", rows_at_once=3, gradient_checkpointing=True)
    whole = personalizer.fit(picture, ["cat", "dog"], config=config, output_dir=tmp_path / "whole")
    cancel = threading.Event()

    def stop(event):
        if event.phase == "fit" and event.done == 2:
            cancel.set()

    with pytest.raises(Cancelled):
        personalizer.fit(
            picture, ["cat", "dog"], config=config, output_dir=tmp_path / "parts", progress=stop, cancel=cancel
        )
    parts = personalizer.fit(picture, ["cat", "dog"], config=config, output_dir=tmp_path / "parts", resume=True)
    assert parts.content_hash() == whole.content_hash()
