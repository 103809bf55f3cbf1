"""What a family of base models decides for itself; everything else in the package knows no family by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from torch import Tensor, nn

from ..errors import BaseModelError, InputError
from . import layers
from .states import TextStates


@dataclass(frozen=True)
class TextPart:
    """A text encoder of a base model, and the tokenizer that writes what it reads.

    Attributes:
        name: of the encoder in a pipeline: ``"text_encoder"``.
        tokenizer: of its prompts.
        encoder: the module.
    """

    name: str
    tokenizer: Any
    encoder: Any

    @property
    def tokenizer_name(self) -> str:
        """Of the tokenizer in a pipeline: ``"tokenizer"``."""
        return self.name.replace("text_encoder", "tokenizer")


class Family(ABC):
    """A kind of base model: which parts it has, how it reads prompts, which of its layers do what."""

    name: ClassVar[str]
    """Short, as in files and tables: ``"sd1"``."""
    title: ClassVar[str]
    """For people: ``"Stable Diffusion 1.x"``."""
    architecture: ClassVar[str]
    """In ModelSpec's words: ``"stable-diffusion-v1"``."""
    pipelines: ClassVar[tuple[str, ...]]
    """Diffusers' classes of pipelines whose folders are of this family."""
    absent: ClassVar[tuple[str, ...]] = ()
    """Parts of diffusers' pipeline that are left out."""
    loading: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    """What diffusers is told beside the place when it loads a folder."""
    token_keys: ClassVar[tuple[str, ...]] = ()
    """In a token's file, the rows of each encoder go by these names; none: the row goes by the token itself."""
    encoders: ClassVar[tuple[tuple[str, str], ...]] = (("tokenizer", "text_encoder"),)
    """Of a pipeline, the names of each tokenizer and its encoder."""
    kv_rank: ClassVar[int | None] = None
    """The rank in which K and V are learned where a user sets none; ``None``: full."""
    whole_unet: ClassVar[bool] = True
    """Whether methods that train every weight of the UNet make sense."""
    loss_side: ClassVar[int | None] = None
    """Side to which larger maps are pooled before the calibration loss; ``None``: as they are."""
    default_side: ClassVar[int] = 64
    """Side of the latents where the UNet's configuration states none."""
    single_precision_vae: ClassVar[bool] = False
    """Whether the autoencoder computes in float32 where its configuration says ``force_upcast``."""

    @abstractmethod
    def has(self, pipe: Any) -> bool:
        """Return whether a loaded pipeline is one of this family."""

    def check(self, pipe: Any, name: str) -> None:
        """Raise :class:`BaseModelError` if a pipeline's UNet is none that this package knows.

        Args:
            pipe: the pipeline.
            name: of the model, for the message.
        """
        config, latents = pipe.unet.config, pipe.vae.config.latent_channels
        wrong = None
        if config.in_channels not in (latents, 2 * latents + 1):
            wrong = f"takes {config.in_channels} channels for latents of {latents}"
        elif config.get("class_embed_type") or config.get("encoder_hid_dim_type") or config.get("num_class_embeds"):
            wrong = "takes other conditions than words"
        elif not self.conditions_are_known(config):
            wrong = f"takes other conditions than {self.title} has"
        if wrong is not None:
            raise BaseModelError(f"the base model {name!r} has a UNet that {wrong}; it is none of those supported")

    def conditions_are_known(self, config: Any) -> bool:
        """Return whether what a UNet takes beside words is what this family gives it."""
        return not config.get("addition_embed_type")

    @abstractmethod
    def pipeline(self, components: dict[str, Any]) -> Any:
        """Return diffusers' pipeline of these components."""

    @abstractmethod
    def pipeline_class(self) -> Any:
        """Return diffusers' class of pipelines from text to pictures."""

    def latent_side(self, config: Any) -> int:
        """Return the side of the latents that a UNet's configuration states: a number, height and width, or nothing."""
        stated = config["sample_size"]
        if isinstance(stated, (list, tuple)):
            return int(max(stated))
        return self.default_side if stated is None else int(stated)

    def text_parts(self, pipe: Any) -> list[TextPart]:
        """Return the text encoders of a pipeline, in the order in which their states are joined."""
        return [TextPart(name, getattr(pipe, tokenizer), getattr(pipe, name)) for tokenizer, name in self.encoders]

    @abstractmethod
    def read(self, encoder: Any, ids: Tensor, *, index: int, end: int, clip_skip: int) -> tuple[Tensor, Tensor | None]:
        """Read prompts by one encoder.

        Args:
            encoder: the module.
            ids: int64 ``[B, T]``.
            index: of the encoder among :attr:`encoders`.
            end: id of its end token.
            clip_skip: how many of its last layers are left out (beyond what the family leaves out).

        Returns:
            States ``[B, T, C]``, and what it says of the whole prompt, ``[B, P]``, if the UNet takes that.
        """

    def without_prompt(self, pipe: Any, text: TextStates) -> TextStates:
        """Return what stands for no negative prompt, given the states of an empty one."""
        return text

    def unet_arguments(self, text: TextStates, sizes: Tensor) -> dict[str, Any]:
        """Return what the UNet takes beside latents, timesteps and text states.

        Args:
            text: of the rows.
            sizes: of each row, ``[B, 6]``: height and width of the picture it comes from, top and left of the crop,
                height and width of what is drawn (SDXL, section 2.2); pixels.
        """
        return {}

    def drawing_arguments(self, prompts: TextStates, negative: TextStates | None) -> dict[str, Any]:
        """Return the text states as diffusers' pipeline takes them; no ``negative``: without guidance."""
        return {
            "prompt_embeds": prompts.states,
            "negative_prompt_embeds": None if negative is None else negative.states,
        }

    def safe(self, pipe: Any, images: Tensor, device: Any, dtype: Any) -> tuple[Any, list[bool] | None]:
        """Let a pipeline's safety checker look at decoded pictures; return them, and which it covered if it looked."""
        return images, None

    def map_layers(self, unet: nn.Module) -> list[str]:
        """Return the names of the cross-attentions whose maps the losses use."""
        return layers.map_layers(unet)

    def mask_layers(self, unet: nn.Module) -> list[str]:
        """Return the names of the self-attentions that masks flow along (AttenCraft)."""
        return layers.mask_layers(unet)

    def clip_layers(self, encoder: Any) -> int:
        """How many layers an encoder has that states may be taken behind."""
        return int(encoder.config.num_hidden_layers)

    def check_clip_skip(self, parts: Sequence[TextPart], clip_skip: int) -> None:
        """Raise :class:`InputError` if an encoder has too few layers to leave so many out."""
        most = min(self.clip_layers(part.encoder) for part in parts) - 1
        if not 0 <= clip_skip <= most:
            raise InputError(f"clip_skip leaves out layers of the text encoder: 0 to {most} here, got {clip_skip}")
