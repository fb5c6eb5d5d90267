"""What is on the shelf and what is on its way there: room, fills, who waits for which.

Guarded by the lock of ``Arenas``, except where a fill's thread comes in and takes it. Waits for
nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import structlog

from zhcache.errors import DaemonUnreachable, IntegrityError, NoSpace, UsageError, ZhcacheError
from zhcache.protocol import frames
from zhcache.protocol.failure import to_error, to_info
from zhcache.protocol.residency import Fill, Progress
from zhcached.clock import Clock
from zhcached.residency.arena.budget import Evict, TooLarge, plan
from zhcached.residency.arena.fill import Filling, Landed
from zhcached.residency.arena.held import Held
from zhcached.residency.arena.shelf import Shelf
from zhcached.residency.arena.waiting import Waiting
from zhcached.residency.arena.wanted import Wanted
from zhcached.residency.devices import CPU
from zhcached.residency.launch.launch import Launcher

MAX_FILLS = 2
"""Workers that fill at once: each has a torch of its own, and together they thrash the disk."""

MEND_S = 60.0
"""Seconds. Damage found again so soon after a refill is done on purpose, or by broken memory."""

log = structlog.get_logger()


class Supply:
    """The arenas there are and those that come.

    Args:
        shelf: What is held.
        launcher: Starts fill workers.
        clock: Time.
        changed: The lock, told of whatever somebody may wait for.
        stall_s: How long a fill worker may be silent.
    """

    def __init__(
        self,
        shelf: Shelf,
        launcher: Launcher,
        clock: Clock,
        changed: threading.Condition,
        stall_s: float,
    ) -> None:
        self._shelf = shelf
        self._launcher = launcher
        self._clock = clock
        self._changed = changed
        self._stall_s = stall_s
        self._fills: dict[Filling, Wanted] = {}
        self._waiting = Waiting()
        self._is_closed = False

    def advance(self, wanted: Wanted) -> Progress | None:
        """Does what can be done now; None once the lease has all it wants.

        Raises:
            NoSpace: It would not fit if nothing else were there.
            WorkerDied: A fill's worker ended early.
            DaemonUnreachable: The daemon is being stopped.
            ZhcacheError: What the worker reported.
        """
        if self._is_closed:
            raise DaemonUnreachable("the daemon is being stopped", hint="load the pipeline again")
        for filling in wanted.joined:
            if filling.error is not None:
                # A new one for each who waits: exceptions collect the traces of who raises them.
                raise to_error(to_info(filling.error))
        missing = {key for key in wanted.components if key not in self._shelf}
        running = self._running(missing)
        left = missing.difference(*(filling.keys.values() for filling in running))
        if left:
            started = self._begin(wanted, left)
            if isinstance(started, Progress):
                # Nothing is pinned while room is waited for: two who each wait for what the other
                # has would wait for ever.
                self._shelf.unpin(wanted.lease, wanted.pinned)
                self._waiting.join(wanted)
                return started
            running.append(started)
        self._waiting.leave(wanted)
        for key in wanted.components.keys() - missing:
            if self._shelf.pin(key, wanted.lease, wanted.use):
                wanted.pinned.add(key)
        for filling in running:
            filling.leases[wanted.lease] = wanted.use
            wanted.joined.add(filling)
            wanted.pinned.update(wanted.components.keys() & set(filling.keys.values()))
        return running[0].progress if running else None

    def _running(self, keys: set[str]) -> list[Filling]:
        return [
            filling
            for filling in self._fills
            if not filling.is_abandoned and keys & set(filling.keys.values())
        ]

    def _begin(self, wanted: Wanted, left: set[str]) -> Filling | Progress:
        need = sum(wanted.components[key].bytes for key in left)
        present = wanted.components.keys() - left
        whole = need + sum(self._bytes_of(key, wanted) for key in present)
        if len(self._fills) >= MAX_FILLS:
            return Progress(note="waits for other weights to be read", bytes_total=need)
        device = wanted.device
        others = sum(f.bytes for f, w in self._fills.items() if w.device == device)
        others += wanted.elsewhere
        items = self._shelf.items(device, but=present)
        own = whole - need
        decided = plan(items, need + own, wanted.capacity, others)
        if isinstance(decided, TooLarge):
            raise NoSpace(
                "{repo} takes {need} bytes on {device}, and {room} may be used there",
                hint="raise residency.ram or residency.vram in config.toml",
                repo=wanted.use.repo,
                need=whole,
                device=device,
                room=wanted.capacity,
            )
        if (ahead := self._waiting.ahead(wanted)) and not self._has_some(wanted):
            return Progress(note=f"waits for room on {device}, after {ahead} who came before")
        if not isinstance(decided, Evict):
            wanted.lacking = need
            who = "; ".join(decided.holders[:3]) or "others of this daemon"
            note = f"waits for room on {device}: {who}"
            return Progress(note=note, bytes_total=need, holders=decided.holders)
        self._evict(decided, device)
        return self._start(wanted, left, need)

    def let_go(self, device: str, need_bytes: int) -> bool:
        """Frees so many bytes that nobody leases; tells whether there were as many."""
        items = self._shelf.items(device)
        # As if it were to come to a device that is full of just these.
        decided = plan(items, need_bytes, sum(item.bytes for item in items))
        if isinstance(decided, Evict):
            self._evict(decided, device)
        return isinstance(decided, Evict)

    def _evict(self, decided: Evict, device: str) -> None:
        for key in decided.keys:
            log.info("arena.evicted", key=key, device=device)
            self._shelf.withdraw(key)

    def _has_some(self, wanted: Wanted) -> bool:
        """Tells whether who asks has memory on the device: those before may wait for just that."""
        who = self._shelf.name(wanted.lease)
        return any(who in item.holders for item in self._shelf.items(wanted.device))

    def _bytes_of(self, key: str, wanted: Wanted) -> int:
        return self._shelf[key].arena.bytes if key in self._shelf else wanted.components[key].bytes

    def _start(self, wanted: Wanted, left: set[str], need: int) -> Filling:
        keys = {wanted.components[key].name: key for key in wanted.components if key in left}
        request = Fill(
            folder=wanted.folder,
            components=list(keys),
            device=wanted.device,
        )
        filling = Filling(
            self._launcher,
            request,
            keys,
            need,
            on_progress=self._progressed,
            on_end=self._ended,
            stall_s=self._stall_s,
        )
        try:
            filling.start()
        except RuntimeError as error:
            raise ZhcacheError(
                "no thread can be started: {reason}",
                hint="raise TasksMax in the unit, or ulimit -u",
                reason=error,
            ) from error
        self._fills[filling] = wanted
        return filling

    def give_up(self, wanted: Wanted) -> None:
        """Takes back what an attach has brought its lease; a fill that nobody wants then ends."""
        self._waiting.leave(wanted)
        for filling in wanted.joined & self._fills.keys():
            filling.leases.pop(wanted.lease, None)
            self._abandon_if_unwanted(filling)
        self._shelf.unpin(wanted.lease, wanted.pinned)
        self._changed.notify_all()

    def _abandon_if_unwanted(self, filling: Filling) -> None:
        if not filling.leases and not filling.is_abandoned:
            filling.abandon()

    def released(self, lease: str) -> None:
        """Takes notice that a lease is over."""
        for filling in list(self._fills):
            if filling.leases.pop(lease, None):
                self._abandon_if_unwanted(filling)
        self._shelf.unpin(lease)
        self._changed.notify_all()

    def close(self) -> None:
        """Ends all fills, and with them all waits."""
        self._is_closed = True
        for filling in self._fills:
            filling.abandon()
        self._shelf.close()
        self._changed.notify_all()

    def bytes_on(self, device: str) -> int:
        """Returns what arenas have on a device, those that come counted in."""
        there = sum(h.arena.bytes for h in self._shelf.everything() if h.arena.device == device)
        return there + sum(f.bytes for f, w in self._fills.items() if w.device == device)

    def mend(self, wanted: Wanted, damaged: Sequence[str]) -> None:
        """Withdraws what the lease has found damaged, so that it is filled anew.

        Raises:
            UsageError: It cannot have been damaged.
            IntegrityError: It was filled anew a moment ago.
        """
        now = self._clock.monotonic()
        for key in damaged:
            # One who comes late speaks of memory that was withdrawn before: it has not this one.
            if key not in self._shelf or wanted.lease not in self._shelf[key].leases:
                continue
            held = self._shelf[key]
            if key not in wanted.components or wanted.device == CPU:
                raise UsageError(
                    "the arena {key} cannot have been damaged",
                    hint="memory of the CPU is sealed; the fault is in the reading process",
                    key=key[:16],
                )
            if held.is_mend and now - held.filled < MEND_S:
                raise IntegrityError(
                    "the weights of {component} changed again right after they were filled anew",
                    hint='somebody writes into shared memory: set residency.share = "uid", and '
                    "look at the GPU's ECC counters in nvidia-smi",
                    component=held.arena.table.component,
                )
            log.warning("arena.damaged", key=key, told_by=wanted.use.uid)
            held.leases.pop(wanted.lease)
            self._shelf.withdraw(key)
            wanted.mends.add(key)

    # --- told by fills, from their threads -------------------------------------------------------

    def _progressed(self, filling: Filling, progress: Progress) -> None:
        with self._changed:
            filling.progress = progress
            self._changed.notify_all()

    def _ended(self, filling: Filling, result: Landed | ZhcacheError) -> None:
        now = self._clock.monotonic()
        with self._changed:
            wanted = self._fills.pop(filling)
            if isinstance(result, ZhcacheError):
                filling.error = result
                result = []
            if self._is_closed:
                frames.close_all([fd for _, fd in result])
                result = []
            for arena, fd in result:
                self._shelf.put(
                    Held(
                        arena=arena,
                        fd=fd,
                        scope=wanted.scope,
                        uid=wanted.use.uid,
                        used=now,
                        served={wanted.use.uid: now},
                        filled=now,
                        # Whoever began it may have left, and what nobody is named with cannot
                        # be stopped.
                        snapshots={
                            (use.repo, use.commit) for use in (wanted.use, *filling.leases.values())
                        },
                        leases=dict(filling.leases),
                        is_mend=arena.key in wanted.mends,
                    )
                )
            self._shelf.expire()
            self._changed.notify_all()
