"""A real zhcached in a folder of its own, and the real command line against it."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile

from harness import prepared

DEADLINE_S = 30.0
BIN = Path(sys.executable).parent


def source(hub, kind: str = "huggingface", name: str | None = None, **more: str) -> str:
    """Returns the ``[[source]]`` table for a hub on loopback."""
    lines = [
        "[[source]]",
        f'name = "{name or hub.name}"',
        f'kind = "{kind}"',
        f'endpoint = "{hub.url}"',
    ]
    lines += [f"{key} = {value}" for key, value in more.items()]
    return "\n".join(lines) + "\n"


class Daemon:
    """One daemon: its folder, its configuration, its process.

    ``before`` is put before the command that starts it, to run it elsewhere.
    """

    before: Sequence[str] = ()

    def __init__(self, folder: Path, config: str = "", environ: Mapping[str, str] | None = None):
        self.folder = folder
        self.home = folder / "store"
        self.socket = folder / "api.sock"
        self.config = folder / "config.toml"
        self.log = folder / "daemon.log"
        self.process: subprocess.Popen[bytes] | prepared.Forked | None = None
        self.environ = prepared.plain() | {
            "HOME": str(folder / "user"),
            "LANG": "C.UTF-8",
            "ZHCACHE_HOME": str(self.home),
            "ZHCACHE_SOCKET": str(self.socket),
            "ZHCACHE_CONFIG": str(self.config),
            **(environ or {}),
        }
        (folder / "user").mkdir(parents=True, exist_ok=True)
        self.configure(config)

    def configure(self, text: str) -> None:
        """Writes the configuration; tests run on small disks, so nothing is kept free."""
        store = "" if "[store]" in text else '[store]\nmin_free = "0"\n'
        self.config.write_text(store + text)

    def start(self, **environ: str) -> Daemon:
        """Starts the process and waits until it answers."""
        with self.log.open("ab") as log:
            self.process = self._forked(log.fileno(), environ) or subprocess.Popen(
                [*self.before, sys.executable, "-m", "zhcached"],
                stdout=log,
                stderr=log,
                env=self.environ | environ,
                start_new_session=True,
            )
        until(lambda: self._answers() or self._died(), "the daemon answers")
        return self

    def _forked(self, log: int, environ: Mapping[str, str]) -> prepared.Forked | None:
        if self.before:
            return None
        return prepared.start("zhcached", (), self.environ | environ, log, log)

    def _answers(self) -> bool:
        # A command line here would cost each start of a daemon a third more.
        with socket.socket(socket.AF_UNIX) as channel:
            channel.settimeout(DEADLINE_S)
            try:
                channel.connect(str(self.socket))
                channel.sendall(b"GET /v1/version HTTP/1.1\r\nHost: zhcached\r\n\r\n")
                return channel.recv(64).startswith(b"HTTP/1.1 200 ")
            except OSError:
                return False

    def _died(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"zhcached ended: {self.log.read_text()[-3000:]}")
        return False

    def kill(self) -> None:
        """Ends the process as a power button would, except for the disk."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(DEADLINE_S)

    def stop(self) -> int:
        """Ends the process as a service manager would; returns its exit code."""
        if self.process is None or self.process.poll() is not None:
            return self.process.returncode if self.process else 0
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        return self.process.wait(DEADLINE_S)

    def popen(self, *arguments: str, **environ: str) -> subprocess.Popen[str]:
        """Starts the command line and does not wait."""
        return subprocess.Popen(
            [str(BIN / "zhcache"), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environ | environ,
        )

    def script(self, text: str, *arguments: str) -> subprocess.Popen[str]:
        """Starts a user's script, all its streams pipes, and does not wait."""
        return subprocess.Popen(
            [sys.executable, "-c", text, *arguments],
            env=self.environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def cli(
        self, *arguments: str, check: bool = True, timeout: float = 120, **environ: str
    ) -> subprocess.CompletedProcess[str]:
        """Runs the command line to its end."""
        done = self._run(arguments, self.environ | environ, timeout)
        if check and done.returncode != 0:
            raise AssertionError(f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    @staticmethod
    def _run(
        arguments: Sequence[str], environ: Mapping[str, str], timeout: float
    ) -> subprocess.CompletedProcess[str]:
        with TemporaryFile("w+") as out, TemporaryFile("w+") as err:
            forked = prepared.start("zhcache", arguments, environ, out.fileno(), err.fileno())
            if forked is None:
                return subprocess.run(
                    [str(BIN / "zhcache"), *arguments],
                    capture_output=True,
                    text=True,
                    env=environ,
                    timeout=timeout,
                    check=False,
                )
            try:
                code = forked.wait(timeout)
            finally:
                forked.kill()
            for stream in (out, err):
                stream.seek(0)
            return subprocess.CompletedProcess(arguments, code, out.read(), err.read())

    def json(self, *arguments: str, code: int = 0, **environ: str):
        """Runs a command with ``--json`` and returns the last line's object."""
        done = self.cli(*arguments, "--json", check=False, **environ)
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr, self.tail())
        return json.loads(done.stdout.strip().splitlines()[-1])

    def tail(self) -> str:
        """Returns the end of the daemon's log and of its own output."""
        kept = self.home / "logs" / "zhcached.jsonl"
        logged = kept.read_text() if kept.exists() else ""
        return logged[-3000:] + self.log.read_text()[-3000:]

    def blobs(self) -> dict[str, Path]:
        """Returns every blob of the store by its name."""
        found = (self.home / "blobs" / "sha256").glob("*/*")
        return {path.name: path for path in found if path.is_file()}


def until(claim, meaning: str, deadline_s: float = DEADLINE_S):
    """Waits for ``claim()`` to be true; returns its value."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        value = claim()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"waited {deadline_s} s in vain until {meaning}")


def sent_so_far(hub, path: str) -> int:
    """Returns how much of a file a hub has sent, which goes on sending it meanwhile."""
    return sum(one.sent for one in hub.requests if one.file == path and one.plane == "bytes")


def lines(text: str) -> Sequence[dict]:
    """Returns the JSON objects of a stream of lines."""
    return [json.loads(line) for line in text.splitlines() if line.strip()]
