"""Drawing with ONNX Runtime, beside the torch path and a plain diffusers pipeline, float32 on the CPU: ``make bench``.

The bundled model draws four pictures in twenty steps; of a UNet of SD 1.5's size, with random weights, one step for two
rows is timed, which takes six minutes and 16 GB of memory.
"""

from __future__ import annotations

import numpy as np
import psutil
import pytest
import torch

pytest.importorskip("onnxscript", reason="onnxscript is not installed")

FREE = psutil.virtual_memory().available / 1e9  # GB
PROMPT, PLAIN = "a <new1> cat on the beach", "a cat on the beach"
ASKED = {"num_images": 4, "seed": 0, "num_inference_steps": 20}


@pytest.fixture(scope="module")
def painters(tmp_path_factory):
    """Functions that draw the same pictures, by name."""
    from diffusers import StableDiffusionPipeline

    from sdk import Personalizer
    from sdk.deploy import OnnxPersonalizer
    from sdk.miniworld import demo_picture
    from sdk.model import BUNDLED_FOLDER

    folder = tmp_path_factory.mktemp("exports")
    personalizer = Personalizer.from_pretrained("bundled", device="cpu")
    pack = personalizer.fit(demo_picture(), ["cat", "dog"], config=personalizer.default_config(steps=20))
    personalizer.export_onnx(folder / "merged", concepts=pack)
    personalizer.export_onnx(folder / "base", shared=True)
    adapter = pack.export_adapter(folder / "pets.onnx_adapter")
    merged, shared = (
        OnnxPersonalizer.from_pretrained(folder / name, engine="onnxruntime") for name in ("merged", "base")
    )
    shared.add_pack("pets", adapter)
    plain = StableDiffusionPipeline.from_pretrained(BUNDLED_FOLDER, safety_checker=None)
    plain.set_progress_bar_config(disable=True)
    return {
        "torch path": lambda: personalizer.generate(PROMPT, concepts=pack, **ASKED),
        "plain diffusers": lambda: plain([PLAIN] * 4, num_inference_steps=20, guidance_scale=4.0),
        "ORT merged": lambda: merged.generate(PROMPT, **ASKED),
        "ORT shared": lambda: shared.generate(PROMPT, packs="pets", **ASKED),
    }


@pytest.mark.parametrize("name", ["torch path", "plain diffusers", "ORT merged", "ORT shared"])
def test_four_pictures(benchmark, painters, name):
    benchmark.group = "bundled, 4 pictures, 20 steps"
    benchmark.pedantic(painters[name], warmup_rounds=1, rounds=7)


@pytest.fixture(scope="module")
def sd15_steps(tmp_path_factory):
    """One step of a UNet of SD 1.5's size for two rows, by name."""
    import onnxruntime
    from diffusers import UNet2DConditionModel

    from sdk.exports import UNetGraph, free, plain_attention, write_graph
    from sdk.unet import attention_processors, plain_processors

    torch.manual_seed(0)
    unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8).eval()
    sample, states, t = torch.randn(2, 4, 64, 64), torch.randn(2, 77, 768), torch.tensor(500)
    folder = tmp_path_factory.mktemp("sd15")
    with torch.no_grad(), attention_processors(unet, plain_attention(unet)):
        names = ["sample", "timestep", "encoder_hidden_states"]
        shapes = (free(0, 2, 3), None, free(0, 1))
        path = write_graph(UNetGraph(unet), (sample, t, states), names, ["out_sample"], shapes, folder)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    fed = {"sample": sample.numpy(), "timestep": np.asarray(500), "encoder_hidden_states": states.numpy()}

    @torch.no_grad()
    def ours():
        with attention_processors(unet, plain_processors(unet)):
            return unet(sample, t, states).sample

    @torch.no_grad()
    def plain():
        return unet(sample, t, states).sample

    got = session.run(None, fed)[0]
    assert np.abs(got - plain().numpy()).max() <= 1e-3 * np.abs(got).max()
    return {"torch path": ours, "plain diffusers": plain, "ORT": lambda: session.run(None, fed)}


@pytest.mark.skipif(FREE < 16, reason=f"a UNet of SD 1.5's size needs 16 GB of free memory, here are {FREE:.0f}")
@pytest.mark.parametrize("name", ["torch path", "plain diffusers", "ORT"])
def test_sd15_step(benchmark, sd15_steps, name):
    benchmark.group = "UNet of SD 1.5's size, one step of 2 rows"
    benchmark.pedantic(sd15_steps[name], warmup_rounds=1, rounds=5)
