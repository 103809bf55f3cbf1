"""LoRAs beside packs: loaded whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from ..errors import InputError, MissingFileError, NotFiniteError
from ..finite import first_not_finite
from ..model.base_model import BaseModel
from ..rules.arguments import shown
from ..views import undisturbed


def load_lora(base: BaseModel, *arguments: Any, **keywords: Any) -> None:
    """Load a LoRA by diffusers' ``load_lora_weights``, or leave the base model without a trace of it.

    Raises:
        InputError: a file that cannot be read, or one for another model.
        NotFiniteError: a LoRA that holds NaN or infinite values.
    """
    source = next(iter(arguments), keywords.get("pretrained_model_name_or_path_or_dict"))
    if not isinstance(source, (str, os.PathLike, dict)):
        raise InputError(f"a LoRA is a file, a folder, a name or a dictionary of weights, got {shown(source)}")
    if isinstance(source, (str, os.PathLike)) and _is_missing(os.fspath(source)):
        raise MissingFileError(f"there is no LoRA at {os.fspath(source)}; check its path")
    keywords.setdefault("low_cpu_mem_usage", False)  # which empties what other threads set meanwhile
    pipe = base.pipe
    with undisturbed(*_changed(base)):  # calls that have their views go on without noticing
        before = _adapters(pipe)
        try:
            pipe.load_lora_weights(*arguments, **keywords)
            new = _adapters(pipe) - before
            if not new:
                raise InputError("the LoRA holds nothing for this model; give a LoRA of the same family of models")
            wrong = first_not_finite(_weights(pipe, new))
            if wrong is not None:
                raise NotFiniteError(f"the LoRA holds NaN or infinite values in {wrong}; train or download it again")
        except BaseException as error:
            _remove(pipe, before)
            if not isinstance(error, Exception) or isinstance(error, (InputError, NotFiniteError)):
                raise
            said = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
            raise InputError(f"cannot load the LoRA ({said}); give a whole LoRA file of this kind of model") from error


def _is_missing(source: Any) -> bool:
    """Whether a name can only be that of a file here, which there is not."""
    local = str(source).startswith((".", "/", "~")) or str(source).endswith((".safetensors", ".bin", ".pt"))
    return local and not os.path.exists(os.path.expanduser(source))


def unload_loras(base: BaseModel) -> None:
    """Remove all LoRAs."""
    with undisturbed(*_changed(base)):
        base.pipe.unload_lora_weights()


def _changed(base: BaseModel) -> list[Any]:
    """The modules that a LoRA changes."""
    return [base.pipe.unet, *(part.encoder for part in base.text_parts)]


def _adapters(pipe: Any) -> set[tuple[str, str]]:
    """The LoRAs in a pipeline: part and name."""
    return {(part, name) for part, names in pipe.get_list_adapters().items() for name in names}


def _weights(pipe: Any, adapters: set[tuple[str, str]]) -> Iterator[tuple[str, Any]]:
    for part, adapter in adapters:
        for name, weight in getattr(pipe, part).named_parameters():
            if f".{adapter}." in name:
                yield name, weight


def _remove(pipe: Any, kept: set[tuple[str, str]]) -> None:
    """Remove all LoRAs but some, and the layers that wrap those of the model when none is left."""
    new = {name for _, name in _adapters(pipe) - kept}
    if not kept:
        pipe.unload_lora_weights()
    elif new:
        pipe.delete_adapters(sorted(new))
