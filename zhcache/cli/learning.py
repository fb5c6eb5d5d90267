"""What a person or a program sees while an adapter is trained."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from types import TracebackType

import click
import msgspec

from zhcache.chinese.adapter.format import Quality
from zhcache.chinese.adapter.plan import Told
from zhcache.cli.base import Output
from zhcache.cli.report import json_line
from zhcache.cli.span import spelt
from zhcache.i18n import mark, translate
from zhcache.protocol.base import Message

_LINE_EVERY_S = 10.0
_CLEAR = "\r\x1b[K"


class Adapted(Message):
    """The result: what is in the store now. ``out`` is the folder that was asked for."""

    name: str
    commit: str
    path: str
    steps: int
    quality: Quality
    out: str | None = None
    stage: str = "installed"
    schema: int = 1

    def lines(self) -> Iterator[str]:
        """Returns what a person reads."""
        yield translate(
            mark(
                "{name} is in the store. On {count} held-out pairs: error {error}, retrieval "
                "{retrieval}."
            ),
            name=self.name,
            error=f"{self.quality.heldout_error:.4f}",
            retrieval=f"{self.quality.retrieval:.3f}",
            count=self.quality.pairs,
        )
        yield translate(
            mark('It is used by chinese="adapter:{name}", and by "auto" for this model.'),
            name=self.name.removeprefix("adapters/"),
        )


class Learned(Message):
    """One line of ``--json`` while it is trained; the fields of ``Told``."""

    stage: str
    step: int
    steps: int
    loss: float | None
    heldout_error: float | None
    retrieval: float | None
    pairs_per_s: float | None
    left_s: float | None
    lines: int
    bad: int
    named: list[int]
    schema: int = 1


class Learning:
    """Shows a training: one line that is written over on a terminal, a line now and then elsewhere.

    Args:
        output: In what form.
    """

    def __init__(self, output: Output) -> None:
        self._output = output
        self._is_terminal = sys.stderr.isatty()
        self._measured = ""
        self._last = float("-inf")

    def __enter__(self) -> Learning:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._is_terminal and not self._output.is_quiet:
            click.echo(_CLEAR, nl=False, err=True, color=True)

    def told(self, told: Told) -> None:
        """Shows what is new."""
        if self._output.is_json:
            fields = {name: getattr(told, name) for name in Learned.__struct_fields__[:-1]}
            click.echo(json_line(msgspec.convert(fields, Learned)))
        if self._output.is_quiet:
            return
        if told.heldout_error is not None:
            self._measured = translate(
                mark("; held out: error {error}, retrieval {retrieval}"),
                error=f"{told.heldout_error:.4f}",
                retrieval=f"{told.retrieval:.3f}",
            )
        self._show(_text(told, self._measured), is_news=told.stage != "training")
        if told.bad:
            self._lasting(
                translate(
                    mark("{bad} lines are not pairs and were left out; the first of them: {lines}"),
                    bad=told.bad,
                    lines=", ".join(map(str, told.named)),
                )
            )

    def _show(self, text: str, is_news: bool) -> None:
        now = time.monotonic()
        if self._is_terminal:
            click.echo(f"{_CLEAR}{text}", nl=False, err=True, color=True)
        elif is_news or now - self._last >= _LINE_EVERY_S:
            click.echo(text, err=True)
            self._last = now

    def _lasting(self, text: str) -> None:
        click.echo(f"{_CLEAR}{text}" if self._is_terminal else text, err=True, color=True)


def _text(told: Told, measured: str) -> str:
    known = {
        "pairs": mark("{lines} pairs"),
        "teacher": mark("reading the model's text encoders"),
        "measuring": mark("measuring them"),
        "resumed": mark("goes on after step {step} of {steps}"),
        "done": mark("written"),
    }
    if told.stage != "training":
        text = translate(known[told.stage], lines=told.lines, step=told.step, steps=told.steps)
        return text + (measured if told.stage == "done" else "")
    text = translate(mark("step {step} of {steps}"), step=told.step, steps=told.steps)
    if told.loss is not None:
        text += translate(mark(", loss {loss}"), loss=f"{told.loss:.4f}")
    text += measured
    if told.pairs_per_s is not None and told.left_s is not None:
        text += translate(
            mark("; {speed} pairs/s, {left} left"),
            speed=f"{told.pairs_per_s:.0f}",
            left=_rough(told.left_s),
        )
    return text


def _rough(seconds: float) -> str:
    """Returns a time as it is guessed: in whole minutes where it takes minutes."""
    whole = max(round(seconds), 1)
    return spelt(whole if whole < 120 else round(whole / 60) * 60)
