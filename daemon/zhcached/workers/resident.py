"""A resident worker: holds one pipeline, or a prompt model, and runs its calls one by one.

The main thread calls the pipeline; a second one reads the line, so that a cancellation is seen
while a call runs. Ends when the front closes the line, and when its device is lost to it. Nothing
a call does ends it otherwise.
"""

from __future__ import annotations

import gc
import queue
import random
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

import diffusers
import numpy
import torch
import transformers

from zhcache.protocol import frames
from zhcache.protocol.failure import to_info
from zhcache.protocol.residency import (
    Artifacts,
    Call,
    Cancel,
    Event,
    Failed,
    Load,
    Loaded,
    Progress,
    Returned,
    Step,
    Taken,
    Took,
    ToResidentWorker,
)
from zhcache.resident.blob import BlobWriter
from zhcached.workers.calling import OnStep, has_one_net, parameters, perform
from zhcached.workers.compiling import key
from zhcached.workers.cores import keep_to_share
from zhcached.workers.failures import Stopped, described, is_fatal
from zhcached.workers.loading import Held, load
from zhcached.workers.prompts import loading as prompts
from zhcached.workers.taking import Highest, Meter, highest_on, is_tiled

SENDING = threading.Lock()
"""Held while a frame is sent to the front."""


class Crew(Protocol):
    """Several processes that make each call together, led by this one."""

    def load(self, request: Load, fds: Sequence[int], note: Callable[[str], None]) -> Held:
        """As ``zhcached.workers.loading.load``."""
        ...

    def perform(
        self,
        held: Held,
        call: Call,
        fds: Sequence[int],
        *,
        is_cancelled: Callable[[], bool],
        on_step: OnStep,
    ) -> tuple[Returned, list[int]]:
        """As ``zhcached.workers.calling.perform``."""
        ...


class Inbox:
    """What the front sends, in order, and which calls it no longer wants."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._calls: queue.SimpleQueue[tuple[Call, list[int]] | None] = queue.SimpleQueue()
        self._open: set[int] = set()
        self._cancelled: set[int] = set()
        self._is_over = False
        threading.Thread(target=self._read, name="inbox", daemon=True).start()

    def next(self) -> tuple[Call, list[int]] | None:
        """Waits for the next call and its descriptors; None is the end."""
        return self._calls.get()

    def is_cancelled(self, call: int) -> bool:
        """Whether nobody waits for ``call`` any more."""
        return self._is_over or call in self._cancelled

    def done(self, call: int) -> None:
        """Forgets ``call``."""
        self._open.discard(call)
        self._cancelled.discard(call)

    def _read(self) -> None:
        try:
            while True:
                message, fds = frames.receive(self._line, ToResidentWorker)
                if isinstance(message, Call):
                    self._open.add(message.id)
                    self._calls.put((message, fds))
                    continue
                frames.close_all(fds)
                # One that comes too late is about nothing, and must not pile up.
                if isinstance(message, Cancel) and message.id in self._open:
                    self._cancelled.add(message.id)
        except (OSError, EOFError):
            # The front is gone or talks nonsense; either way nobody waits for an answer.
            pass
        finally:
            # Whatever ended it: who waits for a call that nobody reads would wait for ever.
            self._is_over = True
            self._calls.put(None)


def run(
    line: socket.socket,
    request: Load,
    fds: Sequence[int] = (),
    crew: Crew | None = None,
) -> None:
    """Loads what ``request`` names, then serves calls until the front closes ``line``.

    Args:
        line: To the front; ``request`` has been read from it.
        request: What to hold.
        fds: What came beside it; closed here.
        crew: Who loads and calls, where it is not this process alone.
    """
    _own_randomness()
    if request.device == "cpu":
        keep_to_share(request.part, request.parts)
    try:
        held = _load(request, fds, lambda words: _send(line, Progress(note=words)), crew)
    except Exception as error:  # noqa: BLE001 - whatever diffusers raises is told, not died of
        _send(line, Failed(error=to_info(described(error, request.device))))
        return
    finally:
        frames.close_all(fds)
    _send(line, _loaded(held))
    keep_quiet()
    highest = _reading(request, held)
    inbox = Inbox(line)
    while (arrived := inbox.next()) is not None:
        call, beside = arrived
        try:
            is_over = _serve(line, held, call, beside, inbox, crew, highest)
        finally:
            frames.close_all(beside)
        if is_over:
            return
        _tell_compiled(line, held)


def _load(
    request: Load, fds: Sequence[int], note: Callable[[str], None], crew: Crew | None
) -> Held | prompts.PromptModel:
    if request.role == "prompts":
        return prompts.load(request)
    return load(request, fds, note) if crew is None else crew.load(request, fds, note)


def _loaded(held: Held | prompts.PromptModel) -> Loaded:
    if isinstance(held, prompts.PromptModel):
        return held.loaded()
    own = held.as_class(None)
    return Loaded(
        class_name=type(own).__name__,
        parameters=parameters(own),
        bytes=held.weights.bytes,
        memory_report=getattr(own, "memory_report", ""),
        has_one_net=has_one_net(own),
    )


def _serve(
    line: socket.socket,
    held: Held | prompts.PromptModel,
    call: Call,
    fds: list[int],
    inbox: Inbox,
    crew: Crew | None,
    highest: Highest | None,
) -> bool:
    """Answers one call; returns whether the worker is of no further use."""
    meter = None
    if highest is not None and isinstance(held, Held):
        meter = Meter(highest, is_tiled=is_tiled(held.as_class(None)))

    def on_step(step: int, total: int, timestep: float) -> None:
        if meter is not None:
            meter.step()
        if call.wants_steps:
            _send(line, Step(id=call.id, step=step, total=total, timestep=timestep))

    def is_cancelled() -> bool:
        return inbox.is_cancelled(call.id)

    _send(line, Taken(id=call.id))
    try:
        if isinstance(held, prompts.PromptModel):
            answer, beside = held.perform(call, is_cancelled)
        else:
            made = perform if crew is None else crew.perform
            answer, beside = made(held, call, fds, is_cancelled=is_cancelled, on_step=on_step)
    except (Exception, Stopped) as error:  # noqa: BLE001 - a call's error is its caller's
        told = described(error, str(held.device))
        is_over = is_fatal(error)
        # The frames of the traceback hold the call's tensors.
        error.__traceback__ = error.__cause__ = error.__context__ = None
        del error
        _tidy(held, is_over)
        _send(line, Failed(id=call.id, error=to_info(told)))
        return is_over
    finally:
        inbox.done(call.id)
    try:
        if meter is not None and (seen := meter.seen(call, answer.fields)) is not None:
            _send(line, Took(id=call.id, seen=seen))
        _send(line, answer, beside)
    except ValueError as error:
        _send(line, Failed(id=call.id, error=to_info(described(error, str(held.device)))))
    finally:
        frames.close_all(beside)
    return False


def _reading(request: Load, held: Held | prompts.PromptModel) -> Highest | None:
    """Returns what reads the memory of calls, where the weights are apart: in arenas of a GPU."""
    is_read = bool(request.arenas) and not request.devices and held.device.type == "cuda"
    return highest_on(held.device) if is_read else None


def _tell_compiled(line: socket.socket, held: Held | prompts.PromptModel) -> None:
    if held.compiled is None:
        return
    blob = BlobWriter()
    try:
        new = held.compiled.news()
        if new is None:
            return
        blob.add(new)
        fds = blob.finish()
    except Exception as error:  # noqa: BLE001 - only time is lost by it: the next one compiles anew
        sys.stderr.write(f"what was compiled could not be saved: {error}\n")
        return
    try:
        _send(line, Artifacts(key=key(held.device), bytes=len(new)), fds)
    finally:
        frames.close_all(fds)


def _tidy(held: Held | prompts.PromptModel, is_over: bool) -> None:
    gc.collect()
    if held.device.type == "cuda" and not is_over:
        torch.cuda.empty_cache()


def _own_randomness() -> None:
    # A worker forked from a common parent would draw, without a seed, what its siblings draw.
    torch.seed()
    random.seed()
    numpy.random.seed()


def keep_quiet() -> None:
    """Has the libraries tell errors alone."""
    # Their warnings quote prompts, the part that was cut off for instance, and this process's
    # words are the daemon's log.
    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.set_verbosity_error()


def _send(line: socket.socket, event: Event, fds: Sequence[int] = ()) -> None:
    with SENDING:
        frames.send(line, event, fds)


__all__ = ["SENDING", "keep_quiet", "run"]
