"""Tiny but real components for every test: a UNet, a text encoder and an autoencoder with random weights."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before sdk.kernels is imported


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    """Keep generated priors of tests out of the user's cache."""
    monkeypatch.setenv("PERSONALIZER_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """Return the folder of a tiny random model in diffusers' layout, with the drawn world's tokenizer."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    from sdk.miniworld.tokenizer import build_tokenizer
    from sdk.miniworld.training.models import build_scheduler, build_text_encoder

    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    text_encoder = build_text_encoder(tokenizer, width=32, layers=1)
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(16, 32),
        layers_per_block=1,
        attention_head_dim=2,
        cross_attention_dim=32,
        norm_num_groups=8,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        latent_channels=4,
        sample_size=32,
    )
    scheduler = DDIMScheduler.from_config(build_scheduler().config, prediction_type="epsilon")
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    folder = tmp_path_factory.mktemp("model") / "tiny"
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture
def personalizer(tiny_model):
    from sdk import Personalizer

    return Personalizer.from_pretrained(tiny_model, device="cpu")


@pytest.fixture(scope="session")
def picture():
    """Return the demo picture of the drawn world: a cat and a dog, 64x64."""
    from sdk.miniworld.references import demo_picture

    return demo_picture()


@pytest.fixture
def quick():
    """Return settings for a fit of a second."""
    from sdk import FitConfig

    return FitConfig(
        steps=4, batch_size=4, target_pool=4, prior_count=2, prior_steps=2, learning_rate=1e-3, checkpoint_every=1
    )


@pytest.fixture(scope="session")
def shared_export(tiny_model, tmp_path_factory, worker_id):
    """Return the folder of a shared export of the tiny model, made once for all processes; left as it is.

    A program that never asked for quiet makes it; what it said is in ``said.txt`` beside it.
    """
    from filelock import FileLock

    own = tmp_path_factory.getbasetemp()
    root = own if worker_id == "master" else own.parent
    folder = root / "shared-export"
    with FileLock(root / "shared-export.lock"):
        if not folder.exists():
            program = f"""
from sdk import Personalizer
p = Personalizer.from_pretrained({str(tiny_model)!r}, device="cpu")
p.generate("a cat", num_inference_steps=2)
p.export_onnx({str(folder)!r}, shared=True)
import diffusers.utils.logging, transformers.utils.logging
assert diffusers.utils.logging.is_progress_bar_enabled() and transformers.utils.logging.is_progress_bar_enabled()
"""
            done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            (root / "said.txt").write_text(done.stdout + done.stderr)
    return folder
