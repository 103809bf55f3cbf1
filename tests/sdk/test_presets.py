"""The numbers of presets and ablations, as the papers and the released codes give them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from sdk import FitConfig
from sdk.masks import MaskOptions
from sdk.methods import METHODS, method_class
from sdk.plain import merged

PLAIN = {"flip": 0.0, "scale_augmentation": False, "target_pool": 1, "loss_scale": 1.0, "swap_order": 0.0}
ATTENCRAFT = PLAIN | {
    "steps": 500,
    "learning_rate": 1e-4,
    "batch_size": 2,
    "loss_scale": 4.0,
    "swap_order": 0.5,
    "prior_prompts": ["a photo at the beach"],
    "masks": {"power": 4, "margin": 0.1, "background": 0.0, "draws": 1, "noise": 300},
}
BREAK_A_SCENE = PLAIN | {"steps": 800, "learning_rate": 2e-6, "token_learning_rate": 2e-6, "batch_size": 2}
TEXTUAL_INVERSION = PLAIN | {"steps": 5000, "token_learning_rate": 0.04, "flip": 0.5, "target_pool": 16}
TEXTUAL_INVERSION |= {"prior": "none", "target_share": 1.0}
PRESETS = {
    ("disendiff", "reference"): {},
    ("disendiff", "best"): {"alone": 0.5, "disendiff": {"calibration_weight": 0.03}},
    ("disendiff", "paper"): {
        "loss_scale": 1.0,
        "swap_order": 0.0,
        "disendiff": {
            "calibration_weight": 1.0,
            "calibration": {"normalize": False, "sigma": 0.5, "smooth": 0.0},
        },
    },
    ("attencraft", "reference"): ATTENCRAFT,
    ("attencraft", "paper"): merged(ATTENCRAFT, {"attencraft": {"sampling": "attention"}}),
    ("attencraft", "best"): merged(
        ATTENCRAFT,
        {
            "masks": {"power": 1, "margin": 0.05, "background": 0.3, "draws": 4, "noise": 250},
            "attencraft": {"refresh_noise": 250, "area_normalised": True, "sampling": "attention"},
        },
    ),
    ("custom_diffusion", "reference"): {"steps": 500, "swap_order": 0.0},
    ("dreambooth", "reference"): PLAIN | {"steps": 1000, "learning_rate": 5e-6, "batch_size": 2},
    ("textual_inversion", "reference"): TEXTUAL_INVERSION,
    ("break_a_scene", "reference"): BREAK_A_SCENE,
}
DEFAULTS = {
    "accelerate": "auto",
    "attention": "sdpa",
    "clip_skip": 0,
    "kv_rank": None,
    "optimizer": "adamw",
    "rows_at_once": 0,
    "steps": 250,
    "learning_rate": 8e-5,
    "token_learning_rate": None,
    "decay": 0.0,
    "weight_decay": 0.01,
    "batch_size": 8,
    "target_share": 0.5,
    "target_pool": 128,
    "loss_scale": 4.0,
    "detach_start_token": True,
    "swap_order": 0.5,
    "alone": 0.0,
    "mix": 0.0,
    "mix_prompts": [],
    "mix_most": 0,
    "outside_noise": 0.0,
    "forget_layout": False,
    "flip": 0.5,
    "scale_augmentation": True,
    "prior": "generate",
    "prior_prompts": ["photo of {all}"],
    "prior_count": 200,
    "prior_steps": 50,
    "prior_guidance": 6.0,
    "initializers": [],
    "initializer_candidates": [],
    "precision": "fp32",
    "masks": {"power": 1, "margin": 0.05, "background": 0.3, "draws": 4, "noise": 250},
    "backend": None,
    "gradient_checkpointing": False,
    "checkpoint_every": 50,
    "validate_every": 0,
    "patience": 0,
}
OWN = {
    "disendiff": {
        "calibration_weight": 0.01,
        "calibration": {
            "normalize": True,
            "sigma": 0.5**0.5,
            "suppress": 1,
            "smooth": 1.0,
            "bind": 1.0,
            "separate": 1.0,
        },
        "micro_batch": 2,
        "calibration_until": 1.0,
        "outside_weight": 0.0,
        "outside_from": 0.1,
        "divergence_weight": 0.0,
        "train_query": False,
        "all_scales": False,
    },
    "attencraft": {
        "refresh_every": 20,
        "refresh_noise": 1000,
        "refresh_similarity": 0.8,
        "masked": True,
        "area_normalised": False,
        "attention_weight": 1.0,
        "sampling": "uniform",
        "together": 1 / 3,
    },
    "break_a_scene": {"token_share": 0.5, "first_token_rate": 5e-4, "attention_weight": 0.01},
}


@pytest.mark.parametrize("preset", ["reference", "code", "paper", "best"])
@pytest.mark.parametrize("method", METHODS)
def test_presets_are_what_their_sources_say(method, preset):
    own = {method: OWN[method]} if method in OWN else {}
    listed = PRESETS.get((method, preset), PRESETS[method, "reference"])
    assert FitConfig.preset(preset, method).to_dict() == merged(DEFAULTS | own, listed)


ABLATIONS = {
    "no-calibration": {"disendiff": {"calibration_weight": 0.0}},
    "no-bind": {"disendiff": {"calibration": {"bind": 0.0}}},
    "no-separate": {"disendiff": {"calibration": {"separate": 0.0}}},
    "no-suppression": {"disendiff": {"calibration": {"suppress": 0}}},
    "no-gaussian": {"disendiff": {"calibration": {"sigma": 0.0}}},
    "twice-suppressed": {"disendiff": {"calibration": {"suppress": 2}}},
    "all-scales": {"disendiff": {"all_scales": True}},
    "with-query": {"disendiff": {"train_query": True}},
    "no-order-swap": {"swap_order": 0.0},
}


def test_each_ablation_changes_what_it_says_and_nothing_else():
    reference = FitConfig.preset("reference").to_dict()
    variants = method_class("disendiff").variants
    assert {name for name, variant in variants.items() if variant.preset == "reference"} == set(ABLATIONS)
    for name, changes in ABLATIONS.items():
        found = FitConfig.preset("reference", **variants[name].changes).to_dict()
        assert found == merged(reference, changes) != reference, name


def test_masks_to_look_at_are_those_that_a_fit_uses(personalizer, picture, quick, tmp_path):
    config = quick.with_changes(steps=1)
    pack = personalizer.fit(picture, ["cat", "dog"], config=config, output_dir=tmp_path / "pack")
    shown = personalizer.find_masks(pack.reference, ["cat", "dog"], config=config)
    for index, mask in enumerate(shown, start=1):
        with Image.open(tmp_path / "pack" / f"mask-new{index}.png") as used:
            assert np.array_equal(np.asarray(mask), np.asarray(used.convert("L")))
    other = config.with_changes(masks={"power": 0, "background": 0.1})
    assert other.masks == MaskOptions(power=0, background=0.1)
    changed = personalizer.find_masks(pack.reference, ["cat", "dog"], config=other)
    assert [m.tobytes() for m in changed] != [m.tobytes() for m in shown]
