"""Settings by method and preset, as differences from :class:`sdk.FitConfig`'s defaults (DisenDiff's released code).

``reference`` (or ``code``) is what the authors' code does, ``paper`` what their paper says where that differs, ``best``
what this project recommends. They are for SD 1.x; a base model may bring settings of its own on top.
"""

from __future__ import annotations

from typing import Any

from .errors import InputError

PRESETS = ("best", "reference", "paper", "code")

# The picture as it is, a plain squared error: what the methods beside Custom Diffusion's family share.
_PLAIN = {"flip": 0.0, "scale_augmentation": False, "target_pool": 1, "loss_scale": 1.0, "swap_order": 0.0}

_REFERENCE: dict[str, dict[str, Any]] = {
    "disendiff": {},
    # 500 steps for two concepts (Kumari et al., section 4 and its code).
    "custom_diffusion": {"steps": 500, "calibration_weight": 0.0, "swap_order": 0.0},
    # One picture and one prior a step, effective rate 1e-4, 500 steps, one concept-free prior prompt.
    "attencraft": {
        **_PLAIN,
        "steps": 500,
        "learning_rate": 1e-4,
        "batch_size": 2,
        "loss_scale": 4.0,
        "swap_order": 0.5,
        "prior_prompts": ("a photo at the beach",),
        "masks": {"power": 4, "margin": 0.1, "background": 0.0, "draws": 1, "noise": 300},
    },
    # Ruiz et al. (CVPR 2023), section 4, with the rate that became customary for Stable Diffusion.
    "dreambooth": {**_PLAIN, "steps": 1000, "learning_rate": 5e-6, "batch_size": 2},
    # Gal et al. (ICLR 2023), section 4: 5000 steps, 0.005 a row, no priors.
    "textual_inversion": {
        **_PLAIN,
        "steps": 5000,
        "token_learning_rate": 0.04,
        "batch_size": 8,
        "flip": 0.5,
        "target_pool": 16,  # both ways round are seen
        "prior": "none",
        "target_share": 1.0,
    },
    # Avrahami et al. (SIGGRAPH Asia 2023), section 4: twice 400 steps; the second phase's rate is 2e-6.
    "break_a_scene": {
        **_PLAIN,
        "steps": 800,
        "learning_rate": 2e-6,
        "token_learning_rate": 2e-6,
        "batch_size": 2,
    },
}

_PAPER: dict[str, dict[str, Any]] = {
    # The equations read literally: no min-max, a Gaussian of sigma 0.5, no smoothing, weight one beside a plain MSE.
    "disendiff": {
        "calibration_weight": 1.0,
        "normalize_maps": False,
        "blur_sigma": 0.5,
        "smooth": 0.0,
        "loss_scale": 1.0,
        "swap_order": 0.0,
    },
    "attencraft": {"attencraft": {"sampling": "attention"}},
}

_BEST: dict[str, dict[str, Any]] = {
    "disendiff": {"alone": 0.5},
    # Our masks, none renewed at random timesteps, small concepts as loud as large ones.
    "attencraft": {
        "masks": {"power": 1, "margin": 0.05, "background": 0.3, "draws": 4, "noise": 250},
        "attencraft": {"refresh_noise": 250, "area_normalised": True, "sampling": "attention"},
    },
}


def preset_settings(preset: str, method: str) -> dict[str, Any]:
    """Return the settings of a preset of a method."""
    if method not in _REFERENCE:
        raise InputError(f"there is no method {method!r}; choose one of {', '.join(_REFERENCE)}")
    extra = {"paper": _PAPER, "best": _BEST}.get(preset, {})
    return merged(_REFERENCE[method], extra.get(method, {}))


def merged(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Return settings with others on top; groups of settings are merged too."""
    result = dict(first)
    for name, value in second.items():
        inner = result.get(name)
        result[name] = inner | value if isinstance(inner, dict) and isinstance(value, dict) else value
    return result
