"""A call of a resident pipeline: its states, and how many of them one user may have.

States carry what exists then, and one table says which may follow which.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from zhcache.errors import Busy
from zhcache.protocol import residency
from zhcache.protocol.frames import close_all

MAX_CALLS = 32
"""Calls of one user that wait or run, on all resident pipelines together."""

MAX_WORDS = 64 * 2**20
"""Bytes of JSON of one user's calls."""

MAX_BLOBS = 2 * 2**30
"""Bytes of sealed memory of one user's calls."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """In line."""


@dataclass(frozen=True, slots=True)
class Running:
    """It was given to the worker. ``until`` is when its time is over, None is never."""

    until: float | None
    is_taken: bool = False


@dataclass(frozen=True, slots=True)
class Abandoned:
    """Its client was answered or is gone; the worker has to stop by ``until`` or is ended."""

    until: float
    is_told: bool = False


@dataclass(frozen=True, slots=True)
class Ended:
    """Nothing of it is left."""


State = Waiting | Running | Abandoned | Ended
STEPS: dict[type, set[type]] = {
    Waiting: {Running, Ended},
    Running: {Running, Waiting, Abandoned, Ended},
    Abandoned: {Abandoned, Ended},
    Ended: set(),
}


class Listener(Protocol):
    """Whoever a call's events go to. Never blocks; takes the descriptors over."""

    def tell(
        self, event: residency.Event, fds: Sequence[int] = (), *, is_last: bool = False
    ) -> None:
        """Sends an event on; after the last the conversation is over."""
        ...


@dataclass(frozen=True, slots=True)
class Size:
    """What a call weighs: bytes of its JSON, bytes of its sealed memory."""

    words: int
    blobs: int


class Call:
    """One call. Guarded by the lock of the instance it was made at.

    Args:
        number: The daemon's own name for it, towards the worker: clients choose theirs freely.
        uid: Whose it is.
        message: What the client sent.
        fds: Sealed memory beside it, at most one; now this call's.
        size: What it weighs.
        listener: Who is told of it.
        on_end: Called once, when nothing of it is left.
        is_repeatable: It may be made again after its worker died in the middle of it.

    Attributes:
        deaths: How many workers died with it.
    """

    def __init__(
        self,
        number: int,
        uid: int,
        message: residency.Call,
        fds: list[int],
        size: Size,
        listener: Listener,
        on_end: Callable[[Call], None] = lambda _: None,
        *,
        is_repeatable: bool = False,
    ) -> None:
        self.number = number
        self.uid = uid
        self.message = message
        self.size = size
        self.fds = fds
        self.state: State = Waiting()
        self.position: int | None = None
        self.is_repeatable = is_repeatable
        self.deaths = 0
        self._listener = listener
        self._on_end = on_end

    def move(self, state: State) -> None:
        """Goes on to ``state``; its memory is closed once no worker will want it.

        Raises:
            ValueError: The table does not have this step.
        """
        if type(state) not in STEPS[type(self.state)]:
            raise ValueError(f"a call cannot go from {self.state} to {state}")
        self.state = state
        is_taken = isinstance(state, Running) and state.is_taken
        if isinstance(state, Ended) or (is_taken and not self.is_repeatable):
            close_all(self.fds)
            self.fds = []
        if isinstance(state, Ended):
            self._on_end(self)

    def stand_at(self, position: int) -> None:
        """Tells the client how many are before it, if that is new."""
        if position != self.position:
            self.position = position
            self.tell(residency.Queued(id=self.message.id, position=position))

    def tell(self, event: residency.Event, fds: Sequence[int] = ()) -> None:
        """Tells the client."""
        self._listener.tell(event, fds)


class Allowance:
    """How much each user may have waiting and running. Guarded by its owner's lock."""

    def __init__(self) -> None:
        self._calls: Counter[int] = Counter()
        self._words: Counter[int] = Counter()
        self._blobs: Counter[int] = Counter()

    def take(self, uid: int, size: Size) -> None:
        """Counts a call.

        Raises:
            Busy: The user has too many, or they are too large together.
        """
        over = (
            self._calls[uid] >= MAX_CALLS
            or self._words[uid] + size.words > MAX_WORDS
            or self._blobs[uid] + size.blobs > MAX_BLOBS
        )
        if over:
            raise Busy(
                "uid {uid} has {count} calls waiting or running, the limit is {limit}",
                hint="wait for some of them to return",
                uid=uid,
                count=self._calls[uid],
                limit=f"{MAX_CALLS} calls, {MAX_WORDS >> 20} MiB of arguments,"
                f" {MAX_BLOBS >> 20} MiB of images",
            )
        self._calls[uid] += 1
        self._words[uid] += size.words
        self._blobs[uid] += size.blobs

    def give_back(self, uid: int, size: Size) -> None:
        """Uncounts a call."""
        for counted, amount in ((self._calls, 1), (self._words, size.words),
                                (self._blobs, size.blobs)):  # fmt: skip
            counted[uid] -= amount
            if not counted[uid]:
                del counted[uid]
