"""The one call of a base model's UNet outside of sampling: fitting, masks and token initialisation go through it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from ..families import TextStates
from ..families.layers import cross_attention_layers
from ..unet.attention import AttentionProcessor, MapRecorder, attention_processors, plain_processors
from ..unet.compiled import many_kinds
from ..unet.frozen import hold_ready
from ..unet.inpainting import told
from ..unet.matrices import LowRank, Matrix
from ..unet.weights import replaced_weights
from ..views import lock_of, private_view
from .base_model import BaseModel
from .precision import computing_dtype
from .schedules import guidance_condition


class Denoiser:
    """Noises latents, lets the UNet denoise them, and records attention maps on the way.

    Args:
        base: the base model; left as it is.
        unet: a view of its UNet (:mod:`sdk.views`); default one of its own.
        weights: of the UNet by parameter name, used instead of its own while :meth:`installed`; K and V of low rank are
            ``...to_k.down`` and ``...to_k.up`` (:class:`sdk.unet.matrices.LowRank`).
        dtype: of the computation; ``None`` or float32: the UNet's own, which is lower for a UNet that was loaded in
            float16 or bfloat16.
        all_layers: record the maps of every cross-attention, not only of the family's.
        detach_start_token: whether the first text position passes no gradient to K and V (Custom Diffusion).
        backend: attention backend of the recorded layers, see :func:`sdk.kernels.attention_with_maps`.
        attention: of all others, see :func:`sdk.unet.attention.attend`.

    Attributes:
        recorder: holds the maps of the last call.
        unet: the view.
        shared: whether it is the base model's own, whose calls are redirected.
        layers: its cross-attentions by name.
    """

    def __init__(
        self,
        base: BaseModel,
        *,
        unet: Any = None,
        weights: Mapping[str, nn.Parameter] = MappingProxyType({}),
        dtype: torch.dtype | None = None,
        all_layers: bool = False,
        detach_start_token: bool = False,
        backend: str | None = None,
        attention: str = "sdpa",
    ):
        self.unet = private_view(base.pipe.unet) if unet is None else unet
        self.family, self.sizes = base.family, base.sizes()
        self.scheduler, self.device = base.training_scheduler(), base.device
        self._behind = base.condition((base.resolution, base.resolution))
        self.shared = self.unet is base.pipe.unet  # redirected calls: there is no view of it
        self._guidance = guidance_condition(self.unet, base.sampling.guidance_scale, base.device)
        self.dtype = computing_dtype(self.unet.dtype, dtype)
        self.weights = weights
        self.recorder = MapRecorder()
        self.layers = cross_attention_layers(self.unet)
        recorded: Sequence[str] = list(self.layers) if all_layers else self.family.map_layers(self.unet)
        with lock_of(self.unet):
            plain = plain_processors(self.unet, attention)
        self._processors = plain | {
            name: AttentionProcessor(
                self.recorder if name in recorded else None,
                key_value=self.key_value(name),
                detach_start_token=detach_start_token,
                backend=backend,
                attention=attention,
            )
            for name in self.layers
        }

    def key_value(self, layer: str) -> tuple[Matrix, Matrix] | None:
        """Return its own K and V of a cross-attention, if it has any."""
        key, value = (self._matrix(f"{layer}.to_{which}") for which in "kv")
        return None if key is None or value is None else (key, value)

    def _matrix(self, name: str) -> Matrix | None:
        if f"{name}.up" in self.weights:
            return LowRank(self.weights[f"{name}.down"], self.weights[f"{name}.up"])
        return self.weights.get(f"{name}.weight")

    def beyond_key_value(self) -> dict[str, nn.Parameter]:
        """Return its own weights that are no K or V of a cross-attention, by parameter name."""
        parts = ("weight", "down", "up")
        handled = {f"{layer}.to_{which}.{part}" for layer in self.layers for which in "kv" for part in parts}
        return {name: weight for name, weight in self.weights.items() if name not in handled}

    def hold_ready(self, *, sort: bool = True) -> int:
        """Convert the frozen weights once instead of in every pass, where that is worth it; return the bytes it takes.

        See :func:`sdk.unet.frozen.hold_ready`. A UNet whose calls are redirected stays as it is: it is the user's own.

        Args:
            sort: see there.
        """
        lower = self.dtype != torch.float32
        if self.shared or not lower or (self.device.type != "cpu" and self.unet.dtype == self.dtype):
            return 0
        return hold_ready(self.unet, self.dtype, list(self.weights), sort=sort)

    @contextmanager
    def installed(self, others: Mapping[str, AttentionProcessor] = MappingProxyType({})) -> Iterator[None]:
        """Use the weights and processors in the UNet; around forward *and* backward, which may recompute activations.

        Args:
            others: processors of further layers.
        """
        with ExitStack() as stack:
            if self.shared:  # by its user compiled, perhaps
                stack.enter_context(many_kinds())
            stack.enter_context(attention_processors(self.unet, self._processors))
            stack.enter_context(attention_processors(self.unet, others))
            stack.enter_context(replaced_weights(self.unet, self.beyond_key_value()))
            stack.enter_context(told(self.unet, self._behind))
            yield

    def autocast(self) -> torch.autocast:
        """The precision of the computation."""
        low = self.dtype != torch.float32
        known = low or torch.amp.is_autocast_available(self.device.type)
        return torch.autocast(self.device.type if known else "cpu", self.dtype if low else torch.bfloat16, enabled=low)

    def level(self, of_thousand: int) -> int:
        """Return a noise level of 1000 as this model counts them."""
        return of_thousand * int(self.scheduler.config.num_train_timesteps) // 1000

    @property
    def mask_layers(self) -> list[str]:
        """Names of the self-attentions that masks flow along."""
        return self.family.mask_layers(self.unet)

    def __call__(
        self,
        latents: Tensor,
        noise: Tensor,
        timesteps: Tensor,
        text: TextStates,
        tracked: Tensor | None = None,
        sizes: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Noise latents and denoise them; inside :meth:`installed`.

        Args:
            latents: clean, float32 ``[B, C, h, w]``.
            noise: likewise.
            timesteps: int64 ``[B]`` or ``[1]``.
            text: states of the captions, ``B`` rows.
            tracked: positions in the text whose maps are recorded, int64 ``[B, K]``, -1 for none.
            sizes: see :meth:`sdk.families.Family.unet_arguments`, ``[B, 6]``; default: whole pictures of the model's
                size.

        Returns:
            The UNet's prediction, and what it should have been: the noise, the velocity or the clean latents, whichever
            the model predicts, ``[B, C, h, w]`` each.
        """
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        self.recorder.start(None if tracked is None else tracked.to(self.device))
        weights = self.unet.dtype
        text = text.to(weights)
        sizes = self.sizes.expand(len(latents), -1) if sizes is None else sizes
        further = self.family.unet_arguments(text, sizes.to(self.device))
        if self._guidance is not None:
            further["timestep_cond"] = self._guidance.to(weights).expand(len(latents), -1)
        with self.autocast():
            prediction = self.unet(noisy.to(weights), timesteps, text.states, **further).sample
        return prediction, self.target(latents, noise, timesteps)

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return what the UNet should predict, by the model's prediction type."""
        predicted = self.scheduler.config.prediction_type
        if predicted == "v_prediction":
            return self.scheduler.get_velocity(latents, noise, timesteps)
        return latents if predicted == "sample" else noise
