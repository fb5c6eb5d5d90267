"""A node: one machine's daemon, its devices, and the calls that wait for them. Without Ray.

The same class makes the images of a batch on this machine alone and inside a replica of a cluster.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from zhcache.cluster.lane import Lane, Open, resident
from zhcache.cluster.order import Turns, Waiting, next_call, queue_s
from zhcache.cluster.pace import Pace
from zhcache.cluster.task import Model, Picture, Task, key_of
from zhcache.errors import Cancelled, ZhcacheError

_LOOK_S = 1.0
"""How old what is known of the daemon's warm list may be when a call is chosen."""

Warm = Callable[[], frozenset[str]]
"""Returns the models that the daemon has warm."""


def warm_models() -> frozenset[str]:
    """Returns keys of the models that this machine's daemon has in a worker of this user.

    Raises:
        DaemonUnreachable: Nobody answers.
    """
    from zhcache.client import Client

    with Client() as client:
        return frozenset(
            key_of(one.repo, one.variant)
            for one in client.resident()
            # Without a worker it is a lease on what made room for others.
            if one.mode == "resident" and one.pid is not None and one.uid == os.getuid()
            if one.role == "pipeline"
        )


def settled(model: Model) -> str:
    """Returns the commit that a model's revision means here; fetches the model if it is not here.

    Raises:
        ZhcacheError: What the daemon reported.
    """
    from zhcache.client import Client
    from zhcache.errors import NotFound

    with Client() as client:
        try:
            return client.show(model.repo, revision=model.revision).commit
        except NotFound:
            return client.prefetch(
                model.repo,
                revision=model.revision,
                variants=[model.variant] if model.variant else (),
                only_pipeline=True,
            ).commit


@dataclass(frozen=True)
class Status:
    """What a node says of itself.

    Attributes:
        warm: Models that need not be loaded.
        queue_s: Seconds until a call that came now would begin.
        call_s: What a call takes; 0 before the first.
        load_s: What loading a model takes; 0 before the first.
        waiting: Calls that wait or run.
        failure: With what the daemon answered last, if not with what is warm.
    """

    warm: frozenset[str]
    queue_s: float
    call_s: float
    load_s: float
    waiting: int
    failure: ZhcacheError | None = None

    @property
    def is_up(self) -> bool:
        """Whether the daemon answers, and in words that are understood."""
        return self.failure is None


@dataclass
class _Call:
    task: Task
    since: float
    future: Future[Picture] = field(default_factory=Future)

    @property
    def waiting(self) -> Waiting:
        return Waiting(self.task.model.key, self.since)


class Node:
    """A queue before the devices of a machine. Thread-safe.

    Args:
        devices: As ``load_pipeline`` takes each; one call runs on each at a time.
        name: Of the machine, for who reads the results.
        turns: How long the same models may go first.
        open_pipeline: How a pipeline is opened.
        warm: How the daemon's warm list is had.
        clock: Monotonic, in seconds.
    """

    def __init__(
        self,
        devices: Sequence[str] = ("auto",),
        *,
        name: str = "",
        turns: Turns | None = None,
        open_pipeline: Open = resident,
        warm: Warm = warm_models,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name or os.uname().nodename
        self._turns = turns or Turns()
        self._look = warm
        self._clock = clock
        self._waiting: list[_Call] = []
        self._running: dict[Lane, str] = {}
        self._pace = Pace()
        self._warm: frozenset[str] | None = None
        self._looked = -_LOOK_S
        self._failure: ZhcacheError | None = None
        self._is_closed = False
        self._changed = threading.Condition()
        self.lanes = [Lane(device, open_pipeline) for device in devices]
        self._threads = [
            threading.Thread(target=self._run, args=(lane,), name=f"lane-{lane.device}")
            for lane in self.lanes
        ]
        for thread in self._threads:
            thread.daemon = True
            thread.start()

    def submit(self, task: Task) -> Future[Picture]:
        """Puts a task into the queue; its future has the image, or the error that it ended with."""
        call = _Call(task, self._clock())
        with self._changed:
            if self._is_closed:
                call.future.set_exception(_closed())
            else:
                self._waiting.append(call)
                self._changed.notify_all()
        return call.future

    def look(self) -> None:
        """Asks the daemon what is warm; takes notice where it does not answer."""
        warm: frozenset[str] | None = None
        failure = None
        try:
            warm = self._look()
        except ZhcacheError as error:
            failure = error
        with self._changed:
            self._looked = self._clock()
            self._failure = failure
            self._warm = warm

    def status(self) -> Status:
        """Returns how the node is, as far as was looked."""
        with self._changed:
            at_hand = [call.task.model.key for call in self._waiting] + [*self._running.values()]
            warm = self._warm or frozenset()
            lanes = len(self.lanes)
            pace = self._pace
            wait_s = queue_s(at_hand, warm, pace.call_s, pace.load_s, pace.usual_s, lanes)
            return Status(warm, wait_s, pace.usual_s, pace.load_s, len(at_hand), self._failure)

    def close(self) -> None:
        """Ends all calls, those that run among them, and the leases."""
        with self._changed:
            self._is_closed = True
            left, self._waiting = self._waiting, []
            self._changed.notify_all()
        for call in left:
            if call.future.set_running_or_notify_cancel():
                call.future.set_exception(_closed())
        for lane in self.lanes:
            lane.close()
        for thread in self._threads:
            thread.join()

    def _run(self, lane: Lane) -> None:
        turn_began = self._clock()
        while (call := self._taken(lane, turn_began)) is not None:
            key = call.task.model.key
            if call.future.set_running_or_notify_cancel():
                was_warm = key in self._warm_of(lane)
                try:
                    load_s = lane.opened(call.task.model)
                    picture = lane.draw(call.task, self.name)
                except BaseException as error:  # noqa: BLE001 - whose it is, is told whatever it is
                    call.future.set_exception(error)
                else:
                    # Before whoever waits goes on, so that what follows finds it noted.
                    self._note(key, load_s, picture.seconds, was_warm)
                    call.future.set_result(picture)
                if not was_warm:
                    turn_began = self._clock()
            with self._changed:
                self._running.pop(lane, None)
                self._changed.notify_all()

    def _taken(self, lane: Lane, turn_began: float) -> _Call | None:
        """Waits for a call that this lane is to make; None once the node is closed."""
        while True:
            if self._clock() - self._looked >= _LOOK_S and self._has_choice():
                self.look()
            with self._changed:
                if self._is_closed:
                    return None
                chosen = next_call(
                    [call.waiting for call in self._waiting],
                    self._warm_of(lane),
                    self._elsewhere(lane),
                    self._turns,
                    self._clock(),
                    turn_began,
                )
                if chosen is not None:
                    call = self._waiting.pop(chosen)
                    self._running[lane] = call.task.model.key
                    return call
                self._changed.wait()

    def _warm_of(self, lane: Lane) -> set[str]:
        """Models that a lane need not load: open in it, and not let go by the daemon since.

        Of an only lane all that the daemon has, which outlives whoever opened it.
        """
        if self._warm is None:
            return lane.models
        return set(self._warm) if len(self.lanes) == 1 else lane.models & self._warm

    def _has_choice(self) -> bool:
        with self._changed:
            return len({call.task.model.key for call in self._waiting}) > 1

    def _elsewhere(self, lane: Lane) -> dict[str, float]:
        others = [other for other in self.lanes if other is not lane]
        has = {key for other in others for key in self._warm_of(other)}
        has |= {self._running[other] for other in others if other in self._running}
        count = Counter(call.task.model.key for call in self._waiting)
        pace = self._pace
        return {key: count[key] * pace.call_s.get(key, 0.0) for key in has}

    def _note(self, key: str, load_s: float, seconds: float, was_warm: bool) -> None:
        with self._changed:
            if was_warm:
                self._pace.called(key, seconds)
            else:
                # Some of the loading is in the first call: what the daemon had let go, what is
                # compiled. Taken for a call it would make the queue seem long, and calls spill.
                usual = self._pace.call_s.get(key, 0.0)
                self._pace.loaded(load_s + max(seconds - usual, 0.0))
            if self._warm is not None:
                self._warm |= {key}


def _closed() -> Cancelled:
    return Cancelled("the batch was ended before this image was made")
