"""How the Chinese prompts of one pipeline are read, call by call, wherever the pipeline is.

A call without a Chinese text changes nothing and asks nobody. For another the route is chosen of
what the store holds; the prompt worker is asked, and its answer becomes other texts, or conditions
for the place of the pipeline (``zhcache.chinese.embeds``).
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zhcache.chinese import ask, conditions, telling, texts
from zhcache.chinese.choose import Route, choose, is_settled
from zhcache.chinese.detect import language
from zhcache.chinese.families import Family, family_of
from zhcache.chinese.own import is_surely_short
from zhcache.chinese.report import NO_CHINESE, NOT_READ, UNREAD, ChineseReport, ChineseWarning
from zhcache.errors import UsageError, ZhcacheError
from zhcache.i18n import translate
from zhcache.protocol.prompts import OwnRead

_SHOWN = 200
"""Characters of a text in a warning; the report has all of it."""


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

    Thread-safe: each thread finds the report of its own last call.
    """

    def __init__(
        self,
        asked: str | None,
        repo: str,
        commit: str,
        variant: str | None = None,
        keep: Sequence[str] = (),
    ) -> None:
        self._asked = asked
        self._of = (repo, commit, variant)
        self._keep = tuple(keep)
        self._known: dict[str, tuple[Route, ask.Asking | None]] = {}
        self._last = ChineseReport()
        self._mine = threading.local()

    @property
    def report(self) -> ChineseReport:
        """What became of the texts of this thread's last call; if it made none, of anybody's."""
        return getattr(self._mine, "report", self._last)

    def _tell(self, report: ChineseReport) -> None:
        self._last = self._mine.report = report

    def forget(self) -> None:
        """Empties the report, for a call that is not even prepared."""
        self._tell(ChineseReport())

    def resume(self, report: ChineseReport) -> None:
        """Takes up the report of a call again that was prepared before others."""
        self._tell(report)

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
        self.forget()
        given = dict(arguments)
        if self._asked is None:
            return None
        family = family_of(class_name)
        if not texts.is_chinese(given):
            if family is None or not family.is_native:
                self._tell(_warned(telling.unasked(given)))
            return None
        _check_sendable(given)
        try:
            route, asking = self._route(self._asked, class_name, family)
            if asking is None or route.model is None:
                self._tell(telling.native(given, "native" if route.is_measured else "unmeasured"))
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

    def add_own(self, sent: Mapping[str, Any], own: Sequence[OwnRead]) -> None:
        """Takes into the report what the pipeline's own encoder made of texts; warns of the cut.

        Args:
            sent: The arguments of the call, as they were sent.
            own: What the place of the pipeline says of their texts.
        """
        before = self.report
        after = telling.with_own(before, sent, own)
        self._tell(after)
        for cut in dict.fromkeys(one for one in after.cut if one not in before.cut):
            _warn(NOT_READ, cut=cut)

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
        said = (text for _, text in texts.said(given))
        chinese = list(dict.fromkeys(text for text in said if language(text) == "chinese"))
        answer = asking.ask(chinese, keep=self._keep, raw=True)
        self._tell(_warned(telling.translated(given, chinese, answer)))
        known = dict(zip(chinese, answer.texts, strict=True))
        replaced = texts.replaced(given, known)
        if family is None or not family.is_longer or _embeds(given):
            return Prepared(replaced)
        if all(is_surely_short(text) for _, text in texts.said(replaced)):
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
        self._tell(_warned(telling.injected(items, foreign, wanted, route, answer)))
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


def _warned(report: ChineseReport) -> ChineseReport:
    """Returns ``report``, having warned of what is not read."""
    for one in report.texts:
        if one.cut:
            _warn(NOT_READ, cut=one.cut)
        if one.route == UNREAD:
            _warn(NO_CHINESE, prompt=one.text)
    return report


def _warn(template: str, **values: str) -> None:
    """Warns, where the caller's own code is, with no more of a text than can be taken in."""
    level, frame = 1, sys._getframe()
    while frame is not None and f"{frame.f_globals.get('__name__')}.".startswith("zhcache."):
        level, frame = level + 1, frame.f_back
    short = {name: v if len(v) <= _SHOWN else f"{v[:_SHOWN]}…" for name, v in values.items()}
    warnings.warn(translate(template, **short), ChineseWarning, stacklevel=level)
