"""Scenes to pictures, with the exact mask of every object."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from .scene import COLOURS, Scene, SceneObject
from .shapes import HAT, HAT_ANCHORS, PARTS, Part

RESOLUTION = 64  # pixels; the bundled model's pictures
_SUPERSAMPLING = 4
_OUTLINE = (25, 25, 30)
_FIXED_PAINTS = {"dark": (30, 30, 35), "light": (205, 230, 245), "hat": (0, 185, 175)}


def _background(name: str, side: int) -> Image.Image:
    """Sky, ground and one unmistakable feature, in muted colours that no object has."""
    sky = {"beach": (150, 205, 240), "snow": (165, 178, 198), "night": (28, 30, 72), "grass": (175, 215, 245)}[name]
    ground = {"beach": (236, 212, 160), "snow": (216, 224, 236), "night": (72, 78, 112), "grass": (150, 195, 110)}[name]
    image = Image.new("RGB", (side, side), sky)
    draw = ImageDraw.Draw(image)
    horizon = int(0.56 * side)
    draw.rectangle((0, horizon, side, side), fill=ground)
    if name == "beach":
        draw.rectangle((0, int(0.42 * side), side, horizon), fill=(70, 150, 195))
    elif name == "night":
        draw.ellipse((int(0.78 * side), int(0.05 * side), int(0.93 * side), int(0.2 * side)), fill=(240, 235, 190))
    elif name == "grass":
        draw.ellipse((int(0.05 * side), int(0.05 * side), int(0.22 * side), int(0.22 * side)), fill=(255, 235, 130))
    elif name == "snow":
        draw.polygon(
            ((int(0.05 * side), horizon), (int(0.3 * side), int(0.25 * side)), (int(0.55 * side), horizon)),
            fill=(200, 208, 222),
        )
    return image


def _draw(draw: ImageDraw.ImageDraw, part: Part, scale: float, fill, outline, thickness: int) -> None:
    points = [(x * scale, y * scale) for x, y in part.points]
    if part.shape == "line":
        width = max(2, int(0.11 * scale))
        if outline is not None:
            draw.line(points, fill=outline, width=width + 2 * thickness, joint="curve")
        draw.line(points, fill=fill, width=width, joint="curve")
        return
    if part.shape == "polygon":
        draw.polygon(points, fill=fill)
        if outline is not None:
            draw.line([*points, points[0], points[1]], fill=outline, width=thickness, joint="curve")
        return
    method = draw.ellipse if part.shape == "ellipse" else draw.rectangle
    method((*points[0], *points[1]), fill=fill, outline=outline, width=thickness if outline is not None else 0)


def _pattern_mask(pattern: str, part: Part, scale: float, size: tuple[int, int]) -> Image.Image:
    """Where the accent colour shows on a patterned coat."""
    coat = Image.new("L", size, 0)
    _draw(ImageDraw.Draw(coat), part, scale, 255, None, 0)
    marks = Image.new("L", size, 0)
    draw = ImageDraw.Draw(marks)
    if pattern == "striped":
        step = 0.25 * scale
        for k in range(8):
            x = (k + 0.45) * step
            draw.rectangle((x, 0, x + 0.44 * step, size[1]), fill=255)
    else:
        step, radius = 0.25 * scale, 0.08 * scale
        for row in range(8):
            for column in range(8):
                x = (column + 0.25 + 0.5 * (row % 2)) * step
                y = (row + 0.35) * step
                draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    return ImageChops.multiply(coat, marks)


def _hat_parts(noun: str) -> list[Part]:
    x0, y0 = HAT_ANCHORS[noun]
    return [Part(p.shape, tuple((x0 + x, y0 + y) for x, y in p.points), p.paint) for p in HAT]


def _draw_object(item: SceneObject, style: str, side: int) -> tuple[Image.Image, Image.Image, tuple[int, int]]:
    """The object's picture, its silhouette and where to paste them."""
    scale = item.width * side
    margin = int(0.3 * scale)  # room above for a hat, and for outlines on every side
    size = (int(scale) + 2 * margin, int(scale) + 2 * margin)
    picture = Image.new("RGB", size, _OUTLINE)
    silhouette = Image.new("L", size, 0)
    pen, stencil = ImageDraw.Draw(picture), ImageDraw.Draw(silhouette)
    thickness = max(3, round(0.03 * scale)) if style == "sketch" else 0
    paints = {"body": COLOURS[item.colour], "coat": COLOURS[item.colour], "accent": COLOURS[item.accent]}
    paints |= _FIXED_PAINTS
    offset = margin / scale
    for original in [*PARTS[item.noun], *(_hat_parts(item.noun) if item.hat else [])]:
        part = Part(original.shape, tuple((x + offset, y + offset) for x, y in original.points), original.paint)
        fill = (255, 255, 255) if style == "sketch" else paints[part.paint]
        _draw(pen, part, scale, fill, _OUTLINE if style == "sketch" else None, thickness)
        _draw(stencil, part, scale, 255, 255 if thickness else None, thickness)
        if part.paint == "coat" and item.pattern != "plain":
            mark = _OUTLINE if style == "sketch" else COLOURS[item.accent]
            picture.paste(mark, (0, 0), _pattern_mask(item.pattern, part, scale, size))
    if item.flipped:
        picture, silhouette = (x.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for x in (picture, silhouette))
    corner = (round(item.x * side - size[0] / 2), round(item.y * side - scale - margin))
    return picture, silhouette, corner


def render(scene: Scene, resolution: int = RESOLUTION) -> tuple[Image.Image, np.ndarray]:
    """Draw a scene.

    Args:
        scene: what to draw; objects later in the list hide earlier ones.
        resolution: side of the picture in pixels.

    Returns:
        The RGB picture, and the visible masks of the objects as bool ``[objects, resolution, resolution]``.
    """
    side = resolution * _SUPERSAMPLING
    canvas = (
        Image.new("RGB", (side, side), (250, 250, 250))
        if scene.style == "sketch"
        else _background(scene.background, side)
    )
    stencils: list[Image.Image] = []
    for item in scene.objects:
        picture, silhouette, corner = _draw_object(item, scene.style, side)
        canvas.paste(picture, corner, silhouette)
        stencil = Image.new("L", (side, side), 0)
        stencil.paste(silhouette, corner)
        stencils = [ImageChops.subtract(earlier, stencil) for earlier in stencils] + [stencil]
    image = canvas.reduce(_SUPERSAMPLING)
    masks = np.stack([np.asarray(s.reduce(_SUPERSAMPLING)) > 128 for s in stencils])
    return image, masks
