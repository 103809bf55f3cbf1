"""A pack as an ONNX Runtime adapter, for a base model that was exported once."""

from __future__ import annotations

from pathlib import Path

from ..errors import InputError
from ..files import prepare_output_folder
from ..pack import ConceptPack
from ..routing import refuse_routed


def export_adapter(pack: ConceptPack, path: Path) -> Path:
    """Write K and V weights and token rows to one file; see :meth:`sdk.ConceptPack.export_adapter`."""
    refuse_routed(pack)
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
    prepare_output_folder(path.parent)
    write_adapter(path, pack.concepts, pack.embeddings.numpy(), weights, pack.base.to_dict())
    return path
