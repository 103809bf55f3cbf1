"""Attention that returns token maps, and the calibration loss on them. Installed as ``sdk.kernels``."""

from ._backends import available_backends
from .attention import attention_with_maps
from .calibration import calibrated_attention, calibration_loss

__all__ = ["attention_with_maps", "available_backends", "calibrated_attention", "calibration_loss"]
