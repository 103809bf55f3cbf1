"""What all methods share: trained weights over a frozen base model, text states, and the forward pass.

A method is a subclass that says which weights train, which concepts a row of the reference shows and what is added to
the denoising loss.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..concepts import Concept
from ..data.batch import Batch, View
from ..errors import InputError
from ..families import TextStates
from ..families.layers import cross_attention_layers
from ..families.states import joined
from ..masks.attention_maps import AttentionProbe
from ..masks.concept_masks import ConceptMasks
from ..model.base_model import BaseModel
from ..model.denoise import Denoiser
from ..model.precision import forward_dtype
from ..plain import merged
from ..settings import FitSettings, MethodOptions
from ..unet.matrices import Matrix, fresh, unchanged
from ..views import lock_of, private_view
from .token_init import initial_embeddings

# The picture as it is, a plain squared error: what the methods beside Custom Diffusion's family share.
PLAIN_PICTURES: Mapping[str, Any] = MappingProxyType(
    {"flip": 0.0, "scale_augmentation": False, "target_pool": 1, "loss_scale": 1.0, "swap_order": 0.0}
)


_LOW_RANK_RATE = 10  # times the learning rate: the customary 1e-4 of LoRA beside 1e-5 of whole weights


@dataclass(frozen=True)
class Variant:
    """A preset with changes, for comparisons: an ablation.

    Attributes:
        preset: of the method.
        changes: settings on top, as plain values.
    """

    preset: str
    changes: dict[str, Any] = field(default_factory=dict)


class Method(ABC):
    """The trainable tensors of one fit, and the losses.

    Args:
        base: the base model; frozen and left as it is.
        concepts: the concepts with their tokens.
        settings: with the method's own, see :meth:`sdk.FitConfig.for_method`.
        seed: of what starts at random.

    Attributes:
        kv_rank: rank in which K and V train; 0 or ``None``: whole.
        unet: a view of the base model's UNet (:mod:`sdk.views`): what is set in it concerns this fit alone.
        weights: trained weights of the UNet by parameter name, float32.
        embeddings: of the tokens, ``[S, C]``.
        denoiser: the forward pass with the trained weights.
        probe: looks at attention with them.
        masks: where the concepts are, once :meth:`use_masks` was called.
        pictures: the reference pictures' clean latents, likewise.
    """

    Options: ClassVar[type[MethodOptions]] = MethodOptions
    """The method's own settings."""
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType({})
    """By preset, differences from :class:`sdk.settings.FitSettings`; those of ``reference`` hold for all presets."""
    variants: ClassVar[Mapping[str, Variant]] = MappingProxyType({})
    """Ablations by name, for :func:`sdk.compare`."""
    unused: ClassVar[frozenset[str]] = frozenset()
    """Settings of :class:`sdk.settings.FitSettings` that mean nothing to this method, and are refused."""
    fixed_shapes: ClassVar[bool] = False
    """Whether a step asks for the same whatever its rows show, given :meth:`fixed_inputs`: it can be recorded."""
    whole_unet: ClassVar[bool] = False
    """Whether every weight of the UNet trains."""

    def __init__(self, base: BaseModel, concepts: Sequence[Concept], settings: FitSettings, seed: int = 0):
        pipe = base.pipe
        self.unet, self.settings, self.device = private_view(pipe.unet), settings, base.device
        self.options: Any = settings.method_options
        self.concepts = list(concepts)
        self.conditioner = base.conditioner([c.token for c in concepts], settings.clip_skip)
        self.layers = cross_attention_layers(self.unet)
        rank = base.family.kv_rank if settings.kv_rank is None else settings.kv_rank
        self.kv_rank = 0 if "kv_rank" in self.unused else rank
        with lock_of(self.unet):
            names = self.trained_weights()
            if any(".lora_" in name or ".base_layer." in name for name in names):
                raise InputError("this method trains what a LoRA wraps; remove the LoRAs first: unload_lora_weights()")
            own = {name: self.unet.get_parameter(name) for name in names}
        self.weights = self._trainable(own, seed)
        start = initial_embeddings(self.conditioner, self.concepts, settings.initializers)
        self.embeddings = nn.Parameter(start.to(base.device))
        self.denoiser = Denoiser(
            base,
            unet=self.unet,
            weights=self.weights,
            dtype=forward_dtype(settings.precision, base.device),
            all_layers=self.records_all_layers(),
            detach_start_token=settings.detach_start_token,
            backend=settings.backend,
            attention=settings.attention,
        )
        self.probe = AttentionProbe(self.denoiser, self.conditioner, self.concepts)
        self.positions = self.probe.positions
        self.masks = ConceptMasks([], len(self.concepts), 0)
        self.pictures: list[Tensor] = []
        self._prior_states: dict[str, TextStates] = {}

    # What a method decides.

    @classmethod
    def preset_settings(cls, preset: str) -> dict[str, Any]:
        """Return the plain settings of a preset."""
        reference = dict(cls.presets.get("reference", {}))
        extra = {} if preset in ("reference", "code") else cls.presets.get(preset, {})
        return merged(reference, dict(extra))

    def trained_weights(self) -> list[str]:
        """Names of the UNet's parameters that train: K and V of every cross-attention (Custom Diffusion)."""
        return [f"{layer}.to_{which}.weight" for layer in self.layers for which in "kv"]

    def records_all_layers(self) -> bool:
        """Whether maps come from every cross-attention, and not from the 16x16 ones alone."""
        return False

    def view(self, step: int, rng: random.Random) -> View:
        """Draw what a row of the reference shows at a step."""
        everything = tuple(range(len(self.concepts)))
        if self.settings.alone > 0 and rng.random() < self.settings.alone:
            return View((rng.randrange(len(self.concepts)),), window=True)
        return View(everything)

    def row(self, step: int, rng: random.Random) -> View:
        """Draw what a row of the reference shows at a step: what the method says, or a mixture of some concepts."""
        view = replace(self.view(step, rng), noisy=self.settings.outside_noise > 0)
        if self.settings.mix > 0 and rng.random() < self.settings.mix:
            count = rng.randint(1, min(self.settings.mix_most or len(self.concepts), len(self.concepts)))
            named = tuple(sorted(rng.sample(range(len(self.concepts)), count)))
            return replace(view, named=named, window=False, mixed=True)
        return view

    def rates(self, step: int) -> list[float]:
        """Return the learning rate of each of :meth:`parameter_groups` at a step counted from 0; 0 freezes."""
        settings = self.settings
        rates = [self.weights_rate()] * bool(self.weights)
        rates.append(settings.token_learning_rate or settings.learning_rate)
        return [rate * fade(step, settings) for rate in rates]

    def weights_rate(self) -> float:
        """Return the learning rate of the UNet's weights: in low rank the tenfold, as is usual of LoRA."""
        return self.settings.learning_rate * (_LOW_RANK_RATE if self.kv_rank else 1)

    def _trainable(self, own: Mapping[str, Tensor], seed: int) -> dict[str, nn.Parameter]:
        """The weights that train, from those of the base model: copies, or K and V as changes of low rank."""
        found: dict[str, nn.Parameter] = {}
        generator = torch.Generator().manual_seed(seed % (1 << 63))
        handled = {f"{layer}.to_{which}.weight" for layer in self.layers for which in "kv"}
        for name, weight in own.items():
            if self.kv_rank and name in handled:
                start = fresh(weight, self.kv_rank, self.device, generator)
                found |= {f"{name.removesuffix('weight')}{part}": value for part, value in start.items()}
            else:
                found[name] = _trainable(weight, self.device)
        return found

    def use_masks(self, masks: Sequence[Tensor], pictures: list[Tensor]) -> None:
        """Take the masks of the reference pictures, before the first step.

        Args:
            masks: of each picture, float ``[S, r, r]``, or ``[S + 1, r, r]`` with the background.
            pictures: their clean latents ``[C, h, w]``.
        """
        self.pictures = pictures
        self.masks = ConceptMasks(masks, len(self.concepts), pictures[0].shape[-1])

    def before_step(self, step: int) -> None:  # noqa: B027  most methods have nothing to do
        """Do what is to be done before a step's rows are drawn."""

    @abstractmethod
    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return scalars by name, of which ``"loss"`` is minimised; inside :meth:`installed`.

        A batch may be a part of a step (``batch.rows``): then each is that part's share, and the sum is the step's.
        """

    # What the training loop and the pack need.

    def parameters(self) -> dict[str, Tensor]:
        """Return the trainable tensors by name."""
        return {**self.weights, "embeddings": self.embeddings}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the optimiser groups: the UNet's weights, if any, and the token embeddings."""
        groups: list[dict[str, Any]] = [{"params": list(self.weights.values())}] if self.weights else []
        return [*groups, {"params": [self.embeddings]}]

    def installed(self) -> AbstractContextManager[None]:
        """Use the trained weights in the UNet; around forward *and* backward, which may recompute activations."""
        return self.denoiser.installed()

    def hold_ready(self, *, sort: bool = True) -> int:
        """Let frozen weights be converted once and not in every step; return the bytes of the copies.

        Args:
            sort: see :func:`sdk.unet.frozen.hold_ready`.
        """
        low = self.denoiser.dtype
        return self.denoiser.hold_ready(sort=sort) + (self.conditioner.hold_ready(low) if low != torch.float32 else 0)

    def key_value(self) -> dict[str, tuple[Matrix, Matrix]]:
        """Return the pack's K and V weights by layer: the trained ones.

        With ``forget_layout`` V of the middle block is the base model's: the trained one memorises the layout of the
        reference, and a prompt for one concept would draw two objects.
        """
        learned: dict[str, tuple[Matrix, Matrix]] = {
            name: pair for name in self.layers if (pair := self.denoiser.key_value(name)) is not None
        }
        if self.settings.forget_layout:
            for name in learned:
                if name.startswith("mid_block."):
                    with lock_of(self.unet):
                        learned[name] = (learned[name][0], unchanged(learned[name][1], self.layers[name].to_v.weight))
        return learned

    def other_weights(self) -> dict[str, Tensor]:
        """Return what else of the UNet was trained, by parameter name."""
        return dict(self.denoiser.beyond_key_value())

    def start_from(self, words: Sequence[str]) -> None:
        """Let the tokens start from the mean embeddings of these words, one entry a concept."""
        with torch.no_grad():
            self.embeddings.copy_(torch.stack([self.conditioner.embedding_of(w) for w in words]))

    def fixed_inputs(self, batch: Batch) -> dict[str, Tensor]:
        """Return what the losses need of a batch's captions and names, as tensors with a row each, on the CPU.

        With them in ``batch.inputs``, losses look at no caption and no name; a method with :attr:`fixed_shapes` adds
        its own.
        """
        return {f"ids {index}": ids for index, ids in enumerate(self.conditioner.all_ids(batch.captions))}

    # What losses are made of.

    def predict(self, batch: Batch, tracked: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Noise the batch and let the UNet denoise it.

        Args:
            batch: the rows.
            tracked: positions in the text whose maps are recorded, int64 ``[B, K]``, -1 for none.

        Returns:
            The UNet's prediction and what it should have been, ``[B, C, h, w]``.
        """
        text = self._encode(batch)
        return self.denoiser(batch.latents, batch.noise, batch.timesteps, text, tracked, batch.sizes)

    def _encode(self, batch: Batch) -> TextStates:
        """Text states of a batch; captions of priors hold nothing that trains, so each is encoded once."""
        if batch.inputs:  # all rows together, as each step does the same then
            ids = [value for name, value in batch.inputs.items() if name.startswith("ids ")]
            with self.denoiser.autocast():
                return self.conditioner.encode_ids(ids, self.embeddings).to(torch.float32)
        states: list[TextStates | None] = [None] * len(batch.named)
        for row, named in enumerate(batch.named):
            if not named:
                caption = batch.captions[row]
                if caption not in self._prior_states:
                    with torch.no_grad():
                        self._prior_states[caption] = self.conditioner.encode([caption]).to(torch.float32)
                states[row] = self._prior_states[caption]
        targets = [row for row, named in enumerate(batch.named) if named]
        if targets:
            with self.denoiser.autocast():
                encoded = self.conditioner.encode([batch.captions[row] for row in targets], self.embeddings)
            for row, state in zip(targets, encoded.to(torch.float32).split(1), strict=True):
                states[row] = state
        return joined([each for each in states if each is not None])


def fade(step: int, settings: FitSettings) -> float:
    """Return the factor on the learning rates of a step, counted from 0."""
    falling = settings.decay * settings.steps
    return min(1.0, (settings.steps - step) / falling) if falling else 1.0


def _trainable(weight: Tensor, device: torch.device) -> nn.Parameter:
    return nn.Parameter(weight.detach().to(device, torch.float32, copy=True))
