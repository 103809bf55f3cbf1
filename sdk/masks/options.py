"""How a base model's attention becomes masks."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InputError
from ..plain import check_types, setting

_MOST = 1000  # powers of a matrix, noises: more only take time


@dataclass(frozen=True, kw_only=True)
class MaskOptions:
    """How a base model's attention becomes masks, see :mod:`sdk.masks.segmentation`; defaults are ours."""

    power: int = setting(1, "of the self-attention matrix; 0 leaves self-attention out (AttenCraft: 4)")
    margin: float = setting(0.05, "by how much a pixel's best map must lead, of 1 (AttenCraft: 0.1)")
    background: float = setting(
        0.3,
        "how strong a concept must be, of 1, not to be background; 0: the start token's map competes with the "
        "concepts' (AttenCraft)",
    )
    draws: int = setting(4, "noises over which maps are averaged (AttenCraft: 1)")
    noise: int = setting(250, "maps are taken at timesteps below it, of 1000 (AttenCraft: 300)")

    def __post_init__(self) -> None:
        check_types(self)
        if not 0 <= self.power <= _MOST:
            raise InputError(f"masks.power must lie between 0 and {_MOST}, got {self.power}")
        if not 0 <= self.margin <= 1:
            raise InputError(f"masks.margin must lie between 0 and 1, got {self.margin}")
        if not 0 <= self.background < 1:
            raise InputError(f"masks.background must lie between 0 and 1, got {self.background}")
        if not 1 <= self.draws <= _MOST:
            raise InputError(f"masks.draws must lie between 1 and {_MOST}, got {self.draws}")
        if not 1 <= self.noise <= 1000:
            raise InputError(f"masks.noise must lie between 1 and 1000, got {self.noise}")
