"""Which texts are Chinese. Pure."""

from __future__ import annotations

import re
from typing import Literal

_HAN = re.compile(
    "[\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]",
)
"""Ideographs with their extensions A to H, the compatibility ones, 々 and 〇.

Source: Unicode 16, property Script=Han, less radicals, strokes and numerals, which occur in no
prompt. Punctuation is no Han: "a cat，a dog" is for the base's own encoder.
"""

_KANA_OR_HANGUL = re.compile(
    "[\u3041-\u3096\u309f\u30a1-\u30fa\u30ff\u31f0-\u31ff\uff66-\uff6f\uff71-\uff9d"
    "\U0001aff0-\U0001b16f"
    "\u1100-\u115e\u1161-\u11ff\u3131-\u3163\u3165-\u318e\ua960-\ua97c\uac00-\ud7a3\ud7b0-\ud7fb"
    "\uffa1-\uffdc]"
)
"""Letters that Japanese and Korean have and Chinese has not.

Source: Unicode 16, Script=Hiragana, Katakana and Hangul, less the marks of iteration and length
and the middle dot, which Chinese names and smileys have too, and Hangul's blanks, which are seen
by nobody.
"""

QUOTED = re.compile(
    r"「[^「」]*」|『[^『』]*』|“[^“”]*”|\"[^\"\n]*\"|＂[^＂\n]*＂"
    r"|“[^“”\"＂\n]*[\"＂]|[\"＂][^“”\"＂\n]*”|”[^“”\"＂\n]*”"
)
"""What is to be drawn as it stands, whatever language it is in. Also in marks of two kinds, as they
come of changing keyboards, or in two that close.
"""

Language = Literal["chinese", "unread", "other"]


def has_han(text: str) -> bool:
    """Whether a text has a Chinese character in it; one is enough."""
    return _HAN.search(text) is not None


def language(text: str) -> Language:
    """Returns what a text is written in, so far as it decides who reads it.

    ``unread`` is Japanese or Korean: kana or hangul outside of quotation marks, with Chinese
    characters beside them or without. Japanese of Chinese characters alone cannot be told from
    Chinese, and is ``chinese``.
    """
    if _KANA_OR_HANGUL.search(text) is None:
        return "chinese" if has_han(text) else "other"
    outside = QUOTED.sub(" ", text)
    if _KANA_OR_HANGUL.search(outside) is not None:
        return "unread"
    return "chinese" if has_han(outside) else "other"
