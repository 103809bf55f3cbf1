"""Which attention layers of a UNet do what. They are chosen by name and map size, which hold at every resolution."""

from __future__ import annotations

from diffusers.models.attention_processor import Attention
from torch import nn


def cross_attention_layers(unet: nn.Module) -> dict[str, Attention]:
    """Return the cross-attention modules of a UNet by name, ``...attn2``, in order."""
    return {
        name: module
        for name, module in unet.named_modules()
        if isinstance(module, Attention) and name.endswith("attn2") and module.is_cross_attention
    }


def map_layers(unet: nn.Module) -> list[str]:
    """Return the names of the layers whose 16x16 maps the method uses.

    SD 1.5 at 512 pixels has its 16x16 maps a quarter of the latents' side down: ``down_blocks.2`` and
    ``up_blocks.1``. In general these are the down and up blocks at the smallest map size above the middle
    block's. The middle block itself is not used.
    """
    layers = cross_attention_layers(unet)
    down = [name for name in layers if name.startswith("down_blocks.")]
    if not down:
        return [name for name in layers if not name.startswith("mid_block.")]
    last = max(int(name.split(".")[1]) for name in down)
    blocks = len(unet.down_blocks)  # type: ignore[arg-type]
    wanted = (f"down_blocks.{last}.", f"up_blocks.{blocks - 1 - last}.")
    return [name for name in layers if name.startswith(wanted)]


def mask_layers(unet: nn.Module) -> list[str]:
    """Return the names of the self-attentions that masks flow along (AttenCraft).

    SD 1.5 at 512 pixels: the 32x32 ones, ``down_blocks.1`` and ``up_blocks.2``. In general those one size finer than
    :func:`map_layers`, or beside them where there is no finer attention.
    """
    own = beside(map_layers(unet))
    down = next((int(name.split(".")[1]) for name in own if name.startswith("down_blocks.")), 0)
    blocks = len(unet.down_blocks)  # type: ignore[arg-type]
    finer = (f"down_blocks.{down - 1}.", f"up_blocks.{blocks - down}.")
    found = [name for name, _ in unet.named_modules() if name.endswith("attn1") and name.startswith(finer)]
    return found if down > 0 and found else own


def beside(cross: list[str]) -> list[str]:
    """Return the names of the self-attentions in the blocks of these cross-attentions."""
    return [name.removesuffix("attn2") + "attn1" for name in cross]
