"""Where a text that is too long for an encoder is cut: after punctuation where there is any."""

from __future__ import annotations

from collections.abc import Sequence

_STOPS = "。．.！!？?；;"
_PAUSES = "，,、：:"


def cut_into(text: str, ends: Sequence[int], limit: int) -> list[str]:
    """Returns ``text`` in pieces that have at most ``limit`` tokens each; joined they are ``text``.

    A piece ends after a full stop or, lacking one, after a comma, where one stands in the second
    half of what would fit.

    Args:
        text: What is to be cut.
        ends: For each token of the text, the offset of the character after its last.
        limit: Tokens a piece, at least 1.
    """
    pieces: list[str] = []
    start, first = 0, 0
    while len(ends) - first > limit:
        last = _last(text, ends, first, first + limit)
        end = ends[last - 1]
        pieces.append(text[start:end])
        start, first = end, last
    pieces.append(text[start:])
    return pieces


def _last(text: str, ends: Sequence[int], first: int, last: int) -> int:
    """Returns up to which of the tokens ``first`` to ``last`` a piece goes."""
    half = first + (last - first + 1) // 2
    for marks in (_STOPS, _PAUSES):
        for token in range(last, half, -1):
            if text[ends[token - 1] - 1] in marks:
                return token
    return last
