"""The kinds of hostile inputs, and how large a share of all inputs each has."""

from __future__ import annotations

from importlib import import_module

from .case import Maker

# By name: the file and function that makes a case, and the share; what is slow to run has a small one.
KINDS: dict[str, tuple[str, str, int]] = {
    "pictures": ("pictures", "files", 170),
    "picture-objects": ("pictures", "objects", 80),
    "pack-manifests": ("packs", "manifests", 110),
    "pack-files": ("packs", "contents", 110),
    "adapters": ("adapters", "adapters", 80),
    "onnx-folders": ("onnx_folders", "folders", 70),
    "authors-files": ("authors", "files", 90),
    "settings": ("settings", "values", 70),
    "settings-files": ("settings", "texts", 50),
    "fits": ("settings", "fits", 10),
    "prior-folders": ("captions", "folders", 30),
    "prior-caches": ("captions", "caches", 25),
    "drawing": ("drawing", "torch_side", 55),
    "drawing-onnx": ("drawing", "onnx_side", 55),
    "concepts": ("concepts", "lists", 45),
    "checkpoints": ("checkpoints", "resumed", 15),
    "commands": ("commands", "lines", 55),
    "outputs": ("outputs", "paths", 40),
}


def maker_of(kind: str) -> Maker:
    """What makes a case of a kind; ``planted x`` is the planted case of the name ``x``."""
    if kind.startswith("planted "):
        from .planted import maker

        return maker(kind.removeprefix("planted "))
    file, function, _ = KINDS[kind]
    return getattr(import_module(f".{file}", __package__), function)


def plan(count: int, seed: int) -> list[tuple[str, int, int]]:
    """Kind, seed and index of about ``count`` cases (never fewer), each kind with its share."""
    whole = sum(share for *_, share in KINDS.values())
    return [(kind, seed, index) for kind, (*_, share) in KINDS.items() for index in range(-(-count * share // whole))]
