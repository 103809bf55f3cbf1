"""Where do a base model's class words look? Maps on the test scenes of two concepts, and their IoU with the objects.

Attention of the layers at 16 x 16, mean over layers, heads and three noise levels, on the clean picture under the
caption "a CLASS and a CLASS" (before any fit). A cell belongs to a word above half of its map's range. The sheet shows
each scene, and the map of its first and of its second class word.

Usage: python -m benchmarks.study.maps [--base FOLDER] [--scenes 10] [--output maps.png]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.study.measures import interval
from sdk import Personalizer, quiet
from sdk.miniworld import TASKS, class_maps, overlaps, render, task_scene

SIDE = 96  # pixels of a picture on the sheet


def heated(picture: Image.Image, values: np.ndarray) -> Image.Image:
    """Lay a map ``[h, w]`` over a picture: bright where the word looks, dark where it does not."""
    span = (values - values.min()) / max(float(np.ptp(values)), 1e-9)
    heat = Image.fromarray((255 * span).astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    grey = np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.NEAREST).convert("L"), np.float32)[..., None]
    warm = np.asarray(heat, np.float32)[..., None] / 255
    shown = 0.55 * grey * (0.35 + 0.65 * warm) + warm * np.array([235.0, 120.0, 20.0]) * 0.7
    return Image.fromarray(shown.clip(0, 255).astype(np.uint8))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="bundled", help="a model of the drawn world; default the bundled one")
    parser.add_argument("--scenes", type=int, default=TASKS["two"].scenes, help="the first so many; default all")
    parser.add_argument("--output", type=Path, help="draw the sheet there")
    arguments = parser.parse_args()
    quiet()
    pipe = Personalizer.from_pretrained(arguments.base, device="cpu").pipe
    scenes = [task_scene("two", "test", index) for index in range(arguments.scenes)]
    captions = [" and ".join(f"a {item.noun}" for item in scene.objects) for scene in scenes]
    parts = (pipe.tokenizer, pipe.text_encoder, pipe.unet, pipe.vae, pipe.scheduler)
    maps, masks = class_maps(*parts, scenes, captions)
    own, other = overlaps(maps, masks)
    for name, values in (("its own object", own), ("the other object", other)):
        mean, low, high = interval(values.mean(1).tolist())
        print(f"IoU of a class word's map with {name}: {mean:.2f} [{low:.2f}, {high:.2f}]")
    if arguments.output:
        sheet = Image.new("RGB", (len(scenes) * (SIDE + 4), 3 * (SIDE + 4)), "white")
        for column, scene in enumerate(scenes):
            picture = render(scene)[0]
            sheet.paste(picture.resize((SIDE, SIDE), Image.Resampling.NEAREST), (column * (SIDE + 4), 0))
            for row in range(2):
                place = (column * (SIDE + 4), (row + 1) * (SIDE + 4))
                sheet.paste(heated(picture, maps[column, row].numpy()), place)
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(arguments.output, optimize=True)
        print(arguments.output)


if __name__ == "__main__":
    main()
