"""A prompt as its words: cut by jieba, folded to simplified characters; what it quotes or refuses.

Needs the ``chinese`` extra. jieba is asked through a tokenizer of our own that reads its dictionary
anew: its usual way keeps a marshal file under a fixed name in the shared temporary folder, where
another user of the machine may lay one first, and it logs to stderr.
"""

from __future__ import annotations

import functools
import re
import warnings
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate, pairwise
from operator import itemgetter
from typing import Any

from zhcache.errors import UsageError
from zhcache.prompts.lexicon import Aspect, speech

_INSTALL = "pip install 'zhcache[chinese]'"
_QUOTED = re.compile(
    '“[^“”]*”|「[^「」]*」|『[^『』]*』|《[^《》]*》|‘[^‘’]*’|"[^"\n]*"|＂[^＂\n]*＂'
)
_HIDDEN = "\0"
_CLAUSE_END = re.compile(r"[，。；！？,;!?\n]+")


class Words:
    """One prompt, cut.

    Offsets are those of the prompt itself: folding keeps every character's place.

    Args:
        text: The prompt.

    Raises:
        UsageError: jieba or opencc is not installed.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._folded = _QUOTED.sub(lambda found: _HIDDEN * len(found[0]), _fold(text))
        self.words = tuple(_tokenizer().cut(self._folded, HMM=False))
        self._starts = tuple(accumulate(map(len, self.words), initial=0))
        self._bounds = frozenset(self._starts)
        self._refused = tuple(self._refusals())

    def find(self, term: str) -> Iterator[int]:
        """Yields where the prompt says ``term`` in whole words, refused or not."""
        at = self._folded.find(term)
        while at >= 0:
            if {at, at + len(term)} <= self._bounds:
                yield at
            at = self._folded.find(term, at + 1)

    def wants(self, term: str) -> int | None:
        """Returns where the prompt first says ``term`` without refusing it; None where nowhere."""
        return next(self.wanted(term), None)

    def wanted(self, term: str) -> Iterator[int]:
        """Yields where the prompt says ``term`` without refusing it."""
        return (at for at in self.find(term) if not self._is_refused(at))

    def speaks_of(self, aspect: Aspect) -> bool:
        """Whether the prompt says anything of an aspect, be it that it is not wanted."""
        if any(word.endswith(aspect.endings) and word not in aspect.but for word in self.words):
            return True
        return any(True for term in aspect.words for _ in self.find(term))

    def refuses(self, addition: str) -> bool:
        """Whether a word that the prompt refuses is in ``addition``."""
        return any(word in addition for word in self._refused_words)

    @functools.cached_property
    def clauses(self) -> tuple[tuple[int, int], ...]:
        """Start and end of each clause, punctuation left out; empty ones too."""
        marks = [found.span() for found in _CLAUSE_END.finditer(self._folded)]
        starts = [0, *(end for _, end in marks)]
        return tuple(zip(starts, [*(start for start, _ in marks), len(self.text)], strict=True))

    def refuses_until(self, end: int) -> int | None:
        """Returns where the refusal begins that lasts until ``end``; None where none does."""
        return next((start for start, until in self._refused if until == end), None)

    @property
    def comma(self) -> str:
        """The comma that the prompt uses, quoted text aside: Chinese unless it has only others."""
        if "," in self._visible and "，" not in self._visible:
            return ", " if ", " in self._visible else ","
        return "，"

    @property
    def is_traditional(self) -> bool:
        """Whether more of its characters are only traditional than are only simplified."""
        chars = "".join(char for char in self.text if char.isalpha())
        return _changed(chars, _simplifier()) > _changed(chars, _traditionalizer())

    @functools.cached_property
    def _visible(self) -> str:
        return _QUOTED.sub("", self.text)

    @functools.cached_property
    def _refused_words(self) -> frozenset[str]:
        said = {
            word
            for word, at in zip(self.words, self._starts, strict=False)
            if self._is_refused(at) and word.isalnum()
        }
        return frozenset(said - speech().filler)

    def _is_refused(self, at: int) -> bool:
        # They are in order and apart: the last that begins here or before is the only one.
        place = bisect_right(self._refused, at, key=itemgetter(0)) - 1
        return place >= 0 and at < self._refused[place][1]

    def _refusals(self) -> Iterator[tuple[int, int]]:
        """Yields the spans of what is refused, each with the word that refuses it."""
        rules = speech()
        start, is_lack = None, False
        for word, (at, end) in zip(self.words, pairwise(self._starts), strict=True):
            if start is not None and (
                _CLAUSE_END.fullmatch(word) or word in rules.turn or (is_lack and word == "的")
            ):
                yield start, at
                start = None
            if start is None and (word in rules.refuse or word in rules.lack):
                start, is_lack = at, word in rules.lack
            if start is not None and end == len(self.text):
                yield start, end


def traditional(text: str) -> str:
    """Returns ``text`` in traditional characters."""
    return _traditionalizer().convert(text)


def _fold(text: str) -> str:
    """Returns ``text`` simplified, half-width and in lower case, each character in its place."""
    simplifier = _simplifier()
    folded: list[str] = []
    for char in text:
        simple = simplifier.convert(char) if char > "\u2fff" else char
        code = ord(char)
        if 0xFF01 <= code <= 0xFF5E and char.isprintable() and chr(code - 0xFEE0).isalnum():
            simple = chr(code - 0xFEE0)
        simple = simple.lower()
        folded.append(simple if len(simple) == 1 else char)
    return "".join(folded)


def _changed(chars: str, converter: Any) -> int:
    return sum(converter.convert(char) != char for char in chars)


@functools.cache
def _tokenizer() -> Any:
    try:
        with warnings.catch_warnings():
            # Of its regular expressions, and of pkg_resources where that is still found.
            warnings.simplefilter("ignore")
            import jieba
    except ImportError as error:
        raise _missing("jieba") from error
    tokenizer = jieba.Tokenizer()
    tokenizer.FREQ, tokenizer.total = tokenizer.gen_pfdict(tokenizer.get_dict_file())
    # Else it would read, or write, the file in the shared folder after all.
    tokenizer.initialized = True
    rules = speech()
    for word in sorted(rules.apart | rules.refuse | rules.lack):
        tokenizer.add_word(word)
    return tokenizer


@functools.cache
def _simplifier() -> Any:
    return _opencc("t2s")


@functools.cache
def _traditionalizer() -> Any:
    return _opencc("s2t")


def _opencc(direction: str) -> Any:
    try:
        import opencc
    except ImportError as error:
        raise _missing("opencc") from error
    return opencc.OpenCC(direction)


def _missing(package: str) -> UsageError:
    return UsageError(
        "prompts cannot be optimized without {package}", hint=_INSTALL, package=package
    )
