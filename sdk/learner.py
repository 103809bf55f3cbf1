"""What all methods share: trained weights over a frozen base model, text states, and one noisy forward pass with maps.

A method is a subclass that says which weights train, which concepts a row of the reference shows and what is added to
the denoising loss.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor, nn

from .attention import (
    AttentionProcessor,
    MapRecorder,
    attention_processors,
    cross_attention_layers,
    map_layers,
    plain_processors,
)
from .concepts import Concept, find_positions
from .config import FitConfig
from .errors import InputError
from .masks import at_side
from .precision import forward_dtype
from .text import TextConditioner
from .weights import replaced_weights

# Rare tokens of CLIP's vocabulary that the released code starts from, as ids (disendiff.md 2.2).
_CLIP_VOCABULARY = 49408
_CLIP_INITIALIZERS = {1: (42170,), 2: (47629, 42170), 3: (43514, 47629, 42170)}


@dataclass(frozen=True)
class Batch:
    """Rows of one step.

    Attributes:
        latents: clean, float32 ``[B, C, h, w]``.
        noise: ``[B, C, h, w]``.
        timesteps: int64 ``[B]``.
        captions: one a row.
        masks: ``[B, 1, h, w]``, where the denoising loss counts.
        named: per row, the indices of the concepts that a caption of the reference names; ``()`` for priors.
        concept_masks: the learner's masks, moved as the picture was, zero in priors; ``None`` if no row asked for them.
    """

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    captions: list[str]
    masks: Tensor
    named: list[tuple[int, ...]]
    concept_masks: Tensor | None = None


@dataclass(frozen=True)
class View:
    """What a row of the reference shows.

    Attributes:
        named: indices of the concepts in its caption, in the order of the fit.
        window: whether it is cut out around the one that is named, or the whole picture.
        with_masks: whether the batch carries the concepts' masks.
    """

    named: tuple[int, ...]
    window: bool = False
    with_masks: bool = False

    @property
    def needs_masks(self) -> bool:
        """Whether it cannot be made without knowing where the concepts are."""
        return self.window or self.with_masks


class Learner:
    """The trainable tensors of one fit, and the losses.

    Args:
        pipe: base model; frozen and left as it is.
        concepts: the concepts with their tokens.
        config: settings.
        scheduler: noise schedule of the training.
        device: where to train.

    Attributes:
        weights: trained weights of the UNet by parameter name, float32.
        embeddings: of the tokens, ``[S, C]``.
        masks: where the concepts are in each reference picture, float ``[S + 1, r, r]`` of 0 and 1, background last.
        pictures: the reference pictures' clean latents.
        compute_dtype: of the forward pass.
    """

    def __init__(
        self, pipe: StableDiffusionPipeline, concepts: list[Concept], config: FitConfig, scheduler, device: torch.device
    ):
        self.unet, self.scheduler, self.config, self.device = pipe.unet, scheduler, config, device
        self.concepts = concepts
        self.conditioner = TextConditioner(pipe.tokenizer, pipe.text_encoder, [c.token for c in concepts])
        self.layers = cross_attention_layers(pipe.unet)
        self.weights = {name: _trainable(pipe.unet.get_parameter(name), device) for name in self.trained_weights()}
        asked = forward_dtype(config.precision, device)
        # Frozen weights of low precision cannot be multiplied with float32: they decide then.
        self.compute_dtype = pipe.unet.dtype if asked == torch.float32 else asked
        self.embeddings = nn.Parameter(initial_embeddings(self.conditioner, concepts, config).to(device))
        self.recorder = MapRecorder()
        recorded = self.layers if config.all_scales else map_layers(pipe.unet)
        self.processors = plain_processors(pipe.unet) | {
            name: AttentionProcessor(
                self.recorder if name in recorded else None,
                key_value=self._key_value(name),
                detach_start_token=config.detach_start_token,
            )
            for name in self.layers
        }
        self.masks: list[Tensor] = []
        self.pictures: list[Tensor] = []
        self._prior_states: dict[str, Tensor] = {}

    # What a method decides.

    def trained_weights(self) -> list[str]:
        """Names of the UNet's parameters that train: K and V of every cross-attention (Custom Diffusion)."""
        return [f"{layer}.to_{which}.weight" for layer in self.layers for which in "kv"]

    def view(self, step: int, rng: random.Random) -> View:
        """Draw what a row of the reference shows at a step."""
        everything = tuple(range(len(self.concepts)))
        if self.config.alone > 0 and rng.random() < self.config.alone:
            return View((rng.randrange(len(self.concepts)),), window=True)
        return View(everything)

    def rates(self, step: int) -> list[float]:
        """Return the learning rate of each of :meth:`parameter_groups` at a step counted from 0; 0 freezes."""
        config = self.config
        rates = [config.learning_rate] * bool(self.weights) + [config.token_learning_rate or config.learning_rate]
        return [rate * fade(step, config) for rate in rates]

    def use_masks(self, masks: list[Tensor], pictures: list[Tensor]) -> None:
        """Take these masks.

        Args:
            masks: of each reference picture, float ``[S, r, r]``, or ``[S + 1, r, r]`` with the background.
            pictures: their clean latents ``[C, h, w]``.
        """
        side = pictures[0].shape[-1]
        self.pictures = pictures
        self.masks = []
        for each in masks:
            sized = each if each.shape[-1] <= side else at_side(each, side)
            rest = 1 - sized.amax(0, keepdim=True)
            self.masks.append(sized if len(sized) > len(self.concepts) else torch.cat([sized, rest]))

    def renew_masks(self, step: int) -> bool:
        """Look for better masks before a step; whether :attr:`masks` changed."""
        return False

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return scalars by name, of which ``"loss"`` is minimised; needs :meth:`installed`."""
        raise NotImplementedError

    # What the training loop and the pack need.

    def parameters(self) -> dict[str, Tensor]:
        """Return the trainable tensors by name."""
        return {**self.weights, "embeddings": self.embeddings}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the optimiser groups: the UNet's weights, if any, and the token embeddings."""
        groups: list[dict[str, Any]] = [{"params": list(self.weights.values())}] if self.weights else []
        return [*groups, {"params": [self.embeddings]}]

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Use the trained weights in the UNet; around forward *and* backward, which may recompute activations."""
        with ExitStack() as stack:
            stack.enter_context(attention_processors(self.unet, self.processors))
            stack.enter_context(replaced_weights(self.unet, self._beyond_key_value()))
            yield

    def key_value(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Return the pack's K and V weights by layer: the trained ones, but for a layout that is to be forgotten."""
        learned = {name: pair for name in self.layers if (pair := self._key_value(name)) is not None}
        if self.config.forget_layout:
            for name in learned:
                if name.startswith("mid_block."):
                    learned[name] = (learned[name][0], self.layers[name].to_v.weight)
        return learned

    def other_weights(self) -> dict[str, Tensor]:
        """Return what else of the UNet was trained, by parameter name."""
        return dict(self._beyond_key_value())

    # What losses are made of.

    def predict(self, batch: Batch, tracked: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Noise the batch and let the UNet denoise it.

        Args:
            batch: the rows.
            tracked: positions in the text whose maps are recorded, int64 ``[B, K]``, -1 for none.

        Returns:
            The UNet's prediction and what it should have been, ``[B, C, h, w]``.
        """
        states = self._encode(batch)
        noisy = self.scheduler.add_noise(batch.latents, batch.noise, batch.timesteps)
        self.recorder.start(None if tracked is None else tracked.to(self.device))
        weights = self.unet.dtype
        with self.autocast():
            prediction = self.unet(noisy.to(weights), batch.timesteps, states.to(weights)).sample
        target = batch.noise
        if self.scheduler.config.prediction_type == "v_prediction":
            target = self.scheduler.get_velocity(batch.latents, batch.noise, batch.timesteps)
        return prediction, target

    def positions(self, captions: Sequence[str], named: Sequence[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
        """Return where concepts stand in captions.

        Args:
            captions: ``B`` of them.
            named: per caption, the concepts to look for.

        Returns:
            int64 ``[B, S, 1 + P]``: each concept's modifier and the pieces of its noun, padded with -1 to the longest
            noun's ``P``, and all -1 where it is not looked for. And the number of pieces of each noun, ``[S]``.
        """
        nouns = [self.conditioner.pieces(c.noun) for c in self.concepts]
        longest = max(len(pieces) for pieces in nouns)
        found = torch.full((len(captions), len(self.concepts), 1 + longest), -1)
        for row, ids in enumerate(self.conditioner.tokenize(captions).tolist()):
            for slot in named[row]:
                modifier_id = self.conditioner.table_size + slot
                modifier, places = find_positions(ids, modifier_id, nouns[slot], phrase=self.concepts[slot].phrase)
                found[row, slot, : 1 + len(places)] = torch.tensor([modifier, *places])
        return found, torch.tensor([len(pieces) for pieces in nouns])

    def concept_maps(self, counts: Tensor) -> Tensor:
        """Return the recorded maps ``[B, 2S, h, w]``: modifier and class of each concept, mean over a noun's pieces."""
        maps = self.recorder.mean()  # [B, S * (1 + pieces), h, w]
        grouped = maps.unflatten(1, (len(self.concepts), -1))
        modifiers = grouped[:, :, 0]
        classes = grouped[:, :, 1:].sum(2) / counts.to(maps)[None, :, None, None]
        return torch.stack([modifiers, classes], 2).flatten(1, 2)

    def noun_embeddings(self) -> Tensor:
        """Return the nouns' embeddings ``[S, C]``, to stand in for the modifiers when only the base's words count."""
        rows = torch.stack([self.conditioner.embedding_of(c.noun) for c in self.concepts])
        return rows.to(self.device)

    def start_from(self, words: Sequence[str]) -> None:
        """Let the tokens start from the mean embeddings of these words, one entry a concept."""
        with torch.no_grad():
            self.embeddings.copy_(torch.stack([self.conditioner.embedding_of(w) for w in words]))

    def autocast(self) -> torch.autocast:
        """The forward pass's precision."""
        low = self.compute_dtype != torch.float32
        return torch.autocast(self.device.type, self.compute_dtype if low else torch.bfloat16, enabled=low)

    def _encode(self, batch: Batch) -> Tensor:
        """Text states of a batch; captions of priors hold nothing that trains, so each is encoded once."""
        token_ids = self.conditioner.tokenize(batch.captions)
        states: list[Tensor | None] = [None] * len(batch.named)
        for row, named in enumerate(batch.named):
            if not named:
                caption = batch.captions[row]
                if caption not in self._prior_states:
                    with torch.no_grad():
                        self._prior_states[caption] = self.conditioner.encode(token_ids[row : row + 1])[0].float()
                states[row] = self._prior_states[caption]
        targets = [row for row, named in enumerate(batch.named) if named]
        if targets:
            with self.autocast():
                encoded = self.conditioner.encode(token_ids[targets], self.embeddings)
            for row, state in zip(targets, encoded, strict=True):
                states[row] = state.float()
        return torch.stack([s for s in states if s is not None])

    def _key_value(self, layer: str) -> tuple[Tensor, Tensor] | None:
        key, value = (self.weights.get(f"{layer}.to_{which}.weight") for which in "kv")
        return None if key is None or value is None else (key, value)

    def _beyond_key_value(self) -> dict[str, nn.Parameter]:
        handled = {f"{layer}.to_{which}.weight" for layer in self.layers for which in "kv"}
        return {name: weight for name, weight in self.weights.items() if name not in handled}


def fade(step: int, config: FitConfig) -> float:
    """Return the factor on the learning rates of a step, counted from 0."""
    falling = config.decay * config.steps
    return min(1.0, (config.steps - step) / falling) if falling else 1.0


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
    rare = rare_words(conditioner, len(concepts))
    return torch.stack([conditioner.embedding_of(c.noun) for c in concepts]) if rare is None else rare


def rare_words(conditioner: TextConditioner, count: int) -> Tensor | None:
    """Return embeddings ``[count, C]`` of words that CLIP hardly saw; ``None``: another vocabulary, more than three."""
    rows = _CLIP_INITIALIZERS.get(count)
    if rows is None or conditioner.table_size != _CLIP_VOCABULARY:
        return None
    return conditioner.text_encoder.get_input_embeddings().weight[list(rows)].detach().float().clone()


def _trainable(weight: Tensor, device: torch.device) -> nn.Parameter:
    return nn.Parameter(weight.detach().to(device, torch.float32, copy=True))
