"""Not-a-number is an error that names its likely cause, never a black picture; half precision may overflow."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sdk import Concept, ConceptPack, FitConfig, Personalizer
from sdk.combine import merge
from sdk.errors import NotFiniteError
from sdk.families.layers import cross_attention_layers
from sdk.images.image_io import to_tensor
from sdk.methods.token_init import best_description
from sdk.model import Denoiser, LatentCache
from sdk.model.latents import decoded, encoded

STEPS = {"num_inference_steps": 2, "seed": 1}
NAN, INFINITE = float("nan"), float("inf")


def pack_of(personalizer, token="<new1>", row=0.0, key=None, unet=None):
    layers = cross_attention_layers(personalizer.pipe.unet)
    key_value = {name: (layer.to_k.weight.detach().clone(), layer.to_v.weight) for name, layer in layers.items()}
    if key is not None:
        next(iter(key_value.values()))[0][0, 0] = key
    rows = torch.full((1, personalizer.base.context), row)
    return ConceptPack([Concept("cat", token)], personalizer.base, key_value, rows, unet=unet or {})


@pytest.mark.parametrize("value", [NAN, INFINITE, 1e30])  # the last overflows in a pack's float16
@pytest.mark.parametrize("part", ["row", "key"])
def test_a_pack_that_diverged_is_refused_before_the_first_step(personalizer, value, part):
    pack, seen = pack_of(personalizer, **{part: value}), []
    with pytest.raises(NotFiniteError, match="the text states or their keys and values.*the fit of the pack diverged"):
        personalizer.generate("a <new1> cat", concepts=pack, progress=lambda event: seen.append(event.done), **STEPS)
    assert seen == [0]


def test_a_unet_that_gives_nan_draws_no_black_picture(personalizer, picture):
    diverged = pack_of(personalizer, unet={"conv_out.weight": personalizer.pipe.unet.conv_out.weight * NAN})
    for draw in (
        lambda **more: personalizer.generate("a <new1> cat", **more),
        lambda **more: personalizer.img2img(picture, "a <new1> cat", **more),
        lambda **more: personalizer.inpaint(picture, picture, "a <new1> cat", **more),
    ):
        with pytest.raises(NotFiniteError, match="the latents hold NaN or infinite values, nothing was drawn"):
            draw(concepts=diverged, **STEPS)
    with pytest.raises(NotFiniteError, match=r"guidance_scale=1e\+30 is too large"):
        personalizer.generate("a cat", guidance_scale=1e30, num_inference_steps=10, seed=1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_where_the_autoencoder_overflows_in_half_precision_it_computes_in_float32(tiny_model, picture, dtype):
    personalizer = Personalizer.from_pretrained(tiny_model, device="cpu")
    want_vae = Personalizer.from_pretrained(tiny_model, device="cpu").pipe.vae
    pixels = to_tensor(picture.resize((32, 32)))[None]
    scale = 2e5 if dtype == torch.float16 else 1.0
    for vae in (want_vae, personalizer.pipe.vae):
        with torch.no_grad():
            vae.encoder.conv_in.weight.mul_(scale)
            vae.decoder.conv_in.weight.mul_(scale)
    vae = personalizer.pipe.vae.to(dtype)
    before = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
    want_vae.load_state_dict({name: tensor.float() for name, tensor in before.items()})
    with torch.no_grad():
        alone = vae.encode(pixels.to(dtype)).latent_dist.parameters
        assert bool(alone.isfinite().all()) == (dtype == torch.float32)
        posterior = want_vae.encode(pixels).latent_dist
    mean, deviation = encoded(vae, pixels)
    torch.testing.assert_close(mean.float(), posterior.mean)
    torch.testing.assert_close(deviation.float(), posterior.std)
    latents = posterior.mean * want_vae.config.scaling_factor
    with torch.no_grad():
        want = want_vae.decode(posterior.mean).sample
    torch.testing.assert_close(decoded(vae, latents).float(), want, atol=1e-4, rtol=1e-4)
    assert vae.dtype == dtype
    assert all(torch.equal(tensor, before[name]) for name, tensor in vae.state_dict().items())
    image = picture.resize((32, 32))
    torch.testing.assert_close(LatentCache(vae, torch.device("cpu")).mean(image), latents[0], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_an_autoencoder_that_is_damaged(personalizer, picture, part):
    with torch.no_grad():
        getattr(personalizer.pipe.vae, part).conv_in.weight[0, 0, 0, 0] = NAN
    with pytest.raises(NotFiniteError, match="the autoencoder makes NaN or infinite"):
        personalizer.img2img(picture, "a cat", **STEPS)
    if part == "encoder":
        config = FitConfig(steps=1, prior="none", target_share=1.0)
        for call in (personalizer.find_masks, personalizer.fit):
            with pytest.raises(NotFiniteError, match="the autoencoder makes NaN or infinite"):
                call(picture, ["cat"], config=config)
    else:
        with pytest.raises(NotFiniteError, match="the autoencoder makes NaN or infinite"):
            personalizer.generate("a cat", **STEPS)


def test_an_infinite_deviation_is_seen(personalizer, picture):
    """It is cut to a finite one on its way to the posterior."""
    vae = personalizer.pipe.vae
    with torch.no_grad():
        vae.quant_conv.bias[vae.config.latent_channels :] = INFINITE
    with pytest.raises(NotFiniteError):
        encoded(vae, to_tensor(picture)[None])


def test_maps_and_predictions_that_are_not_finite_give_no_masks_and_no_words(personalizer, picture):
    pipe = personalizer.pipe
    with torch.no_grad():
        pipe.unet.conv_in.bias[0] = NAN
    with pytest.raises(NotFiniteError, match="the attention maps hold NaN"):
        personalizer.find_masks(picture, ["cat"])
    conditioner = personalizer.conditioner()
    with pytest.raises(NotFiniteError, match="no words can be chosen"):
        best_description(
            Denoiser(personalizer), conditioner, "cat", ["red", "blue"], torch.zeros(4, 16, 16), torch.ones(1, 16, 16)
        )


def test_packs_that_diverged_are_not_merged(personalizer):
    packs = [pack_of(personalizer), pack_of(personalizer, key=NAN)]
    with pytest.raises(NotFiniteError, match="the merged .* hold NaN"):
        merge(personalizer, packs)
    merge(personalizer, [packs[0], packs[0]])


def test_an_initial_word_of_nothing_is_refused(personalizer, picture):
    """Its mean would be NaN."""
    from sdk.errors import InputError

    config = FitConfig(steps=1, prior="none", target_share=1.0, initializers=(" ",))
    with pytest.raises(InputError, match="' ' is no word of the base model"):
        personalizer.fit(picture, ["cat"], config=config)


def test_what_is_drawn_is_what_diffusers_decodes(personalizer):
    """The same pixels, though they are looked at before they become whole numbers; a safety checker still works."""
    kept = {}

    def keep(pipe, step, timestep, values):
        kept["latents"] = values["latents"]

    (image,) = personalizer.generate("a cat", callback_on_step_end=keep, **STEPS).images
    pipe = personalizer.pipe
    with torch.no_grad():
        pixels = pipe.vae.decode(kept["latents"] / pipe.vae.config.scaling_factor).sample
    assert np.array_equal(np.asarray(image), np.asarray(pipe.image_processor.postprocess(pixels)[0]))
    checked = []

    def flagging(image, device, dtype):
        checked.append(image.shape)
        return torch.zeros_like(image), [True]

    from diffusers import StableDiffusionPipeline

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StableDiffusionPipeline, "run_safety_checker", lambda self, *rest: flagging(*rest))
        (black,) = personalizer.generate("a cat", **STEPS).images
    assert checked == [(1, 3, 32, 32)]
    assert np.asarray(black).max() == 0
