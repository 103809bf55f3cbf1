"""The one call of a base model's UNet outside of sampling: fitting, masks and token initialisation go through it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from ..views import lock_of, private_view
from .attention import AttentionProcessor, MapRecorder, attention_processors, plain_processors
from .base_model import BaseModel
from .layers import cross_attention_layers, map_layers
from .precision import computing_dtype
from .weights import replaced_weights


class Denoiser:
    """Noises latents, lets the UNet denoise them, and records attention maps on the way.

    Args:
        base: the base model; left as it is.
        unet: a view of its UNet (:mod:`sdk.views`); default one of its own.
        weights: of the UNet by parameter name, used instead of its own while :meth:`installed`.
        dtype: of the computation; ``None`` or float32: the UNet's own, which is lower for a UNet that was loaded in
            float16 or bfloat16.
        all_layers: record the maps of every cross-attention, not only of :func:`sdk.model.layers.map_layers`.
        detach_start_token: whether the first text position passes no gradient to K and V (Custom Diffusion).
        backend: attention backend of the recorded layers, see :func:`sdk.kernels.attention_with_maps`.

    Attributes:
        recorder: holds the maps of the last call.
        unet: the view.
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
    ):
        self.unet = private_view(base.pipe.unet) if unet is None else unet
        self.scheduler, self.device = base.training_scheduler(), base.device
        self.dtype = computing_dtype(self.unet.dtype, dtype)
        self.weights = weights
        self.recorder = MapRecorder()
        self.layers = cross_attention_layers(self.unet)
        recorded: Sequence[str] = list(self.layers) if all_layers else map_layers(self.unet)
        with lock_of(self.unet):
            plain = plain_processors(self.unet)
        self._processors = plain | {
            name: AttentionProcessor(
                self.recorder if name in recorded else None,
                key_value=self.key_value(name),
                detach_start_token=detach_start_token,
                backend=backend,
            )
            for name in self.layers
        }

    def key_value(self, layer: str) -> tuple[nn.Parameter, nn.Parameter] | None:
        """Return its own K and V weights of a cross-attention, ``[hidden, context]`` each, if it has any."""
        key, value = (self.weights.get(f"{layer}.to_{which}.weight") for which in "kv")
        return None if key is None or value is None else (key, value)

    def beyond_key_value(self) -> dict[str, nn.Parameter]:
        """Return its own weights that are no K or V of a cross-attention, by parameter name."""
        handled = {f"{layer}.to_{which}.weight" for layer in self.layers for which in "kv"}
        return {name: weight for name, weight in self.weights.items() if name not in handled}

    @contextmanager
    def installed(self, others: Mapping[str, AttentionProcessor] = MappingProxyType({})) -> Iterator[None]:
        """Use the weights and processors in the UNet; around forward *and* backward, which may recompute activations.

        Args:
            others: processors of further layers.
        """
        with ExitStack() as stack:
            stack.enter_context(attention_processors(self.unet, self._processors))
            stack.enter_context(attention_processors(self.unet, others))
            stack.enter_context(replaced_weights(self.unet, self.beyond_key_value()))
            yield

    def autocast(self) -> torch.autocast:
        """The precision of the computation."""
        low = self.dtype != torch.float32
        return torch.autocast(self.device.type, self.dtype if low else torch.bfloat16, enabled=low)

    def __call__(
        self, latents: Tensor, noise: Tensor, timesteps: Tensor, states: Tensor, tracked: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Noise latents and denoise them; inside :meth:`installed`.

        Args:
            latents: clean, float32 ``[B, C, h, w]``.
            noise: likewise.
            timesteps: int64 ``[B]`` or ``[1]``.
            states: text states ``[B, T, C]``.
            tracked: positions in the text whose maps are recorded, int64 ``[B, K]``, -1 for none.

        Returns:
            The UNet's prediction, and what it should have been: the noise, or the velocity where the model predicts
            that, ``[B, C, h, w]`` each.
        """
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        self.recorder.start(None if tracked is None else tracked.to(self.device))
        weights = self.unet.dtype
        with self.autocast():
            prediction = self.unet(noisy.to(weights), timesteps, states.to(weights)).sample
        return prediction, self.target(latents, noise, timesteps)

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return what the UNet should predict, by the model's prediction type."""
        if self.scheduler.config.prediction_type == "v_prediction":
            return self.scheduler.get_velocity(latents, noise, timesteps)
        return noise
