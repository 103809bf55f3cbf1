"""Learn each concept of one picture as its own token, and write the pack to a folder."""

from __future__ import annotations

import argparse
import shlex
from typing import Any

from ..concepts import resolve_concepts
from ..config import FitConfig
from ..disk.reading import read_toml
from ..methods import METHODS, PRESETS, check_method
from ..runtime import progress
from ..settings import ACCELERATIONS, ATTENTIONS, PRECISIONS
from .common import add_model_arguments, load_personalizer, say

EXAMPLE = "personalizer fit photo.jpg --concept cat --concept dog --output my-pets"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE", help="the reference picture")
    parser.add_argument(
        "--concept", action="append", required=True, metavar="NOUN", help="class of a subject; repeat it"
    )
    parser.add_argument("--output", required=True, metavar="PACK", help="folder for the pack")
    add_model_arguments(parser)
    known = ", ".join(METHODS)
    parser.add_argument("--method", default="disendiff", metavar="NAME", help=f"one of {known}; default: disendiff")
    parser.add_argument("--mask", action="append", metavar="FILE", help="where a concept is, white on black; repeat it")
    parser.add_argument("--steps", type=int, help="optimiser steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--class-images", metavar="DIR", help="prior pictures of your own; 'none' to go without")
    parser.add_argument("--resume", action="store_true", help="go on where an interrupted fit stopped")
    parser.add_argument("--report-to", choices=("none", "tensorboard"), default="none")
    parser.add_argument("--preset", choices=PRESETS, default="best")
    parser.add_argument(
        "--precision", choices=PRECISIONS, help="of the forward pass; default: the base model's, else fp32"
    )
    parser.add_argument("--backend", metavar="NAME", help="of the attention whose maps are recorded; see doctor")
    parser.add_argument("--attention", choices=ATTENTIONS, help="of the layers whose maps are not recorded")
    parser.add_argument("--accelerate", choices=ACCELERATIONS, help="how steps are computed; default: auto")
    parser.add_argument("--validate-every", type=int, metavar="N", help="draw and score a small sheet every N steps")
    parser.add_argument("--patience", type=int, metavar="K", help="stop after K validations without a better score")
    parser.add_argument("--licence", metavar="TEXT", help="under which the pack may be used; goes along everywhere")
    parser.add_argument(
        "--consent", metavar="TEXT", help="a line on the consent of whoever is shown; goes along too, but for pictures"
    )
    parser.add_argument("--config", metavar="FILE.toml", help="settings of FitConfig; options above come on top")


def go_on(arguments: argparse.Namespace) -> str:
    """What to tell after an interruption."""
    from ..fit.kept.output import unfinished

    if unfinished(arguments.output) is None:
        return ""
    return "; what is done so far is kept: go on with the same command and --resume"


def run(arguments: argparse.Namespace) -> None:
    check_method(arguments.method)
    changes = read_settings(arguments)
    FitConfig.preset(arguments.preset, arguments.method, **changes)  # mistakes show before the model is loaded
    resolve_concepts(arguments.concept)
    from ..images.image_io import load_image, load_mask

    load_image(arguments.image)
    for file in arguments.mask or []:
        load_mask(file)
    personalizer = load_personalizer(arguments, "bundled")
    config = personalizer.default_config(arguments.preset, arguments.method, **changes)
    with progress() as bar:
        pack = personalizer.fit(
            arguments.image,
            arguments.concept,
            method=arguments.method,
            config=config,
            masks=arguments.mask,
            seed=arguments.seed,
            output_dir=arguments.output,
            resume=arguments.resume,
            progress=bar,
            report_to=arguments.report_to,
            licence=arguments.licence,
            consent=arguments.consent,
        )
    say(f"{arguments.output}: {', '.join(c.phrase for c in pack.concepts)}")
    say(f"content sha256 {pack.content_hash()}")
    again = ["personalizer", "generate", arguments.output, "--prompt", pack.prompt, "--output", "pictures"]
    say(f"try: {shlex.join(again)}")


def read_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that the options and the configuration file name."""
    settings: dict[str, Any] = {}
    if arguments.config:
        settings |= read_toml(arguments.config)
    for name in ("steps", "precision", "backend", "attention", "accelerate", "validate_every", "patience"):
        if getattr(arguments, name) is not None:
            settings[name] = getattr(arguments, name)
    if arguments.class_images is not None:
        settings["prior"] = arguments.class_images
    FitConfig.from_dict(settings, arguments.method)  # a wrong name or type shows here
    return settings
