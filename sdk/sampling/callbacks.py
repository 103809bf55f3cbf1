"""What a user's ``callback_on_step_end`` may answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..errors import InputError, NotFiniteError
from ..finite import is_finite
from ..rules.arguments import shown


def checked_answer(answer: Any, latents: Tensor) -> dict[str, Tensor]:
    """Return what a callback wants to be changed, checked: nothing, or the latents.

    Args:
        answer: of the callback.
        latents: of the step, ``[B, C, h, w]``.

    Raises:
        InputError: an answer of another kind, or latents of another shape.
        NotFiniteError: latents that hold NaN or infinite values.
    """
    if answer is None:
        return {}
    if not isinstance(answer, Mapping) or answer.keys() - {"latents"}:
        given = ", ".join(map(str, answer)) if isinstance(answer, Mapping) else shown(answer)
        raise InputError(f"callback_on_step_end may answer nothing or {{'latents': tensor}}, got {given[:80]}")
    given = answer.get("latents", latents)
    if given is latents:
        return {}
    if not isinstance(given, Tensor) or given.shape != latents.shape:
        wrong = list(given.shape) if isinstance(given, Tensor) else shown(given)
        raise InputError(f"callback_on_step_end must answer latents of shape {list(latents.shape)}, got {wrong}")
    if not is_finite(given):
        raise NotFiniteError("callback_on_step_end answered latents that hold NaN or infinite values")
    return {"latents": given.to(latents)}
