"""What computes an exported folder. An engine is one file here; :mod:`.graph` says what it gives."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from ...disk.checked import shown
from ...errors import InputError
from .graph import Engine

ENGINES = ("auto", "onnxruntime", "openvino")
PRECISIONS = ("auto", "fp32", "bf16", "int8")


def choose_engine(engine: str, precision: str, providers: Sequence[str] | None, has_int8: bool) -> Engine:
    """Return the engine of a call.

    Args:
        engine: one of :data:`ENGINES`; ``"auto"``: OpenVINO where it is installed and no providers are asked for.
        precision: one of :data:`PRECISIONS`, of OpenVINO.
        providers: ONNX Runtime's, in order of preference.
        has_int8: whether the folder holds a quantised UNet.

    Raises:
        InputError: another name, an engine that is not installed, what an engine does not take, or what the folder or
            the processor does not have.
    """
    for what, given, known in (("engine", engine, ENGINES), ("precision", precision, PRECISIONS)):
        if given not in known:
            raise InputError(f"{what} must be one of {', '.join(known)}, got {shown(given)}")
    installed = find_spec("openvino") is not None
    wanted = engine == "openvino" or (engine == "auto" and precision != "auto")
    if wanted and providers is not None:
        raise InputError("providers are ONNX Runtime's; leave them out, or take engine='onnxruntime'")
    if wanted and not installed:
        raise InputError("engine 'openvino' needs OpenVINO; run: pip install 'personalizer-sdk[openvino]'")
    if engine == "onnxruntime" and precision != "auto":
        raise InputError("precision is OpenVINO's; with ONNX Runtime a folder is computed as it was exported")
    if wanted or (engine == "auto" and installed and providers is None):
        from .openvino import OpenVino

        return OpenVino(precision, has_int8)
    from .onnxruntime import OnnxRuntime

    return OnnxRuntime(providers)
