"""A session: one client's hold on a resident pipeline, and the calls it made there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from itertools import count

from zhcache.errors import Cancelled, UsageError, ZhcacheError
from zhcache.protocol import residency
from zhcache.protocol.failure import to_info
from zhcache.protocol.frames import close_all
from zhcached.residency.resident import sealed
from zhcached.residency.resident.calls import Allowance, Call, Size
from zhcached.residency.resident.line import Line
from zhcached.residency.resident.tenants import Tenant

# Towards workers calls have the daemon's own numbers: no client can speak of another's call.
_numbers = count(1)


class Session:
    """A client at a line, until it leaves. Thread-safe.

    Args:
        line: The pipeline.
        tenant: The client, as the line knows it.
        lock: The one lock of ``Residents``.
        allowance: What its user may still ask for.
        tend: Called under the lock: sees to it that the line has its supervisors.
        on_leave: Called once, without the lock, after the client's calls were dropped.
    """

    def __init__(
        self,
        line: Line,
        tenant: Tenant,
        *,
        lock: threading.Condition,
        allowance: Allowance,
        tend: Callable[[Line], None],
        on_leave: Callable[[Line, Tenant], None],
    ) -> None:
        self.line = line
        self._tenant = tenant
        self._lock = lock
        self._allowance = allowance
        self._tend = tend
        self._on_leave = on_leave
        self._calls: dict[int, Call] = {}
        self._has_left = False

    def call(self, message: residency.Call, fds: list[int], words: int) -> None:
        """Puts a call in line; what is wrong with it alone is told to the client as its end.

        Args:
            message: The call.
            fds: What came beside it; taken over.
            words: Bytes of its JSON.

        Raises:
            UsageError: Its id is none or is taken: client and daemon no longer agree on what is
                spoken of, and the conversation must end.
        """
        try:
            self._admit(message, fds, words)
        except _Refused as refused:
            close_all(fds)
            failed = residency.Failed(id=message.id, error=to_info(refused.error))
            self._tenant.listener.tell(failed)
        except BaseException:
            close_all(fds)
            raise

    def _admit(self, message: residency.Call, fds: list[int], words: int) -> None:
        line = self.line
        with self._lock:
            if message.id < 1 or message.id in self._calls:
                raise UsageError(
                    "a call has the id {id}, which is none or is taken",
                    hint="count calls from 1 on each connection",
                    id=str(message.id)[:40],
                )
            if self._tenant not in line.tenants:
                # Refused, and told so: the line may be gone, and nobody would take the call up.
                raise UsageError(
                    "a call came over a connection that has no pipeline open",
                    hint="open it again and wait until it is",
                )
            try:
                size = Size(words, _sealed_bytes(fds))
                line.check_rested()
                self._allowance.take(self._tenant.uid, size)
            except ZhcacheError as error:
                raise _Refused(error) from error
            call = Call(
                next(_numbers),
                self._tenant.uid,
                message,
                fds,
                size,
                self._tenant.listener,
                on_end=self._ended,
                is_repeatable=line.is_replicated,
            )
            self._calls[message.id] = call
            line.add(call)
            self._tend(line)

    def cancel(self, call_id: int) -> None:
        """Ends a call early; one that is over already, or never was, is none to end."""
        with self._lock:
            call = self._calls.pop(call_id, None)
            if call is not None:
                self.line.drop(call, Cancelled("the call was cancelled"))
                self._lock.notify_all()

    def leave(self) -> None:
        """Gives the session up and drops its calls; a second time does nothing."""
        with self._lock:
            if self._has_left:
                return
            self._has_left = True
            for call in list(self._calls.values()):
                self.line.drop(call, None)
            self.line.leave(self._tenant)
            self._lock.notify_all()
        self._on_leave(self.line, self._tenant)

    def _ended(self, call: Call) -> None:
        self._allowance.give_back(call.uid, call.size)
        # A cancelled call's id is free at once, and may be another call's by now.
        if self._calls.get(call.message.id) is call:
            del self._calls[call.message.id]


class _Refused(Exception):
    def __init__(self, error: ZhcacheError) -> None:
        super().__init__(str(error))
        self.error = error


def _sealed_bytes(fds: Sequence[int]) -> int:
    if len(fds) > 1:
        raise UsageError("a call came with {count} descriptors, it takes one", count=len(fds))
    return sum(sealed.size_of(fd) for fd in fds)
