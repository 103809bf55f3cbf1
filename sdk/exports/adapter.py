"""A pack as an ONNX Runtime adapter, for a base model that was exported once."""

from __future__ import annotations

from pathlib import Path

from ..errors import InputError
from ..pack import ConceptPack


def export_adapter(pack: ConceptPack, path: Path) -> Path:
    """Write K and V weights and token rows to one file; see :meth:`sdk.ConceptPack.export_adapter`."""
    if pack.unet:
        raise InputError(f"a pack of {pack.method} changes the whole UNet; export it merged: export_onnx(dir, pack)")
    try:
        from ..deploy.adapters import write_adapter
    except ModuleNotFoundError as error:
        raise InputError("adapters need ONNX Runtime; run: pip install 'personalizer-sdk[onnx]'") from error
    weights = {
        f"{layer}.to_{which}.weight": weight.numpy()
        for layer, pair in pack.key_value.items()
        for which, weight in zip("kv", pair, strict=True)
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_adapter(path, pack.concepts, pack.embeddings.numpy(), weights, pack.base.to_dict())
    return path
