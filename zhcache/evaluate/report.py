"""A comparison as one HTML file: numbers, what to beware of, pictures side by side.

Nothing is fetched when it is opened: pictures are in it, scaled down, and fonts are the reader's
own, Chinese ones named for each system. What comes from prompts and file names is escaped.
"""

from __future__ import annotations

import base64
import errno
import html
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageChops

from zhcache.errors import NoSpace, UsageError, ZhcacheError
from zhcache.evaluate.outcome import Comparison, PairRow, Row
from zhcache.evaluate.pairs import Pair
from zhcache.export import sync
from zhcache.i18n import language, mark, translate

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

SIDE = 384
"""Of a picture in the report, in pixels at most."""
_LOUDER = 8
_FULL = (errno.ENOSPC, errno.EDQUOT)
_QUALITY = 90

NAMES = {
    "psnr": "PSNR, dB",
    "ssim": "SSIM",
    "distance": mark("distance of features"),
    "score": mark("score by prompt"),
    "cmmd": "CMMD",
    "kid": "KID",
    "fid": "FID",
}
HEADS = (
    mark("MEASURE"), "A", "B", mark("VALUE"), mark("INTERVAL"), mark("PROMPTS"), mark("BY"),
)  # fmt: skip

_STYLE = """
:root { color-scheme: light dark; font-family: system-ui, "PingFang SC", "Hiragino Sans GB",
  "Microsoft YaHei", "Noto Sans CJK SC", "Source Han Sans SC", "WenQuanYi Micro Hei", sans-serif; }
body { margin: 2rem auto; max-width: 80rem; padding: 0 1rem; line-height: 1.5; }
table { border-collapse: collapse; } caption { text-align: start; font-weight: bold; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid #8886; text-align: start; }
td.number { text-align: end; font-variant-numeric: tabular-nums; }
article { margin: 2rem 0; border-top: 1px solid #8886; }
.row { display: flex; flex-wrap: wrap; gap: 1rem; } figure { margin: 0; }
img { max-width: 100%; height: auto; display: block; } td, h2, h3 { overflow-wrap: anywhere; }
"""


def write(found: Comparison, path: Path, pictures: int) -> None:
    """Writes the report; ``path`` is there whole or as it was.

    Args:
        found: What is reported.
        path: The file.
        pictures: Pairs that are shown at most, those that differ most.

    Raises:
        NoSpace: The disk is full.
        UsageError: The place cannot be written.
    """
    path = place(path)
    # A name has 255 bytes, and a character up to four.
    unfinished = path.with_name(f".{path.name[:50]}.{os.getpid()}")
    try:
        try:
            # Names of files need not be text.
            with unfinished.open("w", encoding="utf-8", errors="replace") as file:
                file.writelines(page(found, pictures))
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
        sync(path.parent)
    except OSError as error:
        raise _unwritable(path, error) from error


def place(path: Path) -> Path:
    """Returns where a report lies that is to be at ``path``; makes its folder.

    To be asked before anything is measured.

    Raises:
        NoSpace: The disk is full.
        UsageError: No report can be written there.
    """
    try:
        # The rename that ends the writing would replace a link, and as root a device.
        real = path.expanduser().resolve()
        real.parent.mkdir(parents=True, exist_ok=True)
        is_other = real.exists() and not real.is_file()
        is_closed = not os.access(real.parent, os.W_OK | os.X_OK)
    except (OSError, RuntimeError) as error:
        raise _unwritable(path, error) from error
    if is_other:
        raise UsageError(
            "{path} is no file, so no report is written there",
            hint="name another place with --html",
            path=path,
        )
    if is_closed:
        raise _unwritable(path, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))
    return real


def _unwritable(path: Path, error: OSError | RuntimeError) -> ZhcacheError:
    number = getattr(error, "errno", None)
    return (NoSpace if number in _FULL else UsageError)(
        "{path} cannot be written: {reason}",
        hint="name another place with --html",
        path=path,
        reason=getattr(error, "strerror", None) or error,
    )


def page(found: Comparison, pictures: int) -> Iterator[str]:
    """Yields the parts of the document; each picture is in memory by itself."""
    result = found.result
    title = _words(mark("{a} and {b} compared"), a=result.a, b=result.b)
    lang = "zh-CN" if language() == "zh" else "en"
    yield (
        f'<!doctype html><html lang="{lang}"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy"'
        " content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        f"<title>{title}</title><style>{_STYLE}</style></head><body><main><h1>{title}</h1>"
    )
    yield f"<p>A: {html.escape(result.a)} ({result.pictures_a})<br>"
    yield f"B: {html.escape(result.b)} ({result.pictures_b})</p>"
    yield from _table(result.metrics)
    if found.notes:
        yield f"<h2>{_words(mark('To beware of'))}</h2><ul>"
        for one in found.notes:
            yield f"<li>{_words(one.template, **one.values)}</li>"
        yield "</ul>"
    yield from _gallery(found, pictures)
    yield "</main></body></html>\n"


def cells(row: Row) -> tuple[str, ...]:
    """Returns a row as text, in the order of ``HEADS``."""
    interval = error = "-"
    if row.low is not None and row.high is not None and row.level is not None:
        interval = f"{number(row.low)} – {number(row.high)} ({row.level:.0%})"
    if row.error is not None:
        error = f"± {number(row.error)}"
    return (
        translate(NAMES[row.metric]),
        "-" if row.a is None else number(row.a),
        "-" if row.b is None else number(row.b),
        number(row.value),
        error if interval == "-" else interval,
        "-" if row.prompts is None else str(row.prompts),
        row.by or "-",
    )


def number(value: float) -> str:
    """Returns a number with four digits that say something."""
    return "∞" if value == float("inf") else f"{value:.4g}"


def _table(rows: Sequence[Row]) -> Iterator[str]:
    yield f"<table><caption>{_words(mark('Measures'))}</caption><thead><tr>"
    for head in HEADS:
        yield f'<th scope="col">{_words(head)}</th>'
    yield "</tr></thead><tbody>"
    for row in rows:
        name, *others = cells(row)
        yield f'<tr><th scope="row">{html.escape(name)}</th>'
        for at, cell in enumerate(others):
            kind = ' class="number"' if at < len(others) - 1 else ""
            yield f"<td{kind}>{html.escape(cell)}</td>"
        yield "</tr>"
    yield "</tbody></table>"


def _gallery(found: Comparison, pictures: int) -> Iterator[str]:
    joined = list(zip(found.result.pairs, found.pairs, strict=True))
    shown = sorted(joined, key=lambda each: _difference(each[0]), reverse=True)[:pictures]
    if not shown:
        return
    text = mark("{shown} of {total} pairs, those first that differ most")
    yield f"<h2>{_words(text, shown=len(shown), total=len(joined))}</h2>"
    for row, pair in shown:
        yield from _article(row, pair)


def _difference(row: PairRow) -> float:
    """Returns by what pairs are put in order."""
    if row.ssim is not None:
        return -row.ssim
    if row.psnr is not None:
        return -row.psnr
    if row.distance is not None:
        return row.distance
    return max((abs(b - a) for a, b in row.scores.values()), default=0.0)


def _article(row: PairRow, pair: Pair) -> Iterator[str]:
    seed = "" if row.seed is None else f" · {row.seed}"
    yield f"<article><h3>{html.escape(row.prompt or row.name)}{seed}</h3><p>"
    said = [
        f"{_words(NAMES[name])} {number(value)}"
        for name in ("psnr", "ssim", "distance")
        if (value := getattr(row, name)) is not None
    ]
    said += [
        f"{html.escape(judge)}: A {number(a)}, B {number(b)}"
        for judge, (a, b) in row.scores.items()
    ]
    yield f"{'; '.join(said)}</p><div class=row>"
    one, other = pair.one.read(), pair.other.read()
    yield _figure("A", one, row)
    yield _figure("B", other, row)
    if one.size == other.size:
        apart = ImageChops.difference(one, other).point(
            [min(level * _LOUDER, 255) for level in range(256)] * 3
        )
        yield _figure(f"|A − B| × {_LOUDER}", apart, row)
    yield "</div></article>"


def _figure(caption: str, image: Picture, row: PairRow) -> str:
    small = image.copy()
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=_QUALITY, subsampling=0)
    content = base64.b64encode(buffer.getvalue()).decode("ascii")
    alt = html.escape(f"{caption}: {row.prompt or row.name}", quote=True)
    return (
        f'<figure><img src="data:image/jpeg;base64,{content}" alt="{alt}"'
        f' width="{small.width}" height="{small.height}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def _words(text: str, **values: object) -> str:
    return html.escape(translate(text, **values))
