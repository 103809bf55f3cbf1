"""How a step goes through the UNet so that memory has room for it: rows at once, activations computed again or kept."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from ...config import FitConfig
from ...errors import InputError
from ...memory.budget import gigabytes
from ...memory.passes import rough_step
from ...methods import method_class
from ...model.base_model import BaseModel
from ...model.precision import computing_dtype, forward_dtype
from ...sampling.at_once import pictures_at_once
from ...unet.frozen import ready_bytes
from .memory import FitMemory, fit_memory, learned_of

log = logging.getLogger("sdk")
_MOST_STATE = 20  # bytes to a learned number: itself, its gradient, two moments, and once more in half precision or not


def need_of(base: BaseModel, config: FitConfig, method: str, rows: int, checkpointing: bool) -> FitMemory:
    """Return what a fit on a base model needs where it is.

    Args:
        base: the base model.
        config: settings.
        method: its name.
        rows: that go through the UNet together.
        checkpointing: whether activations are computed again in the backward pass.
    """
    unet = base.pipe.unet
    need = fit_memory(
        unet.config,
        base.family.name,
        dtype=computing_dtype(unet.dtype, forward_dtype(config.precision, base.device)),
        rows=rows,
        checkpointing=checkpointing,
        beside=0,
        kv_rank=config.kv_rank,
        whole=method_class(method).whole_unet,
        encoders=[part.encoder for part in base.text_parts],
        optimizer=config.optimizer,
        device=base.device.type,
    )
    return replace(need, frozen=base.held + _held_ready(base, config, method))


def _held_ready(base: BaseModel, config: FitConfig, method: str) -> int:
    """Bytes of frozen weights that a fit holds once more, in the type of the computation."""
    unet = base.pipe.unet
    dtype = computing_dtype(unet.dtype, forward_dtype(config.precision, base.device))
    if dtype == torch.float32 or (base.device.type != "cpu" and unet.dtype == dtype):
        return 0
    readers = [part.encoder for part in base.text_parts if part.encoder.dtype != dtype]
    whole = 0 if method_class(method).whole_unet else ready_bytes(unet, dtype, sort=base.device.type == "cpu")
    return whole + sum(ready_bytes(encoder, dtype) for encoder in readers)


def within_memory(
    base: BaseModel, config: FitConfig, method: str, before: Mapping[str, Any] | None = None
) -> FitConfig:
    """Return the settings with as many rows at once as memory has room for, where the user chose none.

    Fewer rows are taken before activations are computed again, which costs more time.

    Args:
        base: the base model, whose budget it is.
        config: settings, the method's own filled in.
        method: its name.
        before: settings that an unfinished fit, or a finished one that is asked for again, was begun with.

    Raises:
        InputError: a budget in GB that has no room for one row.
    """
    if config.rows_at_once:
        return config
    if before is not None:
        return _as_begun(config, before)
    most = config.batch_size
    left = base.memory_left()
    side = base.latent_shape[1]
    unet = base.pipe.unet
    ready = _held_ready(base, config, method)
    if rough_step(unet.config, most, (side, side), unet.dtype) + _state_most(unet, method) + ready <= left:
        return config
    if config.prior == "generate" or config.validate_every:
        pictures_at_once(base, (base.resolution, base.resolution), guided=True)  # refuses what has no room for one
    counts = [most]
    while counts[-1] > 1:
        counts.append(counts[-1] // 2)

    def beside(rows: int, checkpointing: bool) -> int:
        need = need_of(base, config, method, rows, checkpointing)
        return need.step + need.trained + need.frozen - base.held

    least = 0
    for checkpointing in (True,) if config.gradient_checkpointing else (False, True):
        least = beside(1, checkpointing)
        if least <= left:  # else more rows need not be counted, which takes seconds
            fitting = next((rows for rows in counts[:-1] if beside(rows, checkpointing) <= left), 1)
            return _chosen(config, fitting, checkpointing)
    if not isinstance(base.memory, str):
        raise InputError(
            f"a fit needs {gigabytes(base.memory * 1e9 + least - left)} GB at least, more than memory={base.memory:g}; "
            "give more, a model in float16, or another method"
        )
    log.warning(
        "a fit probably needs %s GB more than are free; load the model in float16, or on another device",
        gigabytes(least - left),
    )
    return _chosen(config, 1, True)


def _as_begun(config: FitConfig, before: Mapping[str, Any]) -> FitConfig:
    """The settings with what a fit was begun with; what the user chose stays, and differs where it does."""
    rows, again = before.get("rows_at_once", 0), before.get("gradient_checkpointing", False)
    if type(rows) is int and rows > 0:
        config = config.with_changes(rows_at_once=rows)
    return config.with_changes(gradient_checkpointing=True) if again is True else config


def _state_most(unet: Any, method: str) -> int:
    """The most that what is learned, its gradients and its optimiser's state can take, bytes."""
    whole = method_class(method).whole_unet
    return _MOST_STATE * (sum(weight.numel() for weight in unet.parameters()) if whole else learned_of(unet, 0))


def _chosen(config: FitConfig, rows: int, checkpointing: bool) -> FitConfig:
    if rows == config.batch_size and checkpointing == config.gradient_checkpointing:
        return config
    again = ", and activations are computed again" if checkpointing else ""
    log.info("for want of memory %d of %d rows go through the UNet at once%s", rows, config.batch_size, again)
    return config.with_changes(
        rows_at_once=0 if rows == config.batch_size else rows, gradient_checkpointing=checkpointing
    )
