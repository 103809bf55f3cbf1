"""What files may hold instead of what they should: values of other types, tensors of other shapes, bytes cut or turned.

Everything comes from a seed, so that a failure can be repeated. Hashes are put right after a change: else nothing
behind them would be tried.
"""

from __future__ import annotations

import copy
import random
import re

import torch

from sdk import ConceptPack
from sdk.errors import SdkError

OTHERS = (
    *(None, True, False, 0, -1, 1, 3, 2**70, -(2**70), 10**400, 1.5, 1e308, float("nan"), float("inf")),
    *("", "x", "7", "<new1>", "../../evil", "/etc/passwd", "C:evil", "a\0b", "\x1b[31m", "\ud800", "x" * 5000),
    *([], {}, [[]], [{}], [None, None], ["a", "b"], [1e9, 2], {"a": 1}, {"": {}}, ["<new1>"] * 20),
)


def places(value, path=()):
    """Where values are in a table, as paths of names and positions."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield from places(part, (*path, key))


def changed_table(table, rng: random.Random):
    """A copy of a table with one to three values exchanged, removed, repeated or nested deep."""
    table = copy.deepcopy(table)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        path = rng.choice(list(places(table)))
        if not path:
            continue
        owner = table
        for key in path[:-1]:
            owner = owner[key]
        kind = rng.random()
        if kind < 0.65:
            owner[path[-1]] = copy.deepcopy(rng.choice(OTHERS))
        elif kind < 0.8:
            del owner[path[-1]]
        elif kind < 0.9 and isinstance(owner, dict):
            owner[rng.choice(("", "x" * 400, "../x", "new\x1b", "<new1>"))] = owner.pop(path[-1])
        elif kind < 0.95 and isinstance(owner, list):
            owner.append(copy.deepcopy(owner[path[-1]]))
        else:
            deep = owner[path[-1]]
            for _ in range(rng.choice((50, 200))):
                deep = [deep]
            owner[path[-1]] = deep
    return table


def changed_tensor(tensor: torch.Tensor, rng: random.Random) -> torch.Tensor:
    """A tensor of another shape or type, or with a value that is no number."""
    kind = rng.randrange(9)
    if kind < 3:
        tensor = tensor.clone().float() if rng.random() < 0.5 else tensor.clone()
        if tensor.numel():
            value = rng.choice((float("nan"), float("inf"), float("-inf"), 65504.0, 1e5))
            tensor.view(-1)[rng.randrange(tensor.numel())] = value
        return tensor
    if kind == 3:
        types = (torch.int64, torch.bool, torch.uint8, torch.complex64, torch.float64, torch.float32, torch.bfloat16)
        return tensor.to(rng.choice(types))
    shapes = (
        *((), (0,), (1,), (0, tensor.shape[-1] if tensor.ndim else 1), (2, 3), (1, 1, 1)),
        *(tuple(reversed(tensor.shape)), (*tensor.shape, 1), (tensor.numel(),), (*tensor.shape[:-1], 7)),
    )
    return torch.zeros(rng.choice(shapes), dtype=tensor.dtype)


def changed_tensors(tensors: dict[str, torch.Tensor], rng: random.Random) -> dict[str, torch.Tensor]:
    """Named tensors of which one is another, missing, or called something else."""
    tensors = dict(tensors)
    name = rng.choice(sorted(tensors))
    kind = rng.random()
    if kind < 0.7:
        tensors[name] = changed_tensor(tensors[name], rng)
    elif kind < 0.8:
        del tensors[name]
    elif kind < 0.9:
        tensors[rng.choice(("", "x", "../x", name + "x", "a\x1b[31m", name[1:]))] = tensors.pop(name)
    else:
        tensors[rng.choice(("extra", "x" * 900, name + ".1"))] = torch.zeros(2)
    return {key: value.contiguous().clone() for key, value in tensors.items()}


def changed_bytes(content: bytes, rng: random.Random) -> bytes:
    """A file's content with bits turned, cut, doubled or filled."""
    data = bytearray(content)
    kind = rng.randrange(4)
    if kind == 0:
        for _ in range(rng.choice((1, 3, 20))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del data[rng.randrange(len(data)) :]
    elif kind == 2:
        at = rng.randrange(len(data))
        data[at : at + 8] = rng.choice((b"\xff" * 8, b"\0" * 8, b"{" * 8))
    else:
        data += data[: rng.randrange(1, 100)]
    return bytes(data)


def read_or_refused(read):
    """What a reader returns, or ``None`` if it refused in one sentence; anything else it raises is a failure."""
    try:
        return read()
    except SdkError as error:
        text = str(error)
        assert text
        assert len(text) <= 1000
        assert text.isprintable(), text
        return None


def is_whole(pack: ConceptPack) -> bool:
    """Whether a pack holds finite numbers in shapes that belong together, and names that are none of other files."""
    arrays = [pack.embeddings, *pack.unet.values(), *(w for pair in pack.key_value.values() for w in pair)]
    shapes = [w.shape[1] for pair in pack.key_value.values() for w in pair]
    named = all(re.fullmatch(r"<[A-Za-z0-9_-]{1,62}>", token) for token in pack.tokens)
    return all(a.isfinite().all() for a in arrays) and set(shapes) <= {pack.base.context} and named
