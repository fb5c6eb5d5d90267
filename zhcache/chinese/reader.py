"""How the Chinese prompts of one pipeline are read, call by call, wherever the pipeline is.

A call without a Chinese text changes nothing and asks nobody. For another the route is chosen of
what the store holds; the prompt worker is asked, and its answer becomes other texts, or conditions
for the place of the pipeline (``zhcache.chinese.embeds``).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zhcache.chinese import ask, conditions, texts
from zhcache.chinese.choose import Route, choose, is_settled
from zhcache.chinese.detect import has_han
from zhcache.chinese.families import Family, family_of
from zhcache.chinese.report import NOT_READ, ChineseReport, ChineseWarning, TextReport
from zhcache.errors import UsageError, ZhcacheError
from zhcache.i18n import translate

_SURELY_SHORT = 30
"""Bytes of a text that no text encoder cuts. Of more only the pipeline's tokenizer knows.

A token has a byte at least, and the shortest encoders take 32 with those at the ends.
"""


@dataclass(frozen=True)
class Prepared:
    """A call with its Chinese read.

    Attributes:
        arguments: Of the call; where there are conditions its texts are still those given.
        conditions: As ``zhcache.chinese.conditions`` has them; None: there are none.
    """

    arguments: dict[str, Any]
    conditions: dict[str, Any] | None = None


class Reader:
    """Reads the Chinese prompts of one pipeline.

    Args:
        asked: As ``load_pipeline`` takes ``chinese``, checked.
        repo: Of the pipeline.
        commit: Of the snapshot; of a variant that which it was made of.
        variant: Which variant of it, or None.
        keep: Words that a translation leaves as they are.

    Attributes:
        report: Of the last call.
    """

    def __init__(
        self,
        asked: str | None,
        repo: str,
        commit: str,
        variant: str | None = None,
        keep: Sequence[str] = (),
    ) -> None:
        self.report = ChineseReport()
        self._asked = asked
        self._of = (repo, commit, variant)
        self._keep = tuple(keep)
        self._known: dict[str, tuple[Route, ask.Asking | None]] = {}

    def prepare(
        self, class_name: str, arguments: Mapping[str, Any], *, raw: bool
    ) -> Prepared | None:
        """Returns a call's arguments with their Chinese read; None: the call stays as it is.

        Args:
            class_name: Of the pipeline that is called.
            arguments: All of them, by name.
            raw: Whether tensors are to be ``RawTensor``.

        Raises:
            NotFound: Nothing is there that reads Chinese for this pipeline.
            UsageError: Texts that this route cannot read.
            ZhcacheError: What the daemon or its prompt worker reported.
        """
        self.report = ChineseReport()
        given = dict(arguments)
        if self._asked is None or not texts.is_chinese(given):
            return None
        _check_sendable(given)
        family = family_of(class_name)
        try:
            route, asking = self._route(self._asked, class_name, family)
            if asking is None or route.model is None:
                self.report = _told(given, "native" if route.is_measured else "unmeasured")
                return None
            if not route.injects:
                return self._translated(given, family, asking)
            if family is None:
                raise AssertionError(class_name)
            return self._injected(given, route, family, asking, raw=raw)
        except ZhcacheError:
            # What is held may have changed; the next call looks again.
            self.close()
            raise

    def close(self) -> None:
        """Lets go of the prompt workers; a later call has them again."""
        self._known.clear()

    def _route(
        self, asked: str, class_name: str, family: Family | None
    ) -> tuple[Route, ask.Asking | None]:
        known = self._known.get(class_name)
        if known is None:
            route = is_settled(asked, family) or choose(asked, family, ask.choices(*self._of))
            asking = None if route.model is None else ask.asking(route.model)
            # Another thread's failed call may empty it at once.
            known = self._known[class_name] = route, asking
        return known

    def _translated(
        self, given: dict[str, Any], family: Family | None, asking: ask.Asking
    ) -> Prepared:
        chinese = list(dict.fromkeys(text for _, text in texts.said(given) if has_han(text)))
        answer = asking.ask(chinese, keep=self._keep, raw=True)
        known = dict(zip(chinese, answer.texts, strict=True))
        cut = dict(zip(chinese, answer.cut, strict=True))
        self.report = _warned(
            ChineseReport(
                tuple(
                    TextReport(name, text, "translate", known[text], cut=cut[text])
                    if text in known
                    else TextReport(name, text, "plain", text)
                    for name, text in texts.said(given)
                )
            )
        )
        replaced = texts.replaced(given, known)
        if family is None or not family.is_longer or _embeds(given):
            return Prepared(replaced)
        if all(len(text.encode()) <= _SURELY_SHORT for _, text in texts.said(replaced)):
            return Prepared(replaced)
        # A translation is longer than what was written: the base's encoder would cut it.
        return Prepared(replaced, conditions.in_pieces(texts.items(replaced)))

    def _injected(
        self,
        given: dict[str, Any],
        route: Route,
        family: Family,
        asking: ask.Asking,
        *,
        raw: bool,
    ) -> Prepared:
        if taken := _embeds(given):
            raise UsageError(
                "{names} came with a Chinese text, and the Chinese encoder's would replace them",
                hint="give all texts or no text, or take chinese='translate'",
                names=", ".join(taken),
            )
        items = texts.items(given)
        foreign = conditions.foreign(items, route.kind, family.negative)
        wanted = conditions.wanted(foreign)
        answer = asking.ask(wanted, chunks=family.is_longer, keep=(), raw=raw)
        self.report = _warned(_injection(items, foreign, wanted, route, answer))
        return Prepared(given, conditions.conditions(foreign, wanted, answer.embeds))


def _check_sendable(given: Mapping[str, Any]) -> None:
    for _, text in texts.said(given):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UsageError(
                "the prompt {prompt} is not text in UTF-8", prompt=ascii(text)
            ) from error


def _embeds(given: Mapping[str, Any]) -> list[str]:
    """Returns which of a call's arguments are embeddings in place of texts."""
    return [name for name in given if name.endswith("prompt_embeds") and given[name] is not None]


def _told(given: Mapping[str, Any], native: str) -> ChineseReport:
    return ChineseReport(
        tuple(
            TextReport(name, text, native if has_han(text) else "plain", text)
            for name, text in texts.said(given)
        )
    )


def _injection(
    items: Sequence[texts.Item],
    foreign: Sequence[conditions.Foreign],
    wanted: Sequence[str],
    route: Route,
    answer: ask.Answer,
) -> ChineseReport:
    model = route.model
    used = f"{model.repo}@{model.commit[:12]}" if model else ""
    lines: list[TextReport] = []

    def line(argument: str, text: str, *, is_foreign: bool) -> None:
        if not is_foreign:
            lines.append(TextReport(argument, text, "plain", text))
            return
        place = wanted.index(text)
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


def _warned(report: ChineseReport) -> ChineseReport:
    """Returns ``report``, having warned of what was not read."""
    for cut in report.cut:
        warnings.warn(translate(NOT_READ, cut=cut), ChineseWarning, stacklevel=5)
    return report
