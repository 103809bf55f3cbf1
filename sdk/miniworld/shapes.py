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
            ``"hat"``.
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
        Part("line", ((0.74, 0.9), (0.95, 0.78), (0.93, 0.5)), "body"),
        Part("ellipse", ((0.16, 0.42), (0.84, 1.0)), "coat"),
        *_pair(Part("polygon", ((0.19, 0.34), (0.16, 0.0), (0.47, 0.16)), "accent")),
        *_pair(Part("ellipse", ((0.2, 0.86), (0.45, 1.0)), "accent")),
        Part("ellipse", ((0.17, 0.1), (0.83, 0.54)), "body"),
        *_pair(Part("ellipse", ((0.29, 0.24), (0.41, 0.39)), "dark")),
    ),
    "dog": (
        Part("line", ((0.1, 0.55), (0.04, 0.4), (0.05, 0.2)), "body"),
        Part("box", ((0.08, 0.66), (0.26, 1.0)), "accent"),
        Part("box", ((0.5, 0.66), (0.68, 1.0)), "accent"),
        Part("ellipse", ((0.0, 0.38), (0.78, 0.86)), "coat"),
        Part("ellipse", ((0.74, 0.24), (1.0, 0.48)), "body"),
        Part("ellipse", ((0.5, 0.04), (0.9, 0.5)), "body"),
        Part("ellipse", ((0.42, 0.08), (0.63, 0.56)), "accent"),
        Part("ellipse", ((0.7, 0.17), (0.81, 0.3)), "dark"),
        Part("ellipse", ((0.9, 0.25), (1.02, 0.38)), "dark"),
    ),
    "car": (
        Part("polygon", ((0.14, 0.56), (0.3, 0.22), (0.72, 0.22), (0.88, 0.56)), "accent"),
        Part("polygon", ((0.29, 0.52), (0.38, 0.31), (0.64, 0.31), (0.73, 0.52)), "light"),
        Part("box", ((0.0, 0.5), (1.0, 0.87)), "coat"),
        Part("ellipse", ((0.08, 0.69), (0.39, 1.0)), "dark"),
        Part("ellipse", ((0.61, 0.69), (0.92, 1.0)), "dark"),
    ),
    "house": (
        Part("box", ((0.1, 0.4), (0.9, 1.0)), "coat"),
        Part("polygon", ((-0.02, 0.46), (0.5, 0.0), (1.02, 0.46)), "accent"),
        Part("box", ((0.4, 0.64), (0.64, 1.0)), "dark"),
    ),
    "bird": (
        Part("line", ((0.34, 0.8), (0.34, 1.0)), "dark"),
        Part("line", ((0.52, 0.8), (0.52, 1.0)), "dark"),
        Part("polygon", ((0.88, 0.14), (1.08, 0.26), (0.88, 0.36)), "dark"),
        Part("polygon", ((0.24, 0.5), (-0.04, 0.2), (0.0, 0.66)), "accent"),
        Part("ellipse", ((0.08, 0.3), (0.78, 0.9)), "coat"),
        Part("ellipse", ((0.54, 0.04), (0.94, 0.46)), "body"),
        Part("polygon", ((0.2, 0.5), (0.6, 0.48), (0.3, 0.82)), "accent"),
        Part("ellipse", ((0.74, 0.14), (0.85, 0.27)), "dark"),
    ),
    "tree": (
        Part("box", ((0.36, 0.6), (0.64, 1.0)), "accent"),
        Part("ellipse", ((0.04, 0.0), (0.96, 0.74)), "coat"),
    ),
}

# Where a hat sits: the middle of its brim.
HAT_ANCHORS = {
    "cat": (0.5, 0.16),
    "dog": (0.69, 0.1),
    "car": (0.5, 0.25),
    "house": (0.5, 0.1),
    "bird": (0.74, 0.1),
    "tree": (0.5, 0.06),
}
HAT = (Part("polygon", ((-0.2, 0.02), (0.0, -0.32), (0.2, 0.02)), "hat"),)
