"""A figure as a file: SVG, a page of HTML around it, or PNG. Needs no plotting library.

Chinese is drawn by what the reader's browser has, which the list of fonts names; for PNG, which
carries its own pixels, by a font of this machine, and where there is none the plot is in English.
"""

from __future__ import annotations

import errno
import os
import secrets
import subprocess
from collections.abc import Callable, Sequence
from datetime import datetime
from html import escape
from io import BytesIO
from pathlib import Path

from zhcache import i18n
from zhcache.errors import UsageError
from zhcache.i18n import mark, translate
from zhcache.monitoring.figure import WIDTH, Figure, Stroke, Words, figure
from zhcache.monitoring.log import explained
from zhcache.monitoring.records import Sample

FONTS = (
    "system-ui, 'Noto Sans CJK SC', 'Source Han Sans SC', 'PingFang SC', 'Microsoft YaHei', "
    "'WenQuanYi Micro Hei', sans-serif"
)
_SCALE = 2
"""Pixels of a PNG for each unit."""
Table = Sequence[Sequence[str]]


def save(path: Path, samples: Sequence[Sample], tables: Callable[[], Sequence[Table]]) -> None:
    """Writes a plot; the file is whole or not there.

    Args:
        path: What it ends with says in which form: .svg, .html or .png.
        samples: At least one.
        tables: For HTML, what stands below the plot, each with a first row of heads.

    Raises:
        ZhcacheError: The form is none, or the file cannot be written.
    """
    form = form_of(path)
    if form == "png":
        content = _png(samples)
    else:
        drawn = svg(figure(samples, title_of(samples)), title_of(samples))
        content = (drawn if form == "svg" else page(drawn, title_of(samples), tables())).encode()
    unfinished = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        # In a folder of everybody's, a file or link of that name is somebody else's.
        with unfinished.open("xb") as file:
            try:
                file.write(content)
                file.flush()
                unfinished.replace(path)
            finally:
                unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise explained(error, path) from error


def check(path: Path) -> None:
    """Looks whether a plot can be written there, before it is known what is to be drawn.

    Raises:
        ZhcacheError: The form is none, or there is no such folder, or it is closed.
    """
    form_of(path)
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not path.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise explained(error, path) from error


def title_of(samples: Sequence[Sample]) -> str:
    """Returns the heading of a span's plot."""
    began = datetime.fromtimestamp(samples[0].time).astimezone()
    return translate(mark("Use of the machine since {time}"), time=f"{began:%Y-%m-%d %H:%M:%S}")


def form_of(path: Path) -> str:
    """Returns ``svg``, ``html`` or ``png``.

    Raises:
        UsageError: It is none of these.
    """
    form = {".svg": "svg", ".html": "html", ".htm": "html", ".png": "png"}.get(path.suffix.lower())
    if form is None:
        raise UsageError(
            "{file} does not say what kind of plot it is to be",
            hint="a name that ends with .svg, .html or .png",
            file=path,
        )
    return form


def svg(drawn: Figure, title: str) -> str:
    """Returns a figure as a document of SVG, with its title for who cannot see it."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {drawn.height}"'
        f' width="{WIDTH}" height="{drawn.height}" font-family="{FONTS}" role="img"'
        f' aria-label="{escape(title)}">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{drawn.height}" fill="white"/>',
    ]
    parts += [_element(one) for one in drawn.marks]
    return "\n".join([*parts, "</svg>"]) + "\n"


def page(drawn: str, title: str, tables: Sequence[Table]) -> str:
    """Returns a page of HTML that needs no other file."""
    body = "".join(_table(rows) for rows in tables)
    return (
        f'<!doctype html>\n<html lang="{i18n.language()}">\n<meta charset="utf-8">\n'
        f"<title>{escape(title)}</title>\n<style>\n"
        f"body {{ font-family: {FONTS}; margin: 2em auto; max-width: {WIDTH}px }}\n"
        "svg { max-width: 100%; height: auto }\n"
        "table { border-collapse: collapse; margin: 1em 0; font-size: 14px }\n"
        "td, th { padding: .2em .8em .2em 0; text-align: left; vertical-align: top }\n"
        "tr + tr { border-top: 1px solid #ddd }\n</style>\n"
        f"{drawn}{body}</html>\n"
    )


def _table(rows: Table) -> str:
    lines = [
        "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row) + "</tr>"
        for tag, row in zip(["th"] + ["td"] * len(rows), rows, strict=False)
    ]
    return "<table>\n" + "\n".join(lines) + "\n</table>\n"


def _element(one: Stroke | Words) -> str:
    if isinstance(one, Words):
        x, y = one.at
        return (
            f'<text x="{x:g}" y="{y:g}" font-size="{one.size}" text-anchor="{one.anchor}"'
            f' fill="{one.colour}">{escape(one.text)}</text>'
        )
    points = " ".join(f"{x:g},{y:g}" for x, y in one.points)
    return (
        f'<polyline points="{points}" fill="none" stroke="{one.colour}"'
        f' stroke-width="{one.width:g}"/>'
    )


def _png(samples: Sequence[Sample]) -> bytes:
    from PIL import Image, ImageDraw, ImageFont

    language, path = i18n.language(), None
    if language == "zh":
        path = chinese_font()
        if path is None:
            i18n.use("en")
    try:
        drawn = figure(samples, title_of(samples))
    finally:
        i18n.use(language)

    def font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
        points = size * _SCALE
        return ImageFont.load_default(points) if path is None else ImageFont.truetype(path, points)

    picture = Image.new("RGB", (WIDTH * _SCALE, drawn.height * _SCALE), "white")
    pen = ImageDraw.Draw(picture)
    anchors = {"start": "ls", "middle": "ms", "end": "rs"}
    for one in drawn.marks:
        if isinstance(one, Words):
            x, y = one.at
            at = (x * _SCALE, y * _SCALE)
            pen.text(at, one.text, one.colour, font(one.size), anchor=anchors[one.anchor])
        else:
            points = [(x * _SCALE, y * _SCALE) for x, y in one.points]
            pen.line(points, one.colour, round(one.width * _SCALE), joint="curve")
    content = BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()


def chinese_font() -> str | None:
    """Returns the file of a font of this machine that has Chinese, as fontconfig knows it."""
    command = ["fc-list", "--format", "%{file}\n", ":lang=zh-cn"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    kinds = (".ttf", ".ttc", ".otf")
    return next((line for line in listed.stdout.splitlines() if line.endswith(kinds)), None)
