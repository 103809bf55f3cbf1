"""What a result must be like if a call went through: else the call was wrong without a word."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

from .case import Place, Silent

_RESERVED = re.compile(r"(?i)(con|nul|aux|prn|com\d|lpt\d)(\.|$)")  # of Windows


def picture(image: Any, size: tuple[int, int] | None = None) -> None:
    """A drawn or read picture is RGB, has pixels, and the size asked for."""
    from PIL import Image

    if not isinstance(image, Image.Image) or image.mode != "RGB":
        raise Silent(f"no RGB picture but {image!r:.80}")
    if size is not None and image.size != size:
        raise Silent(f"a picture of another size than asked for: {image.size}, not {size}")
    image.load()


def drawn(result: Any, count: int, size: tuple[int, int] | None = None) -> list[str]:
    """A generation has as many pictures as asked for, none of them black; returns its notes."""
    if len(result.images) != count:
        raise Silent(f"{len(result.images)} pictures instead of {count}")
    for image in result.images:
        picture(image, size)
        if image.getbbox() is None:
            raise Silent("a black picture")
    return list(result.notes)


def pack(read: Any, place: Place, rng: random.Random) -> list[str]:
    """A pack that was read is finite, belongs together, and can be saved, read again and drawn with."""
    import torch

    from sdk import ConceptPack
    from sdk.pack import WEIGHTS

    tensors = [*read.unet.values(), read.embeddings, *(w for pair in read.key_value.values() for w in pair)]
    if any(not torch.isfinite(t).all() for t in tensors):
        raise Silent("a pack that is not finite")
    if len(read.concepts) != len(read.embeddings):
        raise Silent("a pack with another number of rows than of concepts")
    if any(not isinstance(text, str) for c in read.concepts for text in (c.token, c.noun)):
        raise Silent("a concept that is no text")
    repr(read)
    place.assets.engine.check_base(read)
    saved = read.save_pretrained(place.out / "saved")
    names = [file.name for file in saved.iterdir()]
    if WEIGHTS not in names:
        raise Silent("a saved pack without weights")
    if len({name.casefold() for name in names}) < len(names) or any(_RESERVED.match(name) for name in names):
        raise Silent(f"a saved pack that other systems cannot hold: {sorted(names)}")
    if ConceptPack.from_pretrained(saved).content_hash() != read.content_hash():
        raise Silent("a pack that is another one once saved")
    notes = []
    if read.concepts and rng.random() < 0.5:
        prompt = read.prompt
        result = place.assets.engine.generate(prompt, concepts=read, seed=1, num_inference_steps=1, guidance_scale=2)
        notes = drawn(result, 1)
    if rng.random() < 0.1:
        read.export_adapter(place.out / "a.onnx_adapter")
    return notes


def printed(status: int, out: str, errors: str) -> list[str]:
    """What a command prints is text of one line each without control characters; an error is one line."""
    from .worker import unfit

    if status not in (0, 2, 130):
        raise AssertionError(f"exit status {status}: {errors[-300:]!r}")
    if "Traceback" in errors:
        raise AssertionError(f"a traceback: {errors[-300:]!r}")
    lines = [line for line in errors.split("\n") if line.strip() and "\r" not in line]
    if status == 2 and len(lines) - sum(line.startswith("note: ") for line in lines) != 1:
        raise AssertionError(f"{len(lines)} lines of error: {errors[:300]!r}")
    for line in (*lines, *out.split("\n")):
        problem = unfit(line.replace("\t", " ")) if line.strip() else None
        if problem is not None and "characters" not in problem:
            raise AssertionError(f"a line {problem}")
    for line in lines:
        if len(line) > 700:
            raise AssertionError(f"an error of {len(line)} characters")
    return [line.removeprefix("note: ") for line in lines if line.startswith("note: ")]


def untouched(files: dict[Path, bytes]) -> None:
    """Files that were there are there, as they were."""
    for path, content in files.items():
        if not path.is_file() or path.read_bytes() != content:
            raise Silent(f"{path.name}, which was there before, was changed or removed")
