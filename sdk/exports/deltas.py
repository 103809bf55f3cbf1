"""What a pack changes about its base model, matrix by matrix."""

from __future__ import annotations

from torch import Tensor

from ..errors import InputError
from ..model.base_model import BaseModel
from ..pack import ConceptPack


def key_value_deltas(pack: ConceptPack, base: BaseModel) -> dict[str, Tensor]:
    """Return trained minus base weights of every K and V, float32 ``[hidden, context]``, by ``...attn2.to_k``.

    Raises:
        BaseModelError: a pack of another base model.
        InputError: a pack that holds other weights than K and V, or none.
    """
    base.check_base(pack)
    pack.check_storable()
    if pack.unet:
        raise InputError(
            f"a pack of {pack.method} changes the whole UNet, which this format cannot hold; export it to onnx"
        )
    if not pack.key_value:
        raise InputError(f"a pack of {pack.method} holds tokens alone; copy its token files, they load everywhere")
    deltas = {}
    for layer, pair in pack.key_value.items():
        module = base.pipe.unet.get_submodule(layer)
        for which, projection, weight in zip("kv", (module.to_k, module.to_v), pair, strict=True):
            own = getattr(projection, "base_layer", projection).weight.detach().float().cpu()
            deltas[f"{layer}.to_{which}"] = weight.float() - own
    return deltas
