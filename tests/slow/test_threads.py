"""Two hundred pictures in eight threads, beside fits of every method, exports and LoRAs, on the bundled model."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from PIL import Image

from sdk import Personalizer
from sdk.combine import route
from sdk.methods import METHODS

pytestmark = pytest.mark.slow
STEPS = {"num_inference_steps": 6}


@pytest.fixture(scope="module")
def bundled():
    return Personalizer.from_pretrained("bundled", device="cpu")


def short(personalizer, method, **changes):
    config = personalizer.default_config(method=method, preset="reference")
    return config.with_changes(steps=4, prior="none", target_share=1.0, target_pool=2, **changes)


def base_of(personalizer):
    """Every tensor, processor and flag of the base model, and what its own pipeline draws."""
    pipe = personalizer.pipe
    parts = (pipe.unet, pipe.vae, pipe.text_encoder)
    tensors = [tensor.clone() for part in parts for tensor in part.state_dict().values()]
    flags = [(type(m), m.training, getattr(m, "processor", None)) for part in parts for m in part.modules()]
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    drawn = pipe("a cat", num_inference_steps=3, generator=generator, output_type="latent").images
    return tensors, flags, len(pipe.tokenizer), drawn


def test_two_hundred_pictures_in_eight_threads(bundled, picture, tmp_path):
    before = base_of(bundled)
    first, second = (
        bundled.fit(picture, ["cat", "dog"], config=short(bundled, "disendiff"), seed=seed) for seed in (0, 1)
    )
    whole = bundled.fit(picture, ["cat", "dog"], config=short(bundled, "dreambooth"), method="dreambooth")
    routed = route([first, second])
    mask = Image.new("L", picture.size)
    mask.paste(255, (0, 0, 32, 64))

    def pictures(call, *arguments, **options):
        return lambda seed: [i.tobytes() for i in call(*arguments, seed=seed, **STEPS, **options).images]

    def fit(method):
        config = short(bundled, method, gradient_checkpointing=method == "disendiff")
        return lambda seed: bundled.fit(picture, ["cat", "dog"], config=config, method=method, seed=seed).content_hash()

    def export(seed):
        folder = tmp_path / f"{random.random()}"
        bundled.export_onnx(folder, concepts=first)
        return [(folder / part / "model.onnx").read_bytes() for part in ("unet", "text_encoder", "vae_decoder")]

    many = {
        "none": pictures(bundled.generate, "a cat", concepts=[None]),
        "first": pictures(bundled.generate, "a <new1> cat", concepts=first, negative_prompt="night"),
        "second": pictures(bundled.generate, "a <new2> dog", concepts=second, num_images=2),
        "whole": pictures(bundled.generate, "a <new1> cat", concepts=whole),
        "routed": pictures(bundled.generate, routed.prompt, concepts=routed),
        "img2img": pictures(bundled.img2img, picture, "a <new1> cat", concepts=second),
        "inpaint": pictures(bundled.inpaint, picture, mask, "a <new1> cat", concepts=first),
    }
    once = {f"fit {method}": fit(method) for method in METHODS} | {"export": export}
    once["masks"] = lambda seed: [mask.tobytes() for mask in bundled.find_masks(picture, ["cat", "dog"])]
    jobs = many | once
    asked = [(name, seed) for name in many for seed in range(5)] + [(name, 0) for name in once]
    alone = {(name, seed): jobs[name](seed) for name, seed in asked}
    order = [job for job in asked if job[0] in many] * 5 + [job for job in asked if job[0] in once]
    random.Random(1).shuffle(order)
    assert sum(len(alone[job]) for job in order if job[0] in many) >= 200
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda job: jobs[job[0]](job[1]), order))
    wrong = [job for job, result in zip(order, together, strict=True) if result != alone[job]]
    assert not wrong
    after = base_of(bundled)
    assert all(torch.equal(a, b) for a, b in zip(before[0], after[0], strict=True))
    assert before[1:3] == after[1:3]
    assert torch.equal(before[3], after[3])
