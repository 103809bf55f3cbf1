"""What the operators of several backends share: how options become scalars, memory layouts, types under autocast.

An operator's schema knows tensors and scalars only, so the options travel as the values of their fields. Their names
and types are read off :class:`CalibrationOptions`; nothing here or in an operator spells them out.
"""

from __future__ import annotations

from dataclasses import fields
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .options import OPTION_NAMES, CalibrationOptions

# "float sigma, ...": the fields' annotations are the schema language's own names of types.
OPTIONS_SCHEMA = ", ".join(f"{f.type} {f.name}" for f in fields(CalibrationOptions))
NO_GRADIENTS = (None,) * len(OPTION_NAMES)  # of the options, as autograd wants them listed

# Under autocast, attention runs in the device's usual low type (as stock attention does) and the loss in float32.
AUTOCAST_TYPES = {"cpu": torch.bfloat16, "cuda": torch.float16}


def option_values(options: CalibrationOptions) -> tuple[bool | int | float, ...]:
    """Return the values of the options in the order of :data:`OPTIONS_SCHEMA`."""
    return tuple(getattr(options, name) for name in OPTION_NAMES)


@lru_cache(maxsize=64)  # a fit asks for one set of options in every step
def checked_options(*values: Any) -> CalibrationOptions:
    """Return the options whose values an operator got, in the order of :data:`OPTIONS_SCHEMA`.

    Raises:
        ValueError: as :class:`CalibrationOptions`.
    """
    return CalibrationOptions(*values)


def loss_gradient(grad: Tensor, grad_loss: Tensor) -> Tensor:
    """Return the gradient of maps ``[B, 2S, h, w]`` from that of the losses ``[B]``, by the chain rule.

    ``grad`` is that of each row's own loss. It is multiplied but for what reaches no loss: rows without concepts, known
    by a gradient of zero throughout, and with one concept the class map. These stay zero where ``grad_loss`` is not
    finite. Everything else is then NaN, as the reference has it, whose terms are infinities of both signs.
    """
    factor = grad_loss + (grad_loss - grad_loss)  # NaN if infinite
    result = grad * torch.where(grad.flatten(1).any(1), factor, 0.0)[:, None, None, None]
    if grad.shape[1] == 2:
        result = torch.cat([result[:, :1], torch.where(grad[:, 1:] == 0, 0.0, result[:, 1:])], 1)
    return result


def rows_like(tensor: Tensor) -> Tensor:
    """Empty ``[B, H, rows, D]`` in memory order ``[B, rows, H, D]``, as attention layers want it back."""
    batch, heads, rows, width = tensor.shape
    return tensor.new_empty(batch, rows, heads, width).transpose(1, 2)


def with_dense_rows(tensor: Tensor) -> Tensor:
    """Return the tensor, or a copy whose last dimension is contiguous."""
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()
