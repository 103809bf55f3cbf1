"""What a fit may have learned, whichever file it comes from: torch tensors of a pack, numpy arrays of an adapter."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from ..errors import NotFiniteError
from ..finite import first_not_finite
from .checked import Fail

FLOATS = ("float16", "bfloat16", "float32")
_WIDEST = 1 << 15  # of a layer


def type_name(array: Any) -> str:
    """Return the type of a tensor's or an array's numbers: ``"float16"``."""
    return str(array.dtype).removeprefix("torch.")


def check_key_value(pairs: Mapping[str, Sequence[Any]], layers: Collection[str], context: int, fail: Fail) -> None:
    """Check K and V: of layers that the base model has, ``[hidden, context]``, alike.

    Args:
        pairs: K and V by layer.
        layers: of the base model.
        context: width of its text states.
        fail: makes the error.
    """
    for layer, (key, value) in pairs.items():
        if layer not in layers:
            raise fail(f"its base model has no layer {layer}")
        if len(key.shape) != 2 or key.shape[1] != context or not 1 <= key.shape[0] <= _WIDEST:
            raise fail(f"{layer} has weights of shape {list(key.shape)}, not [hidden, {context}]")
        if tuple(key.shape) != tuple(value.shape):
            raise fail(f"K and V of {layer} have other shapes: {list(key.shape)} and {list(value.shape)}")
        for weight in (key, value):
            if hasattr(weight, "dtype"):  # of factors, each was looked at before
                check_type(layer, weight, fail)


def check_low_rank(layer: str, down: Any, up: Any, context: int, fail: Fail) -> None:
    """Check the factors of a change of low rank: ``[r, context]`` and ``[hidden, r]``."""
    if down.ndim != 2 or up.ndim != 2 or not 1 <= down.shape[0] == up.shape[1]:
        raise fail(
            f"{layer} has factors of shapes {list(down.shape)} and {list(up.shape)}, not [r, {context}] and [hidden, r]"
        )
    for factor in (down, up):
        check_type(layer, factor, fail)


def check_row(token: str, row: Any, context: int, fail: Fail) -> None:
    """Check a token's embedding, ``[context]``."""
    if tuple(row.shape) != (context,):
        raise fail(f"the embedding of {token} has shape {list(row.shape)}, not [{context}]")
    check_type(token, row, fail)


def check_type(name: str, array: Any, fail: Fail) -> None:
    """Check that numbers are of a type that weights have."""
    if type_name(array) not in FLOATS:
        raise fail(f"{name} holds {type_name(array)} numbers, not {', '.join(FLOATS)}")


def check_finite(source: object, named: Iterable[tuple[str, Any]]) -> None:
    """Raise :class:`NotFiniteError` if one of some tensors or arrays is not finite.

    Args:
        source: what they belong to, for the message.
        named: names and values.
    """
    name = first_not_finite(named)
    if name is not None:
        raise NotFiniteError(
            f"{source} holds values in {name} that are no numbers or overflow float16 (65504): the fit diverged; fit "
            "again with a smaller learning rate"
        )
