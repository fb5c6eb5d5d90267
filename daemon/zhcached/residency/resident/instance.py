"""An instance: one worker of a resident pipeline, and the call that is at it.

Decides and tells, launches nothing: its supervisor asks it what to do next and carries it out. What
clients have of it, and the calls that wait, are its ``line``'s. All of it is guarded by the one
lock of ``Residents``.
"""

from __future__ import annotations

import math
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from zhcache.errors import ZhcacheError
from zhcache.protocol import residency
from zhcache.protocol.failure import to_info
from zhcache.protocol.frames import FrameError
from zhcache.protocol.placement import Placed
from zhcached.clock import Clock
from zhcached.residency.resident.calls import Abandoned, Call, Ended, Running
from zhcached.residency.resident.commands import End, Kill, Order, Rest, Start, Stop
from zhcached.residency.resident.crashes import Crashes, in_call, overdue
from zhcached.residency.resident.kinds import Kind
from zhcached.residency.resident.planned import Account
from zhcached.residency.resident.timeouts import Timeouts
from zhcached.residency.resident.wakeup import Wakeup

if TYPE_CHECKING:
    from zhcached.residency.resident.line import Line

NOTHING = Account({}, {})
LIVES = 2
"""Workers that one call may cost; after them it is the call."""


class Instance:
    """One worker of a line, there or to come.

    Args:
        number: Its name in the daemon.
        kind: What its worker is to be.
        line: Whose calls it takes.
        clock: Time.
        timeouts: Limits.
    """

    def __init__(
        self, number: int, kind: Kind, line: Line, clock: Clock, timeouts: Timeouts
    ) -> None:
        self.number = number
        self.kind = kind
        self.line = line
        self.current: Call | None = None
        self.loaded: residency.Loaded | None = None
        self.pid: int | None = None
        self.is_tended = False
        self.is_placed = False
        self.is_ending = False
        self.unwanted = threading.Event()
        self.wakeup = Wakeup()
        self.crashes = Crashes(kind.repo, clock, timeouts)
        self.absence = ""
        self._absent_until = -math.inf
        self.account = NOTHING
        self.plan: Placed | None = None
        self._clock = clock
        self._timeouts = timeouts

    # --- what is known of it ---------------------------------------------------------------------

    @property
    def arenas_of(self) -> str:
        """How the names begin by which its workers lease arenas."""
        return f"resident-{self.number}-"

    @property
    def part(self) -> tuple[int, int]:
        """Its number among the workers of its line on its device, and how many those are."""
        siblings = [one for one in self.line.instances if one.kind.device == self.kind.device]
        return siblings.index(self), len(siblings)

    @property
    def devices(self) -> list[str]:
        """Where its worker is, or may come to be."""
        return self.account.devices if self.is_placed else self.kind.devices

    @property
    def bytes(self) -> int:
        """What its worker takes of all devices."""
        return sum(map(self.bytes_on, self.account.devices))

    def bytes_on(self, device: str) -> int:
        """Returns what its worker takes of one. Weights that several share are the first one's."""
        bearer = next((s for s in self.line.instances if device in s.account.devices), self)
        return self.account.on(device) if bearer is self else self.account.beside.get(device, 0)

    @property
    def borne(self) -> Account:
        """What its worker takes, of weights that several share what is the first one's."""
        beside = self.account.beside
        weights = {at: self.bytes_on(at) - beside.get(at, 0) for at in self.account.devices}
        return replace(self.account, weights=weights)

    @property
    def may_go(self) -> bool:
        """Whether its worker may be ended for another."""
        return self.line.may_go

    @property
    def is_absent(self) -> bool:
        """Whether no worker could be had of late, so that none is tried now."""
        return self._clock.monotonic() < self._absent_until or self.crashes.is_resting

    # --- its place -------------------------------------------------------------------------------

    def begin(self) -> None:
        """Notes that a supervisor takes it up."""
        self.is_tended = True
        self.is_ending = False
        self.unwanted.clear()

    def place(self, account: Account, plan: Placed | None) -> None:
        """Notes that there is room for its worker, and where its components go.

        The next worker has the same plan, for as long as anybody has the pipeline: where a
        component lies, and in how many tiles it decodes, is seen in the images.
        """
        self.account, self.plan = account, plan
        self.is_placed = True

    def left(self) -> None:
        """Notes that its supervisor ends."""
        self.is_tended = False
        self.is_ending = False
        self.is_placed = False
        self.account = NOTHING
        if not any(tenant.is_opened for tenant in self.line.tenants):
            self.plan = None

    def end(self) -> None:
        """Has the worker ended as soon as no call is at it."""
        self.is_ending = True
        self.unwanted.set()
        self.wakeup.ring()

    def lost(self, error: ZhcacheError) -> bool:
        """Notes that no worker can be had; tells whether the line has others."""
        if not self.line.has_others(self):
            # The next who asks is worth a try, of all of them.
            for one in self.line.instances:
                one.present()
            self.line.refuse(error)
            return False
        self.absence = str(error)
        self._absent_until = self._clock.monotonic() + self._timeouts.rest
        return True

    def present(self) -> None:
        """Forgets that no worker could be had."""
        self.absence = ""
        self._absent_until = -math.inf

    # --- what the supervisor does -----------------------------------------------------------------

    def next_step(self) -> Order:
        """Returns what to do now."""
        is_left = self.current is None or isinstance(self.current.state, Abandoned)
        is_free = not len(self.line.turns) or self.line.is_served_without(self)
        if self.is_ending and is_left and is_free:
            return End()
        call, now = self.current, self._clock.monotonic()
        if call is None:
            return self._start()
        if isinstance(call.state, Running) and call.state.until is not None:
            if now < call.state.until:
                return Rest(call.state.until - now)
            self.line.drop(call, overdue(self._timeouts.call))
        if not isinstance(call.state, Abandoned):
            return Rest(None)
        if not call.state.is_told:
            call.move(Abandoned(call.state.until, is_told=True))
            return Stop(call)
        if now >= call.state.until:
            return Kill("it did not stop a call that was cancelled")
        return Rest(call.state.until - now)

    def _start(self) -> Start | Rest:
        call = self.line.take()
        if call is None:
            return Rest(None)
        limit = self._timeouts.call
        call.move(Running(self._clock.monotonic() + limit if limit else None))
        self.current = call
        call.stand_at(0)
        self.line.tell_positions()
        return Start(call)

    def ready(self, loaded: residency.Loaded) -> None:
        """Notes that the worker holds the pipeline, and tells who waited for it."""
        self.loaded = loaded
        if self.plan is None:
            self.account = self.account.seen(loaded.bytes)
        self.present()
        self.line.opened(loaded)

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
        if isinstance(frame, residency.Took):
            # The daemon's own: clients hear nothing of it.
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
        self.line.ended(call)

    # --- how a worker's life ends ----------------------------------------------------------------

    def gone(self) -> None:
        """Notes that there is no worker now, and so no call at it."""
        self.loaded = None
        self.pid = None
        self.line.gone()
        call, self.current = self.current, None
        if call is not None:
            call.move(Ended())

    def fell(self, how: str, *, is_ours: bool = False) -> bool:
        """Notes a worker's death, tells the running call's client, and tells whether to start anew.

        A call of which the worker had begun nothing is put to the next one, but once only. So is
        one in the middle, where there are several workers: its seed makes the same image again.

        Args:
            how: How it died, in words.
            is_ours: The daemon ended it for not obeying: no sign that the next will die too.
        """
        call = self.current
        if call is not None and isinstance(call.state, Running):
            call.deaths += 1
            if call.deaths >= LIVES or (call.state.is_taken and not call.is_repeatable):
                error = in_call(self.kind.repo, how)
                call.tell(residency.Failed(id=call.message.id, error=to_info(error)))
            else:
                self.current = None
                self.line.put_back(call)
        self.gone()
        if not is_ours and (tired := self.crashes.another(how)) is not None:
            self.lost(tired)
            return False
        return self.line.is_wanted and not self.is_ending
