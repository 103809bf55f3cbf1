"""What exporting and deploying agree on, the manifest of an ONNX folder, and reading it without running anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..concepts import MAX_CONCEPTS, Concept, stated_concepts
from ..disk.checked import Table
from ..disk.file_names import is_inner_path
from ..disk.files import sha256_file
from ..disk.reading import TABLE_LIMIT, as_path, open_regular, read_json
from ..errors import BaseModelError, MissingFileError
from ..model.fingerprint import BaseIdentity
from ..rights import Statement

FORMAT_VERSION = 1
MANIFEST = "personalizer_onnx.json"
PARTS = ("text_encoder", "unet", "vae_decoder", "vae_encoder")
SHARED_PARTS = (*PARTS, "kv_projection")
SHALLOW = "unet_shallow"  # finishes deep features of an earlier step; not in folders of earlier versions
INT8_UNET = "unet_int8/openvino_model.xml"  # and its weights, in a .bin beside it
KINDS = ("merged", "shared")
_CONFIGURATIONS = (
    "unet/config.json",
    "text_encoder/config.json",
    "vae_decoder/config.json",
    "scheduler/scheduler_config.json",
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
)
_SMALL = 1 << 20  # bytes; smaller files are hashed whenever a folder is opened, graphs when it is verified
_LARGEST = 64 << 30  # bytes
_MOST_FILES = 1000
_MOST_LAYERS = 1000
_AGAIN = "export the model again"


class Folder:
    """The manifest of an exported folder, every entry checked.

    Attributes:
        root: the folder.
        about: the manifest as it is written.
        kind: ``"merged"`` or ``"shared"``.
        dtype: of the graphs, ``"float32"`` or ``"float16"``.
        base: the base model.
        table_size: rows of the text encoder's table.
        layers: the cross-attentions.
        scaling_factor: of the latents.
        guidance_scale: what the base model recommends.
        steps: likewise; 50 in folders of earlier versions.
        guidance_rescale: likewise, 0.
        zeros_without_prompt: whether zeros stand for no negative prompt.
        concepts: of the pack that is merged in.
        statement: its hash, licence and consent.

    Raises:
        MissingFileError: no such folder, or it holds no manifest.
        BaseModelError: a folder of another version, or a damaged manifest.
    """

    def __init__(self, folder: str | Path) -> None:
        self.root = as_path(folder, "folder")
        try:
            about: dict[str, Any] = read_json(self.root / MANIFEST, kind=BaseModelError, advice=_AGAIN)
        except MissingFileError as error:
            advice = "give the folder that export_onnx wrote"
            raise MissingFileError(f"{self.root} holds no {MANIFEST}; {advice}") from error
        table = Table(about, self.fail)
        version = table.whole("format_version", 0, 1 << 31)
        if version != FORMAT_VERSION:
            raise BaseModelError(
                f"{self.root} has format {version}, this version reads {FORMAT_VERSION}; export it again"
            )
        self.about = about
        self.kind = table.choice("kind", KINDS)
        self.dtype = table.choice("dtype", ("float32", "float16"))
        self.base = BaseIdentity.from_dict(table.plain("base_model"), self.fail)
        self.table_size = table.whole("table_size", 1, 10_000_000)
        self.layers = [str(layer) for layer in table.entries("layers", _MOST_LAYERS)]
        if set(self.layers) != set(self.base.fingerprint) or len(self.layers) != len(self.base.fingerprint):
            raise self.fail("layers are not those of the base model")
        self.scaling_factor = table.number("scaling_factor", 1e-6, 1e6)
        self.guidance_scale = table.number("guidance_scale", 0, 1000)
        self.steps = table.whole("num_inference_steps", 1, 999) if "num_inference_steps" in table else 50
        self.guidance_rescale = table.number("guidance_rescale", 0, 1) if "guidance_rescale" in table else 0.0
        self.zeros_without_prompt = about.get("zeros_without_prompt") is True
        self.concepts: list[Concept] = stated_concepts(table.tables("concepts", MAX_CONCEPTS), self.fail)
        self.statement = Statement.read(table)
        self._files = self._listed(table.table("files"))

    @property
    def parts(self) -> tuple[str, ...]:
        """Its graphs."""
        return (*self._needed, SHALLOW) if self.has_shallow else self._needed

    @property
    def _needed(self) -> tuple[str, ...]:
        """The graphs that every folder of this kind holds."""
        return (*self.encoders[1:], *(SHARED_PARTS if self.kind == "shared" else PARTS))

    @property
    def has_shallow(self) -> bool:
        """Whether deep features can be used again."""
        return f"{SHALLOW}/model.onnx" in self._files

    @property
    def encoders(self) -> tuple[str, ...]:
        """Its text encoders, in the order in which their states are joined."""
        further = range(2, len(self.base.widths) + 1)
        return ("text_encoder", *(f"text_encoder_{number}" for number in further))

    @property
    def widths(self) -> tuple[int, ...]:
        """Of each encoder's embeddings."""
        return self.base.widths or (self.base.context,)

    @property
    def has_int8(self) -> bool:
        """Whether it holds a quantised UNet."""
        return INT8_UNET in self._files

    @property
    def count(self) -> int:
        """How many files are listed."""
        return len(self._files)

    def fail(self, reason: str) -> BaseModelError:
        """Return the error for something in the folder that is not as it was written."""
        return BaseModelError(f"{self.root / MANIFEST} is damaged ({reason}); {_AGAIN}")

    def check_files(self, *, all_hashes: bool) -> None:
        """Check that every file is the one that was written.

        Args:
            all_hashes: hash the graphs too, which reads gigabytes of a large model.

        Raises:
            MissingFileError: a file is missing.
            BaseModelError: a changed file.
        """
        for name, (size, digest) in self._files.items():
            file = self.root / name
            open_regular(file, limit=_LARGEST, kind=BaseModelError, advice=_AGAIN).close()
            there = file.stat().st_size
            hashed = all_hashes or there < _SMALL
            if there != size or (hashed and sha256_file(file) != digest):
                raise BaseModelError(f"{file} is damaged (it is not the file that was written); {_AGAIN}")

    def read_table(self, name: str) -> Table:
        """Return what a JSON file of the folder holds."""
        file = self.root / name

        def fail(reason: str) -> BaseModelError:
            return BaseModelError(f"{file} is damaged ({reason}); {_AGAIN}")

        return Table(read_json(file, limit=TABLE_LIMIT, kind=BaseModelError, advice=_AGAIN), fail)

    def _listed(self, files: Table) -> dict[str, tuple[int, str]]:
        """Sizes and hashes by name; what is opened later must be among them."""
        listed = {}
        for name in files.names(_MOST_FILES, 400):
            if not is_inner_path(name):
                raise BaseModelError(f"{self.root / MANIFEST} refers to {name!r} outside its folder; do not use it")
            entry = files.table(name)
            listed[name] = (entry.whole("bytes", 0, _LARGEST), entry.text("sha256", 64))
        further = [
            f"{part}/{file}"
            for encoder in self.encoders[1:]
            for part, file in (
                (encoder, "config.json"),
                (tokenizer_of(encoder), "tokenizer.json"),
                (tokenizer_of(encoder), "tokenizer_config.json"),
            )
        ]
        for name in (*(f"{part}/model.onnx" for part in self._needed), *_CONFIGURATIONS, *further):
            if name not in listed:
                raise self.fail(f"files lack {name}")
        return listed


def tokenizer_of(encoder: str) -> str:
    """Return the folder of an encoder's tokenizer."""
    return encoder.replace("text_encoder", "tokenizer")


def check_folder(folder: str | Path, *, all_hashes: bool = False) -> Folder:
    """Check that an exported folder is whole, and return what its manifest says.

    Args:
        folder: that ``export_onnx`` wrote.
        all_hashes: hash the graphs too, which reads gigabytes of a large model.

    Raises:
        MissingFileError: no such folder, or a file is missing.
        BaseModelError: a folder of another version, or a changed file.
    """
    opened = Folder(folder)
    opened.check_files(all_hashes=all_hashes)
    return opened
