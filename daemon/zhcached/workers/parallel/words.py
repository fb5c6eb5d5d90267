"""What rank 0 and the other ranks of a worker say to each other, in frames on a socket pair."""

from __future__ import annotations

from zhcache.protocol.messages import ErrorInfo
from zhcache.protocol.residency import Call, Event


class Together(Event):
    """Rank 0: every rank makes this call. ``random`` seeds what no seed of the call does."""

    call: Call
    random: int


class Go(Event):
    """Rank 0, before the call and after each step: go on."""

    id: int


class Halt(Event):
    """Rank 0, in place of ``Go``: nobody wants the call any more."""

    id: int


class Over(Event):
    """A rank: the call has ended here, or the loading, which is 0."""

    id: int
    error: ErrorInfo | None = None


ToRank = Together | Go | Halt
