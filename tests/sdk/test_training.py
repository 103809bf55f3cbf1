"""The pieces of a training step against their definitions."""

from __future__ import annotations

import random

import pytest
import torch
from PIL import Image

from sdk.concepts import resolve_concepts
from sdk.config import FitConfig
from sdk.data.augmentation import GREY, augment
from sdk.data.batch import Batch
from sdk.errors import InputError
from sdk.methods.disendiff import DisenDiff
from sdk.methods.losses import masked_denoising_loss
from sdk.methods.token_init import initial_embeddings


def test_the_denoising_loss_is_four_times_the_masked_mean():
    residual = torch.full((2, 4, 8, 8), 0.5)
    masks = torch.ones(2, 1, 8, 8)
    assert masked_denoising_loss(residual, torch.zeros_like(residual), masks, 4.0, len(masks)).item() == pytest.approx(
        1.0
    )
    masks[0, :, 3:] = 0
    assert masked_denoising_loss(residual, torch.zeros_like(residual), masks, 4.0, len(masks)).item() == pytest.approx(
        1.0
    )
    residual[0, :, 3:] = 9.0
    assert masked_denoising_loss(residual, torch.zeros_like(residual), masks, 4.0, len(masks)).item() == pytest.approx(
        1.0
    )


def test_augmentation_frequencies_and_masks():
    image = Image.new("RGB", (128, 128), (255, 0, 0))
    rng = random.Random(0)
    counts = {"shrunk": 0, "enlarged": 0, "plain": 0}
    for _ in range(1500):
        variant = augment(image, 32, rng, flip=0.5, scale=True)
        assert variant.image.size == (128, 128)
        if variant.prefix in ("a far away", "very small"):
            counts["shrunk"] += 1
            assert 0 < variant.mask.sum() < 32 * 32
            corners = {variant.image.getpixel((x, y)) for x in (0, 127) for y in (0, 127)}
            assert GREY in corners
            # Every latent cell that counts lies inside the pasted picture.
            covered = torch.tensor(list(variant.image.getchannel("R").tobytes())).view(32, 4, 32, 4).amin((1, 3))
            assert (covered[variant.mask[0] > 0] == 255).all()
        elif variant.prefix in ("zoomed in", "close up"):
            counts["enlarged"] += 1
            assert variant.mask.min() == 1
        else:
            assert variant.prefix == ""
            counts["plain"] += 1
    assert counts["shrunk"] / 1500 == pytest.approx(0.266, abs=0.04)
    assert counts["enlarged"] / 1500 == pytest.approx(0.334, abs=0.04)


def method_on(personalizer, nouns, **changes):
    return DisenDiff(personalizer, resolve_concepts(nouns), FitConfig(**changes).for_method("disendiff"))


def batch_of(captions, named):
    generator = torch.Generator().manual_seed(0)
    count = len(captions)
    return Batch(
        latents=torch.randn(count, 4, 16, 16, generator=generator),
        noise=torch.randn(count, 4, 16, 16, generator=generator),
        timesteps=torch.randint(0, 1000, (count,), generator=generator),
        captions=captions,
        masks=torch.ones(count, 1, 16, 16),
        named=named,
    )


def test_a_noun_of_several_pieces_is_tracked_whole(personalizer):
    method = method_on(personalizer, ["xyz", "dog"])
    positions = method.positions
    found = positions.find(["photo of a <new1> xyz and <new2> dog"], [(0, 1)])
    assert positions.pieces.tolist() == [3, 1]
    assert found.tolist() == [[[4, 5, 6, 7], [9, 10, -1, -1]]]
    assert positions.find(["photo of a <new2> dog"], [(1,)]).tolist() == [[[-1] * 4, [4, 5, -1, -1]]]
    tracked = (torch.arange(8.0) * (found[0].flatten() >= 0))[None, :, None].expand(1, 8, 4)  # padding slots hold zeros
    maps = positions.maps(tracked.unflatten(-1, (2, 2)))[0, :, 0, 0]
    assert maps.tolist() == [0.0, 2.0, 4.0, 5.0]


def test_priors_get_no_calibration(personalizer):
    method = method_on(personalizer, ["cat", "dog"])
    prior = "photo of a cat and a dog"
    with method.installed():
        losses = method.losses(batch_of([prior, prior], [(), ()]))
        losses["loss"].backward()
    assert losses["calibration"].item() == 0
    assert method.embeddings.grad is None or method.embeddings.grad.abs().max() == 0


def test_a_concept_shown_alone_trains_its_token_without_calibration(personalizer):
    method = method_on(personalizer, ["cat", "dog"])
    with method.installed():
        losses = method.losses(batch_of(["photo of a <new2> dog"], [(1,)]))
        losses["loss"].backward()
    assert losses["calibration"].item() == 0
    assert method.embeddings.grad[0].abs().max() == 0
    assert method.embeddings.grad[1].abs().max() > 0


def test_calibration_is_averaged_over_micro_batches(personalizer):
    target, prior = "photo of a <new1> cat and <new2> dog", "photo of a cat and a dog"
    method = method_on(personalizer, ["cat", "dog"])
    per_row = torch.tensor([0.8, 5.0, 5.0, 5.0])
    method._per_row = lambda: per_row
    with method.installed():
        mixed = method.losses(batch_of([target, prior, prior, prior], [(0, 1), (), (), ()]))["calibration"]
    # The target's micro-batch counts in full, the other one with zero.
    assert mixed.item() == pytest.approx(0.4)


def test_the_start_token_gets_no_gradient_through_keys_and_values(personalizer):
    from sdk.families.layers import cross_attention_layers
    from sdk.unet.attention import AttentionProcessor

    layer = next(iter(cross_attention_layers(personalizer.pipe.unet).values()))
    states = torch.randn(1, 6, layer.to_k.in_features, requires_grad=True)
    hidden = torch.randn(1, 16, layer.to_q.in_features)
    for detach in (True, False):
        processor = AttentionProcessor(detach_start_token=detach)
        (gradient,) = torch.autograd.grad(processor(layer, hidden, states).square().sum(), states)
        assert (gradient[:, 0].abs().max() == 0) == detach
        assert gradient[:, 1:].abs().max() > 0


def test_initial_embeddings(personalizer):
    concepts = resolve_concepts(["cat", "dog"])
    conditioner = personalizer.conditioner(["<new1>", "<new2>"])
    table = personalizer.pipe.text_encoder.get_input_embeddings().weight
    rows = initial_embeddings(conditioner, concepts)
    assert torch.equal(rows[1], table[conditioner.pieces("dog")[0]])
    rows = initial_embeddings(conditioner, concepts, ("car", "house"))
    assert torch.equal(rows[0], table[conditioner.pieces("car")[0]])
    rows = initial_embeddings(conditioner, concepts, ("red blue",))
    mean = table[[conditioner.pieces(word)[0] for word in ("red", "blue")]].mean(0)
    torch.testing.assert_close(rows, mean.expand(2, -1))
    with pytest.raises(InputError, match="one a concept"):
        initial_embeddings(conditioner, concepts, ("a", "b", "c"))


def test_only_the_new_rows_of_the_table_train(personalizer):
    encoder = personalizer.pipe.text_encoder
    conditioner = personalizer.conditioner(["<new1>"])
    rows = torch.randn(1, encoder.config.hidden_size, generator=torch.Generator().manual_seed(0)).requires_grad_()
    states = conditioner.encode(["a <new1> cat"], rows).states
    states.square().sum().backward()
    assert rows.grad.abs().max() > 0
    assert encoder.get_input_embeddings().weight.grad is None
    assert type(encoder.get_input_embeddings()).__name__ == "Embedding"
    other = conditioner.encode(["a <new1> cat"], rows.flip(-1)).states  # a norm would take away what is added to all
    assert not torch.allclose(states, other)


def test_which_layers_the_maps_come_from():
    from diffusers import UNet2DConditionModel

    from sdk.families.layers import map_layers

    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768)
    suffix = "transformer_blocks.0.attn2"
    expected = [f"down_blocks.2.attentions.{i}.{suffix}" for i in (0, 1)]
    expected += [f"up_blocks.1.attentions.{i}.{suffix}" for i in (0, 1, 2)]
    assert map_layers(unet) == expected


def test_learning_rates_fade_over_the_last_part():
    from sdk.methods.base import fade

    assert [fade(step, FitConfig(steps=10)) for step in (0, 9)] == [1.0, 1.0]
    falling = [fade(step, FitConfig(steps=10, decay=0.5)) for step in range(10)]
    assert falling == pytest.approx([1, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])


def test_automatic_precision_asks_the_hardware(monkeypatch):
    from sdk.model.precision import forward_dtype

    cpu = torch.device("cpu")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    assert forward_dtype("auto", cpu) == torch.bfloat16
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True}, raising=False)
    assert forward_dtype("auto", cpu) == torch.float32
    assert forward_dtype("fp16", cpu) == torch.float16
