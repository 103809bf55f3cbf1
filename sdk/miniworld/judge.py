"""The judge: reads the attributes of every object back from a picture of the drawn world.

A small convolutional network trained on renders alone. It never sees a caption, and no training of the
bundled model or of a concept ever sees the judge. It assumes, as the world does, at most one object of
each class.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .render import RESOLUTION
from .scene import Vocabulary


@dataclass(frozen=True)
class Verdict:
    """Probabilities for ``B`` pictures; ``C`` classes in the order of the judge's vocabulary.

    Attributes:
        presence: ``[B, C]``, an object of the class is in the picture.
        colour: ``[B, C, colours]`` of that object, given that it is there; likewise
        accent: ``[B, C, colours]`` and
        pattern: ``[B, C, patterns]``.
        background: ``[B, backgrounds]``.
        place: ``[B, C, 16, 16]``, where the object is.
    """

    presence: Tensor
    colour: Tensor
    accent: Tensor
    pattern: Tensor
    background: Tensor
    place: Tensor


class _Block(nn.Sequential):
    def __init__(self, inputs: int, outputs: int, stride: int = 1):
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
        )


class Judge(nn.Module):
    """The network. Logits in :meth:`forward`, probabilities in :meth:`judge`."""

    def __init__(self, vocabulary: Vocabulary, width: int = 48):
        super().__init__()
        self.vocabulary = vocabulary
        self.width = width
        classes, colours = len(vocabulary.classes), len(vocabulary.colours)
        self.sizes = (1, colours, colours, len(vocabulary.patterns))
        self.trunk = nn.Sequential(
            _Block(3, width // 2, 2),
            _Block(width // 2, width),
            _Block(width, width),
            _Block(width, 2 * width, 2),
            _Block(2 * width, 2 * width),
            _Block(2 * width, 2 * width),
            _Block(2 * width, 2 * width),
        )
        self.place = nn.Conv2d(2 * width, classes, 1)
        # One linear reading per class: what colour its object has, and so on.
        self.readings = nn.Parameter(torch.randn(classes, 4 * width, sum(self.sizes)) * (4 * width) ** -0.5)
        self.bias = nn.Parameter(torch.zeros(classes, sum(self.sizes)))
        self.background = nn.Linear(2 * width, len(vocabulary.backgrounds))

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        """Return the logits for pictures ``[B, 3, 64, 64]`` in [-1, 1]."""
        features = self.trunk(pictures)  # [B, F, 16, 16]
        place = self.place(features)  # [B, C, 16, 16]
        weights = place.sigmoid().flatten(2)
        weights = weights / (weights.sum(-1, keepdim=True) + 1.0)
        inside = weights @ features.flatten(2).transpose(1, 2)  # [B, C, F]
        peak = (place.sigmoid().flatten(2)[:, :, None] * features.flatten(2)[:, None]).amax(-1)
        read = torch.einsum("bcf,cfo->bco", torch.cat([inside, peak], -1), self.readings) + self.bias
        presence, colour, accent, pattern = read.split(self.sizes, -1)
        return {
            "presence": presence.squeeze(-1),
            "colour": colour,
            "accent": accent,
            "pattern": pattern,
            "background": self.background(features.mean((2, 3))),
            "place": place,
        }

    @torch.no_grad()
    def judge(self, images: list[Image.Image], batch_size: int = 64) -> Verdict:
        """Judge RGB pictures of any size; they are resized to the world's 64 pixels."""
        parts = []
        for start in range(0, len(images), batch_size):
            logits = self(pictures_to_tensor(images[start : start + batch_size]))
            parts.append(logits)
        merged = {name: torch.cat([p[name] for p in parts]) for name in parts[0]}
        return Verdict(
            presence=merged["presence"].sigmoid(),
            colour=merged["colour"].softmax(-1),
            accent=merged["accent"].softmax(-1),
            pattern=merged["pattern"].softmax(-1),
            background=merged["background"].softmax(-1),
            place=merged["place"].sigmoid(),
        )

    def save(self, folder: Path) -> None:
        """Write ``judge.safetensors`` (fp16) and ``judge.json``."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {k: v.half() if v.is_floating_point() else v for k, v in self.state_dict().items()}
        save_file({k: v.contiguous() for k, v in state.items()}, folder / "judge.safetensors")
        described = {"width": self.width, "vocabulary": asdict(self.vocabulary)}
        (folder / "judge.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Judge:
        """Read a judge written by :meth:`save`."""
        described = json.loads((folder / "judge.json").read_text(encoding="utf-8"))
        words: dict[str, Any] = described["vocabulary"]
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in words.items()}
        vocabulary = Vocabulary(**fields)
        judge = cls(vocabulary, described["width"])
        state = load_file(folder / "judge.safetensors")
        judge.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
        return judge.eval()


@lru_cache(maxsize=1)
def bundled_judge() -> Judge:
    """Return the judge that ships with the package."""
    return Judge.load(Path(__file__).parent.parent / "bundled" / "judge")


def pictures_to_tensor(images: list[Image.Image]) -> Tensor:
    """RGB pictures of any size to float32 ``[B, 3, 64, 64]`` in [-1, 1]."""
    sized = [
        image.convert("RGB").resize((RESOLUTION, RESOLUTION), Image.Resampling.BOX)
        if image.size != (RESOLUTION, RESOLUTION)
        else image.convert("RGB")
        for image in images
    ]
    array = np.stack([np.asarray(image) for image in sized])
    return torch.from_numpy(array).permute(0, 3, 1, 2).float() / 127.5 - 1


def judge_loss(logits: dict[str, Tensor], labels: dict[str, Tensor]) -> Tensor:
    """Sum of the cross-entropies; attributes count only for classes that are present.

    Args:
        logits: from :meth:`Judge.forward`.
        labels: ``presence`` float ``[B, C]``, ``place`` float ``[B, C, 16, 16]`` (share of each cell), ``background``
            int ``[B]``, and ``colour``, ``accent``, ``pattern`` int ``[B, C]`` with -100 for absent classes.
    """
    loss = F.binary_cross_entropy_with_logits(logits["presence"], labels["presence"])
    loss = loss + F.binary_cross_entropy_with_logits(logits["place"], labels["place"])
    loss = loss + F.cross_entropy(logits["background"], labels["background"])
    for name in ("colour", "accent", "pattern"):
        loss = loss + F.cross_entropy(logits[name].flatten(0, 1), labels[name].flatten())
    return loss
