"""Tensors in safetensors: read by name, of the types that weights have; written alike every time."""

from __future__ import annotations

import json
from collections.abc import Mapping

from safetensors.torch import load, save
from torch import Tensor

from ..disk.checked import Fail
from ..disk.learned import check_type
from ..printable import printable

_MOST = 20_000  # tensors; a whole UNet has some 700
_LONGEST_NAME = 400


def tensor_file(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return a safetensors file; the same bytes for the same content, which the library's own order does not give."""
    content = save(dict(tensors), metadata=dict(metadata))
    if len(metadata) < 2:
        return content
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # what follows is aligned
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


def read_tensors(content: bytes, fail: Fail) -> dict[str, Tensor]:
    """Return what a safetensors file holds; its values may be anything of float16, bfloat16 and float32.

    Args:
        content: of the file.
        fail: makes the error out of what is wrong.
    """
    try:
        tensors = load(content)
    except Exception as error:  # the library's own, and KeyError of a type that torch does not have
        raise fail("it is no safetensors file, or a part of one") from error
    if len(tensors) > _MOST:
        raise fail(f"it holds {len(tensors)} tensors")
    for name, tensor in tensors.items():
        if printable(name, _LONGEST_NAME) != name:
            raise fail("a tensor in it has no usable name")
        check_type(name, tensor, fail)
    return tensors
