"""The supervisor of an instance: the thread that launches its worker and carries frames to and fro.

The one owner of the worker's line, so that nothing on it needs a lock. It asks the instance what to
do, under the lock, and does it outside: a worker that hangs holds up nobody but its own instance.
"""

from __future__ import annotations

import os
import secrets
import select
import socket
import struct
from collections.abc import Sequence
from typing import Any

import msgspec
import structlog

from zhcache.errors import UsageError, ZhcacheError
from zhcache.protocol import frames, residency
from zhcache.protocol.failure import to_error
from zhcached.residency.launch.launch import Worker
from zhcached.residency.resident import sealed
from zhcached.residency.resident.commands import End, Kill, Rest, Start, Stop
from zhcached.residency.resident.context import Context
from zhcached.residency.resident.instance import Instance
from zhcached.residency.resident.planned import home_of

MAX_RESULT = 4 * 2**30
"""Bytes of sealed memory that one call gives back."""

DEATH_S = 5.0
_TIMEVAL = struct.Struct("@ll")

log = structlog.get_logger()


class _Death(Exception):
    def __init__(self, how: str, *, is_ours: bool = False) -> None:
        super().__init__(how)
        self.how = how
        self.is_ours = is_ours


class _Unwanted(Exception):
    pass


class Supervisor:
    """Tends one instance until its worker is no longer wanted."""

    def __init__(self, instance: Instance, context: Context) -> None:
        self._instance = instance
        self._context = context

    def run(self) -> None:
        """The thread's work: one worker after another, until none is wanted."""
        try:
            while self._one_life():
                pass
        except Exception as error:
            log.exception("resident.supervisor_failed", instance=str(self._instance.kind))
            with self._context.lock:
                self._instance.line.drop_all(
                    ZhcacheError(
                        "the worker of {repo} could not be tended: {reason}",
                        hint="see `zhcache logs`",
                        repo=self._instance.kind.repo,
                        reason=error,
                    )
                )
                self._instance.gone()
        finally:
            with self._context.lock:
                self._context.left(self._instance)
                self._context.lock.notify_all()

    def _one_life(self) -> bool:
        instance, context = self._instance, self._context
        try:
            if context.admit(instance):
                self._live()
            with context.lock:
                instance.gone()
        except ZhcacheError as error:
            with context.lock:
                instance.gone()
                has_others = instance.lost(error)
            if has_others:
                self._tell_lost(str(error))
            else:
                log.info("resident.refused", instance=str(instance.kind), error=str(error))
        except _Unwanted:
            log.info("resident.unwanted", instance=str(instance.kind))
            with context.lock:
                instance.gone()
        except _Death as death:
            log.warning("resident.died", instance=str(instance.kind), how=death.how)
            with context.lock:
                is_again = instance.fell(death.how, is_ours=death.is_ours)
                absence = instance.absence
            if absence:
                self._tell_lost(absence)
            return is_again
        return False

    def _tell_lost(self, why: str) -> None:
        log.warning("resident.replica_lost", instance=str(self._instance.kind), error=why)

    def _live(self) -> None:
        lease = self._instance.arenas_of + secrets.token_hex(6)
        worker = None
        try:
            arenas = self._arenas(lease)
            kind = "parallel" if self._instance.kind.placement == "parallel" else "resident"
            worker = self._context.launcher.launch(kind, f"resident-{self._instance.number}")
            _limit(worker.line, self._context.timeouts.frame)
            with self._context.lock:
                self._instance.pid = worker.pid
            self._converse(worker, arenas)
        finally:
            if worker is not None:
                worker.kill()
                worker.wait(DEATH_S)
                worker.line.close()
            self._context.arenas.released(lease)

    def _converse(self, worker: Worker, arenas: Sequence[tuple[residency.Arena, int]]) -> None:
        try:
            self._load(worker.line, arenas)
            while self._serve(worker.line):
                pass
        except frames.FrameError as error:
            raise _Death(str(error)) from error
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            raise _Death(worker.wait(DEATH_S) or "it closed its line") from error
        except BlockingIOError as error:
            raise _Death("it stopped in the middle of a frame", is_ours=True) from error
        except (OSError, ValueError) as error:
            raise _Death(f"its line failed: {error}") from error

    # --- loading ---------------------------------------------------------------------------------

    def _arenas(self, lease: str) -> Sequence[tuple[residency.Arena, int]]:
        kind, wanted = self._instance.kind, self._instance.account.arenas
        if kind.device == "cpu":
            # The page cache is the tier there: the worker maps the files themselves.
            return ()
        if kind.memory == "low":
            # Weights that come layer by layer stay in the page cache.
            return ()
        found: list[tuple[residency.Arena, int]] = []
        for device in wanted if kind.is_planned else kind.devices:
            found += self._context.arenas.attach(
                lease,
                kind.repo,
                kind.commit,
                os.geteuid(),
                device,
                components=wanted.get(device),
                on_progress=self._progress,
                cancelled=self._instance.unwanted,
            )
        return found

    def _load(self, line: socket.socket, arenas: Sequence[tuple[residency.Arena, int]]) -> None:
        kind, plan = self._instance.kind, self._instance.plan
        part, parts = self._instance.part
        compiled = self._context.artifacts.open(kind) if kind.compile else None
        try:
            request = residency.Load(
                folder=self._context.folder(self._instance),
                device=kind.device if plan is None else home_of(plan),
                options=kind.decoded_options(),
                attention=kind.attention,
                compile=kind.compile,
                arenas=[arena for arena, _ in arenas],
                artifacts=compiled is not None,
                variant=kind.variant,
                memory=kind.memory,
                role=kind.role,
                repo=kind.repo,
                part=part,
                parts=parts,
                devices=list(kind.sharing) if kind.placement == "parallel" else [],
                plan=plan,
                weights=None if kind.memory is None else self._context.weigh(kind),
            )
            fds = [fd for _, fd in arenas] + ([compiled] if compiled is not None else [])
            frames.send(line, request, fds)
        finally:
            if compiled is not None:
                os.close(compiled)
        while not self._hear_loading(line):
            pass

    def _hear_loading(self, line: socket.socket) -> bool:
        found = _wait(line, self._instance.wakeup.fd, self._context.timeouts.silence)
        with self._context.lock:
            self._instance.wakeup.quieten()
            if self._instance.is_ending:
                raise _Unwanted
        if not found:
            raise _Death("it was silent for too long while it loaded", is_ours=True)
        if line.fileno() not in found:
            return False
        frame, fds = frames.receive(line, residency.FromResidentWorker)
        frames.close_all(fds)
        if isinstance(frame, residency.Progress):
            self._progress(frame)
            return False
        if isinstance(frame, residency.Failed):
            raise to_error(frame.error)
        if not isinstance(frame, residency.Loaded):
            raise frames.FrameError(f"its worker sent {type(frame).__name__} before it was loaded")
        with self._context.lock:
            self._instance.ready(frame)
            self._context.lock.notify_all()
        log.info("resident.ready", instance=str(self._instance.kind), pid=self._instance.pid)
        return True

    def _progress(self, progress: residency.Progress) -> None:
        with self._context.lock:
            self._instance.line.tell_waiting(progress)

    # --- calls -----------------------------------------------------------------------------------

    def _serve(self, line: socket.socket) -> bool:
        with self._context.lock:
            self._instance.wakeup.quieten()
            step = self._instance.next_step()
        match step:
            case End():
                return False
            case Kill():
                raise _Death(step.reason, is_ours=True)
            case Start():
                self._give(line, step)
            case Stop():
                frames.send(line, residency.Cancel(id=step.call.number))
            case Rest():
                if line.fileno() in _wait(line, self._instance.wakeup.fd, step.seconds):
                    self._take(line)
        return True

    def _give(self, line: socket.socket, step: Start) -> None:
        call = step.call
        message = msgspec.structs.replace(call.message, id=call.number)
        try:
            frames.send(line, message, call.fds)
        except ValueError:
            # Within the limit as the client wrote it, and longer as we do: nothing was sent.
            with self._context.lock:
                self._instance.not_given(
                    UsageError(
                        "the arguments of the call are too many words for one message",
                        hint="pass tensors and images as such, not as lists of numbers",
                    )
                )

    def _take(self, line: socket.socket) -> None:
        frame, fds = frames.receive(line, residency.FromResidentWorker)
        try:
            if isinstance(frame, residency.Artifacts):
                self._keep(frame, fds)
                return
            self._check_fds(frame, fds)
            with self._context.lock:
                self._instance.hear(frame, fds)
                self._context.lock.notify_all()
            if isinstance(frame, residency.Took):
                self._context.seen.add(self._instance.kind, frame.seen)
        finally:
            frames.close_all(fds)

    def _check_fds(self, frame: Any, fds: Sequence[int]) -> None:
        if len(fds) > (1 if isinstance(frame, residency.Returned) else 0):
            raise frames.FrameError(f"its worker sent descriptors beside {type(frame).__name__}")
        try:
            for fd in fds:
                sealed.size_of(fd, MAX_RESULT)
        except UsageError as error:
            raise frames.FrameError(
                f"its worker sent memory that is not sealed: {error}"
            ) from error

    def _keep(self, frame: residency.Artifacts, fds: Sequence[int]) -> None:
        if len(fds) != 1:
            raise frames.FrameError("its worker sent artifacts without their descriptor")
        try:
            self._context.artifacts.keep(self._instance.kind, frame.key, fds[0])
        except (ZhcacheError, OSError) as error:
            # Only time is lost by it: the next worker compiles again.
            log.warning("resident.artifacts_not_kept", error=str(error))


def _limit(line: socket.socket, seconds: float) -> None:
    # Of the kernel, not of Python: settimeout() would make the line non-blocking, which the other
    # end's descriptor of a shared description would feel too.
    value = _TIMEVAL.pack(int(seconds), int(seconds % 1 * 1e6))
    line.settimeout(None)
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
    line.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)


def _wait(line: socket.socket, wakeup: int, seconds: float | None) -> list[int]:
    """Waits for a frame to begin, the wakeup or the time; returns which descriptors it was."""
    poller = select.poll()
    poller.register(line, select.POLLIN)
    poller.register(wakeup, select.POLLIN)
    # Rounded up: a deadline must be over when the wait for it is.
    found = poller.poll(None if seconds is None else int(seconds * 1000) + 1)
    return [fd for fd, _ in found]
