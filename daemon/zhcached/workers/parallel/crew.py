"""The other ranks as rank 0 leads them: every call is made by all, in step, or by none.

A thread watches them. One that dies, or that fails while the others wait for it, ends the worker:
what waits inside a collective operation cannot be called back. The front is told why, then sees
the worker's end and starts another.
"""

from __future__ import annotations

import os
import secrets
import select
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from zhcache.errors import UsageError, WorkerDied, ZhcacheError
from zhcache.protocol import frames
from zhcache.protocol.failure import to_error, to_info
from zhcache.protocol.messages import ErrorInfo
from zhcache.protocol.residency import Call, Failed, Load, Returned
from zhcached.workers.calling import OnStep, perform
from zhcached.workers.ending import in_words
from zhcached.workers.failures import Stopped, described
from zhcached.workers.loading import Held
from zhcached.workers.parallel.rank import FAILED, Rank
from zhcached.workers.parallel.sharing import Seat, draw_alike, load_part, part_of
from zhcached.workers.parallel.splitting import Splitting
from zhcached.workers.parallel.words import Go, Halt, Over, Together, ToRank
from zhcached.workers.resident import SENDING

GRACE_S = 20.0
"""How long a rank whose call has ended waits for the others to end it as well."""

LOADING = 0
"""Stands for a call's number while the ranks load."""


class Crew:
    """The ranks, rank 0 among them.

    Args:
        line: To the front.
        ranks: The others.
        folder: Where they meet.
        grace_s: As ``GRACE_S``.
    """

    def __init__(
        self,
        line: socket.socket,
        ranks: Sequence[Rank],
        folder: Path,
        *,
        grace_s: float = GRACE_S,
    ) -> None:
        self._line = line
        self._ranks = {rank.number: rank for rank in ranks}
        self._seat = Seat(0, len(ranks) + 1, folder)
        self._grace_s = grace_s
        self._state = threading.Condition()
        self._call: int | None = LOADING
        self._over: dict[int, ErrorInfo | None] = {}
        self._failed: ZhcacheError | None = None
        self._splitting: Splitting | None = None
        threading.Thread(target=self._watch, name="ranks", daemon=True).start()

    # --- what the worker does --------------------------------------------------------------------

    def load(self, request: Load, fds: Sequence[int], note: Callable[[str], None]) -> Held:
        """Returns rank 0's pipeline once every rank has its own; ``request`` is all ranks'.

        Raises:
            Exception: As ``load_part``; the others end with this process.
        """
        own, mine = part_of(request, fds, 0)
        held, self._splitting = load_part(own, mine, self._seat, note)
        note("the other ranks load")
        with self._state:
            self._state.wait_for(self._all_over)
            self._call = None
            errors = [error for error in self._over.values() if error is not None]
        if errors:
            raise to_error(errors[0])
        held.as_class(None).memory_report = str(self._splitting)
        return held

    def perform(
        self,
        held: Held,
        call: Call,
        fds: Sequence[int],
        *,
        is_cancelled: Callable[[], bool],
        on_step: OnStep,
    ) -> tuple[Returned, list[int]]:
        """As ``zhcached.workers.calling.perform``, by all ranks."""
        if self._splitting is not None:
            self._splitting.check(held.as_class(call.pipeline))
        together = Together(call=call, random=secrets.randbits(63))
        with self._state:
            self._call, self._over, self._failed = call.id, {}, None
        self._tell(together, fds)
        draw_alike(together.random)

        def in_step() -> bool:
            is_halted = is_cancelled()
            self._tell(Halt(id=call.id) if is_halted else Go(id=call.id))
            return is_halted

        try:
            answer = perform(held, call, fds, is_cancelled=in_step, on_step=on_step)
        except (Exception, Stopped) as error:
            # Where they failed as this one did they have ended; where not they wait for a word.
            self._tell(Halt(id=call.id))
            self._end(error, str(held.device))
            raise
        self._end(None, str(held.device))
        return answer

    def _end(self, error: BaseException | None, device: str) -> None:
        with self._state:
            if not self._state.wait_for(self._all_over, self._grace_s):
                late = [rank for number, rank in self._ranks.items() if number not in self._over]
                self._give_up(_stuck(late[0]) if error is None else described(error, device))
            self._call = None
            if error is None and self._failed is not None:
                # After its last step, of which nothing was wanted any more but its end.
                sys.stderr.write(f"a rank failed after the call: {_for_the_log(self._failed)}\n")

    def _all_over(self) -> bool:
        return len(self._over) == len(self._ranks)

    def _tell(self, word: ToRank, fds: Sequence[int] = ()) -> None:
        for rank in self._ranks.values():
            try:
                frames.send(rank.line, word, fds)
            except OSError:
                self._await_the_end(rank)

    def _await_the_end(self, rank: Rank) -> NoReturn:
        # It is gone or on its way; the watching thread knows how, and ends this process.
        threading.Event().wait(self._grace_s)
        self._give_up(_stuck(rank))

    # --- the watching thread ---------------------------------------------------------------------

    def _watch(self) -> None:
        events = select.poll()
        ends = {rank.pidfd: rank for rank in self._ranks.values()}
        lines = {rank.line.fileno(): rank for rank in self._ranks.values()}
        for fd in (*ends, *lines):
            events.register(fd, select.POLLIN)
        while True:
            # Where a rank failed, the others may wait for it in the middle of an operation.
            happened = events.poll(None if self._failed is None else int(self._grace_s * 1000))
            if not happened and self._call is not None and self._failed is not None:
                self._give_up(self._failed)
            # Lines first: what a rank said before it ended is why it ended.
            for fd, _ in sorted(happened, key=lambda each: each[0] in ends):
                if fd in ends:
                    self._lost(ends[fd])
                elif (over := _heard(lines[fd])) is None:
                    events.unregister(fd)
                else:
                    self._note(lines[fd], over)

    def _note(self, rank: Rank, over: Over) -> None:
        with self._state:
            if over.id != self._call:
                return
            self._over[rank.number] = over.error
            if over.error is not None:
                self._failed = to_error(over.error)
            self._state.notify_all()

    def _lost(self, rank: Rank) -> NoReturn:
        _, status = os.waitpid(rank.pid, 0)
        told = self._over.get(rank.number)
        self._give_up(
            to_error(told)
            if told is not None
            else WorkerDied(
                "rank {rank} of {count}, on {device}, ended: it {how}",
                hint="call again, a new worker starts; `zhcache logs` says more",
                rank=rank.number,
                count=self._seat.count,
                device=rank.device,
                how=in_words(status),
            )
        )

    def _give_up(self, error: ZhcacheError) -> NoReturn:
        """Tells whoever waits, and ends this process and so all ranks."""
        os.write(2, f"the ranks give up: {_for_the_log(error)}\n".encode())
        # Kept for good: nothing may follow this on the line.
        SENDING.acquire()
        try:
            if self._call is not None:
                frames.send(self._line, Failed(id=self._call, error=to_info(error)))
        finally:
            os._exit(FAILED)


def _heard(rank: Rank) -> Over | None:
    try:
        over, fds = frames.receive(rank.line, Over)
    except (EOFError, OSError):
        return None
    frames.close_all(fds)
    return over


def _for_the_log(error: ZhcacheError) -> str:
    # Words about arguments may quote a prompt, and go to its author alone.
    return "a call was refused" if isinstance(error, UsageError) else error.message


def _stuck(rank: Rank) -> WorkerDied:
    return WorkerDied(
        "rank {rank}, on {device}, did not end the call when the others did",
        hint="call again, a new worker starts; `zhcache logs` says more",
        rank=rank.number,
        device=rank.device,
    )
