"""How the steps of a fit are computed: as Python asks for them, with repeated blocks compiled, or recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models.attention import BasicTransformerBlock
from torch import Tensor

from ...data.batch import Batch
from ...errors import InputError
from ...methods.base import Method
from ...settings import FitSettings
from ...unet.compiled import many_kinds
from .graph import RecordedSteps
from .training import train_step

COMPILER = "inductor"


def check_accelerate(settings: FitSettings, method: type[Method], device: torch.device, dtype: torch.dtype) -> None:
    """Raise :class:`InputError` for a way that a fit cannot be computed.

    Args:
        settings: of the fit, as it will be done.
        method: its class.
        device: of the base model.
        dtype: of the computation.
    """
    way = settings.accelerate
    if way == "compile" and device.type not in ("cuda", "cpu"):
        raise InputError(f"accelerate='compile' needs CUDA or a CPU, and the model is on {device.type}; choose 'eager'")
    if way == "graph":
        if device.type != "cuda":
            raise InputError(f"accelerate='graph' needs CUDA, and the model is on {device.type}; choose 'eager'")
        reason = unrecordable(settings, method, dtype)
        if reason is not None:
            raise InputError(f"accelerate='graph' cannot record {reason}; choose 'eager' or 'compile'")


def unrecordable(settings: FitSettings, method: type[Method], dtype: torch.dtype) -> str | None:
    """Return what of a fit keeps its steps from being recorded, in words, or ``None``.

    Args:
        settings: of the fit.
        method: its class.
        dtype: of the computation.
    """
    if not method.fixed_shapes:
        return "this method, whose losses depend on what each row shows"
    if settings.method_options is not None and settings.method_options.varying is not None:
        return settings.method_options.varying
    if settings.gradient_checkpointing:
        return "a step that computes activations again (gradient_checkpointing)"
    if settings.optimizer != "adamw":
        return f"a step of the optimizer {settings.optimizer!r}"
    if dtype == torch.float16:
        return "a step in float16, whose scale changes (set precision='bf16')"
    return None


def do_steps(
    settings: FitSettings, method: Method, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler
) -> Callable[[Batch, int], dict[str, Tensor]]:
    """Return what does a step, given its rows on the device and its number from 0; it returns losses by name.

    Args:
        settings: of the fit.
        method: what is trained.
        optimizer: see :func:`sdk.fit.optimizers.build_optimizer`.
        scaler: of float16's gradients.
    """
    if settings.accelerate == "graph":
        return RecordedSteps(method, optimizer, scaler)
    return lambda batch, step: train_step(method, batch, optimizer, scaler, step)


@contextmanager
def compiled_blocks(method: Method, wanted: bool, backend: Any = None) -> Iterator[None]:
    """Compile the transformer blocks of a fit's UNet in a block, each kind of them once and without a break.

    They are what repeats: a compiler that is given the whole UNet takes an hour for what this does in minutes.

    Args:
        method: whose UNet; a view of its own.
        wanted: or do nothing.
        backend: of ``torch.compile``; default :data:`COMPILER`.

    Raises:
        InputError: a UNet whose calls are redirected, which is the user's own.
    """
    if not wanted:
        yield
        return
    if method.denoiser.shared:
        raise InputError("accelerate='compile' cannot compile a UNet that is compiled or offloaded; choose 'eager'")
    blocks = [module for module in method.unet.modules() if isinstance(module, BasicTransformerBlock)]
    try:
        for module in blocks:
            module.compile(fullgraph=True, dynamic=False, backend=backend or COMPILER)
        with many_kinds():
            yield
    finally:
        for module in blocks:
            module._compiled_call_impl = None


@contextmanager
def tensor_cores(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Let float32 products use tensor cores (TF32) in a block, where the computation is in a lower type anyway.

    What is left in float32 then are losses and gradients of trained weights, which come out of lower numbers. Whoever
    asks for float32 gets it.

    Args:
        device: other than CUDA nothing is done.
        dtype: of the computation.
    """
    if device.type != "cuda" or dtype == torch.float32:
        yield
        return
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:  # a program chose it device by device, which this would mix up
        yield
        return
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
