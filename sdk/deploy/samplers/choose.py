"""Which sampler a call draws with: one that it names, or the exported model's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ...errors import InputError
from ...rules.drawing import check_scheduler_name
from .few_steps import Euler, EulerAncestral, Lcm, trained_steps
from .levels import Levels, Scheduler, damaged
from .plain import Ddim, DpmSolver, UniPc

# By diffusers' class, which an export's scheduler_config.json names.
_OWN: dict[str, Callable[[Levels, int, float], Scheduler]] = {
    "DDIMScheduler": Ddim,
    "EulerDiscreteScheduler": lambda levels, steps, eta: Euler(levels, steps),
    "EulerAncestralDiscreteScheduler": lambda levels, steps, eta: EulerAncestral(levels, steps),
    "LCMScheduler": lambda levels, steps, eta: Lcm(levels, steps),
}
OWN = tuple(_OWN)
# By the names of calls.
_NAMED: dict[str, Callable[[Levels, int, float], Scheduler]] = {
    "ddim": Ddim,
    "dpm++": lambda levels, steps, eta: DpmSolver(levels, steps),
    "unipc": lambda levels, steps, eta: UniPc(levels, steps),
    "euler": lambda levels, steps, eta: Euler(levels, steps),
}
_ONE_MORE = ("dpm++", "unipc")  # leave one of the levels out that they count


# What samplers are exported with; others would compute something else here.
_KNOWN: dict[str, tuple[Any, ...]] = {
    "beta_schedule": ("linear", "scaled_linear"),
    "trained_betas": (None,),
    "clip_sample": (False,),
    "thresholding": (False,),
    "use_karras_sigmas": (False,),
    "use_exponential_sigmas": (False,),
    "use_beta_sigmas": (False,),
    "interpolation_type": ("linear",),
    "final_sigmas_type": ("zero",),
    "timestep_type": ("discrete",),
    "timestep_spacing": ("leading", "trailing"),
    "steps_offset": (0, 1),
    "set_alpha_to_one": (False,),
}
_UNUSED = {"LCMScheduler": ("timestep_spacing", "steps_offset", "set_alpha_to_one")}


def check_known(kind: str, config: Mapping[str, Any]) -> None:
    """Refuse a sampler that gives other numbers than those of this package.

    Args:
        kind: diffusers' class.
        config: what it is configured by.

    Raises:
        InputError: another class, or a setting that is not known.
    """
    if kind not in _OWN:
        raise InputError(f"exports hold no {kind}, by which this model is sampled; they hold {', '.join(OWN)}")
    for name, allowed in _KNOWN.items():
        if name in config and name not in _UNUSED.get(kind, ()) and config[name] not in allowed:
            there = "values of its own" if isinstance(config[name], (list, tuple)) else repr(config[name])
            wanted = " or ".join(map(repr, allowed))
            raise InputError(f"exports know samplers whose {name} is {wanted}; this model's has {there}")


def own_sampler(levels: Levels) -> str:
    """Return the name of the sampler that a model was exported with, one of :data:`OWN`.

    Raises:
        BaseModelError: another one.
    """
    name = levels.about.text("_class_name") if "_class_name" in levels.about else OWN[0]
    if name not in _OWN:
        raise damaged(f"the sampler {name} is not known")
    return name


def sampler(levels: Levels, name: str | None, steps: int, eta: float) -> Callable[[], Scheduler]:
    """Return what makes a sampler for a batch.

    Args:
        levels: the model's.
        name: one of :data:`sdk.rules.drawing.SCHEDULERS`; ``None``: the model's own.
        steps: of the sampler.
        eta: share of fresh noise in each step, of DDIM.

    Raises:
        InputError: another name, or more steps than there are levels.
    """
    kind = own_sampler(levels) if name is None else check_scheduler_name(name)
    most = len(levels.alphas) - 1 - (kind in _ONE_MORE)  # they start one level further on
    if kind == "LCMScheduler":
        most = trained_steps(levels)
    if steps > most:
        raise InputError(f"num_inference_steps may be at most {most} with this model, got {steps}")
    make = _OWN[kind] if name is None else _NAMED[kind]
    return lambda: make(levels, steps, eta)
