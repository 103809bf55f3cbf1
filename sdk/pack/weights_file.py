"""K and V of a pack as a safetensors file: whole in diffusers' Custom Diffusion layout, in low rank as a LoRA.

Both are files that diffusers knows: ``pytorch_custom_diffusion_weights.safetensors`` and
``pytorch_lora_weights.safetensors``, the latter in PEFT's dialect, whose alpha is the rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from torch import Tensor

from ..disk.checked import Fail
from ..disk.learned import check_key_value, check_low_rank
from ..model.fingerprint import BaseIdentity
from ..unet.matrices import LowRank, Matrix
from .layout import KEY, KEY_PATTERN, LORA, LORA_KEY, LORA_KEY_PATTERN, WEIGHTS
from .tensors import tensor_file

KeyValue: TypeAlias = dict[str, tuple[Matrix, Matrix]]


def in_low_rank(key_value: KeyValue) -> bool:
    """Whether K and V are changes of low rank."""
    return any(isinstance(matrix, LowRank) for pair in key_value.values() for matrix in pair)


def weights_file(key_value: KeyValue, metadata: Mapping[str, str]) -> tuple[str, bytes]:
    """Return the name of the file that holds K and V, and its content."""
    tensors: dict[str, Tensor] = {}
    for layer, pair in key_value.items():
        for which, matrix in zip("kv", pair, strict=True):
            if isinstance(matrix, LowRank):
                tensors[LORA_KEY.format(layer=layer, which=which, side="A")] = matrix.down
                tensors[LORA_KEY.format(layer=layer, which=which, side="B")] = matrix.up
            else:
                tensors[KEY.format(layer=layer, which=which)] = matrix
    name = LORA if in_low_rank(key_value) else WEIGHTS
    return name, tensor_file(tensors, metadata)


def read_key_value(name: str, tensors: Mapping[str, Tensor], base: BaseIdentity, fail: Fail) -> KeyValue:
    """Return K and V out of a file of this name, checked.

    Args:
        name: of the file, which says how they are kept.
        tensors: what it holds.
        base: the base model.
        fail: makes the error.
    """
    found = _factors(tensors, fail) if name == LORA else _whole(tensors, fail)
    layers: dict[str, dict[str, Matrix]] = {}
    for (layer, which), matrix in found.items():
        layers.setdefault(layer, {})[which] = matrix
    for layer, each in layers.items():
        if set(each) != {"k", "v"}:
            raise fail(f"it lacks K or V of {layer}")
    pairs = {layer: (each["k"], each["v"]) for layer, each in layers.items()}
    check_pairs(pairs, base, fail)
    return pairs


def check_pairs(key_value: KeyValue, base: BaseIdentity, fail: Fail) -> None:
    """Check types and shapes of K and V, and that they are kept alike."""
    matrices = [matrix for pair in key_value.values() for matrix in pair]
    layers = base.fingerprint.keys()
    if not any(isinstance(matrix, LowRank) for matrix in matrices):
        check_key_value(key_value, layers, base.context, fail)
        return
    for layer, pair in key_value.items():
        for matrix in pair:
            if not isinstance(matrix, LowRank):
                raise fail(f"{layer} is whole, other layers are in low rank")
            check_low_rank(layer, matrix.down, matrix.up, base.context, fail)
    check_key_value(key_value, layers, base.context, fail)


def _whole(tensors: Mapping[str, Tensor], fail: Fail) -> dict[tuple[str, str], Matrix]:
    found: dict[tuple[str, str], Matrix] = {}
    for key, weight in tensors.items():
        match = KEY_PATTERN.fullmatch(key)
        if match is None:
            raise fail(f"{WEIGHTS} holds an unknown weight {key!r}")
        found[match["layer"], match["which"]] = weight
    return found


def _factors(tensors: Mapping[str, Tensor], fail: Fail) -> dict[tuple[str, str], Matrix]:
    sides: dict[tuple[str, str], dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        match = LORA_KEY_PATTERN.fullmatch(key)
        if match is None:
            raise fail(f"{LORA} holds an unknown weight {key!r}")
        sides.setdefault((match["layer"], match["which"]), {})[match["side"]] = tensor
    for (layer, which), pair in sides.items():
        if set(pair) != {"A", "B"}:
            raise fail(f"{layer}.to_{which} lacks one of its factors")
    return {name: LowRank(pair["A"], pair["B"]) for name, pair in sides.items()}
