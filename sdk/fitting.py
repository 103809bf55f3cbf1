"""One fit from picture to pack: rows, priors, training, and what is left on disk.

With an output folder, everything unfinished lives in ``<output>.partial`` (checkpoint and metrics); the pack
is put in place by renaming a complete folder, and only then the partial one goes.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import DDPMScheduler
from PIL import Image
from torch import Tensor

from . import training
from .concepts import Concept, class_prompts, resolve_concepts
from .config import FitConfig
from .describing import best_description
from .errors import InputError, OutputError
from .files import new_folder, prepare_output_folder
from .images import square
from .learner import Learner
from .looking import find_masks, reference_maps
from .masking import mask_sheet
from .methods import method_class
from .pack import MANIFEST, ConceptPack
from .pictures import attention_sheet, labelled_grid
from .priors import PriorPicture, PriorRows, from_folder, generated
from .regions import cut_out, drawn_mask, grown, mask_without, read_masks
from .scorers import default_scorer
from .targets import LatentCache, TargetRows
from .validation import Validator

if TYPE_CHECKING:
    from .personalizer import Personalizer

_SAMPLE_STEPS = 25


def fit_concepts(
    personalizer: Personalizer,
    images: list[Image.Image],
    concepts: Sequence[str | Concept],
    *,
    method: str,
    config: FitConfig,
    seed: int,
    masks: Sequence[Image.Image] | None,
    output_dir: Path | None,
    resume: bool,
    callback: Callable[[training.StepReport], Any] | None,
    report_to: str | None,
) -> ConceptPack:
    """Fit and return the pack; see :meth:`sdk.Personalizer.fit`."""
    resolved = resolve_concepts(concepts)
    chosen = method_class(method)
    if report_to not in (None, "none", "tensorboard"):
        raise InputError(f"report_to must be 'tensorboard' or 'none', got {report_to!r}")
    if report_to == "tensorboard" and output_dir is None:
        raise InputError("report_to='tensorboard' needs an output_dir to write its logs to")
    base, pipe, device = personalizer.base, personalizer.pipe, personalizer.device
    given = read_masks(masks, images, len(resolved), base.resolution) if masks is not None else None
    images = [square(image, base.resolution) for image in images]
    identity = _identity(base.to_dict(), resolved, method, config, seed, str(pipe.unet.dtype), images, given)
    if output_dir is not None and (finished := _finished(output_dir, resume, identity)) is not None:
        return finished
    priors = prior_pictures(personalizer, resolved, config)

    scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    latent_shape = (pipe.unet.config.in_channels, base.resolution // pipe.vae_scale_factor)
    learner = chosen(pipe, resolved, config, scheduler, device)
    encoder = LatentCache(pipe.vae, device)
    clean = [encoder.sample(index, image, torch.zeros(1)) for index, image in enumerate(images)]
    learner.use_masks(given or [find_masks(learner, latents) for latents in clean], clean)
    words = list(config.initializers)
    if config.initializer_candidates and not words:
        words = _descriptions(learner, encoder, images[0], config)
        learner.start_from(words)
    before = reference_maps(learner, clean[0])
    targets = TargetRows(
        images,
        LatentCache(pipe.vae, device),
        size=config.target_pool,
        resolution=base.resolution,
        latent_shape=latent_shape,
        flip=config.flip,
        scale=config.scale_augmentation,
        seed=seed,
    )
    prior_rows = PriorRows(priors, LatentCache(pipe.vae, device), config.flip) if priors else None
    rows = training.Rows(targets, prior_rows, learner, config, seed, scheduler.config.num_train_timesteps)

    def learned() -> ConceptPack:
        return ConceptPack(
            concepts=resolved,
            base=base,
            key_value=learner.key_value(),
            embeddings=learner.embeddings,
            unet=learner.other_weights(),
            method=method,
            settings=config.to_dict(),
            provenance={
                "identity_sha256": identity,
                "seed": seed,
                "initializers": words,
                "libraries": library_versions(),
                "device": device.type,
            },
            reference=images[0],
        )

    validate = None
    if config.validate_every:
        scorer = default_scorer(base.resolution, resolved)
        scorer.look_at(images[0], resolved, [drawn_mask(m, images[0].size) for m in learner.masks[0][:-1]])
        validate = Validator(personalizer, scorer, learned)
    work = None
    if output_dir is not None:
        work = prepare_output_folder(_partial(output_dir))
        if not resume:
            (work / training.CHECKPOINT).unlink(missing_ok=True)
    if config.gradient_checkpointing:
        pipe.unet.enable_gradient_checkpointing()
        pipe.unet.train()
    try:
        training.run(
            learner,
            rows,
            config,
            device=device,
            work=work,
            identity=identity,
            report=_reporters(callback, report_to, output_dir),
            validate=validate,
        )
    finally:
        if config.gradient_checkpointing:
            pipe.unet.disable_gradient_checkpointing()
            pipe.unet.eval()
    pack = learned()
    if output_dir is not None:
        assert work is not None
        with new_folder(output_dir, scratch=work) as folder:
            if (work / training.METRICS).is_file():
                shutil.copy(work / training.METRICS, folder / training.METRICS)
            attention_sheet(images[0], resolved, before, reference_maps(learner, clean[0])).save(
                folder / "attention.png"
            )
            for concept, mask in zip(resolved, learner.masks[0], strict=False):
                name = f"mask-{concept.token.strip('<>')}.png"
                drawn_mask(mask, images[0].size).convert("L").save(folder / name)
            mask_sheet(images[0], resolved, learner.masks[0]).save(folder / "masks.png")
            _samples(personalizer, pack).save(folder / "samples.png")
            pack.write_files(folder)
        shutil.rmtree(work)
    return pack


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that a fit's result depends on."""
    return {
        name: importlib.metadata.version(name) for name in ("personalizer-sdk", "torch", "diffusers", "transformers")
    }


def _partial(output_dir: Path) -> Path:
    return output_dir.with_name(output_dir.name + ".partial")


def _identity(
    base: dict,
    concepts: list[Concept],
    method: str,
    config: FitConfig,
    seed: int,
    dtype: str,
    images: list[Image.Image],
    masks: list[Tensor] | None,
) -> str:
    """Hash of everything the result depends on; tells whether a checkpoint or a pack is this very fit's."""
    settings = config.to_dict() | {"checkpoint_every": 0}  # how often to save changes nothing
    parts = [base["fingerprint"], [(c.token, c.noun) for c in concepts], method, settings, seed, dtype]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    for image in images:
        digest.update(image.tobytes())
    for mask in masks or []:
        digest.update(mask.numpy().tobytes())
    return digest.hexdigest()


def _finished(output_dir: Path, resume: bool, identity: str) -> ConceptPack | None:
    """Return the pack if this very fit already ended; refuse a folder that holds anything else."""
    if output_dir.exists() and not output_dir.is_dir():
        raise OutputError(f"{output_dir} is a file; give a folder for the pack")
    if not output_dir.is_dir() or not any(output_dir.iterdir()):
        return None
    if not (output_dir / MANIFEST).is_file():
        raise OutputError(f"{output_dir} holds other files; give an empty or a new folder for the pack")
    if resume:
        pack = ConceptPack.from_pretrained(output_dir)
        if pack.provenance.get("identity_sha256") == identity:
            return pack
    raise OutputError(f"{output_dir} already holds a pack; remove it or give another folder")


def _descriptions(learner: Learner, encoder: LatentCache, image: Image.Image, config: FitConfig) -> list[str]:
    """Return the best of the candidate words for each concept of a picture."""
    found = []
    regions = grown(learner.masks[0][:-1])
    for index, concept in enumerate(learner.concepts):
        window, others = cut_out(image, regions, index)
        latents = encoder.sample(("window", index), window, torch.zeros(1))
        found.append(
            best_description(
                learner.unet,
                learner.conditioner,
                learner.scheduler,
                concept.noun,
                config.initializer_candidates,
                latents,
                mask_without(others, latents.shape[-1]),
            )
        )
    return found


def prior_pictures(personalizer: Personalizer, concepts: list[Concept], config: FitConfig) -> list[PriorPicture]:
    """Return the prior pictures of a fit: drawn by the base model, or the user's, or none."""
    prompts = class_prompts(concepts, config.prior_prompts)
    if config.prior == "none":
        if config.target_share < 1:
            warnings.warn(
                "fitting without prior pictures: the class words will drift towards the reference; use "
                "prior='generate' or a folder of pictures",
                stacklevel=4,
            )
        return []
    if config.prior != "generate":
        return from_folder(config.prior, prompts[0], personalizer.base.resolution)

    def draw(seeds: list[int]) -> list[Image.Image]:
        return personalizer.generate(
            [prompts[seed % len(prompts)] for seed in seeds],
            seed=seeds[0],
            concepts=[None] * len(seeds),
            num_inference_steps=config.prior_steps,
            guidance_scale=config.prior_guidance,
        ).images

    sampler = {
        "steps": config.prior_steps,
        "guidance": config.prior_guidance,
        "dtype": str(personalizer.pipe.unet.dtype),
        "device": personalizer.device.type,
    }
    return generated(personalizer.base, prompts, config.prior_count, sampler, draw)


def _reporters(callback, report_to: str | None, output_dir: Path | None):
    """Combine the user's callback with TensorBoard, if asked for."""
    if report_to != "tensorboard":
        return callback
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError("TensorBoard is not installed; run: pip install tensorboard") from error
    assert output_dir is not None
    writer = SummaryWriter(str(output_dir.with_name(output_dir.name + ".tensorboard")))

    def report(step: training.StepReport) -> None:
        for name, value in step.losses.items():
            writer.add_scalar(name, value, step.step)
        writer.flush()  # a fit may end at any step
        if callback is not None:
            callback(step)

    return report


def _samples(personalizer: Personalizer, pack: ConceptPack) -> Image.Image:
    """A small sheet: each concept alone, and all together."""
    prompts = [f"photo of a {c.phrase}" for c in pack.concepts]
    if len(prompts) > 1:
        prompts.append(pack.prompt)
    columns = 4
    images = personalizer.generate(
        prompts, num_images=columns, seed=0, concepts=[pack] * len(prompts), num_inference_steps=_SAMPLE_STEPS
    ).images
    return labelled_grid([images[i * columns : (i + 1) * columns] for i in range(len(prompts))], prompts)
