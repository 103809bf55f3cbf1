"""What a fit's result depends on, and what of it has changed."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image
from torch import Tensor

from ..concepts import Concept
from ..config import FitConfig
from ..images.image_io import folder_hash
from ..sampling.engine import Engine
from .whole import whole_identity

TILE = "pictures encoded in tiles of"
# Settings that fits of earlier versions do not name; those of a group after a dot.
_LATER = {"accelerate", "attention", "clip_skip", "kv_rank", "optimizer", "outside_noise", "rows_at_once"}
_LATER |= {"mix", "mix_most", "mix_prompts"}
_LATER |= {f"disendiff.{name}" for name in ("calibration_until", "divergence_weight", "outside_from", "outside_weight")}
_CHANGES_NOTHING = ("checkpoint_every",)  # how often to save


def depends_on(
    engine: Engine,
    concepts: Sequence[Concept],
    method: str,
    config: FitConfig,
    seed: int,
    images: Sequence[Image.Image],
    masks: Sequence[Tensor] | None,
    tile: int | None = None,
) -> dict[str, Any]:
    """Return everything a fit's result depends on, as plain values by name.

    Args:
        engine: the base model.
        concepts: with their tokens.
        method: its name.
        config: settings, the method's own filled in.
        seed: of everything random.
        images: the reference pictures, square.
        masks: the user's, per picture, or ``None``.
        tile: side of the tiles in which pictures are encoded; ``None``: whole.
    """
    settings = _named(config.to_dict(), FitConfig().for_method(method).to_dict())
    found: dict[str, Any] = {f"base model ({part})": value for part, value in whole_identity(engine).items()}
    found |= {
        "concepts": [[c.token, c.noun] for c in concepts],
        "method": method,
        "seed": seed,
        "device": engine.device.type,
        "pictures": [hashlib.sha256(repr(i.size).encode() + i.tobytes()).hexdigest() for i in images],
        "given masks": None if masks is None else [hashlib.sha256(m.numpy().tobytes()).hexdigest() for m in masks],
    }
    if tile is not None:
        found[TILE] = tile
    if config.prior not in ("generate", "none"):
        found["prior pictures"] = folder_hash(config.prior)
    assert not found.keys() & settings.keys()
    return json.loads(json.dumps(found | settings))  # as a file would give it back


def identity_hash(parts: Mapping[str, Any]) -> str:
    """Return a hash of what :func:`depends_on` returned."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def changes(before: Mapping[str, Any], now: Mapping[str, Any], without: Sequence[str] = ()) -> list[str]:
    """Return what differs, in words: ``"seed (it was 0, now 1)"``."""
    found = []
    for name in sorted(before.keys() | now.keys()):
        if name in without or before.get(name) == now.get(name):
            continue
        values = [str(values.get(name)) for values in (before, now)]
        short = all(len(value) <= 40 for value in values) and not name.startswith("base model")
        found.append(f"{name} (it was {values[0]}, now {values[1]})" if short else name)
    return found


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that a fit's result depends on."""
    return {
        name: importlib.metadata.version(name) for name in ("personalizer-sdk", "torch", "diffusers", "transformers")
    }


def _named(settings: Mapping[str, Any], usual: Mapping[str, Any], group: str = "") -> dict[str, Any]:
    """Return the settings that an earlier version would have named: no later ones that are as they are by default."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if name in _CHANGES_NOTHING or (group + name in _LATER and value == usual.get(name)):
            continue
        inner = isinstance(value, dict) and isinstance(usual.get(name), dict)
        found[name] = _named(value, usual[name], f"{group}{name}.") if inner else value
    return found
