"""Measure the bundled model: draw held-out prompts, let the judge read them, print the model card's table."""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image

from .captions import write_caption
from .gates import Gates, measure
from .judge import Judge, bundled_judge
from .scene import Scene, sample_scene_of

if TYPE_CHECKING:
    from ..personalizer import Personalizer


@dataclass(frozen=True)
class Quality:
    """Shares of right answers, in [0, 1], and the two gates.

    Attributes:
        samples: pictures drawn in all.
        one_class: one object asked for: its class, and no other, is there.
        one_colour: likewise its colour is right.
        one_pattern: likewise its pattern.
        two_classes: two objects asked for: both classes and no other are there.
        two_colours: per object, its own colour is right.
        three_classes: three objects: all are there.
        background: of all pictures.
    """

    samples: int
    one_class: float
    one_colour: float
    one_pattern: float
    two_classes: float
    two_colours: float
    three_classes: float
    background: float
    gates: Gates

    def table(self) -> str:
        """Return the figures as a Markdown table."""
        gates = self.gates
        rows = [
            ("one object: class", f"{self.one_class:.1%}"),
            ("one object: colour", f"{self.one_colour:.1%}"),
            ("one object: pattern", f"{self.one_pattern:.1%}"),
            ("two objects: both classes", f"{self.two_classes:.1%}"),
            ("two objects: each colour on its own object", f"{self.two_colours:.1%}"),
            ("three objects: all classes", f"{self.three_classes:.1%}"),
            ("background", f"{self.background:.1%}"),
            ("gate 1: change of the text states by one colour word (> 20 %)", f"{gates.colour_change:.0%}"),
            ("gate 1: largest cosine of two nouns (< 0.7)", f"{gates.noun_cosine:.2f}"),
            ("gate 2: IoU of a class word's map with its own object (>= 0.40)", f"{gates.own_iou:.2f}"),
            ("gate 2: IoU with the other object (>= 0.25 less)", f"{gates.other_iou:.2f}"),
        ]
        lines = [f"| {self.samples} pictures of held-out prompts | |", "|---|---|"]
        return "\n".join(lines + [f"| {name} | {value} |" for name, value in rows])


def draw_prompts(
    personalizer: Personalizer, judge: Judge, count: int, objects: int, seed: int, steps: int
) -> list[tuple[Scene, str, Image.Image]]:
    """Draw ``count`` held-out prompts that name every attribute of ``objects`` objects."""
    rng = random.Random(f"quality {objects} {seed}")
    scenes = [sample_scene_of(rng, judge.vocabulary, objects, split="held_out") for _ in range(count)]
    prompts = [write_caption(scene, rng, keep=1.0).text for scene in scenes]
    images = personalizer.generate(
        prompts, seed=seed, concepts=[None] * count, num_inference_steps=steps, guidance_scale=6.0
    ).images
    return list(zip(scenes, prompts, images, strict=True))


def measure_quality(personalizer: Personalizer, *, samples: int = 500, seed: int = 0, steps: int = 25) -> Quality:
    """Draw and judge about ``samples`` pictures: two fifths of one object, two of two, one of three."""
    judge = bundled_judge()
    counts = {1: 2 * samples // 5, 2: 2 * samples // 5, 3: samples - 4 * samples // 5}
    shares: dict[str, list[float]] = {}
    total = 0
    for objects, count in counts.items():
        drawn = draw_prompts(personalizer, judge, count, objects, seed, steps)
        total += len(drawn)
        verdict = judge.judge([image for _, _, image in drawn])
        there = verdict.presence > 0.5
        for row, (scene, _, _) in enumerate(drawn):
            wanted = torch.zeros_like(there[row])
            slots = [judge.vocabulary.classes.index(o.noun) for o in scene.objects]
            wanted[slots] = True
            shares.setdefault(f"classes {objects}", []).append(float(torch.equal(there[row], wanted)))
            place = judge.vocabulary.backgrounds.index(scene.background)
            shares.setdefault("background", []).append(float(verdict.background[row].argmax() == place))
            for slot, item in zip(slots, scene.objects, strict=True):
                colour = judge.vocabulary.colours[int(verdict.colour[row, slot].argmax())]
                pattern = judge.vocabulary.patterns[int(verdict.pattern[row, slot].argmax())]
                present = bool(there[row, slot])
                shares.setdefault(f"colours {objects}", []).append(float(present and colour == item.colour))
                shares.setdefault(f"patterns {objects}", []).append(float(present and pattern == item.pattern))
    mean = {name: sum(values) / len(values) for name, values in shares.items()}
    return Quality(
        samples=total,
        one_class=mean["classes 1"],
        one_colour=mean["colours 1"],
        one_pattern=mean["patterns 1"],
        two_classes=mean["classes 2"],
        two_colours=mean["colours 2"],
        three_classes=mean["classes 3"],
        background=mean["background"],
        gates=measure(personalizer.pipe, judge.vocabulary),
    )


def contact_sheet(personalizer: Personalizer, seed: int = 0) -> Image.Image:
    """Draw held-out prompts of one, two and three objects, eight of each."""
    from ..pictures import labelled_grid

    rows, labels = [], []
    for objects in (1, 2, 3):
        drawn = draw_prompts(personalizer, bundled_judge(), 8, objects, seed, 25)
        rows.append([image for _, _, image in drawn])
        labels.append(" | ".join(prompt.removeprefix("photo of ") for _, prompt, _ in drawn[:3]) + " | ...")
    return labelled_grid(rows, labels)


def main() -> None:
    from ..commands.common import quiet
    from ..personalizer import Personalizer

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=25, help="DDIM steps")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--sheet", type=Path, help="also draw a contact sheet there")
    arguments = parser.parse_args()
    quiet()
    personalizer = Personalizer.from_pretrained(arguments.model)
    quality = measure_quality(personalizer, samples=arguments.samples, seed=arguments.seed, steps=arguments.steps)
    print(quality.table())
    if arguments.json:
        arguments.json.write_text(json.dumps(asdict(quality), indent=2) + "\n", encoding="utf-8")
    if arguments.sheet:
        contact_sheet(personalizer, arguments.seed).save(arguments.sheet)


if __name__ == "__main__":
    main()
