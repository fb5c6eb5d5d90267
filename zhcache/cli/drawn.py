"""What becomes of each image of ``zhcache run``: saved, told of, listed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click
import msgspec

from zhcache.chinese.report import NO_CHINESE, NOT_READ, UNREAD, ChineseReport
from zhcache.cli.base import Output
from zhcache.cli.picture import Place
from zhcache.i18n import mark, translate
from zhcache.resident.result import first_image, is_black


class Read(msgspec.Struct, kw_only=True):
    """What became of one text of a call, where that is told; as ``chinese_report`` tells it."""

    argument: str
    text: str
    route: str
    used: str
    chunks: int = 1
    cut: str = ""


class Image(msgspec.Struct, kw_only=True):
    """One image. ``nsfw`` says that the pipeline's safety checker made it black."""

    path: str
    prompt: str
    seed: int
    nsfw: bool = False
    chinese: list[Read] = []


class Drawn:
    """The images so far.

    Args:
        place: Where they are saved.
        about: What is noted in each file, besides its prompt and seed.
        output: How it is told of them.

    Attributes:
        images: In the order in which they were added.
    """

    def __init__(self, place: Place, about: Mapping[str, str], output: Output) -> None:
        self.images: list[Image] = []
        self._place = place
        self._about = about
        self._output = output
        self._told: set[tuple[str, ChineseReport]] = set()

    def add(self, prompt: str, seed: int, result: Any, read: ChineseReport) -> None:
        """Saves the image of a call and tells of it.

        Raises:
            UsageError: The pipeline makes no images.
            ZhcacheError: It cannot be written.
        """
        said = {"prompt": prompt, "seed": str(seed), **self._about}
        if read.texts:
            said["chinese"] = str(read)
        path = self._place.save(first_image(result), seed, said)
        self.images.append(
            Image(
                path=str(path),
                prompt=prompt,
                seed=seed,
                nsfw=is_black(result),
                chinese=[Read(**vars(one)) for one in read.texts],
            )
        )
        if (prompt, read) not in self._told:
            self._told.add((prompt, read))
            _tell(read, self._output)
        if self.images[-1].nsfw:
            # Even where only ids are wanted: else a black image passes for what was asked.
            text = mark(
                "the pipeline's safety checker made {path} black; try another seed or prompt"
            )
            click.echo(translate(text, path=path), err=True)
        if not self._output.is_json and not self._place.is_stdout:
            click.echo(str(path))


def _tell(read: ChineseReport, output: Output) -> None:
    """Says how a prompt's Chinese was read, and, even where only ids are wanted, what was cut."""
    for one in read.texts:
        if one.route == "translate":
            output.say(mark("{prompt} was translated: {used}"), prompt=one.text, used=one.used)
        elif one.route in ("encoder", "adapter") and one.text:
            output.say(mark("{prompt} was read by {used}"), prompt=one.text, used=one.used)
        if one.route == UNREAD:
            click.echo(translate(NO_CHINESE, prompt=one.text), err=True)
        if one.cut:
            click.echo(translate(NOT_READ, cut=one.cut), err=True)
