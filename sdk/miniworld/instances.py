"""A second judge, of another build: it finds every object by itself, also several of one class, and reads each.

:mod:`sdk.miniworld.judge` assumes one object a class. This one says of each cell what it belongs to and where the
middle of that object is, groups cells by the middles that they point at (after Panoptic-DeepLab, Cheng et al., CVPR
2020), and reads looks and an identity vector off each region. It is trained apart, from other scenes and another start,
so that one judge can choose pictures and the other measure what was chosen.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .judge import pictures_to_tensor
from .scene import Vocabulary

CELLS = 32  # along a side; a cell is two pixels
IDENTITY_WIDTH = 32
_MIDDLE = 0.3  # least value of a middle
_APART = 7  # cells: of several middles closer than half of this the strongest stays
_LEAST = 30  # cells of a region; a smaller one is a stray mark (the smallest object has about 60)


@dataclass(frozen=True)
class Found:
    """One object in a picture.

    Attributes:
        noun: its class.
        colour: of its body.
        accent: of ears and paws, roof, stripes.
        pattern: of its coat.
        hat: whether it wears one.
        region: where it is, bool ``[32, 32]``.
        identity: unit vector ``[E]``; two objects of a class are the same if their product is above
            :attr:`InstanceJudge.same`.
    """

    noun: str
    colour: str
    accent: str
    pattern: str
    hat: bool
    region: Tensor = field(repr=False)
    identity: Tensor = field(repr=False)


@dataclass(frozen=True)
class Sight:
    """What is in one picture: its objects from left to right, and the most probable background."""

    objects: list[Found]
    background: str


class _Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList(nn.GroupNorm(8, outputs) for _ in range(2))
        self.past = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.silu(self.norms[0](self.first(x)))
        return F.silu(self.norms[1](self.second(inner)) + self.past(x))


class InstanceJudge(nn.Module):
    """The network: down to 8 x 8 and up again to 32 x 32 cells.

    Attributes:
        vocabulary: the part of the world it knows.
        same: product of two identity vectors above which they are taken for the same object.
    """

    def __init__(self, vocabulary: Vocabulary, width: int = 32) -> None:
        super().__init__()
        self.vocabulary, self.width, self.same = vocabulary, width, 0.5
        classes, colours = len(vocabulary.classes), len(vocabulary.colours)
        self.sizes = {"colour": colours, "accent": colours, "pattern": len(vocabulary.patterns), "hat": 1}
        self.sizes["identity"] = IDENTITY_WIDTH
        self.stem = nn.Conv2d(3, width, 3, 1, 1)
        self.down = nn.ModuleList(
            [_Residual(width, width, 2), _Residual(width, 2 * width, 2), _Residual(2 * width, 3 * width, 2)]
        )
        self.middle = _Residual(3 * width, 3 * width)
        self.up = nn.ModuleList([_Residual(5 * width, 2 * width), _Residual(3 * width, 2 * width)])
        self.maps = nn.Conv2d(2 * width, classes + 1 + 1 + 2, 1)
        # Looks are read off the region's features, by each class in its own way.
        self.readings = nn.Parameter(torch.randn(classes, 4 * width, sum(self.sizes.values())) * (4 * width) ** -0.5)
        self.background = nn.Linear(3 * width, len(vocabulary.backgrounds))

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        """Look at pictures.

        Args:
            pictures: ``[B, 3, 64, 64]`` in [-1, 1].

        Returns:
            ``features`` ``[B, F, 32, 32]``; logits of ``kind`` ``[B, C + 1, 32, 32]``, the last one being no object's,
            and of ``middle`` ``[B, 32, 32]``; ``offset`` ``[B, 2, 32, 32]`` to the middle, rows and columns in cells;
            logits of ``background`` ``[B, backgrounds]``.
        """
        x = self.stem(pictures)
        sizes = []
        for layer in self.down:
            x = layer(x)
            sizes.append(x)
        x = self.middle(x)
        background = self.background(x.mean((2, 3)))
        for layer, beside in zip(self.up, (sizes[1], sizes[0]), strict=True):
            x = layer(torch.cat([F.interpolate(x, scale_factor=2.0), beside], 1))
        kind, middle, offset = self.maps(x).split((len(self.vocabulary.classes) + 1, 1, 2), 1)
        return {"features": x, "kind": kind, "middle": middle[:, 0], "offset": offset, "background": background}

    def looks(self, features: Tensor, regions: Tensor, slots: Tensor) -> dict[str, Tensor]:
        """Read regions.

        Args:
            features: of the pictures that hold them, ``[N, F, 32, 32]``.
            regions: ``[N, 32, 32]`` in {0, 1}.
            slots: their classes, int64 ``[N]``.

        Returns:
            Logits ``[N, values]`` of colour, accent and pattern, ``[N]`` of hat; unit vectors ``identity`` ``[N, E]``.
        """
        inside = regions[:, None].to(features.dtype)
        mean = (features * inside).sum((2, 3)) / inside.sum((2, 3)).clamp(min=1)
        peak = (features * inside).amax((2, 3))
        read = torch.einsum("nf,nfo->no", torch.cat([mean, peak], -1), self.readings[slots].to(features.dtype))
        parts = dict(zip(self.sizes, read.split(tuple(self.sizes.values()), -1), strict=True))
        return parts | {"hat": parts["hat"][:, 0], "identity": F.normalize(parts["identity"].float(), dim=-1)}

    @torch.no_grad()
    def find(self, pictures: Tensor) -> list[Sight]:
        """Find every object of pictures ``[B, 3, 64, 64]`` in [-1, 1], and name their backgrounds.

        Pictures are looked at as they are and mirrored: the world has no left and right.
        """
        seen, mirrored = self(pictures), self(pictures.flip(-1))
        turned = {name: mirrored[name].flip(-1) for name in ("features", "kind", "middle", "offset")}
        turned["offset"] = turned["offset"] * turned["offset"].new_tensor([1.0, -1.0]).view(1, 2, 1, 1)
        kind, middle, offset = (((seen[n] + turned[n]) / 2).float() for n in ("kind", "middle", "offset"))
        grouped = [regions_of(k, m, o) for k, m, o in zip(kind.softmax(1), middle.sigmoid(), offset, strict=True)]
        likeliest = (seen["background"] + mirrored["background"]).argmax(-1).tolist()
        sights = [Sight([], self.vocabulary.backgrounds[number]) for number in likeliest]
        rows = [row for row, regions in enumerate(grouped) for _ in regions]
        if not rows:
            return sights
        regions = torch.stack([region for each in grouped for region, _ in each])
        slots = torch.tensor([slot for each in grouped for _, slot in each])
        as_is = self.looks(seen["features"][rows], regions, slots)
        turned_looks = self.looks(mirrored["features"][rows], regions.flip(-1), slots)
        looks = {name: as_is[name] + turned_looks[name] for name in as_is}
        looks["identity"] = F.normalize(looks["identity"], dim=-1)
        words = self.vocabulary
        for index, row in enumerate(rows):
            value = {name: int(looks[name][index].argmax()) for name in ("colour", "accent", "pattern")}
            sights[row].objects.append(
                Found(
                    noun=words.classes[int(slots[index])],
                    colour=words.colours[value["colour"]],
                    accent=words.colours[value["accent"]],
                    pattern=words.patterns[value["pattern"]],
                    hat=bool(looks["hat"][index] > 0),
                    region=regions[index],
                    identity=looks["identity"][index],
                )
            )
        return sights

    def look_at(self, images: list[Image.Image], batch_size: int = 64) -> list[Sight]:
        """Find every object of RGB pictures of any size, which are resized to the world's 64 pixels."""
        batches = [images[start : start + batch_size] for start in range(0, len(images), batch_size)]
        return [sight for batch in batches for sight in self.find(pictures_to_tensor(batch))]

    def save(self, folder: Path) -> None:
        """Write ``instances.safetensors`` (fp16) and ``instances.json``."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({k: v.half().contiguous() for k, v in self.state_dict().items()}, folder / "instances.safetensors")
        described = {"width": self.width, "vocabulary": asdict(self.vocabulary), "same": self.same}
        (folder / "instances.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> InstanceJudge:
        """Read what :meth:`save` wrote."""
        described = json.loads((folder / "instances.json").read_text(encoding="utf-8"))
        words: dict[str, Any] = described["vocabulary"]
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in words.items()}
        judge = cls(Vocabulary(**fields), described["width"])
        judge.same = described["same"]
        judge.load_state_dict({k: v.float() for k, v in load_file(folder / "instances.safetensors").items()})
        return judge.eval()


def regions_of(kind: Tensor, middle: Tensor, offset: Tensor) -> list[tuple[Tensor, int]]:
    """Group one picture's cells into objects.

    Args:
        kind: probabilities ``[C + 1, h, w]`` of the classes and of no object.
        middle: ``[h, w]`` in [0, 1].
        offset: ``[2, h, w]``, from each cell to its object's middle.

    Returns:
        The region, bool ``[h, w]``, and the class of each, from left to right.
    """
    inside = kind.argmax(0) < len(kind) - 1
    around = F.max_pool2d(middle[None, None], _APART, 1, _APART // 2)[0, 0]
    peaks = ((middle == around) & (middle > _MIDDLE)).nonzero().float()  # [P, 2]
    if not len(peaks) or not inside.any():
        return []
    height, width = middle.shape
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    aimed = torch.stack([rows, columns]).float() + offset
    nearest = torch.cdist(aimed.flatten(1).T, peaks).argmin(-1).view(height, width)
    found = []
    for number in range(len(peaks)):
        region = inside & (nearest == number)
        if region.sum() >= _LEAST:
            column = region.nonzero()[:, 1].double().mean().item()
            found.append((column, region, int(kind[:-1, region].sum(-1).argmax())))
    return [(region, slot) for _, region, slot in sorted(found, key=lambda each: each[0])]


@lru_cache(maxsize=1)
def bundled_instance_judge() -> InstanceJudge:
    """Return the one that ships with the package."""
    return InstanceJudge.load(Path(__file__).parent.parent / "bundled" / "judge")
