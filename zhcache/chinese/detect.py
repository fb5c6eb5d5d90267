"""Which texts are Chinese. Pure."""

from __future__ import annotations

import re

_HAN = re.compile(
    "[\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]",
)
"""Ideographs with their extensions A to H, the compatibility ones, 々 and 〇.

Source: Unicode 16, property Script=Han, less radicals, strokes and numerals, which occur in no
prompt. Punctuation is no Han: "a cat，a dog" is for the base's own encoder.
"""


def has_han(text: str) -> bool:
    """Whether a text has a Chinese character in it; one is enough."""
    return _HAN.search(text) is not None
