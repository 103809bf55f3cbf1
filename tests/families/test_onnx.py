"""Exports of every kind of base model: the runtime draws what torch draws, by the model's own sampler."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import LCMScheduler, TCDScheduler
from PIL import Image

from sdk import Personalizer
from sdk.errors import InputError
from tests.families import tiny
from tests.families.tiny import MODELS

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")

PROMPT = "a cat and a dog"
CLASSES = {
    "sd1": "ORTStableDiffusionPipeline",
    "sdxl": "ORTStableDiffusionXLPipeline",
    "inpainting": "ORTStableDiffusionInpaintPipeline",
    "lcm": "ORTLatentConsistencyModelPipeline",
}


def least(ours, theirs):
    """PSNR of the picture that differs most."""
    assert len(ours) == len(theirs)
    errors = [np.square(np.asarray(a, float) - np.asarray(b, float)).mean() for a, b in zip(ours, theirs, strict=True)]
    return 10 * np.log10(255**2 / max(*errors, 1e-9))


def compared(base, deployed, picture):
    """Every way to draw, on both sides."""
    hole = Image.new("L", picture.size)
    hole.paste(255, (0, 0, 32, 64))
    calls = [
        ("generate", (PROMPT,), {} if base.sampling.steps < 10 else {"num_inference_steps": 5}),
        ("generate", (PROMPT,), {"num_inference_steps": 3, "negative_prompt": "a red car", "guidance_scale": 3.0}),
        ("generate", (PROMPT,), {"num_inference_steps": 2, "height": 64, "width": 96}),
        ("img2img", (picture, PROMPT), {"strength": 0.5, "num_inference_steps": 4}),
        ("inpaint", (picture, hole, PROMPT), {"num_inference_steps": 3}),
    ]
    for method, given, how in calls:
        want = getattr(base, method)(*given, num_images=2, seed=3, **how)
        got = getattr(deployed, method)(*given, num_images=2, seed=3, **how)
        assert least(got.images, want.images) > 40, (method, how)
        assert got.notes == want.notes, (method, how)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Return a model of two levels that has all there is beside latents, on both sides: inpainting, distilled."""
    from sdk.deploy import OnnxPersonalizer

    torch.manual_seed(0)
    few = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "block_out_channels": (8, 16),
    }
    scheduler = LCMScheduler(**tiny.LEVELS, steps_offset=1)
    base = Personalizer(tiny.sd1(scheduler, in_channels=9, time_cond_proj_dim=16, **few))
    folder = tmp_path_factory.mktemp("onnx") / "small"
    base.export_onnx(folder)
    return base, OnnxPersonalizer.from_pretrained(folder, engine="onnxruntime")


def test_what_is_told_beside_latents(small, picture):
    """The mask and what stays of a picture, and the guidance scale, by the sampler of latent consistency models."""
    base, deployed = small
    compared(base, deployed, picture)
    assert "was distilled with guidance" in deployed.generate(PROMPT, negative_prompt="a car", seed=1).notes[0]


@pytest.mark.slow
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_it_draws_what_torch_draws(loaded, picture, tmp_path, name, shared):
    from sdk.deploy import OnnxPersonalizer

    errors = loaded(name).export_onnx(tmp_path / "onnx", shared=shared)
    assert max(errors.values()) < 1e-4
    compared(loaded(name), OnnxPersonalizer.from_pretrained(tmp_path / "onnx", engine="onnxruntime"), picture)
    assert CLASSES.get(name, "ORTStableDiffusion") in (tmp_path / "onnx" / "model_index.json").read_text()


def test_another_sampler_may_be_asked_for(small):
    _, deployed = small
    own, ddim, dpm = (
        deployed.generate(PROMPT, seed=1, num_inference_steps=4, scheduler=name).images[0]
        for name in (None, "ddim", "dpm++")
    )
    assert len({each.tobytes() for each in (own, ddim, dpm)}) == 3


def test_what_the_runtime_cannot_sample_is_refused_before_it_is_exported(model_folder, tmp_path):
    base = Personalizer.from_pretrained(model_folder("turbo"), device="cpu")
    pipe, euler = base.pipe, base.pipe.scheduler
    pipe.scheduler = TCDScheduler.from_config(euler.config)
    with pytest.raises(InputError, match="exports hold no TCDScheduler"):
        Personalizer(pipe).export_onnx(tmp_path / "onnx")
    pipe.scheduler = type(euler).from_config(euler.config, use_karras_sigmas=True)
    with pytest.raises(InputError, match="use_karras_sigmas is False; this model's has True"):
        Personalizer(pipe).export_onnx(tmp_path / "onnx")
    consistency = tiny.lcm()
    consistency.scheduler = type(euler).from_config(euler.config, timestep_spacing="linspace")
    with pytest.raises(InputError, match="timestep_spacing is 'leading' or 'trailing'; this model's has 'linspace'"):
        Personalizer(consistency).export_onnx(tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


def test_more_steps_than_there_are_is_one_line(small):
    base, deployed = small
    with pytest.raises(InputError, match="LCMScheduler cannot take 60 steps"):
        base.generate(PROMPT, num_inference_steps=60)
    with pytest.raises(InputError, match="num_inference_steps may be at most 50"):
        deployed.generate(PROMPT, num_inference_steps=60)
