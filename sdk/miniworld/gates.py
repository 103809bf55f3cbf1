"""Two conditions without which no comparison of personalisation methods on a base model means anything.

1. Words reach the UNet: exchanging one colour word moves the text states at that word and after it by more
   than 20 %, and two nouns of one caption have states with a cosine below 0.7.
2. Class words look at their objects: the class word's map, thresholded at half its range, overlaps its
   object's mask (mean IoU >= 0.40 on scenes of two objects) and the other object's mask by >= 0.25 less.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..families.layers import map_layers
from ..unet.attention import MapRecorder, attention_processors, recording_processors
from .captions import write_caption
from .renderer import render
from .scene import Scene, Vocabulary, sample_scene_of


@dataclass(frozen=True)
class Gates:
    """What the two gates measured."""

    colour_change: float
    noun_cosine: float
    own_iou: float
    other_iou: float

    @property
    def words_pass(self) -> bool:
        return self.colour_change > 0.2 and self.noun_cosine < 0.7

    @property
    def maps_pass(self) -> bool:
        return self.own_iou >= 0.4 and self.own_iou - self.other_iou >= 0.25


def word_positions(tokenizer, texts: list[str], words: list[str]) -> Tensor:
    """Return the token position of the first occurrence of ``words[i]`` in ``texts[i]``, int64 ``[B]``."""
    positions = []
    for text, word in zip(texts, words, strict=True):
        wanted = tokenizer.convert_tokens_to_ids(word + "</w>")
        positions.append(tokenizer(text).input_ids.index(wanted))
    return torch.tensor(positions)


def encode(tokenizer, text_encoder, texts: list[str]) -> Tensor:
    """Return the text states ``[B, T, C]``."""
    tokens = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    return text_encoder(tokens.to(text_encoder.device))[0]


@torch.no_grad()
def measure_words(tokenizer, text_encoder, vocabulary: Vocabulary) -> tuple[float, float]:
    """Return gate 1's two figures: the smallest relative change over colours, the largest noun cosine."""
    changes = []
    first, *others = vocabulary.colours
    for colour in others:
        states = encode(tokenizer, text_encoder, [f"a {first} car", f"a {colour} car"]).float()
        difference = (states[0] - states[1]).norm(dim=-1) / states[0].norm(dim=-1)
        # Position 2 is the colour word; 3 and 4 are the noun and the end of the text.
        changes.append(min(difference[2].item(), difference[3:5].mean().item()))
    cosines = []
    for a in vocabulary.classes:
        for b in vocabulary.classes:
            if a != b:
                state = encode(tokenizer, text_encoder, [f"a {a} and a {b}"])[0].float()
                cosines.append(F.cosine_similarity(state[2], state[5], dim=0).item())
    return min(changes), max(cosines)


@torch.no_grad()
def class_maps(
    tokenizer,
    text_encoder,
    unet,
    vae,
    scheduler,
    scenes: Sequence[Scene],
    captions: Sequence[str],
    *,
    seed: int = 5,
    timesteps: tuple[int, ...] = (200, 400, 600),
) -> tuple[Tensor, Tensor]:
    """Return where the class words of captions look on the pictures that they describe.

    Args:
        tokenizer: the model's parts, as the following.
        text_encoder: see above.
        unet: see above.
        vae: see above.
        scheduler: see above.
        scenes: of S objects each, of different classes.
        captions: that name each of them.
        seed: of the noise.
        timesteps: noise levels, of 1000, over which maps are added up.

    Returns:
        Maps ``[B, S, 16, 16]``, and where each object is, bool ``[B, S, 16, 16]``.
    """
    count = len(scenes[0].objects)
    generator = torch.Generator().manual_seed(seed)
    recorder = MapRecorder()
    rendered = [render(scene) for scene in scenes]
    masks = torch.stack([torch.from_numpy(m) for _, m in rendered]).float()
    masks = F.adaptive_avg_pool2d(masks, 16) > 0.5
    pixels = torch.stack([_to_unit(image) for image, _ in rendered]).to(vae.device, vae.dtype)
    latents = vae.encode(pixels).latent_dist.mode() * vae.config.scaling_factor
    states = encode(tokenizer, text_encoder, list(captions))
    named = [[scene.objects[i].noun for scene in scenes] for i in range(count)]
    indices = torch.stack([word_positions(tokenizer, list(captions), nouns) for nouns in named], 1).to(latents.device)
    maps = torch.zeros(len(scenes), count, 16, 16)
    with attention_processors(unet, recording_processors(unet, recorder, map_layers(unet))):
        for timestep in timesteps:
            noise = torch.randn(latents.shape, generator=generator).to(latents)
            t = torch.full((len(scenes),), timestep, device=latents.device)
            recorder.start(indices)
            unet(scheduler.add_noise(latents, noise, t), t, states)
            maps += recorder.mean().float().cpu()
    return maps, masks


def overlaps(maps: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Return each map's IoU with its own object and the largest with another, ``[B, S]`` each.

    Args:
        maps: ``[B, S, h, w]``; a cell belongs to a word above half of its map's range.
        masks: of the objects, bool ``[B, S, h, w]``.
    """
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    found = (maps > (low + high) / 2)[:, :, None]  # [B, S, 1, h, w]
    there = masks[:, None]  # [B, 1, S, h, w]
    each = (found & there).flatten(3).sum(-1) / (found | there).flatten(3).sum(-1).clamp(min=1)  # [B, S, S]
    own = torch.eye(masks.shape[1], dtype=torch.bool)
    return each[:, own], each.masked_fill(own, 0).amax(-1)


def measure_maps(
    tokenizer, text_encoder, unet, vae, scheduler, vocabulary: Vocabulary, *, scenes: int = 64, seed: int = 5
) -> tuple[float, float]:
    """Return gate 2's two figures on held-out scenes of two objects: mean IoU with the own and the other mask."""
    rng = random.Random(seed)
    drawn = [sample_scene_of(rng, vocabulary, 2, split="held_out") for _ in range(scenes)]
    captions = [write_caption(scene, rng, keep=1.0).text for scene in drawn]
    maps, masks = class_maps(tokenizer, text_encoder, unet, vae, scheduler, drawn, captions, seed=seed)
    own, other = overlaps(maps, masks)
    return own.mean().item(), other.mean().item()


def measure(pipe, vocabulary: Vocabulary) -> Gates:
    """Measure both gates on a pipeline."""
    words = measure_words(pipe.tokenizer, pipe.text_encoder, vocabulary)
    maps = measure_maps(pipe.tokenizer, pipe.text_encoder, pipe.unet, pipe.vae, pipe.scheduler, vocabulary)
    return Gates(*words, *maps)


def _to_unit(image) -> Tensor:
    import numpy as np

    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 127.5 - 1
