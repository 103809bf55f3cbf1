"""Concept packs: what a fit learned, in memory and on disk.

A pack is a folder of safetensors and JSON, whole or absent. Weights are kept in float16 in memory too, so
that a pack behaves the same before and after it was written. The format is described in docs/pack-format.md.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from ..concepts import Concept, checked_concepts, join_phrases
from ..disk.file_names import token_file_name
from ..disk.files import as_path, prepare_output_folder, reporting_full_disk, sha256_file
from ..disk.folders import new_folder
from ..disk.learned import check_finite, check_row
from ..disk.reading import parse_json
from ..errors import InputError, OutputError, PackError
from ..images.image_io import check_reference
from ..model.fingerprint import BaseIdentity
from ..printable import printable
from ..rights import Statement
from ..unet.matrices import Matrix, converted, named_tensors, tensors
from .card import CARD, Described, card, is_card
from .layout import BY_PRODUCTS, FORMAT_VERSION, LATER_VERSION, MANIFEST, REFERENCE, UNET
from .manifest import read_manifest, read_parts
from .tensors import tensor_file
from .token_rows import token_tensors
from .weights_file import check_pairs, in_low_rank, weights_file

_AND_AT_MOST = 3  # concepts


@dataclass(repr=False, eq=False)
class ConceptPack:
    """Learned K and V weights, token embeddings and where they come from.

    Attributes:
        concepts: the concepts, in order.
        base: the base model the pack belongs to.
        key_value: by layer name (``...attn2``): K and V, float16; weights ``[hidden, context]`` in absolute values, or
            changes of low rank (:class:`sdk.unet.matrices.LowRank`).
        embeddings: float16 ``[S, C]``, one row a concept.
        unet: what else of the UNet was learned, by parameter name, float16; of methods that train more than K and V.
        method: name of the method that learned it.
        settings: the fit's configuration.
        provenance: seed, library versions, hash of the picture: what it takes to repeat the fit; and the ``licence``
            and ``consent`` that were stated, if any.
        reference: the reference picture as the fit saw it, or ``None``.
    """

    concepts: list[Concept]
    base: BaseIdentity
    key_value: dict[str, tuple[Matrix, Matrix]]
    embeddings: Tensor
    unet: dict[str, Tensor] = field(default_factory=dict)
    method: str = "disendiff"
    settings: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    reference: Image.Image | None = None
    _hashed: tuple[Any, str] | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        half = torch.float16
        self.key_value = {
            layer: (converted(k, device="cpu", dtype=half), converted(v, device="cpu", dtype=half))
            for layer, (k, v) in self.key_value.items()
        }
        self.embeddings = self.embeddings.detach().to("cpu", half).contiguous()
        self.unet = {name: w.detach().to("cpu", half).contiguous() for name, w in self.unet.items()}

    @property
    def tokens(self) -> list[str]:
        """The modifier tokens, such as ``["<new1>", "<new2>"]``."""
        return [c.token for c in self.concepts]

    @property
    def prompt(self) -> str:
        """A prompt that names every concept; of many in as few words as the captions of a fit."""
        phrases = [c.phrase for c in self.concepts]
        if len(phrases) > _AND_AT_MOST:
            return f"photo of a {join_phrases(phrases)}"
        return "photo of " + " and ".join(f"a {phrase}" for phrase in phrases)

    def content_hash(self) -> str:
        """Return the SHA-256 of what was learned: tokens, embeddings and weights, nothing about time or place."""
        learned = [t for pair in self.key_value.values() for matrix in pair for t in tensors(matrix)]
        # Known again as long as nobody touches a tensor: a pack of a whole UNet takes seconds.
        everything = (self.embeddings, *learned, *self.unet.values())
        counted = not any(t.is_inference() for t in everything)  # made in inference_mode, changes are not counted
        versions = tuple((id(t), t._version) for t in everything) if counted else object()
        key = (tuple(self.concepts), versions, tuple(self.unet))
        if self._hashed is not None and self._hashed[0] == key:
            return self._hashed[1]
        digest = hashlib.sha256()
        for concept in self.concepts:
            digest.update(f"{concept.token}\0{concept.noun}\0".encode())
        digest.update(_bytes(self.embeddings))
        for layer in sorted(self.key_value):
            digest.update(layer.encode())
            for matrix in self.key_value[layer]:
                for tensor in tensors(matrix):
                    digest.update(_bytes(tensor))
        for name in sorted(self.unet):
            digest.update(name.encode())
            digest.update(_bytes(self.unet[name]))
        self._hashed = (key, digest.hexdigest())
        return self._hashed[1]

    @property
    def clip_skip(self) -> int:
        """Last layers of the text encoders that the fit left out; whoever draws leaves them out too."""
        stated = self.settings.get("clip_skip", 0)
        return stated if type(stated) is int and stated > 0 else 0

    @property
    def statement(self) -> Statement:
        """What goes along with the pack wherever it goes."""
        return Statement.of(self.content_hash(), self.provenance)

    def __repr__(self) -> str:
        names = ", ".join(c.phrase for c in self.concepts)
        text = f"{type(self).__name__}({names}; {self.method} on {self.base.name}; {self.content_hash()[:12]})"
        return printable(text)

    def export_adapter(self, path: str | Path) -> Path:
        """Write the pack as one ``.onnx_adapter`` for a shared ONNX export, see :class:`sdk.deploy.OnnxPersonalizer`.

        Raises:
            InputError: a pack that holds UNet weights beyond K and V, or ONNX Runtime is missing.
            NotFiniteError: values that are no numbers, or overflow float16.
        """
        self.check_storable()
        if self.clip_skip:
            raise InputError("adapters know no clip_skip, with which this pack was fitted; fit it without")
        if self.unet:
            raise InputError(f"a pack of {self.method} changes the whole UNet; merge it in: export_onnx(dir, pack)")
        try:
            from ..deploy.adapters import check_adapter_file, write_adapter
        except ModuleNotFoundError as error:
            raise InputError("adapters need ONNX Runtime; run: pip install 'personalizer-sdk[onnx]'") from error
        weights = {n: t.numpy() for layer, pair in self.key_value.items() for n, t in named_tensors(layer, pair)}
        file = as_path(path)
        check_adapter_file(file)
        prepare_output_folder(file.parent)
        write_adapter(file, self.concepts, self.embeddings.numpy(), weights, self.base.to_dict(), self.statement)
        return file

    def check_finite(self, name: str = "the pack") -> None:
        """Raise :class:`NotFiniteError` if a value is no number, or was too large for float16.

        Args:
            name: what messages call the pack.
        """
        check_finite(name, self._named())

    def misfit(self, unet: nn.Module) -> str | None:
        """Return why the weights have no place in a UNet, or ``None`` if they have."""
        there = {name: tuple(weight.shape) for name, weight in unet.named_parameters()}
        weights: dict[str, Matrix] = dict(self.unet)
        for layer, pair in self.key_value.items():
            weights |= {f"{layer}.to_{which}.weight": matrix for which, matrix in zip("kv", pair, strict=True)}
        for name, weight in weights.items():
            layer, _, leaf = name.rpartition(".")
            inner = name if name in there else f"{layer}.base_layer.{leaf}"  # beneath a LoRA
            if there.get(inner) != tuple(weight.shape):
                wanted = list(there[inner]) if inner in there else "none"
                return f"{name} is {list(weight.shape)} instead of {wanted}"
        return None

    def check_storable(self) -> None:
        """Check that the pack can be written to a file and read again.

        Raises:
            NotFiniteError: values that are no numbers, or overflow float16.
            InputError: shapes that do not belong together, or concepts that are none.
        """
        if checked_concepts(self.concepts) != list(self.concepts):
            raise InputError("the pack's concepts are not tidied; make them by resolve_concepts")
        self.check_finite()

        def fail(reason: str) -> InputError:
            return InputError(f"this is no pack: {reason}")

        check_pairs(self.key_value, self.base, fail)
        if self.embeddings.ndim != 2 or len(self.embeddings) != len(self.concepts):
            raise fail(f"{len(self.concepts)} concepts have embeddings {list(self.embeddings.shape)}")
        for concept, row in zip(self.concepts, self.embeddings, strict=True):
            check_row(concept.token, row, self.base.context, fail)
        if self.reference is not None:
            check_reference(self.reference, "the pack's reference")
        try:
            written = json.dumps([self.settings, self.provenance, self.base.to_dict()]).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise fail(f"its settings and provenance are no plain values ({error})") from error
        parse_json(written, "the pack's settings or provenance", advice="give plain, finite values")

    def _named(self) -> Iterator[tuple[str, Tensor]]:
        """All learned tensors by name."""
        yield "the token embeddings", self.embeddings
        for layer, pair in self.key_value.items():
            for letter, matrix in zip("KV", pair, strict=True):
                yield from ((f"{letter} of {layer}", each) for each in tensors(matrix))
        yield from self.unet.items()

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the pack; the folder is whole or absent, and an earlier pack there is replaced.

        Raises:
            OutputError: the folder cannot be written, or is a file, or holds something that is not a pack.
            NotFiniteError: values that are no numbers, or overflow float16.
        """
        self.check_storable()
        destination = as_path(folder)
        with reporting_full_disk(destination, destination.parent):
            if destination.exists() and not destination.is_dir():
                raise OutputError(f"{destination} is a file; give a folder for the pack")
            if destination.is_dir() and any(destination.iterdir()) and not (destination / MANIFEST).is_file():
                raise OutputError(f"{destination} holds other files; give an empty or a new folder for the pack")
            rewritten = (destination / CARD).is_file() and not is_card((destination / CARD).read_bytes())
        ours = [name for name in BY_PRODUCTS if name != CARD or not rewritten]
        with new_folder(destination, manifest=MANIFEST, by_products=ours) as work:
            self.write_files(work)
            if rewritten:  # by a person, who wants to keep it
                (work / CARD).unlink()
        return destination

    @property
    def low_rank(self) -> bool:
        """Whether K and V are changes of low rank beside the base model's weights."""
        return in_low_rank(self.key_value)

    def weights_file(self, **metadata: str) -> tuple[str, bytes]:
        """Return K and V as a safetensors file, its name and its content, see :mod:`sdk.pack.weights_file`."""
        return weights_file(self.key_value, {"format": "pt", **metadata})

    def token_files(self, **metadata: str) -> dict[str, bytes]:
        """Return one textual-inversion file per token by name, see :func:`sdk.pack.token_rows.token_tensors`."""
        rows = enumerate(zip(self.tokens, self.embeddings, strict=True))
        about = {"format": "pt", **metadata}
        return {
            token_file_name(i): tensor_file(token_tensors(token, row, self.base), about) for i, (token, row) in rows
        }

    def write_files(self, folder: Path) -> None:
        """Write the pack's files into an existing folder, the manifest last.

        Raises:
            NotFiniteError: values that are no numbers, or overflow float16; see also :meth:`check_storable`.
        """
        self.check_storable()
        name, content = self.weights_file()
        (folder / name).write_bytes(content)
        names = [name]
        if self.unet:
            (folder / UNET).write_bytes(tensor_file(self.unet, {"format": "pt"}))
            names.append(UNET)
        for name, content in self.token_files().items():
            (folder / name).write_bytes(content)
            names.append(name)
        if self.reference is not None:
            self.reference.save(folder / REFERENCE)
            names.append(REFERENCE)
        manifest = {
            "format_version": LATER_VERSION if self.low_rank or self.base.widths else FORMAT_VERSION,
            "method": self.method,
            "base_model": self.base.to_dict(),
            "concepts": [
                {"token": c.token, "class": c.noun, "file": token_file_name(i)} for i, c in enumerate(self.concepts)
            ],
            "prompt": self.prompt,
            "content_sha256": self.content_hash(),
            "files": {name: sha256_file(folder / name) for name in names},
            "settings": self.settings,
            "provenance": self.provenance,
        }
        described = Described(
            self.concepts,
            self.base.name,
            self.method,
            self.prompt,
            self.settings,
            self.provenance,
            self.statement,
            self.reference is not None,
        )
        (folder / CARD).write_text(card(described), encoding="utf-8")
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> ConceptPack:
        """Read a pack and check every file against its hash.

        Raises:
            MissingFileError: no such folder, or it holds no pack.
            PackError: damaged, incomplete, or of a later format.
            NotFiniteError: it holds values that are no numbers.
        """
        pack = cls(**read_parts(folder))
        pack.check_finite(f"the pack {folder}")
        stated = read_manifest(Path(folder)).get("content_sha256")
        if stated is not None and stated != pack.content_hash():
            raise PackError(f"the pack {folder} is not what its manifest says (content_sha256); fit or copy it again")
        return pack


def _bytes(tensor: Tensor) -> memoryview:
    """A tensor's numbers as they lie in memory, without a copy."""
    numbers: Any = tensor.numpy()
    return memoryview(numbers).cast("B") if tensor.numel() else memoryview(b"")
