"""The process that is in torrents, seen from the daemon: begun, told, begun again when it ends."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Final

import msgspec
import structlog

from zhcached.errors import TransportError
from zhcached.swarm.words import HUNG_S, Broken, Command, Event, Opening, Ready

FIRST_REST_S: Final = 1.0
LONGEST_REST_S: Final = 60.0
SOUND_S: Final = 60.0
"""Who lived so long ended for a reason of its own, not of its beginning."""
ENDING_S: Final = 5.0
TAKEN_S: Final = 5.0
"""It reads its words at once, whatever else it does: one that does not hangs."""
_MODULE: Final = "zhcached.swarm.engine"
_NAMES: Final = frozenset({"PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV", "SSL_CERT_FILE"})
_CHUNK: Final = 2**16

log = structlog.get_logger()


class Process:
    """Thread-safe, but for ``start``.

    Args:
        opening: What it is begun with.
        on_event: Told what it says, and None at its end; from a thread of this.
        first: Returns what it is to be told as soon as it listens.
        environ: Of the daemon.
    """

    def __init__(
        self,
        opening: Opening,
        on_event: Callable[[Event | None], None],
        first: Callable[[], Iterable[Command]],
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._opening = opening
        self._on_event = on_event
        self._first = first
        known = os.environ if environ is None else environ
        # Neither keys nor proxies.
        self._environ = {name: value for name, value in known.items() if name in _NAMES}
        self._stopped = threading.Event()
        self._writing = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._attend, name="swarm", daemon=True)
        self.port = 0

    @property
    def pid(self) -> int | None:
        """Of the process; None while there is none."""
        process = self._process
        return process.pid if process is not None else None

    def start(self) -> None:
        """Begins it."""
        self._thread.start()

    def stop(self) -> None:
        """Ends it, and waits for that."""
        self._stopped.set()
        with self._writing:
            process = self._process
            if process is not None and process.stdin is not None:
                with contextlib.suppress(OSError):
                    process.stdin.close()
        if self._thread.ident is not None:
            self._thread.join(2 * ENDING_S)

    def tell(self, command: Command) -> None:
        """Has it do something.

        Raises:
            TransportError: There is none just now, or it does not listen.
        """
        with self._writing:
            if self._process is None or not self.port:
                raise TransportError("the process of the swarm does not run")
            self._write(self._process, command)

    def _write(self, process: subprocess.Popen[bytes], message: Command | Opening) -> None:
        """Says one line, under ``_writing``, which whoever ends the process waits for."""
        assert process.stdin is not None
        rest = memoryview(msgspec.json.encode(message) + b"\n")
        until = time.monotonic() + TAKEN_S
        try:
            while rest:
                if not _is_ready(process.stdin, select.POLLOUT, until - time.monotonic()):
                    # Half a line may be there: nothing more can be said to this one.
                    process.kill()
                    raise TransportError("the process of the swarm takes no words")
                rest = rest[os.write(process.stdin.fileno(), rest) :]
        except (OSError, ValueError):
            raise TransportError("the process of the swarm has ended") from None

    def _attend(self) -> None:
        rest_s = FIRST_REST_S
        while not self._stopped.is_set():
            began = time.monotonic()
            try:
                self._run()
            except (OSError, TransportError, msgspec.MsgspecError) as error:
                log.warning("swarm.failed", error=str(error))
            self._on_event(None)
            if time.monotonic() - began > SOUND_S:
                rest_s = FIRST_REST_S
            if not self._stopped.is_set():
                log.warning("swarm.ended", again_s=rest_s)
            self._stopped.wait(rest_s)
            rest_s = min(2 * rest_s, LONGEST_REST_S)

    def _run(self) -> None:
        """Lives with one process, from its start to its end."""
        incoming = Path(self._opening.incoming)
        # Of an earlier one: what of it counted is in the ingests.
        shutil.rmtree(incoming, ignore_errors=True)
        incoming.mkdir(mode=0o700, parents=True)
        process = subprocess.Popen(
            [sys.executable, "-m", _MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=self._environ,
            # Ctrl-C in a terminal is the daemon's to obey.
            start_new_session=True,
            bufsize=0,
        )
        assert process.stdin is not None
        os.set_blocking(process.stdin.fileno(), False)
        try:
            with self._writing:
                if self._stopped.is_set():
                    return
                self._process = process
                self._write(process, self._opening)
            self._listen(process)
        finally:
            with self._writing:
                self._process, self.port = None, 0
            _end(process)

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        rest = b""
        decoder = msgspec.json.Decoder(Event)
        while True:
            if not _is_ready(process.stdout, select.POLLIN, HUNG_S):
                raise TransportError(f"the process of the swarm said nothing for {HUNG_S:g} s")
            chunk = os.read(process.stdout.fileno(), _CHUNK)
            if not chunk:
                return
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self._hear(process, decoder.decode(line))

    def _hear(self, process: subprocess.Popen[bytes], event: Event) -> None:
        if isinstance(event, Ready):
            log.info("swarm.listens", port=event.port, lacking=event.lacking)
            with self._writing:
                for command in self._first():
                    self._write(process, command)
                self.port = event.port
        if isinstance(event, Broken):
            log.warning("swarm.broken", sha256=event.sha256, error=event.error)
        self._on_event(event)


def _is_ready(stream: IO[bytes], event: int, wait_s: float) -> bool:
    """Waits until a pipe can be read or written, or was closed at its other end."""
    # Not select(), which knows no descriptor above 1023.
    poll = select.poll()
    poll.register(stream, event)
    return bool(poll.poll(max(0.0, wait_s) * 1000))


def _end(process: subprocess.Popen[bytes]) -> None:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
    try:
        process.wait(ENDING_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
