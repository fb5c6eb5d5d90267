"""What is told of a call's texts: by who read them, and by what the pipeline made of them. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from zhcache.chinese import conditions, texts
from zhcache.chinese.ask import Answer
from zhcache.chinese.choose import Route
from zhcache.chinese.detect import language
from zhcache.chinese.report import UNREAD, ChineseReport, TextReport
from zhcache.protocol.prompts import OwnRead

_FOREIGN = ("encoder", "adapter")


def unasked(given: Mapping[str, Any]) -> ChineseReport:
    """Returns the report of a call with texts that nobody here reads; nothing where there are none.

    The texts are for an encoder that is not known to read Chinese.
    """
    lines = tuple(_plain(name, text) for name, text in texts.said(given))
    return ChineseReport(lines if any(one.route == UNREAD for one in lines) else ())


def native(given: Mapping[str, Any], route: str) -> ChineseReport:
    """Returns the report of a call whose Chinese the pipeline's own encoder reads."""
    return ChineseReport(
        tuple(
            TextReport(name, text, route if language(text) == "chinese" else "plain", text)
            for name, text in texts.said(given)
        )
    )


def translated(given: Mapping[str, Any], asked: Sequence[str], answer: Answer) -> ChineseReport:
    """Returns the report of a call of which the texts ``asked`` were translated."""
    known = dict(zip(asked, answer.texts, strict=True))
    cut = dict(zip(asked, answer.cut, strict=True))
    return ChineseReport(
        tuple(
            TextReport(name, text, "translate", known[text], cut=cut[text])
            if text in known
            else _plain(name, text)
            for name, text in texts.said(given)
        )
    )


def injected(
    items: Sequence[texts.Item],
    foreign: Sequence[conditions.Foreign],
    asked: Sequence[str],
    route: Route,
    answer: Answer,
) -> ChineseReport:
    """Returns the report of a call of which somebody else's encoder read the ``foreign`` texts."""
    model = route.model
    used = f"{model.repo}@{model.commit[:12]}" if model else ""
    places = {text: place for place, text in enumerate(asked)}
    lines: list[TextReport] = []

    def line(argument: str, text: str, *, is_foreign: bool) -> None:
        if not is_foreign:
            lines.append(_plain(argument, text))
            return
        place = places[text]
        pieces = conditions.chunks(answer.embeds, place)
        lines.append(TextReport(argument, text, route.kind, used, pieces, answer.cut[place]))

    for item, one in zip(items, foreign, strict=True):
        line("prompt", item.texts["prompt"], is_foreign=one.prompt is not None)
        if one.negative is not None or item.negatives:
            negative = (
                one.negative if one.negative is not None else next(iter(item.negatives.values()))
            )
            line("negative_prompt", negative, is_foreign=one.negative is not None)
    return ChineseReport(tuple(lines))


def with_own(
    report: ChineseReport, sent: Mapping[str, Any], own: Sequence[OwnRead]
) -> ChineseReport:
    """Returns a report that says as well what the pipeline's own encoder made of its texts.

    Args:
        report: So far; empty for a call that nobody was asked about.
        sent: The call's arguments as they were sent.
        own: What is told of their texts.
    """
    said = {(name, place): text for name, place, text in texts.placed(sent)}
    missing = next((one.missing for one in own if one.missing), "")
    known = {
        (one.argument, text): one
        for one in own
        if not one.missing and (text := said.get((one.argument, one.place))) is not None
    }
    if not known and not missing:
        return report
    lines = report.texts or tuple(
        TextReport(name, text, "plain", text) for (name, _), text in said.items()
    )
    told = [_with_own(one, known, missing) for one in lines]
    there = {(one.argument, _encoded(one)) for one in lines if one.route not in _FOREIGN}
    # Of a pair of encoders the second's own text has no line yet.
    told += [
        _read(TextReport(argument, text, "plain", text), one)
        for (argument, text), one in known.items()
        if (argument, text) not in there
    ]
    return ChineseReport(tuple(one for one in told if one is not None))


def _with_own(
    line: TextReport, known: Mapping[tuple[str, str], OwnRead], missing: str
) -> TextReport | None:
    if line.route in _FOREIGN:
        if not missing or line.argument != "negative_prompt" or line.text:
            return line
        # Nobody was asked to read what was not given after all.
        return TextReport(line.argument, "", "zeros", "") if missing == "zeros" else None
    one = known.get((line.argument, _encoded(line)))
    return line if one is None else _read(line, one)


def _read(line: TextReport, one: OwnRead) -> TextReport:
    cut = "" if one.kept is None else _encoded(line)[one.kept :].strip()
    said = " … ".join(filter(None, (line.cut, cut)))
    return dataclasses.replace(line, chunks=one.chunks, cut=said)


def _encoded(line: TextReport) -> str:
    """Returns the text that the pipeline's own encoder was given."""
    return line.used if line.route == "translate" else line.text


def _plain(argument: str, text: str) -> TextReport:
    return TextReport(argument, text, UNREAD if language(text) == "unread" else "plain", text)
