"""Base models: loading them, and telling one from another."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from huggingface_hub import try_to_load_from_cache
from torch import nn

from ..disk.checked import Table
from ..disk.reading import read_json
from ..errors import BaseModelError, InputError, MissingFileError, NotFiniteError, SdkError
from ..finite import first_not_finite
from ..runtime import without_bars
from .fingerprint import BaseIdentity
from .layers import cross_attention_layers

BUNDLED = "bundled"
BUNDLED_FOLDER = Path(__file__).parents[1] / "bundled" / "model"
_SINGLE_FILES = (".safetensors", ".ckpt")
# Of diffusers' loaders; others it passes over without a word that anybody sees.
_OPTIONS = frozenset(
    ("cache_dir", "config", "custom_revision", "device_map", "feature_extractor", "force_download", "image_encoder")
    + ("local_files_only", "low_cpu_mem_usage", "max_memory", "mirror", "offload_folder", "offload_state_dict")
    + ("original_config", "proxies", "quantization_config", "requires_safety_checker", "revision", "safety_checker")
    + ("scheduler", "text_encoder", "token", "tokenizer", "torch_dtype", "unet", "use_safetensors", "vae", "variant")
)
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


def load_pipeline(
    model: str | Path, *, dtype: torch.dtype, stated_by_file: bool = False, **options: Any
) -> StableDiffusionPipeline:
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
    looks_like_path = str(model).startswith((".", "/", "~")) or source.suffix in _SINGLE_FILES
    if not os.path.exists(source) and (looks_like_path or str(model) == BUNDLED):
        raise MissingFileError(f"there is no model at {source}; check the path of the base model")
    try:
        with without_bars(), torch.inference_mode(False):
            if os.path.isfile(source):
                if stated_by_file:  # without its configuration diffusers would ask for it whatever it is told
                    options |= {"config": str(_in_hub_cache(_configuration_of(source)))}
                return StableDiffusionPipeline.from_single_file(str(source), **(defaults | options))
            defaults |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
            where = str(source) if os.path.isdir(source) else str(model)
            return StableDiffusionPipeline.from_pretrained(where, **(defaults | options))
    except SdkError:
        raise
    except Exception as error:  # three libraries read what may be any folder or file
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BaseModelError(
            f"cannot load the base model {str(model)!r} ({first_line}); give 'bundled', a Stable Diffusion folder, a "
            "single checkpoint file or a Hub id"
        ) from error


def _configuration_of(file: Path) -> str:
    """Return the name of the model on the Hub that a single file has the configuration of."""
    from diffusers.loaders.single_file_utils import fetch_diffusers_config, load_single_file_checkpoint

    return str(fetch_diffusers_config(load_single_file_checkpoint(str(file)))["pretrained_model_name_or_path"])


def identify(pipe: StableDiffusionPipeline, name: str | Path) -> BaseIdentity:
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
    resolution = pipe.unet.config.sample_size * pipe.vae_scale_factor
    whole = {part: _norms(getattr(pipe, part)) for part in ("unet", "text_encoder", "vae")}
    bad = first_not_finite(whole.items())
    if bad is not None:
        raise NotFiniteError(f"the base model {name} holds values that are no numbers in its {bad}; load it again")
    return BaseIdentity(str(name), norms, int(pipe.unet.config.cross_attention_dim), int(resolution), whole)


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


def _in_hub_cache(name: str) -> Path:
    """Return the folder of a model that was downloaded before; asking the Hub's own client may already connect.

    Raises:
        BaseModelError: it was not.
    """
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?", name):
        found = try_to_load_from_cache(name, "model_index.json")
        if isinstance(found, str):
            return Path(found).parent
    raise BaseModelError(
        f"the base model {name!r} is not on this machine, and nothing is fetched that only a file names; if you "
        "trust it, name it with --model or model="
    )
