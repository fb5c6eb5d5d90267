"""An instance: one resident pipeline, the calls that wait for it and the clients who have it open.

Decides and tells, launches nothing: its supervisor asks it what to do next and carries it out. All
of it is guarded by the one lock of ``Residents``.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable

from zhcache.errors import ZhcacheError
from zhcache.i18n import mark
from zhcache.protocol import residency
from zhcache.protocol.failure import to_info
from zhcache.protocol.frames import FrameError
from zhcached.clock import Clock
from zhcached.residency.resident.calls import Abandoned, Call, Ended, Running, Waiting
from zhcached.residency.resident.commands import End, Kill, Order, Rest, Start, Stop
from zhcached.residency.resident.crashes import Crashes, in_call, overdue
from zhcached.residency.resident.fairness import Turns
from zhcached.residency.resident.keeping import Keeping
from zhcached.residency.resident.kinds import Kind
from zhcached.residency.resident.tenants import Tenant
from zhcached.residency.resident.timeouts import Timeouts
from zhcached.residency.resident.wakeup import Wakeup

STARTS = residency.Progress(note=mark("a worker starts"))


class Instance:
    """One resident pipeline.

    Args:
        number: Its name in the daemon.
        kind: What its worker is to be.
        uid: Who asked for it first.
        clock: Time.
        timeouts: Limits.
    """

    def __init__(self, number: int, kind: Kind, uid: int, clock: Clock, timeouts: Timeouts) -> None:
        self.number = number
        self.kind = kind
        self.uid = uid
        self.tenants: set[Tenant] = set()
        self.turns: Turns[Call] = Turns()
        self.current: Call | None = None
        self.loaded: residency.Loaded | None = None
        self.pid: int | None = None
        self.bytes = 0
        self.is_tended = False
        self.is_placed = False
        self.is_ending = False
        self.unwanted = threading.Event()
        self.used = clock.monotonic()
        self.kept = Keeping(clock)
        self.crashes = Crashes(kind.repo, clock, timeouts)
        self._clock = clock
        self._timeouts = timeouts
        self._progress = STARTS
        self.wakeup = Wakeup()

    # --- what is known of it ---------------------------------------------------------------------

    @property
    def arenas_of(self) -> str:
        """How the names begin by which its workers lease arenas."""
        return f"resident-{self.number}-"

    @property
    def is_busy(self) -> bool:
        """Whether a call waits or runs."""
        return self.current is not None or len(self.turns) > 0

    @property
    def is_kept(self) -> bool:
        """Whether it was asked to stay warm."""
        return bool(self.kept.uids)

    @property
    def is_wanted(self) -> bool:
        """Whether anybody would be served by its worker."""
        return bool(self.tenants) or self.is_busy or self.is_kept

    @property
    def needs_worker(self) -> bool:
        """Whether somebody waits for its worker right now."""
        return len(self.turns) > 0 or any(not tenant.is_opened for tenant in self.tenants)

    @property
    def may_go(self) -> bool:
        """Whether its worker may be ended for another: no call, no client who used it lately."""
        is_left = not self.tenants or self.kept.unused_s >= self._timeouts.keep_alive
        return not self.is_busy and not self.needs_worker and is_left

    @property
    def has_expired(self) -> bool:
        """Whether nobody has it, and nobody had it for the time that it is kept."""
        is_over = self.kept.unused_s >= self._timeouts.keep_alive
        return not self.tenants and not self.is_busy and not self.is_kept and is_over

    def expires(self) -> float | None:
        """Returns when it goes, in seconds since the epoch, if nothing happens; None is never."""
        if self.tenants or self.is_busy or self.kept.until == math.inf:
            return None
        left = self._timeouts.keep_alive - self.kept.unused_s
        return max(self.kept.until, self._clock.wall() + max(left, 0.0))

    # --- clients and calls -----------------------------------------------------------------------

    def join(self, tenant: Tenant) -> None:
        """Lets a client in, who is told at once that the worker is ready or what it waits for."""
        self.tenants.add(tenant)
        self.touch([tenant])
        if self.loaded is not None:
            tenant.open(self.kind, self.loaded)
        else:
            tenant.listener.tell(self._progress)

    def leave(self, tenant: Tenant) -> None:
        """Lets a client go."""
        self.tenants.discard(tenant)
        self.touch([tenant])

    def touch(self, tenants: Iterable[Tenant]) -> None:
        """Notes that it is used now; to wish it warm is no use that keeps it."""
        self.used = self._clock.monotonic()
        for tenant in tenants:
            if not tenant.is_wish:
                self.kept.use(tenant.uid)

    def end(self) -> None:
        """Has the worker ended as soon as no call is at it."""
        self.is_ending = True
        self.unwanted.set()
        self.wakeup.ring()

    def begin(self) -> None:
        """Notes that a supervisor takes it up."""
        self.is_tended = True
        self.is_ending = False
        self.unwanted.clear()

    def add(self, call: Call) -> None:
        """Puts a call in line."""
        self.kept.use(call.uid)
        self.turns.add(call.uid, call)
        self._tell_positions()
        self.wakeup.ring()

    def drop(self, call: Call, error: ZhcacheError | None) -> None:
        """Ends a call early; its client is told at once, its worker has some time to stop.

        Args:
            call: A call of this instance.
            error: What its client is told; None where the client is gone.
        """
        if isinstance(call.state, Abandoned | Ended):
            return
        if error is not None:
            call.tell(residency.Failed(id=call.message.id, error=to_info(error)))
        if isinstance(call.state, Waiting):
            self.turns.remove(call.uid, call)
            call.move(Ended())
            self._tell_positions()
        else:
            call.move(Abandoned(self._clock.monotonic() + self._timeouts.cancel))
            self.wakeup.ring()

    def drop_all(self, error: ZhcacheError) -> None:
        """Ends all calls, told ``error``, and lets nobody wait for the worker any more."""
        self.refuse(error)
        if self.current is not None:
            self.drop(self.current, error)

    def tell_waiting(self, event: residency.Progress) -> None:
        """Tells those who wait for the worker how far it is, and who comes to wait after them."""
        self._progress = event
        for tenant in self.tenants:
            if not tenant.is_opened:
                tenant.listener.tell(event)

    # --- what the supervisor does -----------------------------------------------------------------

    def next_step(self) -> Order:
        """Returns what to do now."""
        is_left = self.current is None or isinstance(self.current.state, Abandoned)
        if self.is_ending and is_left and not len(self.turns):
            return End()
        call, now = self.current, self._clock.monotonic()
        if call is None:
            return self._start()
        if isinstance(call.state, Running) and call.state.until is not None:
            if now < call.state.until:
                return Rest(call.state.until - now)
            self.drop(call, overdue(self._timeouts.call))
        if not isinstance(call.state, Abandoned):
            return Rest(None)
        if not call.state.is_told:
            call.move(Abandoned(call.state.until, is_told=True))
            return Stop(call)
        if now >= call.state.until:
            return Kill("it did not stop a call that was cancelled")
        return Rest(call.state.until - now)

    def _start(self) -> Start | Rest:
        call = self.turns.take()
        if call is None:
            return Rest(None)
        limit = self._timeouts.call
        call.move(Running(self._clock.monotonic() + limit if limit else None))
        self.current = call
        call.stand_at(0)
        self._tell_positions()
        return Start(call)

    def ready(self, loaded: residency.Loaded) -> None:
        """Notes that the worker holds the pipeline, and tells who waited for it."""
        self.loaded = loaded
        self.bytes = max(self.bytes, loaded.bytes)
        self.touch(self.tenants)
        for tenant in self.tenants:
            if not tenant.is_opened:
                tenant.open(self.kind, loaded)

    def hear(self, frame: residency.Event, fds: list[int]) -> None:
        """Passes on what the worker says of the running call, descriptors too.

        Raises:
            FrameError: It speaks of what it was not asked.
        """
        call = self.current
        if call is None or getattr(frame, "id", None) != call.number:
            raise FrameError(f"its worker sent {type(frame).__name__} out of turn")
        if isinstance(frame, residency.Step):
            self._pass_step(call, frame)
            return
        if isinstance(frame, residency.Taken):
            if isinstance(call.state, Running):
                call.move(Running(call.state.until, is_taken=True))
            return
        if isinstance(call.state, Running):
            # Ours was the daemon's number; towards the client the call has the client's.
            frame.id = call.message.id  # pyright: ignore[reportAttributeAccessIssue]
            handed, fds[:] = list(fds), []
            call.tell(frame, handed)
        self.crashes.over()
        self._done(call)

    def not_given(self, error: ZhcacheError) -> None:
        """Ends the current call, of which the worker has seen nothing."""
        call = self.current
        if call is None:
            return
        if isinstance(call.state, Running):
            call.tell(residency.Failed(id=call.message.id, error=to_info(error)))
        self._done(call)

    def _pass_step(self, call: Call, step: residency.Step) -> None:
        if isinstance(call.state, Running) and call.message.wants_steps:
            step.id = call.message.id
            call.tell(step)

    def _done(self, call: Call) -> None:
        self.current = None
        self.used = self._clock.monotonic()
        self.kept.use(call.uid)
        call.move(Ended())
        self._tell_positions()

    # --- how a worker's life ends ----------------------------------------------------------------

    def gone(self) -> None:
        """Notes that there is no worker now, and so no call at it."""
        self.loaded = None
        self._progress = STARTS
        self.pid = None
        call, self.current = self.current, None
        if call is not None:
            call.move(Ended())

    def refuse(self, error: ZhcacheError) -> None:
        """Tells all who wait that there will be no worker; those who had it keep their place."""
        info = to_info(error)
        for tenant in [tenant for tenant in self.tenants if not tenant.is_opened]:
            self.tenants.discard(tenant)
            tenant.listener.tell(residency.Failed(error=info), is_last=True)
        for call in self.turns.order():
            self.drop(call, error)

    def fell(self, how: str, *, is_ours: bool = False) -> bool:
        """Notes a worker's death, tells the running call's client, and tells whether to start anew.

        A call of which the worker had begun nothing is put to the next one, but once only.

        Args:
            how: How it died, in words.
            is_ours: The daemon ended it for not obeying: no sign that the next will die too.
        """
        call = self.current
        if call is not None and isinstance(call.state, Running):
            if call.state.is_taken or call.is_again:
                error = in_call(self.kind.repo, how)
                call.tell(residency.Failed(id=call.message.id, error=to_info(error)))
            else:
                self._put_back(call)
        self.gone()
        if not is_ours and (tired := self.crashes.another(how)) is not None:
            self.refuse(tired)
            return False
        return self.is_wanted and not self.is_ending

    def _put_back(self, call: Call) -> None:
        self.current = None
        call.is_again = True
        call.move(Waiting())
        self.turns.put_back(call.uid, call)
        self._tell_positions()

    def _tell_positions(self) -> None:
        # One runs or is about to: the first in line has one before it.
        for ahead, call in enumerate(self.turns.order(), start=1):
            call.stand_at(ahead)
