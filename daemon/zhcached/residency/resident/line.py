"""A line: one resident pipeline as its clients see it, and the calls that wait for its workers.

It has one instance for each worker, most often one. Whichever is free takes the next call; users
take turns over all of them. Guarded by the one lock of ``Residents``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from zhcache.errors import ZhcacheError
from zhcache.i18n import mark
from zhcache.protocol import residency
from zhcache.protocol.failure import to_info
from zhcached.clock import Clock
from zhcached.residency.resident.calls import Abandoned, Call, Ended, Waiting
from zhcached.residency.resident.fairness import Turns
from zhcached.residency.resident.instance import Instance
from zhcached.residency.resident.keeping import Keeping
from zhcached.residency.resident.kinds import Kind
from zhcached.residency.resident.planned import account_of
from zhcached.residency.resident.tenants import Tenant
from zhcached.residency.resident.timeouts import Timeouts

STARTS = residency.Progress(note=mark("a worker starts"))


class Line:
    """One resident pipeline.

    Args:
        kinds: What each worker is to be; they differ in their devices at most.
        numbers: The instances' names in the daemon.
        uid: Who asked for it first.
        clock: Time.
        timeouts: Limits.
    """

    def __init__(
        self,
        kinds: tuple[Kind, ...],
        numbers: Iterable[int],
        uid: int,
        clock: Clock,
        timeouts: Timeouts,
    ) -> None:
        self.kinds = kinds
        self.uid = uid
        self.tenants: set[Tenant] = set()
        self.turns: Turns[Call] = Turns()
        self.used = clock.monotonic()
        self.kept = Keeping(clock)
        self._clock = clock
        self._timeouts = timeouts
        self._progress = STARTS
        self.instances = tuple(
            Instance(number, kind, self, clock, timeouts)
            # Kinds first: they end, and no number is taken in vain.
            for kind, number in zip(kinds, numbers, strict=False)
        )

    # --- what is known of it ---------------------------------------------------------------------

    @property
    def kind(self) -> Kind:
        """What all of its workers are, and the first one's device."""
        return self.kinds[0]

    @property
    def devices(self) -> list[str]:
        """Where its workers are to be, or the ranks or parts of its one, if they are several."""
        if self.is_replicated:
            return [kind.device for kind in self.kinds]
        plan = self.instances[0].plan
        return list(self.kind.sharing if plan is None else account_of(plan).takes)

    @property
    def is_replicated(self) -> bool:
        """Whether it has several workers, so that a call is made again when one dies."""
        return len(self.kinds) > 1

    @property
    def loaded(self) -> residency.Loaded | None:
        """What a worker of it holds."""
        return next((one.loaded for one in self.instances if one.loaded is not None), None)

    @property
    def is_tended(self) -> bool:
        """Whether it has a worker, or one that comes."""
        return any(one.is_tended for one in self.instances)

    @property
    def is_resting(self) -> bool:
        """Whether the workers of any of its instances died so often that it is not tried now."""
        return any(one.crashes.is_resting for one in self.instances)

    @property
    def is_busy(self) -> bool:
        """Whether a call waits or runs."""
        return len(self.turns) > 0 or any(one.current is not None for one in self.instances)

    @property
    def is_kept(self) -> bool:
        """Whether it was asked to stay warm."""
        return bool(self.kept.uids)

    @property
    def is_wanted(self) -> bool:
        """Whether anybody would be served by its workers."""
        return bool(self.tenants) or self.is_busy or self.is_kept

    @property
    def needs_worker(self) -> bool:
        """Whether somebody waits for a worker of it right now."""
        return len(self.turns) > 0 or any(not tenant.is_opened for tenant in self.tenants)

    @property
    def may_go(self) -> bool:
        """Whether its workers may be ended for others: no call, no client who used it lately."""
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

    def check_rested(self) -> None:
        """Refuses work while none of its workers is tried.

        Raises:
            WorkerDied: They died so often.
        """
        if all(one.crashes.is_resting for one in self.instances):
            self.instances[0].crashes.check_rested()

    # --- clients and calls -----------------------------------------------------------------------

    def join(self, tenant: Tenant) -> None:
        """Lets a client in, who is told at once that a worker is ready or what it waits for."""
        self.tenants.add(tenant)
        self.touch([tenant])
        if self.loaded is not None:
            self._open(tenant, self.loaded)
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

    def opened(self, loaded: residency.Loaded) -> None:
        """Tells those who wait that a worker holds the pipeline."""
        self.touch(self.tenants)
        for tenant in self.tenants:
            if not tenant.is_opened:
                self._open(tenant, loaded)

    def _open(self, tenant: Tenant, loaded: residency.Loaded) -> None:
        tenant.open(self.kind, loaded, self.devices, self.instances[0].plan)

    def tell_waiting(self, event: residency.Progress) -> None:
        """Tells those who wait for a worker how far it is, and who comes to wait after them."""
        self._progress = event
        for tenant in self.tenants:
            if not tenant.is_opened:
                tenant.listener.tell(event)

    def add(self, call: Call) -> None:
        """Puts a call in line."""
        self.kept.use(call.uid)
        self.turns.add(call.uid, call)
        self.tell_positions()
        self.ring()

    def take(self) -> Call | None:
        """Takes the call out of the line whose turn it is; None where nobody waits."""
        return self.turns.take()

    def put_back(self, call: Call) -> None:
        """Puts a call that has lost its worker first in line again."""
        call.move(Waiting())
        self.turns.put_back(call.uid, call)
        self.tell_positions()
        self.ring()

    def ended(self, call: Call) -> None:
        """Notes that a worker is done with a call."""
        self.used = self._clock.monotonic()
        self.kept.use(call.uid)
        call.move(Ended())
        self.tell_positions()

    def drop(self, call: Call, error: ZhcacheError | None) -> None:
        """Ends a call early; its client is told at once, its worker has some time to stop.

        Args:
            call: A call of this line.
            error: What its client is told; None where the client is gone.
        """
        if isinstance(call.state, Abandoned | Ended):
            return
        if error is not None:
            call.tell(residency.Failed(id=call.message.id, error=to_info(error)))
        if isinstance(call.state, Waiting):
            self.turns.remove(call.uid, call)
            call.move(Ended())
            self.tell_positions()
        else:
            call.move(Abandoned(self._clock.monotonic() + self._timeouts.cancel))
            self.ring()

    def drop_all(self, error: ZhcacheError) -> None:
        """Ends all calls, told ``error``, and lets nobody wait for a worker any more."""
        self.refuse(error)
        for one in self.instances:
            if one.current is not None:
                self.drop(one.current, error)

    def refuse(self, error: ZhcacheError) -> None:
        """Tells all who wait that there will be no worker; those who had it keep their place."""
        info = to_info(error)
        for tenant in [tenant for tenant in self.tenants if not tenant.is_opened]:
            self.tenants.discard(tenant)
            tenant.listener.tell(residency.Failed(error=info), is_last=True)
        for call in self.turns.order():
            self.drop(call, error)

    # --- its workers -----------------------------------------------------------------------------

    def has_others(self, instance: Instance) -> bool:
        """Whether other workers than that instance's can be had, as far as is known."""
        return any(one is not instance and not one.is_absent for one in self.instances)

    def is_served_without(self, instance: Instance) -> bool:
        """Whether another instance's worker takes calls, and stays."""
        others = (one for one in self.instances if one is not instance)
        return any(one.loaded is not None and not one.is_ending for one in others)

    def gone(self) -> None:
        """Notes that a worker is gone."""
        if self.loaded is None:
            self._progress = STARTS

    def ring(self) -> None:
        """Has all supervisors look what there is to do."""
        for one in self.instances:
            one.wakeup.ring()

    def tell_positions(self) -> None:
        """Tells clients how many calls are before theirs."""
        # One runs or is about to: the first in line has one before it.
        for ahead, call in enumerate(self.turns.order(), start=1):
            call.stand_at(ahead)
