"""Draw pictures with a pack."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from ..rules.drawing import SCHEDULERS
from ..rules.speed import SPEEDS
from ..runtime import Cancelled, progress
from .common import add_model_arguments, load_personalizer, say

EXAMPLE = 'personalizer generate my-pets --prompt "a <new1> cat on the beach" --output pictures'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pack", metavar="PACK", help="folder that a fit wrote")
    parser.add_argument("--prompt", action="append", required=True, help="what to draw; repeat it for more")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the pictures, which get new numbers")
    add_model_arguments(parser)
    parser.add_argument("--negative-prompt", help="what to steer away from")
    parser.add_argument("--num-images", type=int, default=4, help="per prompt; default 4")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="of the sampler; default: the base model's, else 50")
    parser.add_argument("--scheduler", choices=SCHEDULERS, help="default ddim, or a distilled model's own")
    parser.add_argument("--speed", choices=SPEEDS, default="exact", help="balanced: 20 steps; fast: cheaper ones, too")
    parser.add_argument("--guidance", type=float, help="classifier-free guidance; default: the base model's, else 6")
    parser.add_argument("--guidance-rescale", type=float, help="0 to 1; default 0.7 for zero-SNR models, else 0")
    parser.add_argument("--clip-skip", type=int, help="layers of the text encoders left out; default: as the pack")
    parser.add_argument(
        "--attempts",
        type=int,
        default=1,
        help="drawings of a picture at most: one that lacks a subject, or shows another, is drawn again; default 1",
    )
    parser.add_argument(
        "--separate",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="of the steps, in which the subjects are driven apart, to keep their places after; default 0",
    )
    parser.add_argument("--height", type=int, help="of the pictures in pixels; default the base model's")
    parser.add_argument("--width", type=int, help="likewise")


def run(arguments: argparse.Namespace) -> None:
    from ..disk.files import output_folder, write_next
    from ..images.record import png_bytes
    from ..interrupts import deferred_interrupt
    from ..pack import ConceptPack

    pack = ConceptPack.from_pretrained(arguments.pack)
    with output_folder(arguments.output) as output:
        personalizer = load_personalizer(arguments, pack.base.name)
        interrupted: Cancelled | None = None
        with progress() as bar, deferred_interrupt("drawing ends, what is done is kept") as cancel:
            try:
                drawn = personalizer.generate(
                    arguments.prompt,
                    num_images=arguments.num_images,
                    seed=arguments.seed,
                    concepts=pack,
                    num_inference_steps=arguments.steps,
                    scheduler=arguments.scheduler,
                    speed=arguments.speed,
                    guidance_scale=arguments.guidance,
                    guidance_rescale=arguments.guidance_rescale,
                    clip_skip=arguments.clip_skip,
                    height=arguments.height,
                    width=arguments.width,
                    negative_prompt=arguments.negative_prompt,
                    attempts=arguments.attempts,
                    separate=arguments.separate,
                    progress=bar,
                    cancel=cancel,
                )
                pictures = dict(enumerate(drawn.images))
            except Cancelled as error:
                interrupted, pictures = error, error.finished
        numbers, paths = [0] * len(arguments.prompt), []
        for index in sorted(pictures):
            of = index // arguments.num_images
            path, number = write_next(output, _name(of), png_bytes(pictures[index]), numbers[of])
            numbers[of] = number + 1
            paths.append(path)
        for path in paths:  # afterwards, so that all are written whoever reads
            say(path)
        if interrupted is not None:
            raise interrupted


def _name(prompt: int) -> Callable[[int], str]:
    """Names of the pictures of a prompt, by number."""
    return lambda number: f"{prompt:02d}-{number:02d}.png"
