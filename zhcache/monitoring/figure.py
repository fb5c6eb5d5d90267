"""What a plot shows, and where: panels over one axis of time, as marks on a plane. Pure.

The marks know nothing of files: ``drawing`` writes them as SVG or paints them as PNG.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from zhcache.i18n import mark, translate
from zhcache.monitoring.records import Sample

WIDTH = 960
_LEFT, _RIGHT, _TOP = 90, 210, 44
_PANEL, _GAP = 120, 44
_TICKS = 4
_BYTES = ("B", "KiB", "MiB", "GiB", "TiB")
INK, FAINT = "#222222", "#d8d8d8"
# Okabe and Ito's colours, which people who see colours differently can tell apart.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
Unit = Literal["%", "B", "B/s"]
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a panel: a value for each moment, None where there is none."""

    name: str
    values: list[float | None]


@dataclass(frozen=True, slots=True)
class Panel:
    """Lines of one unit over the common axis of time."""

    title: str
    unit: Unit
    series: list[Series]


@dataclass(frozen=True, slots=True)
class Stroke:
    """A line through points."""

    points: list[Point]
    colour: str
    width: float = 1.0


@dataclass(frozen=True, slots=True)
class Words:
    """A text. ``at`` is the left, middle or right end of its base line."""

    at: Point
    text: str
    anchor: Literal["start", "middle", "end"] = "start"
    size: int = 12
    colour: str = INK


@dataclass(frozen=True, slots=True)
class Figure:
    """Marks on a plane of ``WIDTH`` by ``height``."""

    height: int
    marks: list[Stroke | Words]


def panels(samples: Sequence[Sample]) -> list[Panel]:
    """Returns the panels that have something to show."""
    gpus = {gpu.uuid: f"GPU {gpu.index}" for sample in samples for gpu in sample.gpus}
    watched, used = translate(mark("watched")), translate(mark("in use"))

    def together(field: str) -> list[float | None]:
        return [_sum([getattr(p, field) for p in s.processes]) for s in samples]

    def of_gpus(field: str) -> list[Series]:
        return [
            Series(
                name,
                [
                    next((getattr(g, field) for g in s.gpus if g.uuid == uuid), None)
                    for s in samples
                ],
            )
            for uuid, name in gpus.items()
        ]

    def of_machine(field: str) -> list[float | None]:
        return [getattr(s.machine, field) for s in samples]

    found = [
        Panel(translate(mark("CPU, percent of one core")), "%", [Series(watched, together("cpu"))]),
        # Apart: on a large machine the one would be a flat line below the other.
        Panel(translate(mark("Memory")), "B", [Series(watched, together("rss"))]),
        Panel(translate(mark("Memory of the machine")), "B", [Series(used, of_machine("memory"))]),
        Panel(
            translate(mark("GPUs busy, percent of the time")),
            "%",
            of_gpus("busy"),
        ),
        Panel(
            translate(mark("GPU memory")),
            "B",
            [Series(watched, together("vram")), *of_gpus("used")],
        ),
        Panel(
            translate(mark("Disk")),
            "B/s",
            [
                Series(translate(mark("read")), together("read")),
                Series(translate(mark("written")), together("written")),
            ],
        ),
        Panel(
            translate(mark("Network of the machine")),
            "B/s",
            [
                Series(translate(mark("received")), of_machine("received")),
                Series(translate(mark("sent")), of_machine("sent")),
            ],
        ),
    ]
    shown = [
        Panel(one.title, one.unit, [line for line in one.series if _has_any(line)]) for one in found
    ]
    return [one for one in shown if one.series]


def figure(samples: Sequence[Sample], title: str) -> Figure:
    """Returns the plot of a span's samples."""
    shown = panels(samples)
    times = [sample.elapsed for sample in samples]
    marks: list[Stroke | Words] = [Words((_LEFT, 24), title, size=15)]
    top = _TOP
    for panel in shown:
        marks += _panel(panel, times, top + 16)
        top += _PANEL + _GAP
    return Figure(top + 20, marks)


def _panel(panel: Panel, times: Sequence[float], top: float) -> Iterator[Stroke | Words]:
    bottom, right = top + _PANEL - 16, WIDTH - _RIGHT
    values = [value for line in panel.series for value in line.values if value is not None]
    step = _step(max(values, default=0.0), panel.unit)
    highest = step * _TICKS
    spread = max(times[-1] - times[0], 1e-9)

    def x(moment: float) -> float:
        return _LEFT + (moment - times[0]) / spread * (right - _LEFT)

    def y(value: float) -> float:
        return bottom - min(value, highest) / highest * (bottom - top)

    yield Words((_LEFT, top - 8), panel.title, size=13)
    for number in range(_TICKS + 1):
        level = y(number * step)
        yield Stroke([(_LEFT, level), (right, level)], FAINT)
        yield Words((_LEFT - 8, level + 4), _amount(number * step, panel.unit), "end", 11)
    for number in range(6):
        moment = times[0] + spread * number / 5
        yield Words((x(moment), bottom + 16), _clock(moment, spread), "middle", 11)
    for number, line in enumerate(panel.series):
        colour = COLOURS[number % len(COLOURS)]
        for run in _runs(times, line.values, x, y):
            # One moment alone is no line; a short one shows where it is.
            (first, level), *_ = run
            yield Stroke(run if len(run) > 1 else [(first, level), (first + 2, level)], colour, 1.6)
        height = top + 10 + 17 * number
        yield Stroke([(right + 14, height - 4), (right + 34, height - 4)], colour, 2.5)
        top_value = max(value for value in line.values if value is not None)
        words = translate(
            mark("{name}, at most {amount}"), name=line.name, amount=_amount(top_value, panel.unit)
        )
        yield Words((right + 40, height), words, size=11)


def _runs(
    times: Sequence[float],
    values: Sequence[float | None],
    x: Callable[[float], float],
    y: Callable[[float], float],
) -> Iterator[list[Point]]:
    """Yields the points between two gaps."""
    run: list[Point] = []
    for moment, value in zip(times, values, strict=True):
        if value is not None:
            run.append((round(x(moment), 1), round(y(value), 1)))
        elif run:
            yield run
            run = []
    if run:
        yield run


def _step(highest: float, unit: Unit) -> float:
    """Returns the distance of two ticks: round in tens, or for bytes in powers of two."""
    if highest <= 0:
        return 1.0 if unit != "%" else 25.0
    least = highest / _TICKS
    if unit != "%":
        return 2.0 ** math.ceil(math.log2(max(least, 1.0)))
    ten = 10.0 ** math.floor(math.log10(least))
    return next(ten * k for k in (1, 2, 2.5, 5, 10) if ten * k >= least)


def _amount(value: float, unit: Unit) -> str:
    if unit == "%":
        return f"{value:.4g} %"
    number = 0
    while value >= 1024 and number < len(_BYTES) - 1:
        value, number = value / 1024, number + 1
    return f"{value:.3g} {_BYTES[number]}{unit[1:]}"


def _clock(seconds: float, spread: float) -> str:
    if spread < 120:
        return f"{seconds:.3g} s" if spread < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _has_any(line: Series) -> bool:
    return any(value is not None for value in line.values)
