"""The judge: reads the attributes of every object back from a picture of the drawn world.

A small convolutional network trained on renders alone. It never sees a caption, and no training of the
bundled model or of a concept ever sees the judge. It assumes, as the world does, at most one object of
each class; :mod:`sdk.miniworld.counting` sees where that is wrong.
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

from .renderer import RESOLUTION
from .scene import Vocabulary


@dataclass(frozen=True)
class Verdict:
    """Probabilities for ``B`` pictures; ``C`` classes in the order of the judge's vocabulary.

    Attributes:
        presence: ``[B, C]``, an object of the class is in the picture.
        colour: ``[B, C, colours]`` of that object, given that it is there; likewise
        accent: ``[B, C, colours]`` and
        pattern: ``[B, C, patterns]``.
        hat: ``[B, C]``, that object wears a hat.
        background: ``[B, backgrounds]``, given that the picture is no sketch.
        sketch: ``[B]``, the picture is a sketch.
        place: ``[B, C, 16, 16]``, where the object is.
        identity: ``[B, C, E]``, unit vectors: two objects of one class are the same if their product is above
            :attr:`Judge.same`.
    """

    presence: Tensor
    colour: Tensor
    accent: Tensor
    pattern: Tensor
    hat: Tensor
    background: Tensor
    sketch: Tensor
    place: Tensor
    identity: Tensor


class _Block(nn.Sequential):
    def __init__(self, inputs: int, outputs: int, stride: int = 1):
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
        )


IDENTITY_WIDTH = 32


class Judge(nn.Module):
    """The network. Logits in :meth:`forward` and :meth:`read`, calibrated probabilities in :meth:`judge`.

    Attributes:
        vocabulary: the part of the world it knows.
        temperatures: per attribute, what its logits are divided by; set from held-out pictures after training.
        same: product of two identity vectors above which they are taken for the same object.
    """

    def __init__(self, vocabulary: Vocabulary, width: int = 48):
        super().__init__()
        self.vocabulary = vocabulary
        self.width = width
        self.temperatures: dict[str, float] = {}
        self.same = 0.5
        classes, colours = len(vocabulary.classes), len(vocabulary.colours)
        self.sizes = (1, colours, colours, len(vocabulary.patterns), 1, IDENTITY_WIDTH)
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
        self.picture = nn.Linear(2 * width, len(vocabulary.backgrounds) + 1)

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        """Return the logits for pictures ``[B, 3, 64, 64]`` in [-1, 1]."""
        features = self.trunk(pictures)  # [B, F, 16, 16]
        place = self.place(features)  # [B, C, 16, 16]
        weights = place.sigmoid().flatten(2)
        weights = weights / (weights.sum(-1, keepdim=True) + 1.0)
        inside = weights @ features.flatten(2).transpose(1, 2)  # [B, C, F]
        peak = (place.sigmoid().flatten(2)[:, :, None] * features.flatten(2)[:, None]).amax(-1)
        read = torch.einsum("bcf,cfo->bco", torch.cat([inside, peak], -1), self.readings) + self.bias
        presence, colour, accent, pattern, hat, identity = read.split(self.sizes, -1)
        whole = self.picture(features.mean((2, 3)))
        return {
            "presence": presence.squeeze(-1),
            "colour": colour,
            "accent": accent,
            "pattern": pattern,
            "hat": hat.squeeze(-1),
            "background": whole[:, :-1],
            "sketch": whole[:, -1],
            "place": place,
            "identity": F.normalize(identity.float(), dim=-1),
        }

    @torch.no_grad()
    def read(self, pictures: Tensor) -> dict[str, Tensor]:
        """Return the logits for pictures as in :meth:`forward`, mean over them and their mirror images.

        The world has no left and right: what is read one way only is chance.
        """
        seen, mirrored = self(pictures), self(pictures.flip(-1))
        mirrored["place"] = mirrored["place"].flip(-1)
        logits = {name: (seen[name] + mirrored[name]) / 2 for name in seen}
        return logits | {"identity": F.normalize(logits["identity"], dim=-1)}

    def judge(self, images: list[Image.Image], batch_size: int = 64) -> Verdict:
        """Judge RGB pictures of any size; they are resized to the world's 64 pixels."""
        batches = [images[start : start + batch_size] for start in range(0, len(images), batch_size)]
        parts = [self.read(pictures_to_tensor(batch)) for batch in batches]
        logits = {name: torch.cat([p[name] for p in parts]) for name in parts[0]}
        for name, temperature in self.temperatures.items():
            logits[name] = logits[name] / temperature
        either = {name: logits[name].sigmoid() for name in ("presence", "hat", "sketch", "place")}
        one_of = {name: logits[name].softmax(-1) for name in ("colour", "accent", "pattern", "background")}
        return Verdict(**either, **one_of, identity=logits["identity"])

    def save(self, folder: Path) -> None:
        """Write ``judge.safetensors`` (fp16) and ``judge.json``."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {k: v.half() if v.is_floating_point() else v for k, v in self.state_dict().items()}
        save_file({k: v.contiguous() for k, v in state.items()}, folder / "judge.safetensors")
        described = {
            "width": self.width,
            "vocabulary": asdict(self.vocabulary),
            "temperatures": self.temperatures,
            "same": self.same,
        }
        (folder / "judge.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Judge:
        """Read a judge written by :meth:`save`."""
        described = json.loads((folder / "judge.json").read_text(encoding="utf-8"))
        words: dict[str, Any] = described["vocabulary"]
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in words.items()}
        judge = cls(Vocabulary(**fields), described["width"])
        judge.temperatures, judge.same = described["temperatures"], described["same"]
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
