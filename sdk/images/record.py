"""What a drawn picture says of itself: how it was drawn, and that a model drew it.

PNG files carry three entries, whose names are those that other programs look for: ``personalizer`` (JSON, all that is
known), ``parameters`` (one line for people, as A1111's interface writes it) and XMP with IPTC's digital source type, by
which picture agencies and platforms tell generated media (IPTC Photo Metadata Standard 2025.1).
"""

from __future__ import annotations

import io
import json
import re
import struct
import zlib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO
from xml.sax.saxutils import escape

from PIL import Image, PngImagePlugin

from ..disk.reading import open_regular
from ..errors import ImageError
from .image_io import MOST_PIXELS

KEY, LINE, XMP = "personalizer", "parameters", "XML:com.adobe.xmp"
_SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
# What Pillow raises for PNG files that are none, damaged, or claim to be huge.
_DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    OverflowError,
    MemoryError,
    IndexError,
    TypeError,
    KeyError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
_LARGEST = 1 << 28  # bytes of a file
_LONGEST = 1 << 16  # characters of an entry that is read
_LATER = ("guidance_rescale", "clip_skip", "speed", "separate")  # what records of the first versions do not have


@dataclass(frozen=True)
class PictureRecord:
    """How a picture was drawn.

    Attributes:
        prompt: what was asked for.
        seed: of its noise; ``None`` where the caller brought a generator whose seed is not known.
        steps: of the sampler.
        scheduler: its name.
        guidance_scale: of classifier-free guidance.
        base: name of the base model; of a path its last part.
        negative_prompt: what to steer away from.
        eta: share of fresh noise in each step.
        pack: SHA-256 of what the pack learned, if one was used.
        concepts: its concepts, as prompts name them.
        edited: whether it was drawn from another picture (inpainting, image to image).
        strength: share of the steps that were done then.
        licence: of the pack, if it states one.
        version: of this package.
        guidance_rescale: how far the guided prediction got back the contrast of the plain one.
        clip_skip: last layers of the text encoders that were left out.
        speed: at which level of speed; empty: exact.
        separate: share of the steps in which the subjects were driven apart.
    """

    prompt: str
    seed: int | None
    steps: int
    scheduler: str
    guidance_scale: float
    base: str
    negative_prompt: str = ""
    eta: float = 0.0
    pack: str | None = None
    concepts: tuple[str, ...] = ()
    edited: bool = False
    strength: float | None = None
    licence: str | None = None
    version: str = ""
    guidance_rescale: float = 0.0
    clip_skip: int = 0
    speed: str = ""
    separate: float = 0.0

    def line(self) -> str:
        """Return what interfaces show: the prompt, what to avoid, then names and values."""
        values = {"Steps": self.steps, "Sampler": self.scheduler, "CFG scale": self.guidance_scale, "Seed": self.seed}
        values |= {
            "CFG rescale": self.guidance_rescale or None,
            "Clip skip": self.clip_skip + 1 if self.clip_skip else None,
            "Speed": self.speed or None,
            "Separate": self.separate or None,
        }
        values |= {"Model": self.base} | ({"Pack": self.pack[:16]} if self.pack else {})
        told = ", ".join(f"{name}: {value}" for name, value in values.items() if value is not None)
        minus = [f"Negative prompt: {self.negative_prompt}"] if self.negative_prompt else []
        return "\n".join([self.prompt, *minus, told])


def remember(image: Image.Image, record: PictureRecord) -> None:
    """Let a picture know its record, so that it goes along when the picture is written by :func:`png_bytes`."""
    image.info[KEY] = _written(record)


def laid_in(new: Image.Image, picture: Image.Image, hole: Image.Image) -> Image.Image:
    """Return a picture with a drawn one in the white part of a mask, and the drawn one's record."""
    whole = Image.composite(new, picture, hole)
    whole.info = dict(new.info)
    return whole


def record_of(image: Image.Image) -> PictureRecord | None:
    """Return the record that a picture carries, or ``None``: it has none, or none that this version reads."""
    text = image.info.get(KEY)
    if not isinstance(text, str) or len(text) > _LONGEST:
        return None
    try:
        values: Any = json.loads(text)
        return _checked(values)
    except (ValueError, TypeError, RecursionError):
        return None


def png_bytes(image: Image.Image) -> bytes:
    """Return a picture as a PNG file, with its record if it has one."""
    record, buffer = record_of(image), io.BytesIO()
    entries = PngImagePlugin.PngInfo()
    if record is not None:
        entries.add_itxt(KEY, _written(record))
        entries.add_itxt(LINE, record.line().encode(errors="replace").decode())
        entries.add_itxt(XMP, _xmp(record))
    image.save(buffer, "PNG", pnginfo=entries)
    return buffer.getvalue()


def read_png(content: bytes) -> Image.Image:
    """Return the picture in a PNG file, with its record if it has one.

    Raises:
        ImageError: it is none, or larger than pictures may be.
    """
    return _opened(io.BytesIO(content), "the picture").convert("RGB")


def read_record(path: Path) -> PictureRecord | None:
    """Return the record in a PNG file, or ``None``.

    Raises:
        MissingFileError: nothing there.
        ImageError: it cannot be read as a PNG file, or is larger than pictures may be.
    """
    with open_regular(path, limit=_LARGEST, what="picture", kind=ImageError, advice="check the path") as file:
        return record_of(_opened(file, path))


def _opened(file: BinaryIO, name: object) -> Image.Image:
    """The picture in a file that may hold anything."""
    try:
        opened = Image.open(file, formats=["PNG"])
        if opened.width * opened.height > MOST_PIXELS:
            raise ImageError(f"{name} has more pixels than are read; what it says of itself is not looked at")
        opened.load()  # entries may come after the pixels
    except ImageError:
        raise
    except _DAMAGED as error:
        raise ImageError(f"{name} cannot be read as a PNG file; only those carry how they were drawn") from error
    return opened


def _written(record: PictureRecord) -> str:
    """As a file holds it: without what is not used and earlier versions do not know, so that they read it, too."""
    values = asdict(record)
    return json.dumps({name: value for name, value in values.items() if value or name not in _LATER})


def _checked(values: Any) -> PictureRecord | None:
    """A record out of a file's values, each of the type it must have."""
    if not isinstance(values, dict) or not values.keys() <= {f.name for f in fields(PictureRecord)}:
        return None
    kinds: dict[str, tuple[type, ...]] = {"seed": (int, type(None)), "steps": (int,), "edited": (bool,)}
    kinds |= {
        "guidance_scale": (int, float),
        "eta": (int, float),
        "strength": (int, float, type(None)),
        "pack": (str, type(None)),
    }
    kinds |= {"licence": (str, type(None)), "concepts": (list, tuple)}
    kinds |= {"guidance_rescale": (int, float), "clip_skip": (int,), "separate": (int, float)}
    for name, value in values.items():
        allowed = kinds.get(name, (str,))
        if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
            return None
    if not all(isinstance(c, str) for c in values.get("concepts", ())):
        return None
    shares = (values.get("guidance_rescale", 0), values.get("separate", 0))
    if not all(0 <= share <= 1 for share in shares) or values.get("clip_skip", 0) < 0:
        return None
    return PictureRecord(**{**values, "concepts": tuple(values.get("concepts", ()))})


def _xmp(record: PictureRecord) -> str:
    kind = "compositeWithTrainedAlgorithmicMedia" if record.edited else "trainedAlgorithmicMedia"
    told = {"description": record.prompt} | ({"rights": record.licence} if record.licence else {})
    words = "\n".join(
        f'<dc:{name}><rdf:Alt><rdf:li xml:lang="x-default">{escape(_clean(text))}</rdf:li></rdf:Alt></dc:{name}>'
        for name, text in told.items()
    )
    return f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 xmlns:dc="http://purl.org/dc/elements/1.1/">
<Iptc4xmpExt:DigitalSourceType>{_SOURCE_TYPES}{kind}</Iptc4xmpExt:DigitalSourceType>
{words}</rdf:Description></rdf:RDF></x:xmpmeta>
<?xpacket end="r"?>"""


def _clean(text: str) -> str:
    """Text without what XML 1.0 cannot hold."""
    return re.sub("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "", text)
