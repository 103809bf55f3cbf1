"""Settings that belong to one method; those that all share are in :mod:`sdk.config`."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import InputError

SAMPLINGS = ("uniform", "attention")


@dataclass(frozen=True, kw_only=True)
class MaskOptions:
    """How a base model's attention becomes masks, see :mod:`sdk.masks`; defaults are ours.

    Attributes:
        power: of the self-attention matrix; 0 leaves self-attention out (AttenCraft: 4).
        margin: by how much a pixel's best map must lead, of 1 (AttenCraft: 0.1).
        background: how strong a concept must be, of 1, not to be background; 0: the start token's map competes with the
            concepts' (AttenCraft).
        draws: noises over which maps are averaged (AttenCraft: 1).
        noise: maps are taken at timesteps below it, of 1000 (AttenCraft: 300).
    """

    power: int = 1
    margin: float = 0.05
    background: float = 0.3
    draws: int = 4
    noise: int = 250

    def __post_init__(self) -> None:
        if self.power < 0 or self.margin < 0:
            raise InputError(f"masks.power and masks.margin must not be negative, got {self.power}, {self.margin}")
        if not 0 <= self.background < 1:
            raise InputError(f"masks.background must lie between 0 and 1, got {self.background}")
        if self.draws < 1:
            raise InputError(f"masks.draws must be at least 1, got {self.draws}")
        if not 1 <= self.noise <= 1000:
            raise InputError(f"masks.noise must lie between 1 and 1000, got {self.noise}")


@dataclass(frozen=True, kw_only=True)
class AttenCraftOptions:
    """Of ``method="attencraft"`` (arXiv 2405.17965); defaults as in the released code. Its masks are in MaskOptions.

    Attributes:
        refresh_every: steps between attempts to renew the masks, in a row that names all concepts; 0 for none.
        refresh_noise: these masks are taken at timesteps below it, of 1000 (code: any).
        refresh_similarity: structural similarity with the present masks below which new ones are refused.
        masked: the denoising loss counts on the named concepts alone.
        area_normalised: divide it by the masks' area, not the picture's, so that small concepts learn as fast (ours).
        attention_weight: of the divergence between maps and masks; 0 leaves it out.
        sampling: "uniform": each concept alone and all together are equally likely; "attention": a concept that gets
            less attention inside its mask is shown alone more often (the paper announces it, the formula is ours).
        together: probability of naming all concepts.
    """

    refresh_every: int = 20
    refresh_noise: int = 1000
    refresh_similarity: float = 0.8
    masked: bool = True
    area_normalised: bool = False
    attention_weight: float = 1.0
    sampling: str = "uniform"
    together: float = 1 / 3

    def __post_init__(self) -> None:
        for name in ("refresh_every", "attention_weight"):
            if getattr(self, name) < 0:
                raise InputError(f"attencraft.{name} must not be negative, got {getattr(self, name)}")
        if not 1 <= self.refresh_noise <= 1000:
            raise InputError(f"attencraft.refresh_noise must lie between 1 and 1000, got {self.refresh_noise}")
        if not 0 <= self.together <= 1:
            raise InputError(f"attencraft.together is a share and must lie between 0 and 1, got {self.together}")
        if self.sampling not in SAMPLINGS:
            raise InputError(f"attencraft.sampling must be one of {', '.join(SAMPLINGS)}, got {self.sampling!r}")


@dataclass(frozen=True, kw_only=True)
class BreakASceneOptions:
    """Of ``method="break_a_scene"`` (Avrahami et al., SIGGRAPH Asia 2023).

    Attributes:
        token_share: share of the steps, at the start, in which the tokens alone train (paper: 400 of 800).
        first_token_rate: learning rate of the tokens in it (paper: 5e-4).
        attention_weight: of the squared distance between maps and masks (paper: 0.01).
    """

    token_share: float = 0.5
    first_token_rate: float = 5e-4
    attention_weight: float = 0.01

    def __post_init__(self) -> None:
        if not 0 <= self.token_share < 1:
            raise InputError(f"break_a_scene.token_share must lie between 0 and 1, got {self.token_share}")
        if self.first_token_rate <= 0:
            raise InputError(f"break_a_scene.first_token_rate must be greater than 0, got {self.first_token_rate}")
        if self.attention_weight < 0:
            raise InputError(f"break_a_scene.attention_weight must not be negative, got {self.attention_weight}")
