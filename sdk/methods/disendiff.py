"""DisenDiff (CVPR 2024): K/V of the cross-attentions and new token embeddings, with attention calibration.

    L = L_denoise + 0.01 * mean over target rows of ( sum_i bind_i + mean_{i<j} s&s_ij )

The maps are those of the 16x16 layers, averaged over layers and heads; :mod:`sdk.kernels` has the loss.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from ..attention import (
    AttentionProcessor,
    MapRecorder,
    attention_processors,
    cross_attention_layers,
    map_layers,
    plain_processors,
)
from ..concepts import Concept, find_positions, target_caption
from ..config import FitConfig
from ..errors import InputError
from ..kernels import CalibrationOptions, calibration_loss
from ..precision import forward_dtype
from ..regions import concept_regions
from ..text import TextConditioner
from ..training import Batch, masked_denoising_loss

# Rare tokens of CLIP's vocabulary that the released code starts from, as ids (disendiff.md 2.2).
_CLIP_VOCABULARY = 49408
_CLEAR_TIMESTEPS = (100, 200, 300)  # little noise: the maps are sharper than at those that training sees
_CLIP_INITIALIZERS = {1: (42170,), 2: (47629, 42170), 3: (43514, 47629, 42170)}


class DisenDiff:
    """The trainable tensors of one fit, and their losses.

    Args:
        pipe: base model; frozen and left as it is.
        concepts: the concepts with their tokens.
        config: settings.
        scheduler: noise schedule of the training.
        device: where to train.
    """

    def __init__(
        self, pipe: StableDiffusionPipeline, concepts: list[Concept], config: FitConfig, scheduler, device: torch.device
    ):
        self.unet, self.scheduler, self.config, self.device = pipe.unet, scheduler, config, device
        self.concepts = concepts
        self.conditioner = TextConditioner(pipe.tokenizer, pipe.text_encoder, [c.token for c in concepts])
        self.layers = cross_attention_layers(pipe.unet)
        self.key_value = {
            name: (_trainable(layer.to_k.weight, device), _trainable(layer.to_v.weight, device))
            for name, layer in self.layers.items()
        }
        asked = forward_dtype(config.precision, device)
        # Frozen weights of low precision cannot be multiplied with float32: they decide then.
        self.compute_dtype = pipe.unet.dtype if asked == torch.float32 else asked
        self.embeddings = torch.nn.Parameter(initial_embeddings(self.conditioner, concepts, config).to(device))
        self.recorder = MapRecorder()
        recorded = map_layers(pipe.unet)
        self.processors = plain_processors(pipe.unet) | {
            name: AttentionProcessor(
                self.recorder if name in recorded else None,
                key_value=self.key_value[name],
                detach_start_token=config.detach_start_token,
            )
            for name in self.layers
        }
        self._prior_states: dict[str, Tensor] = {}

    def parameters(self) -> dict[str, Tensor]:
        """Return the trainable tensors by name."""
        named: dict[str, Tensor] = {
            f"{name}.to_{w}": p for name, pair in self.key_value.items() for w, p in zip("kv", pair, strict=True)
        }
        return named | {"embeddings": self.embeddings}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the optimiser groups: K/V, and the token embeddings."""
        config = self.config
        key_value = [p for pair in self.key_value.values() for p in pair]
        return [
            {"params": key_value, "lr": config.learning_rate},
            {"params": [self.embeddings], "lr": config.token_learning_rate or config.learning_rate},
        ]

    def installed(self) -> AbstractContextManager[None]:
        """Use the trained K and V in the UNet; around forward *and* backward, which may recompute activations."""
        return attention_processors(self.unet, self.processors)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss``, ``denoise`` and, if it counts, ``calibration``; needs :meth:`installed`."""
        config = self.config
        token_ids = self.conditioner.tokenize(batch.captions)
        states = self._encode(token_ids, batch)
        noisy = self.scheduler.add_noise(batch.latents, batch.noise, batch.timesteps)
        indices, counts = self.token_indices(token_ids, batch.names_all.tolist())
        calibrate = config.calibration_weight > 0
        self.recorder.start(indices.to(self.device) if calibrate else None)
        weights = self.unet.dtype
        with self._autocast():
            prediction = self.unet(noisy.to(weights), batch.timesteps, states.to(weights)).sample
        target = batch.noise
        if self.scheduler.config.prediction_type == "v_prediction":
            target = self.scheduler.get_velocity(batch.latents, batch.noise, batch.timesteps)
        denoise = masked_denoising_loss(prediction, target, batch.masks, config.loss_scale)
        if not calibrate:
            return {"loss": denoise, "denoise": denoise}
        calibration = self._calibration(self._per_row(counts), batch.names_all)
        return {
            "loss": denoise + config.calibration_weight * calibration,
            "denoise": denoise,
            "calibration": calibration,
        }

    def concept_maps(self, counts: Tensor) -> Tensor:
        """Return the recorded maps ``[B, 2S, h, w]``: modifier and class of each concept, mean over a noun's pieces."""
        maps = self.recorder.mean()  # [B, S * (1 + pieces), h, w]
        grouped = maps.unflatten(1, (len(self.concepts), -1))
        modifiers = grouped[:, :, 0]
        classes = grouped[:, :, 1:].sum(2) / counts.to(maps)[None, :, None, None]
        return torch.stack([modifiers, classes], 2).flatten(1, 2)

    @torch.no_grad()
    def reference_maps(
        self, image_latents: Tensor, timesteps: tuple[int, ...] = (300, 500, 700), embeddings: Tensor | None = None
    ) -> Tensor:
        """Return the maps ``[2S, h, w]`` on the reference picture, mean over a few noise levels.

        Args:
            image_latents: clean latents of the picture, ``[C, h, w]``.
            timesteps: noise levels, of 1000.
            embeddings: of the modifiers, ``[S, C]``; default the trained ones.
        """
        token_ids = self.conditioner.tokenize([target_caption(self.concepts, "", random.Random(0), 0.0)])
        indices, counts = self.token_indices(token_ids, [True])
        states = self.conditioner.encode(token_ids, self.embeddings if embeddings is None else embeddings)
        found = []
        for timestep in timesteps:
            noise = torch.randn(image_latents.shape, generator=torch.Generator().manual_seed(timestep))
            t = torch.tensor([timestep], device=self.device)
            noisy = self.scheduler.add_noise(image_latents[None].to(self.device), noise[None].to(self.device), t)
            self.recorder.start(indices.to(self.device))
            with self.installed(), self._autocast():
                self.unet(noisy.to(self.unet.dtype), t, states.to(self.unet.dtype))
            found.append(self.concept_maps(counts)[0].float())
        return torch.stack(found).mean(0)

    def reference_regions(self, image_latents: Tensor) -> Tensor:
        """Return where the concepts are on a picture, bool ``[S, h, w]``; to be asked before the training.

        The class noun stands in for the modifier, so that nothing but the base model's words is looked at.
        """
        nouns = torch.stack([self.conditioner.embedding_of(c.noun) for c in self.concepts])
        maps = self.reference_maps(image_latents, _CLEAR_TIMESTEPS, nouns.to(self.device))
        return concept_regions(maps[1::2])

    def start_from(self, words: Sequence[str]) -> None:
        """Let the tokens start from the mean embeddings of these words, one entry a concept."""
        with torch.no_grad():
            self.embeddings.copy_(torch.stack([self.conditioner.embedding_of(w) for w in words]))

    def token_indices(self, token_ids: Tensor, names_all: list[bool]) -> tuple[Tensor, Tensor]:
        """Return what to track.

        Returns:
            int64 ``[B, S * (1 + P)]``: for each concept its modifier's position and those of its noun's pieces, padded
            with -1 to the longest noun's ``P``; all -1 in rows that do not name every concept. And the pieces per
            concept, ``[S]``.
        """
        nouns = [self.conditioner.pieces(c.noun) for c in self.concepts]
        longest = max(len(pieces) for pieces in nouns)
        indices = torch.full((len(token_ids), len(self.concepts), 1 + longest), -1)
        for row, ids in enumerate(token_ids.tolist()):
            if not names_all[row]:
                continue
            for slot, (concept, pieces) in enumerate(zip(self.concepts, nouns, strict=True)):
                modifier_id = self.conditioner.table_size + slot
                modifier, positions = find_positions(ids, modifier_id, pieces, phrase=concept.phrase)
                indices[row, slot, : 1 + len(positions)] = torch.tensor([modifier, *positions])
        return indices.flatten(1), torch.tensor([len(pieces) for pieces in nouns])

    def _encode(self, token_ids: Tensor, batch: Batch) -> Tensor:
        """Text states of a batch; captions of priors hold nothing that trains, so each is encoded once."""
        is_target = batch.is_target.tolist()
        states: list[Tensor | None] = [None] * len(is_target)
        for row, target in enumerate(is_target):
            if not target:
                caption = batch.captions[row]
                if caption not in self._prior_states:
                    with torch.no_grad():
                        self._prior_states[caption] = self.conditioner.encode(token_ids[row : row + 1])[0].float()
                states[row] = self._prior_states[caption]
        targets = [row for row, target in enumerate(is_target) if target]
        if targets:
            with self._autocast():
                encoded = self.conditioner.encode(token_ids[targets], self.embeddings)
            for row, state in zip(targets, encoded, strict=True):
                states[row] = state.float()
        return torch.stack([s for s in states if s is not None])

    def _calibration(self, per_row: Tensor, names_all: Tensor) -> Tensor:
        """Mean over micro-batches of the mean over their rows that name all (none: 0), as in gradient accumulation."""
        size = self.config.micro_batch
        parts = [
            (loss * counts).sum() / counts.sum().clamp(min=1)
            for loss, counts in zip(per_row.split(size), names_all.to(per_row).split(size), strict=True)
        ]
        return torch.stack(parts).mean()

    def _per_row(self, counts: Tensor) -> Tensor:
        """Calibration loss ``[B]`` of the recorded maps, with this fit's switches."""
        config = self.config
        options = CalibrationOptions(
            normalize=config.normalize_maps,
            sigma=config.blur_sigma,
            suppress=config.suppress,
            smooth=config.smooth,
            bind=config.bind_weight,
            separate=config.separate_weight,
        )
        if (counts == 1).all():  # every noun is one token: the kernels take their columns as they are
            return self.recorder.calibration_loss(options)
        return calibration_loss(self.concept_maps(counts).float(), **asdict(options))

    def _autocast(self) -> torch.autocast:
        low = self.compute_dtype != torch.float32
        return torch.autocast(self.device.type, self.compute_dtype if low else torch.bfloat16, enabled=low)


def _trainable(weight: Tensor, device: torch.device) -> torch.nn.Parameter:
    return torch.nn.Parameter(weight.detach().to(device, torch.float32, copy=True))


def initial_embeddings(conditioner: TextConditioner, concepts: list[Concept], config: FitConfig) -> Tensor:
    """Return the embeddings the tokens start from, float32 ``[S, C]``.

    The settings' ``initializers`` if given; in CLIP's vocabulary the rare tokens of the released code (for three
    concepts all are set: the code forgets the middle one); elsewhere, and beyond three concepts, the class noun.
    """
    if config.initializers:
        words = config.initializers * len(concepts) if len(config.initializers) == 1 else config.initializers
        if len(words) != len(concepts):
            raise InputError(f"initializers needs one entry, or one a concept ({len(concepts)}), got {len(words)}")
        return torch.stack([conditioner.embedding_of(word) for word in words])
    rare = _CLIP_INITIALIZERS.get(len(concepts))
    if conditioner.table_size == _CLIP_VOCABULARY and rare:
        weight = conditioner.text_encoder.get_input_embeddings().weight
        return weight[list(rare)].detach().float().clone()
    return torch.stack([conditioner.embedding_of(c.noun) for c in concepts])
