"""What the operators of several backends share: how options become scalars, memory layouts, types under autocast.

An operator's schema knows tensors and scalars only, so the options travel as the values of their fields. Their names
and types are read off :class:`CalibrationOptions`; nothing here or in an operator spells them out.
"""

from __future__ import annotations

from dataclasses import fields

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


def rows_like(tensor: Tensor) -> Tensor:
    """Empty ``[B, H, rows, D]`` in memory order ``[B, rows, H, D]``, as attention layers want it back."""
    batch, heads, rows, width = tensor.shape
    return tensor.new_empty(batch, rows, heads, width).transpose(1, 2)


def with_dense_rows(tensor: Tensor) -> Tensor:
    """Return the tensor, or a copy whose last dimension is contiguous."""
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()
