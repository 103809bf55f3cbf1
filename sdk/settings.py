"""The settings that every method of learning has. Every default is the paper's or the released code's value."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .errors import InputError
from .masks.options import MaskOptions
from .plain import check_types, setting

OPTIMIZERS = ("adamw", "adamw8bit")
ACCELERATIONS = ("auto", "eager", "compile", "graph")
ATTENTIONS = ("sdpa", "xformers")
PRECISIONS = ("fp32", "bf16", "fp16", "auto")


@dataclass(frozen=True, kw_only=True)
class MethodOptions:
    """Settings of one method alone; a method that has any derives its own class in its file."""

    def __post_init__(self) -> None:
        check_types(self)

    @property
    def varying(self) -> str | None:
        """What among them keeps steps from being recorded, in words; ``None``: nothing."""
        return None


_PLACES = re.compile(r"\{[^{}]*\}")
_LARGE = 1e30  # float32 holds no more once it is multiplied
_MOST = {
    **dict.fromkeys(("learning_rate", "token_learning_rate", "weight_decay", "loss_scale", "prior_guidance"), _LARGE),
    **dict.fromkeys(("steps", "target_pool", "prior_count"), 10_000_000),
    "batch_size": 4096,
    "prior_steps": 999,
}


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """What :class:`sdk.FitConfig` holds; methods, rows and the loop read it.

    The sources named in the fields' help: "paper" is DisenDiff (CVPR 2024), "code" its released repository,
    "CD" Custom Diffusion (CVPR 2023), which the code builds on.
    """

    steps: int = setting(250, "optimiser steps (code: 5 epochs of 400 samples, 8 to a step)")
    learning_rate: float = setting(8e-5, "of K and V (code: 1e-5 x 4 accumulations x batch 2)")
    token_learning_rate: float | None = setting(None, "of the token embeddings; None: as learning_rate (code)")
    decay: float = setting(0.0, "share of the steps, at the end, over which learning rates fall to zero (code: none)")
    weight_decay: float = setting(0.01, "of AdamW (code: torch's default)")
    optimizer: str = setting(
        "adamw",
        "'adamw', or 'adamw8bit', whose moments take a quarter of the memory (bitsandbytes; extra '8bit'): for methods "
        "that train the whole UNet",
    )
    batch_size: int = setting(8, "rows in a step (paper)")
    target_share: float = setting(
        0.5, "probability that a row shows the reference picture and not a prior (code: 199 of 400)"
    )
    target_pool: int = setting(
        128, "augmented variants of the reference picture, encoded once each (ours; code: one a row)"
    )
    loss_scale: float = setting(
        4.0, "factor on the MSE: the code sums over 4 latent channels and divides by a 1-channel mask"
    )
    detach_start_token: bool = setting(True, "no gradient into K and V through the first text position (CD)")
    swap_order: float = setting(0.5, "probability of naming the concepts in another order (code; not in the paper)")
    alone: float = setting(
        0.0,
        "probability that a row of the reference shows and names one concept alone, cut out by the base model's "
        "attention; other concepts in the window do not count (ours, after Break-A-Scene's union sampling)",
    )
    mix: float = setting(
        0.0,
        "probability that a row of the reference shows a random subset of the concepts, cut out and put together anew "
        "on an emptied background, and names exactly those (Seg-Mix of MuDI: 0.3)",
    )
    mix_most: int = setting(0, "concepts in a mixture at most; 0: all (ours)")
    mix_prompts: tuple[str, ...] = setting(
        (),
        "of pictures of the base model on whose emptied backgrounds mixtures stand; {all} is where subjects are named; "
        "empty: the background is the reference's own (ours)",
    )
    outside_noise: float = setting(
        0.0,
        "share of noise in a row of the reference outside its named concepts, where the loss counts less by it, at the "
        "first step; it falls in a line to 0 (after MagicTailor's dynamic masked degradation)",
    )
    clip_skip: int = setting(
        0,
        "last layers of the text encoders that are left out, beyond what the family leaves out; some fine-tunes were "
        "trained so (1 is what A1111 calls 2); kept in the pack",
    )
    kv_rank: int | None = setting(
        None,
        "rank in which K and V are learned, as a change beside the frozen weights (LoRA); 0: whole; None: whole for "
        "Stable Diffusion 1.x and 2.x, 32 for XL, whose K and V are 341 million numbers",
    )
    forget_layout: bool = setting(
        False,
        "leave the trained V of the UNet's middle block out of the pack: it memorises the layout of the reference, and "
        "a prompt for one concept would draw two objects (ours)",
    )
    flip: float = setting(0.5, "probability of a horizontal flip (CD)")
    scale_augmentation: bool = setting(
        True, "show the picture small on grey, enlarged or as it is, with words for it (CD)"
    )
    prior: str = setting(
        "generate", "'generate': pictures of the base model, made once and cached; 'none'; or a folder of pictures"
    )
    prior_prompts: tuple[str, ...] = setting(
        ("photo of {all}",),
        "of generated priors, in turn; {all} becomes 'a cat and a dog', {each} every class by itself (code: pictures "
        "of LAION for {all}, with captions of their own)",
    )
    prior_count: int = setting(200, "prior pictures (code: 200)")
    prior_steps: int = setting(50, "sampling steps of generated priors")
    prior_guidance: float = setting(6.0, "guidance scale of generated priors")
    initializers: tuple[str, ...] = setting(
        (), "words a token starts from (their mean), one entry for all concepts or one each; empty: the method's rule"
    )
    initializer_candidates: tuple[str, ...] = setting(
        (),
        "without initializers: each token starts from those of these words under which the base model best predicts "
        "the concept, cut out of the picture (ours)",
    )
    precision: str = setting(
        "fp32",
        "of the forward pass: 'fp32', 'bf16', 'fp16', or 'auto': bf16 where the hardware computes in it; trained "
        "weights and losses stay fp32",
    )
    masks: MaskOptions = setting(MaskOptions(), "how masks of the concepts come out of attention")
    method_options: MethodOptions | None = setting(
        None, "settings of the chosen method alone, written as a group of its name; None: the method's defaults"
    )
    backend: str | None = setting(
        None, "attention backend of the layers whose maps are recorded, see `personalizer doctor`; None: the fastest"
    )
    attention: str = setting(
        "sdpa",
        "of the layers whose maps are not recorded: 'sdpa', PyTorch's own, or 'xformers', which must be installed and "
        "computes on CUDA",
    )
    accelerate: str = setting(
        "auto",
        "how steps are computed: 'eager', as Python asks for them; 'compile', the UNet's repeated blocks by "
        "torch.compile, which takes minutes once; 'graph', recorded once as a CUDA graph and played again; 'auto': "
        "eager",
    )
    rows_at_once: int = setting(
        0,
        "rows that go through the UNet together; fewer take less memory, and the step is the same; 0: all that memory "
        "has room for",
    )
    gradient_checkpointing: bool = setting(
        False,
        "recompute activations: less memory, about 1.5 times the time; done by itself where memory has no room for one "
        "row otherwise, and rows_at_once is 0",
    )
    checkpoint_every: int = setting(50, "steps between checkpoints, besides the one at the end; 0 for none")
    validate_every: int = setting(
        0, "steps between validations: a small sheet is drawn and scored, the best weights are kept; 0 for none"
    )
    patience: int = setting(0, "validations without a better score after which a fit stops; 0: never")

    def __post_init__(self) -> None:
        check_types(self)
        for name in (
            *("steps", "learning_rate", "batch_size", "target_pool"),
            *("prior_count", "prior_steps", "loss_scale"),
        ):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} must be greater than 0, got {getattr(self, name)}")
        for name in (
            "weight_decay",
            "checkpoint_every",
            "validate_every",
            "patience",
            "mix_most",
            "kv_rank",
            "clip_skip",
            "rows_at_once",
        ):
            if (getattr(self, name) or 0) < 0:
                raise InputError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.token_learning_rate is not None and not self.token_learning_rate > 0:
            raise InputError(f"token_learning_rate must be greater than 0, got {self.token_learning_rate}")
        for name in ("decay", "swap_order", "alone", "mix", "outside_noise", "flip", "target_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is a share and must lie between 0 and 1, got {getattr(self, name)}")
        for name, most in _MOST.items():
            if (getattr(self, name) or 0) > most:
                raise InputError(f"{name} must be at most {most:g}, got {getattr(self, name):g}")
        if self.precision not in PRECISIONS:
            raise InputError(f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        if self.attention not in ATTENTIONS:
            raise InputError(f"attention must be one of {', '.join(ATTENTIONS)}, got {self.attention!r}")
        if self.accelerate not in ACCELERATIONS:
            raise InputError(f"accelerate must be one of {', '.join(ACCELERATIONS)}, got {self.accelerate!r}")
        if self.optimizer not in OPTIMIZERS:
            raise InputError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {self.optimizer!r}")
        if not self.prior_prompts or not all(p.strip() for p in (*self.prior_prompts, *self.mix_prompts)):
            raise InputError("prior_prompts must hold at least one prompt; no empty ones, and none in mix_prompts")
        for name in ("prior_prompts", "mix_prompts"):
            places = [place for p in getattr(self, name) for place in _PLACES.findall(p)]
            strange = [place for place in places if place not in ("{all}", "{each}")]
            if strange:
                raise InputError(f"{name} may name {{all}} and {{each}}, got {strange[0]!r}")
        nowhere = [p for p in self.mix_prompts if not _PLACES.search(p)]
        if nowhere:
            raise InputError(f"mix_prompts must say where subjects are named, by {{all}}, got {nowhere[0]!r}")
        if not self.prior:
            raise InputError("prior must be 'generate', 'none' or a folder of pictures, got nothing")
