"""The number format of a fit's forward pass."""

from __future__ import annotations

import torch

_NAMED = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def forward_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the dtype that a precision means on a device; ``"auto"`` is bf16 where the hardware computes in it."""
    if precision != "auto":
        return _NAMED[precision]
    return torch.bfloat16 if _computes_bf16(device) else torch.float32


def computing_dtype(weights: torch.dtype, asked: torch.dtype | None) -> torch.dtype:
    """Return the dtype in which frozen weights of a dtype compute: the one asked for if it is lower than float32."""
    return weights if asked in (None, torch.float32) else asked


def _computes_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return False
    has = torch.cpu.get_capabilities()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))
