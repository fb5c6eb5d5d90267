"""Starts a per-user daemon in the background, when nobody answers and nobody configured one.

Several clients may do this at once. Each starts a daemon; the store's lock lets one live, and all
of them wait for its socket.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

from zhcache.channel import dial
from zhcache.errors import (
    AlreadyRunning,
    DaemonUnreachable,
    NoSpace,
    NotPermitted,
    UsageError,
    VersionMismatch,
    ZhcacheError,
)

START_S = 30.0
"""How long a daemon may take to open its socket; a large index is checked at start."""

INSTALL = "pip install 'zhcache[daemon]'"
_NEEDS = ("zhcached", "aiohttp", "sqlite_utils", "structlog", "prometheus_client", "psutil")
_LOST_THE_RACE = AlreadyRunning.exit_code
_LOG_TAIL = 2000
_SPEAKS = "zhcached: "
_WINNER_S = 5.0
_SAME_CODE: dict[int | None, type[ZhcacheError]] = {
    kind.exit_code: kind for kind in (UsageError, NoSpace, VersionMismatch, NotPermitted)
}

# Held for the life of this process: a Popen that is collected while its child lives warns.
_started: list[subprocess.Popen[bytes]] = []


def missing_parts() -> list[str]:
    """Returns the modules of the daemon that this interpreter lacks."""
    return [name for name in _NEEDS if importlib.util.find_spec(name) is None]


def start_daemon(home: Path, socket: Path, *, deadline_s: float = START_S) -> None:
    """Starts a daemon on the store ``home`` and returns once one answers at ``socket``.

    Raises:
        DaemonUnreachable: The daemon is not installed here, or died, or stayed silent; its last
            words are in the message.
        AlreadyRunning: Another daemon holds the store and listens somewhere else.
    """
    if lacking := missing_parts():
        raise DaemonUnreachable(
            "no daemon runs, and this environment cannot start one: {missing} is not installed",
            hint=INSTALL,
            missing=", ".join(lacking),
        )
    log = _log_path(home)
    start = log.stat().st_size if log.exists() else 0
    child = _launch(home, socket, log)
    until = time.monotonic() + deadline_s
    lost_at = time.monotonic()
    pause = 0.01
    while not _answers(socket):
        code = child.poll()
        lost = code == _LOST_THE_RACE
        if lost:
            # Whoever won is about to listen here, or listens somewhere else for good.
            until = min(until, lost_at + _WINNER_S)
        else:
            lost_at = time.monotonic()
        if (code is not None and not lost) or time.monotonic() > until:
            # The last look closes the gap between its answer and its death being noticed.
            if _answers(socket):
                return
            raise _failure(home, socket, log, start, code)
        time.sleep(pause)
        pause = min(pause * 1.5, 0.1)


def _log_path(home: Path) -> Path:
    folder = home / "logs"
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise DaemonUnreachable(
            "the store {home} cannot be made: {reason}",
            hint="set ZHCACHE_HOME to a folder you may write to",
            home=home,
            reason=error.strerror,
        ) from error
    return folder / "daemon.log"


def _launch(home: Path, socket: Path, log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "zhcached", "--home", str(home), "--socket", str(socket)]
    with log.open("ab") as sink:
        # A session of its own: neither Ctrl-C nor the terminal's end may reach it. "/" so that
        # it keeps no file system from being unmounted.
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            cwd="/",
            start_new_session=True,
        )
    _started.append(child)
    return child


def _answers(socket: Path) -> bool:
    try:
        dial(socket).close()
    except DaemonUnreachable:
        return False
    return True


def _failure(home: Path, socket: Path, log: Path, start: int, code: int | None) -> ZhcacheError:
    words = _last_words(log, start)
    if code in _SAME_CODE:
        return _SAME_CODE[code](
            "the daemon for {home} did not start: {words}",
            hint="mend that, then run the command again",
            home=home,
            words=words,
        )
    if code == _LOST_THE_RACE:
        return AlreadyRunning(
            "a daemon holds the store {home} but does not answer at {socket}: {words}",
            hint="stop it, or set ZHCACHE_SOCKET to where it listens",
            home=home,
            socket=socket,
            words=words,
        )
    return DaemonUnreachable(
        "the daemon for {home} did not start: {words}",
        hint="read {log}, or run `zhcached` in the foreground",
        home=home,
        words=words,
        log=log,
    )


def _last_words(log: Path, start: int) -> str:
    with log.open("rb") as source:
        end = source.seek(0, os.SEEK_END)
        source.seek(max(start, end - _LOG_TAIL))
        lines = source.read().decode("utf-8", "replace").strip().splitlines()
    # An error is a line of its own and a hint below it; both are for the reader.
    spoken = [n for n, line in enumerate(lines) if line.startswith(_SPEAKS)]
    words = lines[spoken[-1] :] if spoken else lines[-1:]
    text = "; ".join(line.strip() for line in words).removeprefix(_SPEAKS)
    return text or "it said nothing"
