"""Scenes: six attributes from closed vocabularies, and how one is drawn.

One to three equal shapes of one colour stand round a place of a plain background. Everything that
an attribute does not fix is jittered: position, distance, extent and, slightly, the colours.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from functools import cache
from typing import Final

import numpy as np
from PIL import Image, ImageDraw

SIDE: Final = 64
"""Width and height of a drawing, in pixels."""

COLOURS: Final = {
    "red": (215, 25, 35),
    "orange": (250, 130, 15),
    "yellow": (245, 220, 0),
    "green": (20, 135, 50),
    "blue": (25, 70, 215),
    "purple": (135, 35, 170),
    "brown": (115, 65, 25),
    "black": (15, 15, 15),
}
BACKGROUNDS: Final = {
    "white": (252, 252, 252),
    "grey": (165, 165, 165),
    "pink": (255, 185, 205),
    "beige": (232, 214, 175),
    "light blue": (165, 215, 250),
    "light green": (175, 240, 180),
}
# Outer radius in pixels. Three large ones fill a side: the gap between them is about two pixels.
SIZES: Final = {"small": (5.0, 6.0), "large": (9.2, 9.8)}
PLACES: Final = {
    "left": (13.0, 32.0),
    "right": (51.0, 32.0),
    "top": (32.0, 13.0),
    "bottom": (32.0, 51.0),
    "centre": (32.0, 32.0),
}
"""Where the middle of the group is, in pixels from the left and the top."""

_OVERSAMPLING: Final = 4
_COLOUR_JITTER: Final = 4
_PLACE_JITTER: Final = 1.8
_HELD_OUT_OF_16: Final = 1

Point = tuple[float, float]


def _ring(corners: int, radii: Sequence[float]) -> list[Point]:
    """Corners round the origin, the first one straight up, their radii in turn."""
    return [
        (
            radii[n % len(radii)] * math.sin(2 * math.pi * n / corners),
            -radii[n % len(radii)] * math.cos(2 * math.pi * n / corners),
        )
        for n in range(corners)
    ]


def _cross() -> list[Point]:
    arm, half = 1.0, 0.36
    quarter = [(-half, -arm), (half, -arm), (half, -half)]
    # Each quarter is the one before it, turned to the right.
    turned = [quarter]
    for _ in range(3):
        turned.append([(-y, x) for x, y in turned[-1]])
    return [point for part in turned for point in part]


OUTLINES: Final[dict[str, list[Point]]] = {
    "circle": _ring(48, (1.0,)),
    "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
    # Lowered by a quarter, so that its box and not its centroid is in the middle.
    "triangle": [(x * 1.15, y * 1.2 + 0.3) for x, y in _ring(3, (1.0,))],
    "star": [(x, y + 0.1) for x, y in _ring(10, (1.12, 0.45))],
    "cross": _cross(),
}
"""Corners of each shape for an outer radius of one."""

VOCABULARY: Final[dict[str, tuple[str | int, ...]]] = {
    "shape": tuple(OUTLINES),
    "colour": tuple(COLOURS),
    "background": tuple(BACKGROUNDS),
    "place": tuple(PLACES),
    "size": tuple(SIZES),
    "count": (1, 2, 3),
}
"""Every attribute and its values."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What a picture shows. The values are those of `VOCABULARY`."""

    shape: str
    colour: str
    background: str
    place: str
    size: str
    count: int


ATTRIBUTES: Final = tuple(field.name for field in fields(Scene))


@cache
def scenes() -> tuple[Scene, ...]:
    """Every scene there is, in the order of the vocabularies."""
    make: Callable[..., Scene] = Scene
    return tuple(make(*values) for values in itertools.product(*VOCABULARY.values()))


def is_held_out(scene: Scene) -> bool:
    """Whether this combination is kept from training, by a hash of its attributes."""
    told = "/".join(map(str, astuple(scene)))
    return hashlib.sha256(told.encode()).digest()[0] % 16 < _HELD_OUT_OF_16


@cache
def held_out() -> tuple[Scene, ...]:
    """The combinations that no training picture shows."""
    return tuple(scene for scene in scenes() if is_held_out(scene))


@cache
def seen() -> tuple[Scene, ...]:
    """The combinations that training may show."""
    return tuple(scene for scene in scenes() if not is_held_out(scene))


def draw(scene: Scene, rng: np.random.Generator) -> Image.Image:
    """A picture of the scene, RGB, `SIDE` by `SIDE`, with antialiased edges."""
    side = SIDE * _OVERSAMPLING
    canvas = Image.new("RGB", (side, side), _near(BACKGROUNDS[scene.background], rng))
    pen = ImageDraw.Draw(canvas)
    colour = _near(COLOURS[scene.colour], rng)
    radius = rng.uniform(*SIZES[scene.size])
    for x, y in _middles(scene, radius, rng):
        outline = [
            ((x + radius * dx) * _OVERSAMPLING, (y + radius * dy) * _OVERSAMPLING)
            for dx, dy in OUTLINES[scene.shape]
        ]
        pen.polygon(outline, fill=colour)
    return canvas.resize((SIDE, SIDE), Image.Resampling.BOX)


def _middles(scene: Scene, radius: float, rng: np.random.Generator) -> list[Point]:
    """Where the shapes stand: along the edge that the place names, else side by side."""
    shift = rng.uniform(-_PLACE_JITTER, _PLACE_JITTER, 2)
    x, y = np.array(PLACES[scene.place]) + shift
    # Two pixels between neighbours at least; three must stay inside the picture.
    widest = (SIDE - 2 * radius - 4) / 2
    distance = rng.uniform(2 * radius + 2, max(2 * radius + 2, min(widest, 2 * radius + 6)))
    upright = scene.place in {"left", "right"}
    if scene.count == 3:
        # The jitter along the row must not push its ends out.
        x, y = (x, 32.0) if upright else (32.0, y)
    steps = [(n - (scene.count - 1) / 2) * distance for n in range(scene.count)]
    return [(x, y + step) if upright else (x + step, y) for step in steps]


def _near(colour: tuple[int, int, int], rng: np.random.Generator) -> tuple[int, int, int]:
    jittered = np.array(colour) + rng.integers(-_COLOUR_JITTER, _COLOUR_JITTER + 1, 3)
    red, green, blue = (int(channel) for channel in jittered.clip(0, 255))
    return red, green, blue
