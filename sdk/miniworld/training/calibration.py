"""Calibrate and measure a trained judge on pictures it has not seen."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..judge import Judge
from .pools import to_unit

_ONE_OF = ("colour", "accent", "pattern", "background")
_EITHER = ("presence", "hat", "sketch")


@torch.no_grad()
def _answers(judge: Judge, pictures: Tensor, labels: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Logits ``[M, values]`` (``[M]`` for yes or no) and labels ``[M]`` of everything that can be seen."""
    parts = [judge.read(to_unit(batch)) for batch in pictures.split(128)]
    logits = {name: torch.cat([p[name] for p in parts]) for name in parts[0]}
    seen = {name: labels[name] >= 0 for name in (*_ONE_OF, "presence", "sketch")}
    seen["hat"] = labels["presence"] > 0.5
    return {name: (logits[name][where], labels[name][where]) for name, where in seen.items()} | {
        "identity": (logits["identity"], labels["identity"])
    }


def fit_temperatures(judge: Judge, pictures: Tensor, labels: dict[str, Tensor]) -> dict[str, float]:
    """Return per attribute the temperature with the smallest negative log-likelihood (Guo et al., 2017)."""
    answers = _answers(judge, pictures, labels)
    candidates = torch.logspace(-0.7, 0.7, 57)
    found = {}
    for name in (*_ONE_OF, *_EITHER):
        logits, truth = answers[name]
        cost = F.cross_entropy if name in _ONE_OF else F.binary_cross_entropy_with_logits
        found[name] = round(min((cost(logits / t, truth).item(), t.item()) for t in candidates)[1], 3)
    return found


def identity_pairs(judge: Judge, pictures: Tensor, labels: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the products of the vectors of every two objects of one class, and whether they are the same."""
    vectors, names = _answers(judge, pictures, labels)["identity"]
    products, same = [], []
    for slot in range(vectors.shape[1]):
        rows = names[:, slot] >= 0
        own, name = vectors[rows, slot], names[rows, slot]
        upper = torch.triu_indices(len(own), len(own), 1)
        products.append((own @ own.T)[upper[0], upper[1]])
        same.append(name[upper[0]] == name[upper[1]])
    return torch.cat(products), torch.cat(same)


def roc(products: Tensor, same: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return thresholds, false-positive rates and true-positive rates, from strict to lax."""
    values, order = products.sort(descending=True)
    hits = same[order].double()
    return values, (1 - hits).cumsum(0) / (1 - hits).sum(), hits.cumsum(0) / hits.sum()


def same_threshold(judge: Judge, pictures: Tensor, labels: dict[str, Tensor]) -> float:
    """Return the threshold at which as many same objects are missed as different ones are taken for the same."""
    thresholds, false, true = roc(*identity_pairs(judge, pictures, labels))
    return round(thresholds[((1 - true) - false).abs().argmin()].item(), 3)


def calibration_error(confidence: Tensor, right: Tensor, bins: int = 15) -> float:
    """Return the expected calibration error: mean distance of confidence and accuracy over equal bins."""
    slot = (confidence * bins).long().clamp(max=bins - 1)
    total = 0.0
    for index in range(bins):
        inside = slot == index
        if inside.any():
            total += inside.double().mean().item() * abs((confidence[inside].mean() - right[inside].mean()).item())
    return total


@torch.no_grad()
def exact_classes(judge: Judge, pictures: Tensor, labels: dict[str, Tensor]) -> float:
    """Return the share of pictures in which every class that is there, and no other, is seen."""
    seen = torch.cat([judge.read(to_unit(batch))["presence"] for batch in pictures.split(128)]) > 0
    return (seen == (labels["presence"] > 0.5)).all(-1).double().mean().item()


def measured_accuracy(judge: Judge, pictures: Tensor, labels: dict[str, Tensor]) -> dict[str, dict[str, float]]:
    """Return accuracy and calibration error per attribute, per single value where one can be named, and the ROC."""
    answers = _answers(judge, pictures, labels)
    result: dict[str, dict[str, float]] = {}
    for name in (*_ONE_OF, *_EITHER):
        logits, truth = answers[name]
        logits = logits / judge.temperatures.get(name, 1.0)
        if name in _ONE_OF:
            confidence, chosen = logits.softmax(-1).max(-1)
        else:
            chosen = (logits > 0).to(truth.dtype)
            confidence = logits.abs().sigmoid()
        right = (chosen == truth).double()
        result[name] = {"accuracy": right.mean().item(), "calibration error": calibration_error(confidence, right)}
    words = judge.vocabulary
    for name, values in (("colour", words.colours), ("pattern", words.patterns), ("background", words.backgrounds)):
        logits, truth = answers[name]
        right = (logits.argmax(-1) == truth).double()
        for index, value in enumerate(values):
            result[name][value] = right[truth == index].mean().item()
    presence, present = answers["presence"]
    correct = ((presence > 0) == (present > 0.5)).double().view(-1, len(words.classes)).mean(0)
    result["presence"] |= dict(zip(words.classes, correct.tolist(), strict=True))
    thresholds, false, true = roc(*identity_pairs(judge, pictures, labels))
    at = int((thresholds >= judge.same).sum()) - 1
    result["identity"] = {
        "area under the curve": torch.trapezoid(true, false).item(),
        "same recognised": true[at].item(),
        "others taken for the same": false[at].item(),
    }
    return result
