"""Chinese texts made ready for a reader, and English ones put back together. Imports no torch.

What is to be drawn (quoted) or is a word of a model's own (a LoRA's trigger, a tag) must come
through a translation as it is. It goes in as a mark that translators copy; where the mark does not
come back exactly once, the text is translated piece by piece round it instead.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

from zhcache.chinese.detect import QUOTED, has_han
from zhcache.errors import ZhcacheError
from zhcache.i18n import mark

Translate = Callable[[str], str]

# As Moses' replace-unicode-punctuation and normalize-punctuation do, with which the corpora were
# made that the usual translators were trained on.
_PUNCTUATION = {
    "，": ", ", "、": ", ", "。": ". ", "．": ".", "！": "! ", "？": "? ", "；": "; ", "：": ": ",
    "（": " (", "）": ") ", "【": " [", "】": "] ", "〔": " [", "〕": "] ", "《": ' "', "》": '" ',
    "〈": ' "', "〉": '" ', "‘": "'", "’": "'", "…": "...", "—": "-", "～": "~", "·": " ",
    "％": "%", "\u3000": " ", "\u200b": "", "\ufeff": "",
}  # fmt: skip
_HALF_WIDTH = str.maketrans(
    {chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)} | _PUNCTUATION
)
_TAG = r"<[A-Za-z]+:[^<>\n]*>"
# Latin words, also several with spaces between them.
_LATIN = re.compile(r"[#$&(*+0-9<@A-\[_a-{][!-+\-./0-:<-~]*(?: +[!-+\-./0-:<-~]+)*")
_LETTER = re.compile("[A-Za-z]")
# Stand for what is kept while the rest is worked on. A text that has them keeps them.
_FIRST = 0xF0000
_STANDIN = re.compile("[\U000f0000-\U000ffffd]")
_STOP = re.compile(r"\s*([,;.!?]+(?![0-9A-Za-z])|\n)\s*")
_MARKS = "ABCDEFGHJKLMNPQRSTUVWXY"


def half_width(text: str) -> str:
    """Returns a text with the punctuation, letters and digits that English has."""
    return re.sub(r"[^\S\n]+", " ", text.translate(_HALF_WIDTH)).strip()


def simplified(text: str) -> str:
    """Returns a text in simplified characters.

    Raises:
        ZhcacheError: The package that knows them is not installed here.
    """
    return _converter().convert(text) if has_han(text) else text


def plain(text: str) -> str:
    """Returns a text in simplified characters, with half-width punctuation.

    Raises:
        ZhcacheError: As ``simplified``.
    """
    return half_width(simplified(text))


def in_english(text: str, translate: Translate, keep: Sequence[str] = ()) -> str:
    """Returns a Chinese text in English.

    Clauses without Chinese characters, quoted texts, tags in angle brackets, Latin words and
    ``keep`` stay as they are; of quotation marks only the kind changes.

    Args:
        text: What is to be translated.
        translate: Gives the English of simplified Chinese without line breaks.
        keep: Words that stay, Chinese ones too.

    Raises:
        ZhcacheError: As ``simplified``.
    """
    kept = _Kept()
    text = re.sub(f"{_STANDIN.pattern}+", kept.take_raw, text)
    for word in sorted(filter(None, keep), key=len, reverse=True):
        text = re.sub(_whole(word), kept.take, text)
    text = QUOTED.sub(kept.take_quoted, text)
    text = re.sub(_TAG, kept.take, text)
    text = _LATIN.sub(kept.take_latin, half_width(simplified(text)))
    done = "".join(
        _unit(unit, kept, translate) + _spaced(stop) for unit, stop in _units(_clauses(text))
    )
    return kept.restore(done).strip()


class _Kept:
    """What stays, and the character that stands for it meanwhile."""

    def __init__(self) -> None:
        self._words: list[str] = []

    def take_raw(self, match: re.Match[str]) -> str:
        self._words.append(match[0])
        return chr(_FIRST + len(self._words) - 1)

    def take(self, match: re.Match[str]) -> str:
        return self._put(match[0])

    def take_latin(self, match: re.Match[str]) -> str:
        # Numbers and signs alone are the translator's.
        return self._put(match[0]) if _LETTER.search(match[0]) else match[0]

    def take_quoted(self, match: re.Match[str]) -> str:
        return self._put(f'"{self.restore(match[0][1:-1])}"')

    def _put(self, word: str) -> str:
        # Among what is kept may be what was kept before.
        self._words.append(self.restore(word))
        return chr(_FIRST + len(self._words) - 1)

    def word(self, standin: str) -> str:
        return self._words[ord(standin) - _FIRST]

    def restore(self, text: str) -> str:
        return _STANDIN.sub(lambda match: self.word(match[0]), text)


def _clauses(text: str) -> list[tuple[str, str]]:
    """Returns the clauses, each with the punctuation after it."""
    parts = _STOP.split(text)
    return [*zip(parts[::2], [*parts[1::2], ""], strict=True)]


def _units(clauses: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Returns what is translated in one go: neighbouring clauses of a sentence that are Chinese."""
    units: list[tuple[str, str]] = []
    for clause, stop in clauses:
        before = units[-1] if units else ("", "")
        if has_han(clause) and has_han(before[0]) and before[1] == ",":
            units[-1] = (f"{before[0]}, {clause}", stop)
        else:
            units.append((clause, stop))
    return units


def _unit(unit: str, kept: _Kept, translate: Translate) -> str:
    if not has_han(unit):
        return unit
    whole = _with_marks(unit, kept, translate)
    return whole if whole is not None else _by_pieces(unit, translate)


def _with_marks(unit: str, kept: _Kept, translate: Translate) -> str | None:
    """Returns the unit translated whole, or None where a mark did not come through."""
    marks: dict[str, str] = {}
    for standin in dict.fromkeys(_STANDIN.findall(unit)):
        word = kept.word(standin)
        is_latin = _LATIN.fullmatch(word) is not None and unit.count(standin) == 1
        chosen = word if is_latin else _free_mark(unit, marks)
        if chosen is None or chosen in marks.values():
            return None
        marks[standin] = chosen
    asked = " ".join(_STANDIN.sub(lambda m: _fenced(m, marks[m[0]], kept), unit).split())
    answer = _tidied(translate(asked))
    for standin, chosen in marks.items():
        found = re.compile(_whole(chosen) if chosen.isalnum() else re.escape(chosen))
        if len(found.findall(answer)) != unit.count(standin):
            return None
        answer = found.sub(standin, answer)
        if kept.word(standin).startswith('"'):
            # What is kept has quotation marks of its own.
            answer = re.sub(f"[\"'“‘`]*{standin}[\"'”’`]*", standin, answer)
    return answer


def _fenced(match: re.Match[str], chosen: str, kept: _Kept) -> str:
    """Returns a mark as a word of its own, in quotation marks where the kept text has some."""
    text = f'"{chosen}"' if kept.word(match[0]).startswith('"') else chosen
    return f" {text} "


def _by_pieces(unit: str, translate: Translate) -> str:
    pieces = re.split(f"({_STANDIN.pattern})", unit)
    done = [
        _tidied(translate(piece.strip())) if has_han(piece) else piece.strip() for piece in pieces
    ]
    return " ".join(filter(None, done))


def _free_mark(unit: str, marks: dict[str, str]) -> str | None:
    taken = marks.values()
    return next(
        (name for letter in _MARKS if (name := f"ZX{letter}") not in unit and name not in taken),
        None,
    )


def _whole(word: str) -> str:
    """Returns the pattern of a word that is no part of another Latin word."""
    before = r"(?<![A-Za-z0-9_])" if word[0].isascii() and word[0].isalnum() else ""
    after = r"(?![A-Za-z0-9_])" if word[-1].isascii() and word[-1].isalnum() else ""
    return before + re.escape(word) + after


def _tidied(answer: str) -> str:
    """Returns a translation without a full stop, which a clause has not, nor anything of ours."""
    answer = " ".join(_STANDIN.sub("", answer).split())
    return answer if answer.endswith("...") else answer.rstrip(". ")


def _spaced(stop: str) -> str:
    return stop if not stop or stop.endswith("\n") else f"{stop} "


@functools.cache
def _converter() -> Any:
    try:
        import opencc
    except ImportError as error:
        raise ZhcacheError(
            mark("traditional characters cannot be read without {package}"),
            hint=mark("pip install 'zhcache[chinese]' where the daemon runs"),
            package="opencc",
        ) from error
    return opencc.OpenCC("t2s")
