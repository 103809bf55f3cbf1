"""Base models: loading them, and telling one from another."""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from huggingface_hub import try_to_load_from_cache
from torch import nn

from ..disk.checked import Table
from ..disk.reading import read_json
from ..errors import BaseModelError, InputError, MissingFileError, NotFiniteError, SdkError
from ..families import Family
from ..families.layers import cross_attention_layers
from ..families.recognize import SUPPORTED, family_of_index
from ..finite import first_not_finite
from ..runtime import without_bars
from .fingerprint import BaseIdentity
from .single_file import SUFFIXES, load_single_file

BUNDLED = "bundled"
BUNDLED_FOLDER = Path(__file__).parents[1] / "bundled" / "model"
# Of diffusers' loaders; others it passes over without a word that anybody sees.
_OPTIONS = frozenset(
    ("cache_dir", "config", "custom_revision", "device_map", "feature_extractor", "force_download", "image_encoder")
    + ("local_files_only", "low_cpu_mem_usage", "max_memory", "mirror", "offload_folder", "offload_state_dict")
    + ("original_config", "proxies", "quantization_config", "requires_safety_checker", "revision", "safety_checker")
    + ("scheduler", "text_encoder", "token", "tokenizer", "torch_dtype", "unet", "use_safetensors", "vae", "variant")
)
_VARIANT = re.compile(r"diffusion_pytorch_model\.([A-Za-z0-9_]{1,20})(?:-\d+-of-\d+)?\.(?:safetensors|bin)")
# Without it accelerate, by which models are loaded, leaves torch's modules changed for the whole process when two
# threads load at once: whatever is made after has no numbers ("meta").
_one_at_a_time = threading.Lock()
_LARGE = 1024  # numbers of a weight whose norm is remembered
_REMOVE = "correct or remove it"


def stated_is_local(name: str) -> bool:
    """Whether a base model that a file names is here: the bundled one, or a folder or file of this machine."""
    if name == BUNDLED:
        return True
    if name.startswith(("//", "\\\\")):  # looking there already asks another machine
        return False
    try:
        return os.path.isdir(name) or os.path.isfile(name)
    except ValueError:  # a NUL character
        return False


def load_pipeline(model: str | Path, *, dtype: torch.dtype, stated_by_file: bool = False, **options: Any) -> Any:
    """Load a base model.

    Args:
        model: ``"bundled"``, a folder in diffusers' layout, a single ``.safetensors`` or ``.ckpt`` file, or a Hub id.
        dtype: of the weights.
        stated_by_file: the name comes from a pack, not from the user: nothing is fetched for it, the model must be on
            this machine or in the Hub's cache.
        **options: passed on to diffusers (``revision``, ``variant``, ``local_files_only``, ``config``, ...).

    Raises:
        MissingFileError: a path that does not exist.
        BaseModelError: something is there, but it is no Stable Diffusion model; or a file states a model that is not
            on this machine.
    """
    if stated_by_file and not stated_is_local(str(model)):
        model = _in_hub_cache(str(model))
    unknown = sorted(options.keys() - _OPTIONS)
    if unknown:
        raise InputError(f"there is no option {unknown[0]!r}; diffusers takes {', '.join(sorted(_OPTIONS))}")
    source = Path(BUNDLED_FOLDER if str(model) == BUNDLED else os.path.expanduser(model))
    defaults: dict[str, Any] = {"dtype": dtype}
    looks_like_path = str(model).startswith((".", "/", "~")) or source.suffix in SUFFIXES
    if not os.path.exists(source) and (looks_like_path or str(model) == BUNDLED):
        raise MissingFileError(f"there is no model at {source}; check the path of the base model")
    try:
        with without_bars(), torch.inference_mode(False):
            if os.path.isfile(source):
                with _one_at_a_time:
                    return load_single_file(source, dtype, options)
            if not os.path.isdir(source) and options.get("local_files_only"):
                here = _downloaded(str(model), options)
                if here is None:
                    raise BaseModelError(
                        f"the base model {str(model)!r} is not on this machine; go online, or give a folder"
                    )
                source = here
            where = str(source) if os.path.isdir(source) else str(model)
            family = family_of_index(_index(where, options), str(model))
            defaults |= family.loading
            if "variant" not in options and (found := _only_variant(source)):
                defaults["variant"] = found
            with _one_at_a_time:
                return family.pipeline_class().from_pretrained(where, **(defaults | options))
    except SdkError:
        raise
    except Exception as error:  # three libraries read what may be any folder or file
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BaseModelError(
            f"cannot load the base model {str(model)!r} ({first_line}); give 'bundled', a Stable Diffusion folder, a "
            "single checkpoint file or a Hub id"
        ) from error


def _index(where: str, options: dict[str, Any]) -> Any:
    """A model's ``model_index.json``, which says what it is."""
    if os.path.isdir(where):
        file = Path(where) / "model_index.json"
        advice = "give a folder in diffusers' layout"
        try:
            return read_json(file, kind=BaseModelError, advice=advice)
        except MissingFileError as error:
            what = (
                "is a LoRA, no model; load it beside one by load_lora_weights"
                if _is_lora(where)
                else f"holds no {file.name}"
            )
            raise BaseModelError(f"the base model {where!r} {what}; {SUPPORTED}") from error
    known = ("revision", "cache_dir", "token", "local_files_only", "proxies", "force_download")
    return DiffusionPipeline.load_config(where, **{name: options[name] for name in known if name in options})


def _only_variant(folder: Path) -> str | None:
    """The variant that a folder holds if it holds no weights without one: ``"fp16"``."""
    names = [path.name for path in (folder / "unet").glob("*")] if os.path.isdir(folder) else []
    if any(re.fullmatch(r"diffusion_pytorch_model(-\d+-of-\d+)?\.(safetensors|bin)", name) for name in names):
        return None
    matches = [_VARIANT.fullmatch(name) for name in names]
    found = {match[1] for match in matches if match is not None}
    return found.pop() if len(found) == 1 else None


def _is_lora(folder: str) -> bool:
    names = os.listdir(folder)
    return "adapter_config.json" in names or "pytorch_lora_weights.safetensors" in names


def identify(pipe: Any, family: Family, name: str | Path) -> BaseIdentity:
    """Return the identity of a loaded base model."""
    norms = {
        layer: (module.to_k.weight.float().norm().item(), module.to_v.weight.float().norm().item())
        for layer, module in cross_attention_layers(pipe.unet).items()
    }
    if not norms:
        raise BaseModelError(f"{name} has no cross-attention layers; give a Stable Diffusion model")
    bad = first_not_finite(norms.items())
    if bad is not None:
        raise NotFiniteError(f"the base model {name} holds values that are no numbers in {bad}; load it again")
    resolution = family.latent_side(pipe.unet.config) * pipe.vae_scale_factor
    parts = ("unet", *(part.name for part in family.text_parts(pipe)), "vae")
    whole = {part: _norms(getattr(pipe, part)) for part in parts}
    bad = first_not_finite(whole.items())
    if bad is not None:
        raise NotFiniteError(f"the base model {name} holds values that are no numbers in its {bad}; load it again")
    widths = tuple(int(part.encoder.config.hidden_size) for part in family.text_parts(pipe))
    return BaseIdentity(
        str(name),
        norms,
        int(pipe.unet.config.cross_attention_dim),
        resolution,
        whole,
        family.name,
        widths if len(widths) > 1 else (),
    )


def _norms(module: nn.Module) -> tuple[float, ...]:
    """Norms of a module's weights, in its order; of small ones rounding to half precision would change them."""
    large = [p.detach() for p in module.parameters() if p.numel() >= _LARGE and p.is_floating_point()]
    if not large:
        return ()
    found = torch.stack([torch.linalg.vector_norm(p, dtype=torch.float32) for p in large])
    return tuple(float(f"{norm:.7g}") for norm in found.tolist())


def recommended_settings(model: str | Path) -> dict[str, Any]:
    """Return what a base model recommends for ``fit`` and ``generate`` (``defaults.json`` in its folder), if anything.

    The bundled model is far smaller than SD 1.5 and needs other step sizes; its model card says why.

    Raises:
        BaseModelError: the file holds something else.
    """
    folder = BUNDLED_FOLDER if str(model) == BUNDLED else Path(os.path.expanduser(model))
    file = folder / "defaults.json"
    try:
        values = read_json(file, kind=BaseModelError, advice=_REMOVE)
    except MissingFileError:
        return {}

    def fail(reason: str) -> BaseModelError:
        return BaseModelError(f"{file} is damaged ({reason}); {_REMOVE}")

    table = Table(values, fail)
    for group in ("generate", "fit", "methods"):
        if group in table:
            table.table(group)
    if "generate" in table and "guidance_scale" in table.table("generate"):
        table.table("generate").number("guidance_scale", 0, 1000)
    if "methods" in table:
        for name in table.table("methods").names(100):
            table.table("methods").table(name)
    return values


def _downloaded(name: str, options: dict[str, Any]) -> Path | None:
    """Return the folder of a model that was downloaded before, without asking anybody."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?", name):
        return None
    where = {key: options[key] for key in ("cache_dir", "revision") if options.get(key)}
    found = try_to_load_from_cache(name, "model_index.json", **where)
    return Path(found).parent if isinstance(found, str) else None


def _in_hub_cache(name: str) -> Path:
    """Return the folder of a model that was downloaded before; asking the Hub's own client may already connect.

    Raises:
        BaseModelError: it was not.
    """
    found = _downloaded(name, {})
    if found is not None:
        return found
    raise BaseModelError(
        f"the base model {name!r} is not on this machine, and nothing is fetched that only a file names; if you "
        "trust it, name it with --model or model="
    )
