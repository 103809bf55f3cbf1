"""What a fit leaves on disk while it runs, and what it finds there.

Everything unfinished lives in ``<output>.partial`` (checkpoint and metrics). The pack's folder appears by one rename of
a complete folder; the partial one goes when everything beside the pack is there too. So with both there, a fit was
interrupted among its sheets: the pack stays as it is, and the sheets are drawn from the last checkpoint.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor

from ..concepts import Concept
from ..config import FitConfig
from ..errors import OutputError
from ..files import prepare_output_folder
from ..model.fingerprint import BaseIdentity
from ..pack import MANIFEST, ConceptPack
from .checkpoint import CHECKPOINT


def fit_identity(
    base: BaseIdentity,
    concepts: Sequence[Concept],
    method: str,
    config: FitConfig,
    seed: int,
    dtype: str,
    images: Sequence[Image.Image],
    masks: Sequence[Tensor] | None,
) -> str:
    """Return a hash of everything the result depends on; tells whether a checkpoint or a pack is this very fit's."""
    settings = config.to_dict() | {"checkpoint_every": 0}  # how often to save changes nothing
    parts = [base.to_dict()["fingerprint"], [(c.token, c.noun) for c in concepts], method, settings, seed, dtype]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    for image in images:
        digest.update(image.tobytes())
    for mask in masks or []:
        digest.update(mask.numpy().tobytes())
    return digest.hexdigest()


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that a fit's result depends on."""
    return {
        name: importlib.metadata.version(name) for name in ("personalizer-sdk", "torch", "diffusers", "transformers")
    }


def finished_pack(output_dir: Path, resume: bool, identity: str) -> ConceptPack | None:
    """Return the pack if this very fit already ended; refuse a folder that holds anything else.

    Raises:
        OutputError: a file, another pack, or other files are there.
    """
    if output_dir.exists() and not output_dir.is_dir():
        raise OutputError(f"{output_dir} is a file; give a folder for the pack")
    if not output_dir.is_dir() or not any(output_dir.iterdir()):
        return None
    if not (output_dir / MANIFEST).is_file():
        raise OutputError(f"{output_dir} holds other files; give an empty or a new folder for the pack")
    if resume:
        pack = ConceptPack.from_pretrained(output_dir)
        if pack.provenance.get("identity_sha256") == identity:
            return pack
    raise OutputError(f"{output_dir} already holds a pack; remove it or give another folder")


def partial(output_dir: Path) -> Path:
    """Return the folder of unfinished work."""
    return output_dir.with_name(output_dir.name + ".partial")


def work_folder(output_dir: Path, resume: bool) -> Path:
    """Create the folder of unfinished work; without ``resume`` an earlier checkpoint in it goes."""
    work = prepare_output_folder(partial(output_dir))
    if not resume:
        (work / CHECKPOINT).unlink(missing_ok=True)
    return work
