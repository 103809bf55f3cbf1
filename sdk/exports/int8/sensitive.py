"""Which layers stand 8 bits badly, found by measuring: each group of layers is computed as it was, the rest in int8."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

_WEIGHTED = ("Convolution", "MatMul")
_BETWEEN = ("Convert", "Multiply", "Subtract", "FakeQuantize", "Transpose", "Reshape")
_DEEPEST = 6  # operations between a layer and its weight
_PRODUCTS = "products of attention"
_GAIN = 0.05  # of the error; a group that takes less off it is quantised
_MODULE = re.compile(r"(?:unet\.)?((?:down|up)_blocks\.\d+\.[a-z]+\.\d+|mid_block\.[a-z]+\.\d+|[a-z_]+)")


def groups_of(model: Any) -> dict[str, list[str]]:
    """Return names of the operations with 8-bit forms by module of the UNet: ``up_blocks.1.resnets.0``.

    Products of attention have no weights, by which modules are known, and are one group.
    """
    found: dict[str, list[str]] = {}
    for operation in model.get_ordered_ops():
        if operation.get_type_name() in _WEIGHTED:
            weight = next((w for i in range(operation.get_input_size()) if (w := _weight(operation, i))), None)
            module = _MODULE.match(weight) if weight is not None and weight.endswith(".weight") else None
            found.setdefault(module[1] if module else _PRODUCTS, []).append(operation.get_friendly_name())
    return found


def unquantized(model: Any, names: list[str]) -> Any:
    """Return a copy of a quantised model in which these operations take what comes unrounded."""
    own, wanted = model.clone(), set(names)
    for operation in own.get_ops():
        if operation.get_friendly_name() in wanted:
            for i in range(operation.get_input_size()):
                before = operation.input_value(i).get_node()
                if before.get_type_name() == "FakeQuantize":
                    operation.input(i).replace_source_output(before.input_value(0))
    return own


def sensitive_groups(model: Any, groups: dict[str, list[str]], drift: Callable[[Any], float]) -> list[str]:
    """Return the groups without which a quantised model is much better.

    Args:
        model: the quantised one.
        groups: see :func:`groups_of`.
        drift: the error of a model.
    """
    usual = drift(model)
    return [name for name, names in groups.items() if drift(unquantized(model, names)) < (1 - _GAIN) * usual]


def _weight(operation: Any, index: int) -> str | None:
    """The name of the constant that an input is made of."""
    node = operation.input_value(index).get_node()
    for _ in range(_DEEPEST):
        if node.get_type_name() == "Constant":
            return str(node.get_friendly_name())
        if node.get_type_name() not in _BETWEEN:
            return None
        node = node.input_value(0).get_node()
    return None
