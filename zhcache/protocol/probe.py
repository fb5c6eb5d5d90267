"""Messages of ``sources test``: each source is asked now, and says what came of it."""

from __future__ import annotations

from zhcache.protocol.base import Message
from zhcache.protocol.messages import ErrorInfo, SourceKind, SourceState
from zhcache.protocol.sources import Phrase


class SourceTest(Message):
    """``POST /v1/sources/test``; without a name all sources are asked."""

    name: str | None = None


class SourceTested(Message):
    """What one source did just now.

    Attributes:
        state: As ``sources`` will show it from now on.
        works: It answered, and what bytes it was asked for came.
        asked: The repository it was asked about.
        found: Whether it has that repository; if not, no bytes could be asked for.
        latency: Seconds until it had answered.
        plane: Host that the bytes came from; empty where none were asked for.
        bytes: That came, at most 1 MiB.
        first_byte: Seconds from asking for them to the first.
        rate: Bytes per second of those; None where they are too few to tell.
        fault: In a word, what went wrong: ``dns``, ``refused``, ``timeout``, ``stall``, ``tls``.
        error: Why it does not work.
    """

    name: str
    kind: SourceKind
    endpoint: str
    state: SourceState
    works: bool
    reasons: list[Phrase] = []
    asked: str = ""
    found: bool = False
    latency: float | None = None
    plane: str = ""
    bytes: int = 0
    first_byte: float | None = None
    rate: float | None = None
    fault: str = ""
    error: ErrorInfo | None = None
    limited_until: float | None = None


class SourcesTested(Message):
    """``sources test``."""

    sources: list[SourceTested]
    schema: int = 1
