"""Stable Diffusion 1.x and 2.x: one text encoder, whose last states the UNet reads."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, ClassVar

from diffusers import StableDiffusionPipeline
from torch import Tensor

from .family import Family
from .remembering import inner, states_before

_WIDTH = 1024  # of the text states of 2.x


class StableDiffusion1(Family):
    """CLIP ViT-L/14, 64 x 64 latents."""

    name = "sd1"
    title = "Stable Diffusion 1.x"
    architecture = "stable-diffusion-v1"
    pipelines: ClassVar[tuple[str, ...]] = (
        "StableDiffusionPipeline",
        "StableDiffusionImg2ImgPipeline",
        "StableDiffusionInpaintPipeline",
        "LatentConsistencyModelPipeline",
    )

    absent = ("safety_checker", "feature_extractor")
    loading = MappingProxyType({"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False})

    def has(self, pipe: Any) -> bool:
        return True

    def pipeline(self, components: dict[str, Any]) -> StableDiffusionPipeline:
        return StableDiffusionPipeline(**components, requires_safety_checker=False)

    def pipeline_class(self) -> type[StableDiffusionPipeline]:
        return StableDiffusionPipeline

    def read(self, encoder: Any, ids: Tensor, *, index: int, end: int, clip_skip: int) -> tuple[Tensor, None]:
        if not clip_skip:
            return encoder(ids)[0], None
        with states_before(encoder, clip_skip) as kept:
            encoder(ids)
        return inner(encoder).final_layer_norm(kept[0]), None

    def safe(self, pipe: Any, images: Tensor, device: Any, dtype: Any) -> tuple[Any, list[bool] | None]:
        return pipe.run_safety_checker(images, device, dtype)


class StableDiffusion2(StableDiffusion1):
    """OpenCLIP ViT-H/14, whose folder leaves out its last layer; noise or velocity is predicted."""

    name = "sd2"
    title = "Stable Diffusion 2.x"
    architecture = "stable-diffusion-v2"
    pipelines = ()  # those of 1.x: what a loaded one is, its UNet tells

    def has(self, pipe: Any) -> bool:
        return pipe.unet.config.cross_attention_dim == _WIDTH
