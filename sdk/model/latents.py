"""Pictures to latents, each encoded once, and back."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image
from torch import Tensor

from ..errors import NotFiniteError
from ..finite import is_finite
from ..images.image_io import to_tensor
from ..memory.passes import decoding_peak, rough_step
from ..views import float32_view, in_turn, private_view

_SMALLEST_TILE = 128  # pixels; smaller ones show their seams
_WORKSPACE = 1.5  # times what is counted: convolutions take room for themselves, too
_PIXELS_AT_ONCE = 1 << 21  # that are decoded together: eight pictures of 512 pixels, two of 1024


@dataclass(frozen=True)
class Coding:
    """How an autoencoder computes.

    Attributes:
        upcast: in float32 at once, see :attr:`sdk.model.BaseModel.upcast_vae`.
        tile: side in pixels of overlapping tiles, one computed after the other; ``None``: pictures whole.
        at_once: pictures that are decoded together; ``None``: those of a usual number of pixels.
    """

    upcast: bool = False
    tile: int | None = None
    at_once: int | None = None


PLAIN = Coding()


def coding_for(vae: Any, size: tuple[int, int], upcast: bool, left: int) -> Coding:
    """Return how pictures are encoded and decoded that memory has room for.

    Args:
        vae: the autoencoder.
        size: of the pictures in pixels, height and width.
        upcast: see :class:`Coding`.
        left: bytes that may be taken.
    """
    config, factor, dtype = vae.config, _factor(vae), torch.float32 if upcast else vae.dtype

    def need(height: int, width: int) -> float:
        return _WORKSPACE * decoding_peak(config, (height // factor, width // factor), dtype)

    if rough_step(config, max(_PIXELS_AT_ONCE // (size[0] * size[1]), 1), size, dtype) <= left:
        return Coding(upcast)
    whole = need(*size)
    if whole <= left:
        return Coding(upcast, at_once=int(left // whole))
    # A quarter of a tile must be whole cells, or tiles would not lie edge to edge.
    side, step = max(size), 4 * factor
    while side // 2 >= _SMALLEST_TILE and need(side, side) > left:
        side = -(-side // (2 * step)) * step
    return Coding(upcast, max(side // step, 1) * step, at_once=1)


def encoded(vae: Any, pixels: Tensor, how: Coding = PLAIN) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of the autoencoder's posterior, ``[B, C, h, w]`` each, not scaled.

    Args:
        vae: the autoencoder; where its half precision overflows, it computes in float32.
        pixels: in [-1, 1], ``[B, 3, H, W]``.
        how: it computes.

    Raises:
        NotFiniteError: the latents hold NaN or infinite values in float32, too.
    """

    def parameters(module: Any, given: Tensor) -> Tensor:
        return _in_tiles(module, how.tile).encode(given).latent_dist.parameters

    found = _finite(vae, parameters, pixels, how.upcast, "the autoencoder makes NaN or infinite latents of a picture")
    posterior = DiagonalGaussianDistribution(found)  # it hides an infinite deviation, hence the look before
    return posterior.mean, posterior.std


def decoded(vae: Any, latents: Tensor, how: Coding = PLAIN) -> Tensor:
    """Return the pictures ``[B, 3, H, W]`` of latents, about [-1, 1]; see :func:`encoded`.

    Args:
        vae: the autoencoder.
        latents: finite, scaled as the UNet has them, ``[B, C, h, w]``.
        how: it computes.

    Raises:
        NotFiniteError: the pictures hold NaN or infinite values in float32, too.
    """

    def picture(module: Any, given: Tensor) -> Tensor:
        own = _in_tiles(module, how.tile)
        return own.decode(given / module.config.scaling_factor, return_dict=False)[0]

    rows = max(_PIXELS_AT_ONCE // (latents[0, 0].numel() * _factor(vae) ** 2), 1)
    rows = rows if how.at_once is None else min(rows, how.at_once)
    wrong = "the autoencoder makes NaN or infinite pixels"
    return torch.cat([_finite(vae, picture, part, how.upcast, wrong) for part in latents.split(rows)])


def _in_tiles(vae: Any, tile: int | None) -> Any:
    """A view of an autoencoder that computes in tiles; of one that has no views, itself, whole."""
    if tile is None:
        return vae
    view = private_view(vae)
    if view is not vae:
        view.use_tiling, view.tile_sample_min_size = True, tile
        view.tile_latent_min_size = max(tile // _factor(vae), 1)
    return view


def _factor(vae: Any) -> int:
    """Pixels to a cell of the latents, along a side."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


@torch.no_grad()
def _finite(vae: Any, compute: Callable[[Any, Tensor], Tensor], given: Tensor, upcast: bool, wrong: str) -> Tensor:
    """Compute in the autoencoder's own precision, and in float32 if that overflows or is known to."""
    half = vae.dtype in (torch.float16, torch.bfloat16)
    if half and upcast:
        result = compute(float32_view(vae), given.float())
    else:
        with in_turn(vae):
            result = compute(vae, given.to(vae.dtype))
        if half and not is_finite(result):
            result = compute(float32_view(vae), given.float())
    if not is_finite(result):
        raise NotFiniteError(f"{wrong}; its weights are damaged, so load another model")
    return result


@torch.no_grad()
def condition(vae: Any, device: Any, size: tuple[int, int], how: Coding, given: tuple[Tensor, Tensor] | None) -> Tensor:
    """Return what an inpainting UNet is told: mask and latents of what stays, ``[1, 1 + C, h, w]``.

    Args:
        vae: the autoencoder.
        device: where it runs.
        size: of the picture in pixels, height and width, if nothing is given.
        how: the autoencoder computes.
        given: a picture in [-1, 1], ``[1, 3, H, W]``, and a mask ``[1, 1, H, W]``, 1 where it is redrawn.
    """
    if given is None:
        grey = torch.zeros(1, 3, *size, device=device)
        hole = torch.ones(1, 1, *size, device=device)
    else:
        hole = given[1].to(device)
        grey = given[0].to(device) * (hole < 0.5)
    stays, _ = encoded(vae, grey, how)
    stays = stays * vae.config.scaling_factor
    mask = F.interpolate(hole, stays.shape[-2:])  # nearest, as they were trained
    return torch.cat([mask.to(stays), stays], 1)


class LatentCache:
    """Pictures encoded by the autoencoder on first use: mean and deviation of the posterior, kept on the CPU.

    A picture is known by its own pixels, so whoever shows the same one shares it; who shows it often gives it a name,
    which is found faster.

    Args:
        vae: the autoencoder.
        device: where it runs.
        how: it computes.
    """

    def __init__(self, vae: Any, device: torch.device, how: Coding = PLAIN):
        self.vae, self.device, self.how = vae, device, how
        self._moments: dict[Hashable, tuple[Tensor, Tensor]] = {}

    def sample(self, image: Image.Image, noise: Tensor, name: Hashable = None) -> Tensor:
        """Return the posterior's sample ``[C, h, w]`` for this noise, scaled as the UNet expects.

        Args:
            image: RGB.
            noise: of the posterior, ``[C, h, w]``.
            name: that no other picture has.

        Raises:
            NotFiniteError: see :func:`encoded`.
        """
        mean, deviation = self._encoded(image, name)
        return (mean + deviation * noise) * self.vae.config.scaling_factor

    def mean(self, image: Image.Image) -> Tensor:
        """Return the posterior's mean ``[C, h, w]``, scaled likewise."""
        return self._encoded(image)[0] * self.vae.config.scaling_factor

    def _encoded(self, image: Image.Image, name: Hashable = None) -> tuple[Tensor, Tensor]:
        key = picture_name(image) if name is None else name
        if key not in self._moments:
            mean, deviation = encoded(self.vae, to_tensor(image)[None].to(self.device), self.how)
            self._moments[key] = (mean[0].float().cpu(), deviation[0].float().cpu())
        return self._moments[key]


def picture_name(image: Image.Image) -> Hashable:
    """Return a name by which a picture and its copies are known."""
    return hashlib.blake2b(image.tobytes()).digest()
