"""Packs that were fitted apart, merged into one in closed form (Custom Diffusion, section 3.2, equations 4 and 5).

For every K and V matrix

    min_W || (W - W0) C_reg^T ||_F   subject to   W C^T = V,
    W = W0 + (V - W0 C^T) (C G^-1 C^T)^-1 C G^-1,   G = C_reg^T C_reg

where the rows of C are the text states of the concepts' own words, V what their own packs make of them, and C_reg the
states of ordinary captions, for which nothing should change. :mod:`sdk.combine.routing` joins packs without solving
anything.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import torch
from torch import Tensor

from ..concepts import Concept
from ..errors import NotFiniteError
from ..finite import first_not_finite
from ..model.base_model import BaseModel
from ..model.text import TextConditioner
from ..pack import ConceptPack
from ..rights import joined_rights
from ..rules.arguments import cancelling, to_be_called
from ..runtime import Phase, Progress
from ..turns import beside_others
from ..unet.matrices import LowRank, Matrix, tensors, whole
from ..views import lock_of
from .routing import with_own_tokens

_DAMPING = 1e-4  # of G, relative to its mean eigenvalue: captions alone need not span the text states
# Ordinary words around the concepts' classes, for C_reg; any captions do, more are better.
_CAPTIONS = (
    "{}",
    "a {}",
    "photo of a {}",
    "a photo of two {}",
    "a {} and a {}",
    "a {} on the beach",
    "a {} in the snow",
    "a {} at night",
    "a {} on the grass",
    "a red {}",
    "a blue {} and a green {}",
    "a small {} next to a {}",
    "a {} in a city",
    "painting of a {}",
)


@beside_others()
def merge(
    base: BaseModel,
    packs: Sequence[ConceptPack],
    *,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> ConceptPack:
    """Return one pack with the concepts of several, merged in closed form; tokens that clash are renamed.

    Args:
        base: the packs' base model.
        packs: two or more.
        progress: told of each layer that is merged.
        cancel: an event; once set, :class:`sdk.runtime.Cancelled` is raised before the next layer.

    Raises:
        InputError: fewer than two packs, or packs of different base models or with UNet weights beyond K and V.
        BaseModelError: packs of another base model than this one.
        NotFiniteError: the result holds NaN or infinite values, in float16, too, as packs are kept.
    """
    to_be_called(progress, "progress")
    cancelling(cancel)
    parts = with_own_tokens(packs)
    for part in parts:
        base.check_base(part)
    concepts = [c for pack in parts for c in pack.concepts]
    embeddings = torch.cat([pack.embeddings for pack in parts]).float()
    pipe = base.pipe
    conditioner = base.conditioner([c.token for c in concepts], parts[0].clip_skip)
    states, owners = [], []
    for index, pack in enumerate(parts):
        for concept in pack.concepts:
            prompt = f"photo of a {concept.phrase}"
            encoded, used = _states(conditioner, prompt, embeddings)
            first = conditioner.tokenize([prompt])[0].tolist().index(conditioner.pieces(concept.token)[0])
            states.append(encoded[first:used])  # the words before it have the same states in every prompt
            owners += [index] * (used - first)
    own = torch.cat(states).double()
    regular = _ordinary_states(conditioner, concepts).double()
    gram = regular.T @ regular
    gram += _DAMPING * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    whitened = torch.linalg.solve(gram, own.T)  # G^-1 C^T, [d, s]
    inner = own @ whitened  # C G^-1 C^T
    inner += 1e-8 * inner.diagonal().mean() * torch.eye(len(inner), dtype=inner.dtype)
    merged: dict[str, tuple[Matrix, Matrix]] = {}
    low_rank = any(part.low_rank for part in parts)  # then the result is too: a rank for each word of the concepts
    layers = dict.fromkeys(layer for part in parts for layer in part.key_value)
    phase = Phase("merge", len(layers), progress, cancel)
    for layer in layers:
        module = pipe.unet.get_submodule(layer)
        pair: list[Matrix] = []
        for which, projection in enumerate((module.to_k, module.to_v)):
            with lock_of(pipe.unet):
                own_weight = projection.weight.detach().double().cpu()
            learned = [
                whole(p.key_value[layer][which], own_weight) if layer in p.key_value else own_weight for p in parts
            ]
            wanted = torch.stack([learned[o] @ c for o, c in zip(owners, own, strict=True)])
            change = torch.linalg.solve(inner, wanted - own @ own_weight.T)  # [s, hidden]
            pair.append(_balanced(change.T, whitened.T) if low_rank else (own_weight + change.T @ whitened.T).float())
        merged[layer] = (pair[0], pair[1])
        phase.step()
    pack = ConceptPack(
        concepts=concepts,
        base=parts[0].base,
        key_value=merged,
        embeddings=embeddings,
        method="merged",
        settings={"clip_skip": parts[0].clip_skip} if parts[0].clip_skip else {},
        provenance={
            "parts": [pack.content_hash() for pack in parts],
            **joined_rights([pack.provenance for pack in packs]),
        },
        reference=None,
    )
    wrong = first_not_finite(
        [
            *((name, t) for name, pair in pack.key_value.items() for m in pair for t in tensors(m)),
            ("embeddings", pack.embeddings),
        ]
    )
    if wrong is not None:
        raise NotFiniteError(f"the merged {wrong} hold NaN or infinite values; one of the packs diverged, fit it again")
    return pack


def _balanced(up: Tensor, down: Tensor) -> LowRank:
    """A product in factors of like size, so that float16 holds both: ``up`` ``[hidden, s]``, ``down`` ``[s, d]``."""
    scale = (down.norm(dim=1) / up.norm(dim=0).clamp(min=1e-30)).sqrt().clamp(min=1e-30)
    return LowRank((down / scale[:, None]).float(), (up * scale).float())


@torch.no_grad()
def _states(conditioner: TextConditioner, prompt: str, embeddings: Tensor | None) -> tuple[Tensor, int]:
    """Text states ``[T, C]`` on the CPU, and how many tokens come before the padding."""
    ids = conditioner.tokenize([prompt])
    end = conditioner.vocabulary.end
    used = ids[0].tolist().index(end) + 1 if end in ids[0].tolist() else ids.shape[1]
    return conditioner.encode([prompt], embeddings).states[0].float().cpu(), used


def _ordinary_states(conditioner: TextConditioner, concepts: Sequence[Concept]) -> Tensor:
    """States ``[R, C]`` of all tokens of ordinary captions about the concepts' classes."""
    rows = []
    nouns = list(dict.fromkeys(c.noun for c in concepts))
    for template in _CAPTIONS:
        for turn in range(len(nouns)):
            words = [nouns[(turn + i) % len(nouns)] for i in range(template.count("{}"))]
            encoded, used = _states(conditioner, template.format(*words), None)
            rows.append(encoded[:used])
    return torch.cat(rows)
