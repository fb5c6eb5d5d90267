"""What a person sees while images are made: one line on a terminal, nothing elsewhere."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any

import click

from zhcache.i18n import mark, translate
from zhcache.progress import size
from zhcache.protocol.residency import Progress

_CALLBACK = "callback_on_step_end"
_CLEAR = "\r\x1b[K"


class Steps:
    """A line that is written over: what is waited for, then image and step.

    Args:
        images: How many there will be.
        is_quiet: Shows nothing.
    """

    def __init__(self, images: int, *, is_quiet: bool = False) -> None:
        self._images = images
        self._image = 0
        self._is_shown = _is_terminal() and not is_quiet

    def __enter__(self) -> Steps:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.clear()

    def clear(self) -> None:
        """Leaves the line to others."""
        self._write("")

    def waits(self, progress: Progress) -> None:
        """Shows what is waited for before the first image."""
        done = f" {size(progress.bytes_done)}" if progress.bytes_done else ""
        self._write(f"{translate(progress.note)}{done}")

    @contextlib.contextmanager
    def image(self, parameters: Sequence[str], total: int | None) -> Iterator[dict[str, Any]]:
        """Shows the next image's steps; gives the arguments of the call that tell them.

        Args:
            parameters: What the call takes: not every pipeline tells its steps.
            total: How many steps there will be, if that is known.
        """
        self._image += 1
        self._write(self._text())
        wanted = self._is_shown and _CALLBACK in parameters
        yield {_CALLBACK: self._stepped(total)} if wanted else {}
        self.clear()

    @contextlib.contextmanager
    def images(self, parameters: Sequence[str], total: int | None) -> Iterator[dict[str, Any]]:
        """Shows the steps of all images, made by several workers at once, as those of one call.

        Args:
            parameters: As ``image`` takes them.
            total: How many steps each image will have, if that is known.
        """
        self._image = 1
        self._write(self._text())
        wanted = self._is_shown and _CALLBACK in parameters
        every = total * self._images if total else None
        yield {_CALLBACK: self._stepped(every)} if wanted else {}
        self.clear()

    def done(self) -> None:
        """Notes that one of several images is made."""
        self._image = min(self._image + 1, self._images)
        # What is printed next is to begin at the line's start.
        self.clear()

    def _stepped(self, total: int | None) -> Callable[..., dict[str, Any]]:
        def stepped(pipe: object, step: int, timestep: float, tensors: object) -> dict[str, Any]:
            of = f"/{total}" if total else ""
            self._write(f"{self._text()}, {translate(mark('step'))} {step + 1}{of}")
            return {}

        return stepped

    def _text(self) -> str:
        return translate(mark("image {number} of {count}"), number=self._image, count=self._images)

    def _write(self, text: str) -> None:
        if self._is_shown:
            click.echo(f"{_CLEAR}{text}", nl=False, err=True, color=True)


def _is_terminal() -> bool:
    return sys.stderr.isatty()
