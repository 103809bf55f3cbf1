"""The field's metrics for photographs: CLIPScore, CLIP-I and DINO similarity, per concept.

As DisenDiff's evaluation computes them (its section 4.1, after CLIPScore, Hessel et al., 2021): CLIPScore is
2.5 max(cos, 0) between a picture and "A photo depicts " + the prompt without tokens; CLIP-I and DINO are the cosine
between a picture and a reference crop. Encoders are the field's own, from a folder or the Hub.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..concepts import Concept
from ..errors import BaseModelError
from ..runtime import without_bars
from .drawing import Drawn
from .prompt_sets import Prompt, photograph_prompts
from .scores import Scores

CLIP = "openai/clip-vit-base-patch32"
DINO = "facebook/dino-vits16"
_PREFIX = "A photo depicts "
_TOKEN = re.compile(r"<[A-Za-z0-9_-]+>\s*")


class ClipEncoder:
    """Pictures and texts in CLIP's common space.

    Args:
        model: a CLIP model of transformers.
        processor: its picture processor.
        tokenizer: its tokenizer.
    """

    def __init__(self, model: Any, processor: Any, tokenizer: Any):
        self.model, self.processor, self.tokenizer = model.eval(), processor, tokenizer

    @classmethod
    def from_pretrained(cls, source: str | Path = CLIP) -> ClipEncoder:
        """Load from a folder or the Hub.

        Raises:
            BaseModelError: neither there nor to be had.
        """
        from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

        try:
            with without_bars():
                parts = [part.from_pretrained(source) for part in (CLIPModel, CLIPImageProcessor, CLIPTokenizer)]
        except (OSError, ValueError) as error:
            raise BaseModelError(
                f"the CLIP encoder {source} could not be loaded; give the folder of a downloaded one"
            ) from error
        return cls(*parts)

    @torch.no_grad()
    def pictures(self, images: Sequence[Image.Image]) -> Tensor:
        """Unit vectors ``[B, E]``."""
        pixels = self.processor([i.convert("RGB") for i in images], return_tensors="pt").pixel_values
        features = self.model.vision_model(pixels.to(self.model.device)).pooler_output
        return F.normalize(self.model.visual_projection(features).float(), dim=-1).cpu()

    @torch.no_grad()
    def texts(self, prompts: Sequence[str]) -> Tensor:
        """Unit vectors ``[B, E]``."""
        tokens = self.tokenizer(list(prompts), padding=True, truncation=True, return_tensors="pt").to(self.model.device)
        features = self.model.text_model(**tokens).pooler_output
        return F.normalize(self.model.text_projection(features).float(), dim=-1).cpu()


class DinoEncoder:
    """Pictures in the space of a self-supervised vision transformer (its class token).

    Args:
        model: a vision transformer of transformers.
        processor: its picture processor.
    """

    def __init__(self, model: Any, processor: Any):
        self.model, self.processor = model.eval(), processor

    @classmethod
    def from_pretrained(cls, source: str | Path = DINO) -> DinoEncoder:
        """Load from a folder or the Hub.

        Raises:
            BaseModelError: neither there nor to be had.
        """
        from transformers import AutoImageProcessor, AutoModel

        try:
            with without_bars():
                return cls(AutoModel.from_pretrained(source), AutoImageProcessor.from_pretrained(source))
        except (OSError, ValueError) as error:
            raise BaseModelError(
                f"the DINO encoder {source} could not be loaded; give the folder of a downloaded one"
            ) from error

    @torch.no_grad()
    def pictures(self, images: Sequence[Image.Image]) -> Tensor:
        """Unit vectors ``[B, E]``."""
        pixels = self.processor([i.convert("RGB") for i in images], return_tensors="pt").pixel_values
        states = self.model(pixels.to(self.model.device)).last_hidden_state[:, 0]
        return F.normalize(states.float(), dim=-1).cpu()


class EncoderScorer:
    """Scores photographs, see the module's description; satisfies :class:`sdk.eval.scorers.Scorer`.

    The matrix holds CLIP-I: row i, pictures that ask for concept i alone; column j, likeness to the crop of concept j.
    Its leakage therefore has no zero: compare it between methods. ``others`` has DINO's matrix.
    """

    looks: Sequence[str] = ()

    def __init__(self, clip: ClipEncoder, dino: DinoEncoder | None = None):
        self.clip, self.dino = clip, dino
        self.crops: list[Image.Image] = []

    @classmethod
    def from_pretrained(cls, clip: str | Path = CLIP, dino: str | Path | None = DINO) -> EncoderScorer:
        """Load the encoders from folders or the Hub; ``dino=None`` goes without."""
        return cls(ClipEncoder.from_pretrained(clip), None if dino is None else DinoEncoder.from_pretrained(dino))

    def prompts(self, concepts: Sequence[Concept], count: int) -> list[Prompt]:
        """Return the set of the concepts' classes, or prompts that fit any class."""
        return photograph_prompts(concepts, count)

    def look_at(
        self, reference: Image.Image, concepts: Sequence[Concept], masks: Sequence[Image.Image] | None = None
    ) -> None:
        """Cut each concept out of the reference picture; without masks, the whole picture stands for each."""
        self.crops = [reference] * len(concepts) if masks is None else [cut_out_on_black(reference, m) for m in masks]

    def score(self, drawn: Sequence[Drawn]) -> Scores:
        """Return CLIP-I and DINO per concept, and CLIPScore."""
        count = len(self.crops)
        alignment = [clip_score(self.clip, item.images, item.prompt) for item in drawn]
        others = {} if self.dino is None else {"dino": self._likeness(self.dino, drawn, count)}
        return Scores(
            matrix=self._likeness(self.clip, drawn, count),
            recognised=[],
            clean=[],
            together=None,
            text_alignment=torch.cat(alignment).mean().item(),
            others=others,
        )

    def _likeness(self, encoder: ClipEncoder | DinoEncoder, drawn: Sequence[Drawn], count: int) -> list[list[float]]:
        references = encoder.pictures(self.crops)
        sums: list[list[Tensor]] = [[] for _ in range(count)]
        for item in drawn:
            if len(item.asked) == 1:
                sums[item.asked[0]].append(encoder.pictures(item.images) @ references.T)
        return [torch.cat(rows).mean(0).tolist() for rows in sums]


def clip_score(encoder: ClipEncoder, images: Sequence[Image.Image], prompt: str) -> Tensor:
    """Return CLIPScore ``[B]`` of pictures for a prompt, whose tokens are left out: 2.5 max(cos, 0)."""
    text = encoder.texts([_PREFIX + plain_prompt(prompt)])
    return 2.5 * (encoder.pictures(images) @ text[0]).clamp(min=0)


def plain_prompt(prompt: str) -> str:
    """Return a prompt without its tokens: ``"a <new1> cat"`` becomes ``"a cat"``."""
    return " ".join(_TOKEN.sub("", prompt).split())


def cut_out_on_black(picture: Image.Image, mask: Image.Image) -> Image.Image:
    """Return the box around a mask's white, everything else in it black; the whole picture if nothing is white."""
    white = mask.convert("L").resize(picture.size).point(lambda level: 255 if level >= 128 else 0)
    box = white.getbbox()
    return picture if box is None else Image.composite(picture, Image.new("RGB", picture.size), white).crop(box)
