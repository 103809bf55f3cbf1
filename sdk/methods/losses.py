"""The denoising loss that all methods share."""

from __future__ import annotations

from torch import Tensor


def masked_denoising_loss(prediction: Tensor, target: Tensor, masks: Tensor, scale: float, rows: int) -> Tensor:
    """Mean over the rows of a step of the squared error inside the mask, times ``scale``; the share of those given.

    Args:
        prediction: the UNet's, ``[B, C, h, w]``.
        target: noise or velocity, same shape.
        masks: ``[B, 1, h, w]``.
        scale: 4 in the released code, which divides the sum over 4 channels by a one-channel mask.
        rows: of the whole step.
    """
    error = (prediction.float() - target.float()).square().mean(1, keepdim=True)
    per_row = (error * masks).sum((1, 2, 3)) / masks.sum((1, 2, 3)).clamp(min=1)
    return scale * (per_row.sum() / rows)
