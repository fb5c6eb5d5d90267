"""Plain tables. Counts terminal cells, of which a Chinese character takes two."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

from zhcache.i18n import mark, translate
from zhcache.protocol.messages import VariantResult


def width(text: str) -> int:
    """Returns how many terminal cells ``text`` takes."""
    cells = 0
    for char in text:
        if unicodedata.combining(char) or unicodedata.category(char) in ("Cf", "Mn", "Me"):
            continue
        cells += 2 if unicodedata.east_asian_width(char) in ("W", "F") else 1
    return cells


def table(
    heads: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[int] = ()
) -> Iterator[str]:
    """Yields the lines of a table.

    Args:
        heads: Column heads, translated here.
        rows: Cells.
        right: Columns aligned to the right: numbers.
    """
    shown = [[translate(head) for head in heads], *([printable(c) for c in row] for row in rows)]
    widths = [max(width(row[i]) for row in shown) for i in range(len(heads))]
    for row in shown:
        cells = [_pad(cell, widths[i], to_right=i in right) for i, cell in enumerate(row)]
        yield "  ".join(cells).rstrip()


def named(name: str, variant: VariantResult) -> str:
    """Returns a variant's name, and that it is damaged if it is."""
    if variant.state != "damaged":
        return name
    return translate(mark("{variant} (damaged)"), variant=name)


def when(seconds: float | None) -> str:
    """Returns a moment as local time."""
    if not seconds:
        return "-"
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _pad(cell: str, cells: int, *, to_right: bool) -> str:
    space = " " * (cells - width(cell))
    return space + cell if to_right else cell + space


def printable(text: str, but: str = "") -> str:
    """Returns ``text`` without what moves a terminal's cursor, as a name from a hub may hold it.

    Args:
        text: Any.
        but: Characters that stay all the same.
    """
    return "".join(char if char.isprintable() or char in but else "�" for char in text)
