"""What the bundled model is trained on besides the denoising loss.

The renderer knows which word describes which object and where that object is. Saying so to a model this
small saves most of the pictures it would otherwise need.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..scene import CLASSES, COLOURS, PATTERNS


def grounding_loss(maps: Tensor, masks: Tensor) -> Tensor:
    """Ask that a word's attention covers the object it describes, and nothing else (cf. TokenCompose, CVPR 2024).

    Args:
        maps: attention of K words, ``[B, K, N]``.
        masks: the object each word describes, ``[B, K, N]`` in [0, 1]; all zero for words without an object.

    Returns:
        Mean over described words of the cross-entropy between the mask and the map, each as a distribution over
        pixels, less the mask's entropy (so that 0 is perfect); a scalar.
    """
    described = masks.sum(-1) > 0
    wanted = masks / masks.sum(-1, keepdim=True).clamp(min=1e-6)
    found = (maps + 1e-6) / (maps + 1e-6).sum(-1, keepdim=True)
    divergence = (torch.xlogy(wanted, wanted) - wanted * found.log()).sum(-1)
    return (divergence * described).sum() / described.sum().clamp(min=1)


def confusion_loss(states: Tensor, owners: Tensor, *, margin: float = 0.4) -> Tensor:
    """Penalise words of different objects whose text states point the same way (cosine above ``margin``).

    Args:
        states: text states ``[B, T, C]``.
        owners: which object each word describes, int64 ``[B, T]``, -1 for none.
        margin: cosine that costs nothing.

    Returns:
        Mean over such pairs of words of the squared excess; a scalar.
    """
    directions = F.normalize(states.float(), dim=-1)
    cosines = directions @ directions.transpose(1, 2)  # [B, T, T]
    described = owners >= 0
    pairs = described[:, :, None] & described[:, None, :] & (owners[:, :, None] != owners[:, None, :])
    return ((cosines - margin).clamp(min=0).square() * pairs).sum() / pairs.sum().clamp(min=1)


class Reading(nn.Module):
    """Linear readings of a word's text state: what has been said so far about the object it describes.

    Trained along with the text encoder and then thrown away. It makes the state of "cat" in "a red cat and a blue
    dog" carry red, which the denoising loss alone teaches slowly.
    """

    VALUES = (CLASSES, tuple(COLOURS), PATTERNS[1:], ("hat",))

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(width, len(values) + 1) for values in self.VALUES)

    @classmethod
    def labels(cls, words: list[str], owners: tuple[int, ...]) -> list[list[int]]:
        """Return per attribute and word what was said up to there: 0 for nothing, -100 for words without an object."""
        labels: list[list[int]] = []
        for values in cls.VALUES:
            said: dict[int, int] = {}
            row = []
            for word, owner in zip(words, owners, strict=True):
                if owner >= 0 and word in values:
                    said[owner] = values.index(word) + 1
                row.append(said.get(owner, 0) if owner >= 0 else -100)
            labels.append(row)
        return labels

    def forward(self, states: Tensor, labels: Tensor) -> Tensor:
        """Return the summed cross-entropy of states ``[B, T, C]`` for labels int64 ``[B, 4, T]``; a scalar."""
        losses = [
            F.cross_entropy(head(states.float()).flatten(0, 1), labels[:, index].flatten())
            for index, head in enumerate(self.heads)
        ]
        return torch.stack(losses).sum()
