"""The drawings of the classes, as data: parts in a unit box with the feet at ``y = 1``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """One filled shape.

    Attributes:
        shape: ``"ellipse"`` or ``"box"`` (two corners), ``"polygon"`` (its corners) or ``"line"`` (a thick
            path).
        points: coordinates in the unit box.
        paint: ``"body"``, ``"coat"`` (body colour, carries the pattern), ``"accent"``, ``"dark"``, ``"light"``,
            ``"wood"``.
    """

    shape: str
    points: tuple[tuple[float, float], ...]
    paint: str


def _mirror(part: Part) -> Part:
    points = tuple((1 - x, y) for x, y in part.points)
    if part.shape in ("ellipse", "box"):
        (x0, y0), (x1, y1) = points
        points = ((x1, y0), (x0, y1))
    return Part(part.shape, points, part.paint)


def _pair(part: Part) -> tuple[Part, Part]:
    return part, _mirror(part)


PARTS: dict[str, tuple[Part, ...]] = {
    "cat": (
        Part("line", ((0.72, 0.92), (0.93, 0.8), (0.9, 0.55)), "body"),
        *_pair(Part("polygon", ((0.2, 0.36), (0.17, 0.0), (0.46, 0.17)), "accent")),
        Part("ellipse", ((0.22, 0.46), (0.78, 1.0)), "coat"),
        *_pair(Part("ellipse", ((0.26, 0.87), (0.47, 1.0)), "accent")),
        Part("ellipse", ((0.16, 0.1), (0.84, 0.62)), "body"),
        *_pair(Part("ellipse", ((0.31, 0.28), (0.41, 0.42)), "dark")),
        Part("polygon", ((0.45, 0.46), (0.55, 0.46), (0.5, 0.53)), "dark"),
    ),
    "dog": (
        Part("line", ((0.14, 0.5), (0.04, 0.38), (0.03, 0.2)), "body"),
        Part("box", ((0.12, 0.68), (0.25, 1.0)), "accent"),
        Part("box", ((0.52, 0.68), (0.65, 1.0)), "accent"),
        Part("ellipse", ((0.06, 0.4), (0.74, 0.82)), "coat"),
        Part("ellipse", ((0.72, 0.27), (1.0, 0.5)), "body"),
        Part("ellipse", ((0.5, 0.06), (0.88, 0.52)), "body"),
        Part("ellipse", ((0.44, 0.1), (0.62, 0.54)), "accent"),
        Part("ellipse", ((0.7, 0.2), (0.78, 0.3)), "dark"),
        Part("ellipse", ((0.92, 0.28), (1.0, 0.37)), "dark"),
    ),
    "car": (
        Part("polygon", ((0.18, 0.56), (0.32, 0.26), (0.7, 0.26), (0.86, 0.56)), "accent"),
        Part("polygon", ((0.29, 0.53), (0.37, 0.34), (0.48, 0.34), (0.48, 0.53)), "light"),
        Part("polygon", ((0.55, 0.53), (0.55, 0.34), (0.66, 0.34), (0.75, 0.53)), "light"),
        Part("box", ((0.0, 0.52), (1.0, 0.86)), "coat"),
        Part("ellipse", ((0.1, 0.7), (0.38, 1.0)), "dark"),
        Part("ellipse", ((0.62, 0.7), (0.9, 1.0)), "dark"),
    ),
    "house": (
        Part("box", ((0.12, 0.42), (0.88, 1.0)), "coat"),
        Part("polygon", ((0.0, 0.46), (0.5, 0.0), (1.0, 0.46)), "accent"),
        Part("box", ((0.42, 0.66), (0.62, 1.0)), "dark"),
        Part("box", ((0.18, 0.55), (0.35, 0.75)), "light"),
    ),
    "bird": (
        Part("line", ((0.42, 0.78), (0.4, 1.0)), "dark"),
        Part("line", ((0.55, 0.78), (0.57, 1.0)), "dark"),
        Part("polygon", ((0.84, 0.22), (1.0, 0.3), (0.84, 0.38)), "dark"),
        Part("polygon", ((0.2, 0.5), (0.0, 0.3), (0.02, 0.62)), "accent"),
        Part("ellipse", ((0.12, 0.36), (0.74, 0.86)), "coat"),
        Part("ellipse", ((0.54, 0.1), (0.9, 0.48)), "body"),
        Part("polygon", ((0.26, 0.5), (0.6, 0.5), (0.34, 0.76)), "accent"),
        Part("ellipse", ((0.72, 0.2), (0.8, 0.3)), "dark"),
    ),
    "tree": (
        Part("box", ((0.42, 0.6), (0.58, 1.0)), "wood"),
        Part("ellipse", ((0.08, 0.0), (0.92, 0.72)), "coat"),
        Part("ellipse", ((0.24, 0.38), (0.4, 0.54)), "accent"),
        Part("ellipse", ((0.58, 0.2), (0.74, 0.36)), "accent"),
        Part("ellipse", ((0.56, 0.48), (0.72, 0.64)), "accent"),
    ),
}

# Where a hat sits: the middle of its brim.
HAT_ANCHORS = {
    "cat": (0.5, 0.14),
    "dog": (0.69, 0.1),
    "car": (0.5, 0.28),
    "house": (0.5, 0.06),
    "bird": (0.72, 0.13),
    "tree": (0.5, 0.04),
}
HAT = (
    Part("box", ((-0.2, -0.05), (0.2, 0.03)), "dark"),
    Part("box", ((-0.12, -0.24), (0.12, 0.0)), "dark"),
)
