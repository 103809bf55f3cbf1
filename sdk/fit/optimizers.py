"""Optimisers by name, and what of their state a checkpoint holds."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError

_STEP = "step"
_CONSTANT = "qmap"  # of 8 bits: the numbers that they stand for, shared by all parameters


def check_optimizer(name: str) -> None:
    """Raise :class:`InputError` if what an optimiser needs is not installed, or does not work."""
    if name == "adamw8bit":
        _eight_bits()


def build_optimizer(
    name: str, groups: Iterable[dict[str, Any]], weight_decay: float, *, recorded: bool = False
) -> torch.optim.Optimizer:
    """Return an optimiser.

    Args:
        name: one of :data:`sdk.settings.OPTIMIZERS`.
        groups: of parameters, with their learning rates.
        weight_decay: of AdamW.
        recorded: whether steps are recorded: rates and counts then lie on the device, where a replay finds them.
    """
    if name == "adamw":
        groups = list(groups)
        if recorded:
            for group in groups:
                group["lr"] = torch.zeros((), device=group["params"][0].device)
            return torch.optim.AdamW(groups, weight_decay=weight_decay, fused=True, capturable=True)
        on_cuda = all(parameter.is_cuda for group in groups for parameter in group["params"])
        # In one kernel, which also knows by itself whether float16's gradients are to be left out. Elsewhere the plain
        # one, whose bits checkpoints and figures have.
        return torch.optim.AdamW(groups, weight_decay=weight_decay, fused=on_cuda or None)
    return _eight_bits()(groups, weight_decay=weight_decay)


def _eight_bits() -> Any:
    """Bitsandbytes' class."""
    if find_spec("bitsandbytes") is None:
        raise InputError("optimizer 'adamw8bit' needs bitsandbytes; run: pip install 'personalizer-sdk[8bit]'")
    log = logging.getLogger("bitsandbytes")
    before = log.level
    log.setLevel(logging.ERROR)  # it tells of kernels that it would fetch, and does without
    try:
        from bitsandbytes.optim import AdamW8bit
    except (ImportError, OSError, RuntimeError) as error:  # it is there, but not its compiled library for this machine
        said = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError(
            f"optimizer 'adamw8bit' does not work here, because bitsandbytes does not load ({said[:200]}); install one "
            "that fits this torch, or take optimizer='adamw'"
        ) from error
    finally:
        log.setLevel(before)
    return AdamW8bit


def kept_state(optimizer: torch.optim.Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    """Return what a checkpoint holds of a parameter's state, by name; nothing before its first update."""
    return _kept(optimizer.state[parameter])


def state_like(optimizer: torch.optim.Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    """Return tensors of the shapes and types that :func:`kept_state` has once a parameter was updated."""
    if isinstance(optimizer, torch.optim.AdamW):
        return {_STEP: torch.zeros(()), "exp_avg": parameter, "exp_avg_sq": parameter}
    return _kept(_fresh(optimizer, parameter))


def restore_state(optimizer: torch.optim.Optimizer, parameter: Tensor, kept: dict[str, Tensor]) -> None:
    """Give a parameter the state that :func:`kept_state` returned, from tensors on the CPU."""
    counts = isinstance(optimizer, torch.optim.AdamW)  # in a tensor, which stays on the CPU if Python does the counting
    fused = bool(optimizer.param_groups[0].get("fused"))
    state: dict[str, Any] = {
        name: (value if counts else int(value)) if name == _STEP and not fused else value.to(parameter.device)
        for name, value in kept.items()
    }
    if kept and not counts:
        state = _fresh(optimizer, parameter) | state
    optimizer.state[parameter] = state


def _kept(state: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: torch.as_tensor(value) for name, value in state.items() if not name.startswith(_CONSTANT)}


def _fresh(optimizer: Any, parameter: Tensor) -> dict[str, Any]:
    """The state before the first update, as bitsandbytes makes it; the optimiser keeps what it has."""
    held = optimizer.state.pop(parameter, None)
    optimizer.init_state(optimizer.param_groups[0], parameter, 0, 0)
    found = dict(optimizer.state.pop(parameter))
    if held is not None:
        optimizer.state[parameter] = held
    return found
