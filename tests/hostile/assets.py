"""The valid inputs that cases change: a tiny model, a pack, an adapter, an exported folder, an interrupted fit."""

from __future__ import annotations

import functools
import os
import threading
from pathlib import Path
from typing import Any

NOUNS = ["cat", "dog"]
PROMPT = "a <new1> cat and a <new2> dog"


class Assets:
    """Paths and loaded objects, made or read on first use.

    Args:
        folder: of everything; :meth:`build` fills it once, several processes read it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = folder / "model"
        self.pack = folder / "pack"
        self.adapter = folder / "pack.onnx_adapter"
        self.exported = folder / "exported"
        self.partial = folder / "fit" / "pack.partial"
        self.cache = folder / "cache"
        self.photo = folder / "photo.png"

    def build(self) -> None:
        """Make everything; a real export too if ``HOSTILE_EXPORT`` says so."""
        from sdk.runtime import Cancelled

        self.folder.mkdir(parents=True)
        _tiny_model(self.model)
        self.picture.save(self.photo)
        made = _pack(self.engine, self.picture)
        made.save_pretrained(self.pack)
        made.export_adapter(self.adapter)
        if os.environ.get("HOSTILE_EXPORT") == "real":
            self.engine.export_onnx(self.exported, shared=True)
        else:
            from .onnx_stand_in import write_folder

            write_folder(self.engine, self.exported)
        os.environ["PERSONALIZER_CACHE"] = str(self.cache)
        stop = threading.Event()
        try:
            self.fit(self.folder / "fit" / "pack", callback=lambda report: stop.set(), cancel=stop)
        except Cancelled:
            (self.folder / "done").touch()

    def fit(self, output: Path | None, **arguments: Any) -> Any:
        """The fit whose checkpoint and priors lie here."""
        return self.engine.fit(self.picture, NOUNS, config=self.config, seed=3, output_dir=output, **arguments)

    def warm_up(self, scratch: Path) -> None:
        """Import and run what is imported and looked up on first use, before anybody watches."""
        import platform

        from sdk.commands.main import main

        platform.uname()
        os.environ["PERSONALIZER_CACHE"] = str(self.cache)
        self.engine.generate(PROMPT, concepts=self.loaded, seed=1, num_inference_steps=1)
        self.runtime.generate(PROMPT, packs="mine", seed=1, num_inference_steps=1)
        for command in (["doctor"], ["verify", str(self.pack), "--model", str(self.model), "--device", "cpu"]):
            main(command)
        self.fit(None)
        from sdk.data.priors import list_images  # noqa: F401
        from sdk.exports import import_pack, load_format  # noqa: F401

        for name in ("lora", "diffusers", "webui"):
            load_format(name).export(self.loaded, self.engine, scratch / "warm" / name)

    @functools.cached_property
    def config(self) -> Any:
        """Settings of a fit of a tenth of a second."""
        from sdk import FitConfig

        return FitConfig(
            steps=3, batch_size=1, target_pool=1, prior_count=4, prior_steps=1, learning_rate=1e-3, checkpoint_every=1
        )

    @functools.cached_property
    def engine(self) -> Any:
        """The base model."""
        import torch

        from sdk import Personalizer
        from sdk.runtime import quiet

        torch.set_num_threads(1)
        quiet()
        return Personalizer.from_pretrained(self.model, device="cpu")

    @functools.cached_property
    def runtime(self) -> Any:
        """The exported folder, opened, with the pack ``mine``."""
        from sdk.deploy import OnnxPersonalizer

        opened = OnnxPersonalizer.from_pretrained(self.exported)
        opened.add_pack("mine", self.adapter)
        return opened

    @functools.cached_property
    def loaded(self) -> Any:
        """The pack."""
        from sdk import ConceptPack

        return ConceptPack.from_pretrained(self.pack)

    @functools.cached_property
    def files(self) -> dict[str, bytes]:
        """The pack's files."""
        return {file.name: file.read_bytes() for file in sorted(self.pack.iterdir())}

    @functools.cached_property
    def picture(self) -> Any:
        """The drawn world's demo picture: a cat and a dog, 64x64."""
        from sdk.miniworld.references import demo_picture

        return demo_picture()


def _tiny_model(folder: Path) -> None:
    """A model as that of ``tests/conftest.py``, which is a fixture of pytest's and not at hand here."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    from sdk.miniworld.tokenizer import build_tokenizer
    from sdk.miniworld.training.models import build_scheduler, build_text_encoder

    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    unet = UNet2DConditionModel(
        sample_size=16,
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
    parts = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    parts |= {"text_encoder": build_text_encoder(tokenizer, width=32, layers=1), "tokenizer": tokenizer}
    parts |= {"scheduler": DDIMScheduler.from_config(build_scheduler().config, prediction_type="epsilon")}
    StableDiffusionPipeline(unet=unet, vae=vae, **parts).save_pretrained(folder)


def _pack(engine: Any, picture: Any) -> Any:
    """A pack a little beside its base model."""
    import torch

    from sdk import Concept, ConceptPack
    from sdk.images.image_io import square

    generator = torch.Generator().manual_seed(0)
    key_value = {}
    for layer in engine.base.fingerprint:
        module = engine.pipe.unet.get_submodule(layer)
        pair = [w.weight.detach() for w in (module.to_k, module.to_v)]
        key_value[layer] = tuple(w + 0.1 * w.std() * torch.randn(w.shape, generator=generator) for w in pair)
    table = engine.pipe.text_encoder.get_input_embeddings().weight
    rows = table.std() * torch.randn(2, table.shape[1], generator=generator)
    concepts = [Concept(noun, f"<new{i}>") for i, noun in enumerate(NOUNS, start=1)]
    reference = square(picture, engine.resolution)
    return ConceptPack(
        concepts,
        engine.base,
        key_value,
        rows.detach(),
        settings={"steps": 3},
        provenance={"seed": 0},
        reference=reference,
    )
