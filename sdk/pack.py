"""Concept packs: what a fit learned, in memory and on disk.

A pack is a folder of safetensors and JSON, whole or absent. Weights are kept in float16 in memory too, so
that a pack behaves the same before and after it was written. The format is described in docs/pack-format.md.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from .concepts import Concept, join_phrases
from .errors import InputError, MissingFileError, OutputError, PackError
from .files import prepare_output_folder, sha256_file
from .folders import new_folder
from .model.fingerprint import BaseIdentity

FORMAT_VERSION = 1
MANIFEST = "personalizer.json"
WEIGHTS = "pytorch_custom_diffusion_weights.safetensors"
UNET = "unet.safetensors"
REFERENCE = "reference.png"
BY_PRODUCTS = ("attention.png", "masks.png", "mask-*.png", "samples.png", "metrics.jsonl")  # patterns, not read again
_AND_AT_MOST = 3  # concepts
_KEY = "{layer}.processor.to_{which}_custom_diffusion.weight"
_KEY_PATTERN = re.compile(r"(?P<layer>.+\.attn2)\.processor\.to_(?P<which>[kv])_custom_diffusion\.weight")


@dataclass
class ConceptPack:
    """Learned K and V weights, token embeddings and where they come from.

    Attributes:
        concepts: the concepts, in order.
        base: the base model the pack belongs to.
        key_value: by layer name (``...attn2``): K and V weights, float16 ``[hidden, context]`` each; absolute values.
        embeddings: float16 ``[S, C]``, one row a concept.
        unet: what else of the UNet was learned, by parameter name, float16; of methods that train more than K and V.
        method: name of the method that learned it.
        settings: the fit's configuration.
        provenance: seed, library versions, hash of the picture: what it takes to repeat the fit.
        reference: the reference picture as the fit saw it, or ``None``.
    """

    concepts: list[Concept]
    base: BaseIdentity
    key_value: dict[str, tuple[Tensor, Tensor]]
    embeddings: Tensor
    unet: dict[str, Tensor] = field(default_factory=dict)
    method: str = "disendiff"
    settings: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    reference: Image.Image | None = None

    def __post_init__(self) -> None:
        half = torch.float16
        self.key_value = {
            layer: (k.detach().to("cpu", half).contiguous(), v.detach().to("cpu", half).contiguous())
            for layer, (k, v) in self.key_value.items()
        }
        self.embeddings = self.embeddings.detach().to("cpu", half).contiguous()
        self.unet = {name: w.detach().to("cpu", half).contiguous() for name, w in self.unet.items()}

    @property
    def tokens(self) -> list[str]:
        """The modifier tokens, such as ``["<new1>", "<new2>"]``."""
        return [c.token for c in self.concepts]

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the learned weights of the UNet by parameter name."""
        for layer, pair in self.key_value.items():
            yield from zip((f"{layer}.to_k.weight", f"{layer}.to_v.weight"), pair, strict=True)
        yield from self.unet.items()

    @property
    def prompt(self) -> str:
        """A prompt that names every concept; of many in as few words as the captions of a fit."""
        phrases = [c.phrase for c in self.concepts]
        if len(phrases) > _AND_AT_MOST:
            return f"photo of a {join_phrases(phrases)}"
        return "photo of " + " and ".join(f"a {phrase}" for phrase in phrases)

    def content_hash(self) -> str:
        """Return the SHA-256 of what was learned: tokens, embeddings and weights, nothing about time or place."""
        digest = hashlib.sha256()
        for concept in self.concepts:
            digest.update(f"{concept.token}\0{concept.noun}\0".encode())
        digest.update(self.embeddings.numpy().tobytes())
        for layer in sorted(self.key_value):
            digest.update(layer.encode())
            for weight in self.key_value[layer]:
                digest.update(weight.numpy().tobytes())
        for name in sorted(self.unet):
            digest.update(name.encode())
            digest.update(self.unet[name].numpy().tobytes())
        return digest.hexdigest()

    def export_adapter(self, path: str | Path) -> Path:
        """Write the pack as one ``.onnx_adapter`` for a shared ONNX export, see :class:`sdk.deploy.OnnxPersonalizer`.

        Raises:
            InputError: a pack that holds UNet weights beyond K and V, or ONNX Runtime is missing.
        """
        self.check_storable()
        if self.unet:
            raise InputError(f"a pack of {self.method} changes the whole UNet; merge it in: export_onnx(dir, pack)")
        try:
            from .deploy.adapters import write_adapter
        except ModuleNotFoundError as error:
            raise InputError("adapters need ONNX Runtime; run: pip install 'personalizer-sdk[onnx]'") from error
        weights = {
            f"{layer}.to_{which}.weight": weight.numpy()
            for layer, pair in self.key_value.items()
            for which, weight in zip("kv", pair, strict=True)
        }
        file = Path(path)
        prepare_output_folder(file.parent)
        write_adapter(file, self.concepts, self.embeddings.numpy(), weights, self.base.to_dict())
        return file

    def check_storable(self) -> None:
        """Raise :class:`InputError` if the pack cannot be written to a file; this one can."""

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the pack; the folder is whole or absent, and an earlier pack there is replaced.

        Raises:
            OutputError: the folder cannot be written, or is a file, or holds something that is not a pack.
        """
        destination = Path(folder)
        if destination.exists() and not destination.is_dir():
            raise OutputError(f"{destination} is a file; give a folder for the pack")
        if destination.is_dir() and any(destination.iterdir()) and not (destination / MANIFEST).is_file():
            raise OutputError(f"{destination} holds other files; give an empty or a new folder for the pack")
        with new_folder(destination, manifest=MANIFEST, by_products=BY_PRODUCTS) as work:
            self.write_files(work)
        return destination

    def weights_bytes(self) -> bytes:
        """Return K and V as a safetensors file, with diffusers' Custom Diffusion keys."""
        weights = {
            _KEY.format(layer=layer, which=which): weight
            for layer, pair in self.key_value.items()
            for which, weight in zip("kv", pair, strict=True)
        }
        return save(weights, metadata={"format": "pt"})

    def token_files(self) -> dict[str, bytes]:
        """Return one textual-inversion file per token by name, ``{"<new1>": [C]}`` in safetensors."""
        rows = zip(self.tokens, self.embeddings, strict=True)
        return {f"{t.strip('<>')}.safetensors": save({t: row.clone()}, metadata={"format": "pt"}) for t, row in rows}

    def write_files(self, folder: Path) -> None:
        """Write the pack's files into an existing folder, the manifest last."""
        (folder / WEIGHTS).write_bytes(self.weights_bytes())
        names = [WEIGHTS]
        if self.unet:
            (folder / UNET).write_bytes(save(self.unet, metadata={"format": "pt"}))
            names.append(UNET)
        for name, content in self.token_files().items():
            (folder / name).write_bytes(content)
            names.append(name)
        if self.reference is not None:
            self.reference.save(folder / REFERENCE)
            names.append(REFERENCE)
        manifest = {
            "format_version": FORMAT_VERSION,
            "method": self.method,
            "base_model": self.base.to_dict(),
            "concepts": [{"token": c.token, "class": c.noun} for c in self.concepts],
            "prompt": self.prompt,
            "content_sha256": self.content_hash(),
            "files": {name: sha256_file(folder / name) for name in names},
            "settings": self.settings,
            "provenance": self.provenance,
        }
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> ConceptPack:
        """Read a pack and check every file against its hash.

        Raises:
            MissingFileError: no such folder, or it holds no pack.
            PackError: damaged, incomplete, or of a later format.
        """
        path = Path(folder)
        manifest = read_manifest(path)
        contents = {name: _read_checked(path, name, digest) for name, digest in manifest["files"].items()}
        try:
            weights = load(contents[WEIGHTS])
            unet = load(contents[UNET]) if UNET in contents else {}
            concepts = [Concept(c["class"], c["token"]) for c in manifest["concepts"]]
            rows = [load(contents[f"{c.token.strip('<>')}.safetensors"])[c.token] for c in concepts]
            base = BaseIdentity.from_dict(manifest["base_model"])
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise PackError(f"the pack {path} is incomplete or malformed; fit or copy it again") from error
        reference = None
        if REFERENCE in contents:
            with Image.open(path / REFERENCE) as opened:
                reference = opened.convert("RGB")
        return cls(
            concepts=concepts,
            base=base,
            key_value=_pair_up(weights, path),
            embeddings=torch.stack(rows),
            unet=unet,
            method=manifest["method"],
            settings=manifest["settings"],
            provenance=manifest["provenance"],
            reference=reference,
        )


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read ``personalizer.json`` of a pack.

    Raises:
        MissingFileError: no such folder, or it holds no pack.
        PackError: unreadable, incomplete, or of a later format.
    """
    if not folder.is_dir():
        raise MissingFileError(f"there is no pack at {folder}; give the folder that a fit wrote")
    if not (folder / MANIFEST).is_file():
        raise MissingFileError(f"{folder} holds no {MANIFEST}; give the folder that a fit wrote")
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        version = manifest["format_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise PackError(f"{folder / MANIFEST} is damaged; fit or copy the pack again") from error
    if version != FORMAT_VERSION:
        raise PackError(
            f"the pack {folder} has format {version}, this version reads {FORMAT_VERSION}; update the package"
        )
    missing = {"method", "base_model", "concepts", "files", "settings", "provenance"} - manifest.keys()
    if missing:
        raise PackError(f"{folder / MANIFEST} lacks {', '.join(sorted(missing))}; fit or copy the pack again")
    return manifest


def _read_checked(folder: Path, name: str, digest: str) -> bytes:
    if Path(name).name != name:
        raise PackError(f"the pack {folder} refers to {name!r} outside itself; do not use it")
    file = folder / name
    if not file.is_file():
        raise PackError(f"the pack {folder} lacks {name}; fit or copy it again")
    data = file.read_bytes()
    if hashlib.sha256(data).hexdigest() != digest:
        raise PackError(f"{file} is damaged (its hash does not match); fit or copy the pack again")
    return data


def _pair_up(weights: dict[str, Tensor], path: Path) -> dict[str, tuple[Tensor, Tensor]]:
    layers: dict[str, dict[str, Tensor]] = {}
    for key, weight in weights.items():
        match = _KEY_PATTERN.fullmatch(key)
        if match is None:
            raise PackError(f"the pack {path} holds an unknown weight {key!r}; fit or copy it again")
        layers.setdefault(match["layer"], {})[match["which"]] = weight
    if any(set(pair) != {"k", "v"} for pair in layers.values()):
        raise PackError(f"the pack {path} lacks K or V of a layer; fit or copy it again")
    return {layer: (pair["k"], pair["v"]) for layer, pair in layers.items()}
