"""Sheets of generated pictures with the judge's reading under each, for a person to agree or disagree with.

Usage: python -m sdk.miniworld.handcheck FOLDER [--pictures 100]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image, ImageDraw

from ..images.contact_sheet import font, tile
from ..personalizer import Personalizer
from ..runtime import keep_memory, quiet
from .judge import Verdict, bundled_judge
from .quality import KINDS, draw_prompts
from .scene import Vocabulary

_COLUMNS, _ROWS = 5, 5
_WIDTH, _SIDE, _LINE = 236, 128, 14


def reading(verdict: Verdict, row: int, vocabulary: Vocabulary) -> list[str]:
    """Return what the judge sees in a picture, a line for the scene and one for each object."""
    sketch = bool(verdict.sketch[row] > 0.5)
    lines = ["sketch" if sketch else vocabulary.backgrounds[int(verdict.background[row].argmax())]]
    for slot, noun in enumerate(vocabulary.classes):
        if verdict.presence[row, slot] <= 0.5:
            continue
        pattern = vocabulary.patterns[int(verdict.pattern[row, slot].argmax())]
        words = [noun] if pattern == "plain" else [pattern, noun]
        if not sketch:
            colour, accent = (vocabulary.colours[int(x[row, slot].argmax())] for x in (verdict.colour, verdict.accent))
            words = [*words[:-1], colour, noun, "with", accent]
        if verdict.hat[row, slot] > 0.5:
            words.append("+ hat")
        lines.append(" ".join(words))
    return lines


def sheets(pictures: list[Image.Image], readings: list[list[str]]) -> list[Image.Image]:
    """Arrange numbered pictures with their readings, 25 a sheet."""
    height = _SIDE + 5 * _LINE + 8
    result = []
    for start in range(0, len(pictures), _COLUMNS * _ROWS):
        sheet = Image.new("RGB", (_COLUMNS * _WIDTH, _ROWS * height), "white")
        draw = ImageDraw.Draw(sheet)
        for place, (picture, lines) in enumerate(
            list(zip(pictures, readings, strict=True))[start:][: _COLUMNS * _ROWS]
        ):
            left, top = place % _COLUMNS * _WIDTH + 4, place // _COLUMNS * height + 4
            sheet.paste(tile(picture, _SIDE), (left, top))
            for index, line in enumerate([f"{start + place + 1}: {lines[0]}", *lines[1:]]):
                draw.text((left, top + _SIDE + index * _LINE), line, fill=(20, 20, 25), font=font(11))
        result.append(sheet)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--pictures", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    quiet()
    keep_memory()
    personalizer = Personalizer.from_pretrained(arguments.model)
    judge = bundled_judge()
    pictures = []
    for kind in KINDS:
        count = round(kind.share * arguments.pictures)
        drawn = draw_prompts(personalizer, judge.vocabulary, kind, count, arguments.seed)
        pictures += [image for _, _, image in drawn]
    verdict = judge.judge(pictures)
    readings = [reading(verdict, row, judge.vocabulary) for row in range(len(pictures))]
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for index, sheet in enumerate(sheets(pictures, readings)):
        sheet.save(arguments.folder / f"sheet-{index + 1}.png")
        print(arguments.folder / f"sheet-{index + 1}.png")


if __name__ == "__main__":
    main()
