"""Reads a picture's attributes off its pixels, or says that they are unclear. No model, no torch.

The frame of the picture tells the background, what differs from it the colour; between the two each
pixel covers a part. Connected pixels are a shape, and which one is told by how much it overlaps
each outline of equal area and centroid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from scenes.world import ATTRIBUTES, BACKGROUNDS, COLOURS, OUTLINES, SIDE, Scene

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

_FRAME: Final = 2
_STANDS_OUT: Final = 70.0
"""Distance in RGB from the background that no jitter and no noise of a decoder reaches."""
_COLOUR_REACH: Final = 75.0
_BACKGROUND_REACH: Final = 45.0
_LEAST_AREA: Final = 14.0
"""Pixels; the smallest star has 37. What is smaller is a speck."""
_LEAST_OVERLAP: Final = 0.66
_OVERLAP_MARGIN: Final = 0.02
_SMALL_BELOW: Final = 7.2
_LARGE_ABOVE: Final = 8.0
"""Outer radius in pixels; small ones are drawn up to 6, large ones from 9.2."""
_CENTRE_WITHIN: Final = 7.5
_ASIDE_FROM: Final = 11.0
"""Pixels between the middles of the group and of the picture; drawn are up to 3 and from 17."""
_WINDOW: Final = 28
"""Side of what is looked at round a shape, in pixels; the largest drawn are 22 wide."""
_FINER: Final = 4
_COVERED: Final = (0.5, 0.65, 0.8)
"""Coverage from which a pixel is the shape's: more, where blurred neighbours touch."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a picture shows, in the words of `Scene`; None is unclear."""

    shape: str | None = None
    colour: str | None = None
    background: str | None = None
    place: str | None = None
    size: str | None = None
    count: int | None = None

    def agreement(self, scene: Scene) -> dict[str, bool]:
        """Which attributes the picture has as the scene says. Unclear is not as it says."""
        return {name: getattr(self, name) == getattr(scene, name) for name in ATTRIBUTES}

    def share(self, scene: Scene) -> float:
        """The share of attributes that are as the scene says."""
        return sum(self.agreement(scene).values()) / len(ATTRIBUTES)


@dataclass(frozen=True, slots=True)
class _Piece:
    """One connected part. ``middle`` is x, y in pixels; ``cover`` has the picture's size."""

    cover: Floats
    area: float
    middle: tuple[float, float]
    width: int
    height: int

    @property
    def compact(self) -> bool:
        """Whether this can be one shape: two that touch are longer than wide."""
        longest = max(self.width, self.height)
        return longest <= min(1.45 * min(self.width, self.height), _WINDOW - 4)


def read(image: Image.Image) -> Reading:
    """Reads all attributes.

    Args:
        image: Of any mode; one of another size than `SIDE` is scaled.

    Returns:
        The attributes; those that the picture does not clearly show are None.
    """
    if image.size != (SIDE, SIDE):
        image = image.resize((SIDE, SIDE), Image.Resampling.BOX)
    pixels = np.asarray(image.convert("RGB"), dtype=np.float64)
    ground = np.median(pixels[_frame()], axis=0)
    background = _nearest(ground, BACKGROUNDS, _BACKGROUND_REACH)
    away = np.linalg.norm(pixels - ground, axis=2)
    if (away > _STANDS_OUT).sum() < _LEAST_AREA:
        return Reading(background=background)
    # Edges are mixtures: only what differs most has the colour itself.
    most = float(np.percentile(away[away > _STANDS_OUT], 90))
    inner = pixels[away > max(_STANDS_OUT, 0.8 * most)]
    ink = np.median(inner, axis=0)
    if np.linalg.norm(ink - ground) < _STANDS_OUT:
        # What stands out has no colour of its own, as in noise.
        return Reading(background=background)
    pieces = _pieces(((pixels - ground) @ (ink - ground)) / ((ink - ground) @ (ink - ground)))
    colour = _nearest(ink, COLOURS, _COLOUR_REACH)
    if not pieces or len(pieces) > 3 or not all(piece.compact for piece in pieces):
        return Reading(colour=colour, background=background, place=_place(pieces))
    shape = _shape(pieces)
    return Reading(
        shape=shape,
        colour=colour,
        background=background,
        place=_place(pieces),
        size=_size(pieces, shape),
        count=len(pieces),
    )


@cache
def _frame() -> Mask:
    edge = np.ones((SIDE, SIDE), dtype=bool)
    edge[_FRAME:-_FRAME, _FRAME:-_FRAME] = False
    return edge


def _nearest(colour: Floats, palette: dict[str, tuple[int, int, int]], reach: float) -> str | None:
    """The palette's colour that is nearest, if it is near and no other one nearly as near."""
    far = sorted(
        (float(np.linalg.norm(colour - np.array(value))), name) for name, value in palette.items()
    )
    (first, name), (second, _) = far[:2]
    return name if first < reach and first < 0.8 * second else None


def _pieces(cover: Floats) -> list[_Piece]:
    """The connected parts of a picture of coverages, at the first threshold that parts them."""
    pieces: list[_Piece] = []
    for least in _COVERED:
        pieces = [
            piece
            for part in _connected(cover > least)
            if (piece := _piece(cover, part)).area >= _LEAST_AREA
        ]
        if pieces and all(piece.compact for piece in pieces):
            break
    return pieces


def _piece(cover: Floats, part: Mask) -> _Piece:
    # Its edge as well, which is covered by less than the threshold.
    grown = part.copy()
    grown[1:] |= part[:-1]
    grown[:-1] |= part[1:]
    grown[:, 1:] |= part[:, :-1]
    grown[:, :-1] |= part[:, 1:]
    own = np.where(grown, cover.clip(0, 1), 0.0)
    area = float(own.sum())
    down, across = np.mgrid[:SIDE, :SIDE] + 0.5
    rows, columns = np.nonzero(part)
    return _Piece(
        cover=own,
        area=area,
        middle=(float((own * across).sum() / area), float((own * down).sum() / area)),
        width=int(np.ptp(columns)) + 1,
        height=int(np.ptp(rows)) + 1,
    )


def _connected(mask: Mask) -> list[Mask]:
    """Parts of a mask whose pixels share edges."""
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    parts: list[Mask] = []
    while left:
        part, open_ = np.zeros_like(mask), [left.pop()]
        while open_:
            y, x = open_.pop()
            part[y, x] = True
            near = {(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)} & left
            left -= near
            open_ += near
        parts.append(part)
    return parts


def _shape(pieces: list[_Piece]) -> str | None:
    """The outline that all pieces overlap best together, if more than half do so alone."""
    overlaps = [{shape: _overlap(piece, shape) for shape in OUTLINES} for piece in pieces]
    mean = {shape: sum(each[shape] for each in overlaps) / len(pieces) for shape in OUTLINES}
    best, second = sorted(mean, key=lambda shape: -mean[shape])[:2]
    alone = sum(max(each, key=lambda shape: each[shape]) == best for each in overlaps)
    clear = mean[best] >= _LEAST_OVERLAP and mean[best] >= mean[second] + _OVERLAP_MARGIN
    return best if clear and 2 * alone > len(pieces) else None


def _overlap(piece: _Piece, shape: str) -> float:
    """Intersection over union of the piece and the outline of its area and centroid."""
    left, top = (round(at) - _WINDOW // 2 for at in piece.middle)
    middle = (piece.middle[0] - left, piece.middle[1] - top)
    drawn = _drawn(shape, _radius(piece, shape), middle)
    cover = np.pad(piece.cover, _WINDOW)[top + _WINDOW :, left + _WINDOW :][:_WINDOW, :_WINDOW]
    return float(np.minimum(drawn, cover).sum() / np.maximum(drawn, cover).sum())


def _radius(piece: _Piece, shape: str) -> float:
    return math.sqrt(piece.area / _measures(shape)[0])


@cache
def _measures(shape: str) -> tuple[float, float, float]:
    """Area and centroid (x, y) of an outline of radius one, by the shoelace formula."""
    area = x = y = 0.0
    corners = OUTLINES[shape]
    for (x0, y0), (x1, y1) in zip(corners, [*corners[1:], corners[0]], strict=True):
        turn = x0 * y1 - x1 * y0
        area += turn / 2
        x += (x0 + x1) * turn / 6
        y += (y0 + y1) * turn / 6
    return abs(area), x / area, y / area


def _drawn(shape: str, radius: float, middle: tuple[float, float]) -> Floats:
    """Coverage of each pixel of a window by the outline with its centroid there."""
    _, off_x, off_y = _measures(shape)
    canvas = Image.new("L", (_WINDOW * _FINER, _WINDOW * _FINER))
    outline = [
        ((middle[0] + radius * (x - off_x)) * _FINER, (middle[1] + radius * (y - off_y)) * _FINER)
        for x, y in OUTLINES[shape]
    ]
    ImageDraw.Draw(canvas).polygon(outline, fill=255)
    small = canvas.resize((_WINDOW, _WINDOW), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float64) / 255


def _size(pieces: list[_Piece], shape: str | None) -> str | None:
    if shape is None:
        radius = sum(max(piece.width, piece.height) / 2 for piece in pieces) / len(pieces)
    else:
        radius = sum(_radius(piece, shape) for piece in pieces) / len(pieces)
    if _SMALL_BELOW < radius < _LARGE_ABOVE:
        return None
    return "small" if radius <= _SMALL_BELOW else "large"


def _place(pieces: list[_Piece]) -> str | None:
    if not pieces:
        return None
    # Each piece counts the same, so that a blurred one does not draw the middle to itself.
    x, y = np.mean([piece.middle for piece in pieces], axis=0) - SIDE / 2
    if max(abs(x), abs(y)) < _CENTRE_WITHIN:
        return "centre"
    if max(abs(x), abs(y)) < _ASIDE_FROM or min(abs(x), abs(y)) > _CENTRE_WITHIN:
        return None
    if abs(x) > abs(y):
        return "left" if x < 0 else "right"
    return "top" if y < 0 else "bottom"
