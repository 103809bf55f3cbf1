"""Attention that returns token maps, and the calibration loss on them. Installed as ``sdk.kernels``."""

from ._backends import available_backends, fastest_backend
from .attention import attention_with_columns, attention_with_maps
from .calibration import CalibrationOptions, calibrated_attention, calibration_loss, columns_loss, square_side

__all__ = [
    "CalibrationOptions",
    "attention_with_columns",
    "attention_with_maps",
    "available_backends",
    "calibrated_attention",
    "calibration_loss",
    "columns_loss",
    "fastest_backend",
    "square_side",
]
