"""The settings of a fit. Every default is the paper's or the released code's value."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any

from .errors import InputError
from .options import AttenCraftOptions, BreakASceneOptions, MaskOptions
from .presets import PRESETS, merged, preset_settings

PRECISIONS = ("fp32", "bf16", "fp16", "auto")


def _field(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """Settings of :meth:`sdk.Personalizer.fit`.

    The sources named in the fields' help: "paper" is DisenDiff (CVPR 2024), "code" its released repository,
    "CD" Custom Diffusion (CVPR 2023), which the code builds on.
    """

    steps: int = _field(250, "optimiser steps (code: 5 epochs of 400 samples, 8 to a step)")
    learning_rate: float = _field(8e-5, "of K and V (code: 1e-5 x 4 accumulations x batch 2)")
    token_learning_rate: float | None = _field(None, "of the token embeddings; None: as learning_rate (code)")
    decay: float = _field(0.0, "share of the steps, at the end, over which learning rates fall to zero (code: none)")
    weight_decay: float = _field(0.01, "of AdamW (code: torch's default)")
    batch_size: int = _field(8, "rows in a step (paper)")
    target_share: float = _field(
        0.5, "probability that a row shows the reference picture and not a prior (code: 199 of 400)"
    )
    micro_batch: int = _field(2, "rows over which the calibration loss is averaged first (code: 4 accumulations of 2)")
    target_pool: int = _field(
        128, "augmented variants of the reference picture, encoded once each (ours; code: one a row)"
    )
    calibration_weight: float = _field(0.01, "of the calibration loss, beside 4 x MSE (code); 0 leaves it out")
    bind_weight: float = _field(1.0, "of the bind terms inside the calibration loss (paper, eq. 3)")
    separate_weight: float = _field(1.0, "of the separate-and-strengthen terms (paper, eq. 5)")
    normalize_maps: bool = _field(True, "min-max each map to [0, 1] (code; the paper does not mention it)")
    blur_sigma: float = _field(0.5**0.5, "of the 3x3 Gaussian in map cells (code: '0.5' means 0.707); 0 for none")
    suppress: int = _field(1, "how often class maps are squared (paper: once)")
    smooth: float = _field(1.0, "added to both sides of the soft IoU (code; 0 in the paper's equations)")
    loss_scale: float = _field(
        4.0, "factor on the MSE: the code sums over 4 latent channels and divides by a 1-channel mask"
    )
    detach_start_token: bool = _field(True, "no gradient into K and V through the first text position (CD)")
    swap_order: float = _field(
        0.5, "probability of naming the concepts in another order (code, issue 1; not in the paper)"
    )
    alone: float = _field(
        0.0,
        "probability that a row of the reference shows and names one concept alone, cut out by the base model's "
        "attention; other concepts in the window do not count (ours, after Break-A-Scene's union sampling)",
    )
    forget_layout: bool = _field(
        False,
        "V of the UNet's middle block trains with the rest but stays out of the pack: it takes up where things are in "
        "the reference, and concepts asked for alone no longer come twice (ours)",
    )
    flip: float = _field(0.5, "probability of a horizontal flip (CD)")
    scale_augmentation: bool = _field(
        True, "show the picture small on grey, enlarged or as it is, with words for it (CD)"
    )
    prior: str = _field(
        "generate", "'generate': pictures of the base model, made once and cached; 'none'; or a folder of pictures"
    )
    prior_prompts: tuple[str, ...] = _field(
        ("photo of {all}",),
        "of generated priors, in turn; {all} becomes 'a cat and a dog', {each} every class by itself (code: pictures "
        "of LAION for {all}, with captions of their own)",
    )
    prior_count: int = _field(200, "prior pictures (code: 200)")
    prior_steps: int = _field(50, "sampling steps of generated priors")
    prior_guidance: float = _field(6.0, "guidance scale of generated priors")
    initializers: tuple[str, ...] = _field(
        (), "words a token starts from (their mean), one entry for all concepts or one each; empty: the method's rule"
    )
    initializer_candidates: tuple[str, ...] = _field(
        (),
        "without initializers: each token starts from those of these words under which the base model best predicts "
        "the concept, cut out of the picture (ours)",
    )
    precision: str = _field(
        "fp32",
        "of the forward pass: 'fp32', 'bf16', 'fp16', or 'auto': bf16 where the hardware computes in it; trained "
        "weights and losses stay fp32",
    )
    train_query: bool = _field(False, "train the cross-attentions' Q too (the paper's ablation)")
    all_scales: bool = _field(False, "calibrate the maps of every cross-attention, resized (the paper's ablation)")
    masks: MaskOptions = _field(MaskOptions(), "how masks of the concepts come out of attention")
    attencraft: AttenCraftOptions = _field(AttenCraftOptions(), "settings of AttenCraft alone")
    break_a_scene: BreakASceneOptions = _field(BreakASceneOptions(), "settings of Break-A-Scene alone")
    gradient_checkpointing: bool = _field(False, "recompute activations: less memory, about 1.5 times the time")
    checkpoint_every: int = _field(50, "steps between checkpoints; 0 for none")
    validate_every: int = _field(
        0, "steps between validations: a small sheet is drawn and scored, the best weights are kept; 0 for none"
    )
    patience: int = _field(0, "validations without a better score after which a fit stops; 0: never")

    def __post_init__(self) -> None:
        positive = (
            "steps",
            "learning_rate",
            "batch_size",
            "micro_batch",
            "target_pool",
            "prior_count",
            "prior_steps",
            "loss_scale",
        )
        for name in positive:
            if not getattr(self, name) > 0:
                raise InputError(f"{name} must be greater than 0, got {getattr(self, name)}")
        for name in (
            "calibration_weight",
            "blur_sigma",
            "suppress",
            "smooth",
            "checkpoint_every",
            "validate_every",
            "patience",
        ):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("decay", "swap_order", "alone", "flip", "target_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is a share and must lie between 0 and 1, got {getattr(self, name)}")
        if self.precision not in PRECISIONS:
            raise InputError(f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        if not self.prior_prompts or not all(p.strip() for p in self.prior_prompts):
            raise InputError("prior_prompts must hold at least one prompt, and no empty one")
        if not self.prior:
            raise InputError("prior must be 'generate', 'none' or a folder of pictures, got nothing")

    @classmethod
    def preset(cls, name: str, method: str = "disendiff", **changes: Any) -> FitConfig:
        """Return a preset, with changes.

        Args:
            name: ``"reference"`` or ``"code"``, as the authors' code behaves; ``"paper"``, as their paper says where
                that differs; ``"best"``, what this project recommends (docs/methods.md has the evidence).
            method: whose; every method has its own.
            **changes: fields to set otherwise; a dictionary changes some fields of ``attencraft`` or ``break_a_scene``.
        """
        if name not in PRESETS:
            raise InputError(f"there is no preset {name!r}; choose one of {', '.join(PRESETS)}")
        return cls.from_dict(merged(preset_settings(name, method), changes))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> FitConfig:
        """Build a configuration from plain values, such as a TOML file's.

        Raises:
            InputError: an unknown name or a value of the wrong type.
        """
        known = {f.name: f for f in fields(cls)}
        for name, value in values.items():
            if name not in known:
                raise InputError(f"there is no setting {name!r}; known settings: {', '.join(known)}")
            if not is_dataclass(known[name].default):
                _check_type(name, value, known[name].default)
        return cls(**{name: _cleaned(name, value, known[name].default) for name, value in values.items()})

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    def with_changes(self, **changes: Any) -> FitConfig:
        """Return a copy with some fields changed."""
        return replace(self, **changes)


def _cleaned(name: str, value: Any, default: Any) -> Any:
    """A value as the field wants it: a group of settings from a dictionary, a tuple from a list."""
    if not is_dataclass(default) or isinstance(default, type):
        return tuple(value) if isinstance(value, list) else value
    if isinstance(value, type(default)):
        return value
    if not isinstance(value, dict):
        raise InputError(f"{name} is a group of settings; give a table, got {value!r}")
    known = {f.name: getattr(default, f.name) for f in fields(default)}
    for inner, setting in value.items():
        if inner not in known:
            raise InputError(f"there is no setting {name}.{inner}; known settings: {', '.join(known)}")
        _check_type(f"{name}.{inner}", setting, known[inner])
    return replace(default, **value)


def _check_type(name: str, value: Any, default: Any) -> None:
    if default is None or value is None:
        wanted: tuple[type, ...] = (float, int, type(None))
    elif isinstance(default, bool):
        wanted = (bool,)
    elif isinstance(default, int):
        wanted = (int,)
    elif isinstance(default, float):
        wanted = (float, int)
    elif isinstance(default, tuple):
        wanted = (list, tuple)
    else:
        wanted = (type(default),)
    if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
        raise InputError(f"{name} must be of type {wanted[0].__name__}, got {value!r}")
