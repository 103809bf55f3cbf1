"""Measure the bundled model: draw held-out prompts, let the judge read them, print the model card's table."""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

from ..images.contact_sheet import labelled_grid
from ..personalizer import Personalizer
from ..runtime import keep_memory, quiet
from .captions import write_caption
from .gates import Gates, measure
from .judge import Judge, Verdict, bundled_judge
from .scene import Scene, Vocabulary, sample_scene_of

DDIM_STEPS = 25


@dataclass(frozen=True)
class Kind:
    """A kind of prompt: ``name``, its number of ``objects``, its share of all samples and what is forced."""

    name: str
    objects: int
    share: float
    hats: int = 0
    sketch: bool = False


KINDS = (
    Kind("one", 1, 0.3),
    Kind("two", 2, 0.3),
    Kind("three", 3, 0.2),
    Kind("hat", 2, 0.1, hats=1),
    Kind("sketch", 1, 0.1, sketch=True),
)


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
        background: of all pictures that are no sketches.
        hat: two objects, one with a hat: that one wears it and the other does not.
        sketch: a sketch asked for: it is one.
    """

    samples: int
    one_class: float
    one_colour: float
    one_pattern: float
    two_classes: float
    two_colours: float
    three_classes: float
    background: float
    hat: float
    sketch: float
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
            ("two objects: hat on the right one", f"{self.hat:.1%}"),
            ("sketch", f"{self.sketch:.1%}"),
            ("change of the text states by one colour word (> 20 %)", f"{gates.colour_change:.0%}"),
            ("largest cosine of two nouns (< 0.7)", f"{gates.noun_cosine:.2f}"),
            ("IoU of a class word's map with its own object (>= 0.50)", f"{gates.own_iou:.2f}"),
            ("IoU with the other object (>= 0.30 less)", f"{gates.other_iou:.2f}"),
        ]
        lines = [f"| {self.samples} pictures of held-out prompts | |", "|---|---|"]
        return "\n".join(lines + [f"| {name} | {value} |" for name, value in rows])


def draw_prompts(
    personalizer: Personalizer, vocabulary: Vocabulary, kind: Kind, count: int, seed: int
) -> list[tuple[Scene, str, Image.Image]]:
    """Draw ``count`` held-out prompts of a kind that name every attribute of their objects."""
    rng = random.Random(f"quality {kind.name} {seed}")
    vocabulary = dataclasses.replace(vocabulary, sketch=float(kind.sketch), hat=0.0)
    scenes = []
    for _ in range(count):
        scene = sample_scene_of(rng, vocabulary, kind.objects, split="held_out")
        wearers = rng.sample(range(kind.objects), kind.hats)
        worn = tuple(dataclasses.replace(o, hat=i in wearers) for i, o in enumerate(scene.objects))
        scenes.append(dataclasses.replace(scene, objects=worn))
    prompts = [write_caption(scene, rng, keep=1.0).text for scene in scenes]
    images = personalizer.generate(prompts, seed=seed, concepts=[None] * count, num_inference_steps=DDIM_STEPS).images
    return list(zip(scenes, prompts, images, strict=True))


def read(verdict: Verdict, scenes: list[Scene], vocabulary: Vocabulary) -> dict[str, list[bool]]:
    """Return what is right per picture (classes, hats, background, sketch) or per object (colour, pattern)."""
    right: dict[str, list[bool]] = {
        name: [] for name in ("classes", "colour", "pattern", "hats", "background", "sketch")
    }
    there = verdict.presence > 0.5
    for row, scene in enumerate(scenes):
        wanted = {vocabulary.classes.index(o.noun): o for o in scene.objects}
        found = set(there[row].nonzero()[:, 0].tolist())
        right["classes"].append(found == set(wanted))
        right["sketch"].append(bool(verdict.sketch[row] > 0.5) == (scene.style == "sketch"))
        place = vocabulary.backgrounds[int(verdict.background[row].argmax())]
        right["background"].append(place == scene.background)
        right["hats"].append(all(s in found and bool(verdict.hat[row, s] > 0.5) == o.hat for s, o in wanted.items()))
        for slot, item in wanted.items():
            colour = vocabulary.colours[int(verdict.colour[row, slot].argmax())]
            pattern = vocabulary.patterns[int(verdict.pattern[row, slot].argmax())]
            right["colour"].append(slot in found and colour == item.colour)
            right["pattern"].append(slot in found and pattern == item.pattern)
    return right


def measure_quality(personalizer: Personalizer, *, samples: int = 1000, seed: int = 0) -> Quality:
    """Draw and judge about ``samples`` pictures of all :data:`KINDS`."""
    judge: Judge = bundled_judge()
    right = {}
    total = 0
    for kind in KINDS:
        drawn = draw_prompts(personalizer, judge.vocabulary, kind, round(kind.share * samples), seed)
        total += len(drawn)
        verdict = judge.judge([image for _, _, image in drawn])
        right[kind.name] = read(verdict, [scene for scene, _, _ in drawn], judge.vocabulary)

    def share(name: str, *kinds: str) -> float:
        values = [value for kind in kinds for value in right[kind][name]]
        return sum(values) / len(values)

    return Quality(
        samples=total,
        one_class=share("classes", "one"),
        one_colour=share("colour", "one"),
        one_pattern=share("pattern", "one"),
        two_classes=share("classes", "two"),
        two_colours=share("colour", "two"),
        three_classes=share("classes", "three"),
        background=share("background", "one", "two", "three", "hat"),
        hat=share("hats", "hat"),
        sketch=share("sketch", "sketch"),
        gates=measure(personalizer.pipe, judge.vocabulary),
    )


def contact_sheet(personalizer: Personalizer, seed: int = 0) -> Image.Image:
    """Draw eight held-out prompts of each kind."""
    rows, labels = [], []
    for kind in KINDS:
        drawn = draw_prompts(personalizer, bundled_judge().vocabulary, kind, 8, seed)
        rows.append([image for _, _, image in drawn])
        labels.append(" | ".join(prompt.removeprefix("photo of ") for _, prompt, _ in drawn[:3]) + " | ...")
    return labelled_grid(rows, labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--samples", type=int, default=1000, help="0 draws the contact sheet alone")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--sheet", type=Path, help="also draw a contact sheet there")
    arguments = parser.parse_args()
    quiet()
    keep_memory()
    personalizer = Personalizer.from_pretrained(arguments.model)
    if arguments.samples:
        quality = measure_quality(personalizer, samples=arguments.samples, seed=arguments.seed)
        print(quality.table())
        if arguments.json:
            arguments.json.write_text(json.dumps(asdict(quality), indent=2) + "\n", encoding="utf-8")
    if arguments.sheet:
        contact_sheet(personalizer, arguments.seed).save(arguments.sheet)


if __name__ == "__main__":
    main()
