"""What ``doctor`` found, on the way to the client."""

from __future__ import annotations

from typing import Literal

from zhcache.protocol.base import Message
from zhcache.protocol.sources import Phrase


class Check(Message):
    """One finding of ``doctor``: what was looked at, how it is, and what to do about it.

    ``said`` and ``mend`` are ``detail`` and ``fix`` for readers of other languages.
    """

    name: str
    status: Literal["ok", "warn", "bad"]
    detail: str
    fix: str = ""
    said: list[Phrase] = []
    mend: Phrase | None = None


class Checks(Message):
    """``doctor``."""

    checks: list[Check]
    schema: int = 1
