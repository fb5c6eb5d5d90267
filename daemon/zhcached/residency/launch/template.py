"""The daemon's own spawner: a child that is started at the first need and ends when idle.

Its environment is made of names that programs and drivers are known to read, so that no secret of
the daemon's is ever in it, not even where ``/proc`` shows what a process began with.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import structlog

from zhcache.errors import ZhcacheError
from zhcache.i18n import mark
from zhcached.residency.launch import abilities
from zhcached.residency.launch.words import Words

NEEDS = ("torch", "diffusers", "transformers")
ENDING_S = 5.0

_NAMES = frozenset(
    {"PATH", "LANG", "LANGUAGE", "TZ", "USER", "LOGNAME", "VIRTUAL_ENV", "CC", "CXX", "LD_PRELOAD"}
)
_PREFIXES = (
    "LC_", "LD_LIBRARY_", "PYTHON", "CONDA_", "CUDA_", "NVIDIA_", "NCCL_", "CUBLAS_", "CUDNN_",
    "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "MALLOC_", "GLIBC_", "TORCH", "PYTORCH_",
    "TRITON_", "DIFFUSERS_", "TRANSFORMERS_", "SAFETENSORS_", "ZHCACHE_",
)  # fmt: skip
_SECRETS = ("TOKEN", "SECRET", "PASSWORD", "CREDENTIAL", "KEY")

log = structlog.get_logger()


def missing() -> list[str]:
    """Returns what workers need and this environment lacks; imports nothing."""
    return [name for name in NEEDS if find_spec(name) is None]


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Returns what of ``environ`` a worker may know."""
    return {
        name: value
        for name, value in environ.items()
        if (name in _NAMES or name.startswith(_PREFIXES))
        and not any(part in name.upper() for part in _SECRETS)
    }


class Template:
    """The spawner's process. Thread-safe.

    Args:
        home: The store.
        idle_s: Seconds without a worker after which it ends.
    """

    def __init__(self, home: Path, idle_s: float) -> None:
        self._home = home
        self._idle_s = idle_s
        self._lock = threading.Lock()
        self._control: socket.socket | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._words: Words | None = None
        self._generation = 0

    def start(self) -> None:
        """Starts the spawner if none runs; does not wait for its imports.

        Raises:
            ZhcacheError: It cannot be started; the message says why.
        """
        with self._lock:
            self._start_if_none()

    def connect(self) -> tuple[socket.socket, int]:
        """Returns a fresh connection to the spawner, started if none runs, and which one it is.

        Raises:
            ZhcacheError: It cannot be started; the message says why.
        """
        with self._lock:
            self._start_if_none()
            ours, theirs = socket.socketpair()
            # One that is ending loses what is sent to it; its caller reads the end and says so.
            with theirs, contextlib.suppress(OSError):
                assert self._control is not None
                socket.send_fds(self._control, [b"\0"], [theirs.fileno()])
            return ours, self._generation

    def give_up(self, generation: int) -> None:
        """Ends that spawner, unless another has taken its place: it did not answer."""
        with self._lock:
            if generation == self._generation:
                self._let_go()

    def last_words(self) -> str:
        """Returns what the spawner said last, for an error's message."""
        said = list(self._words.last) if self._words is not None else []
        return said[-1] if said else "the process that starts workers ended and said nothing"

    def close(self) -> None:
        """Ends the spawner and all its workers."""
        with self._lock:
            self._let_go()

    def _start_if_none(self) -> None:
        if self._control is None or self._child is None or self._child.poll() is not None:
            self._start()

    def _start(self) -> None:
        self._let_go()
        if lacking := missing():
            raise ZhcacheError(
                mark("the daemon's environment {prefix} has no {missing}, which its workers need"),
                hint=mark("pip install 'zhcache[daemon,torch]' there"),
                prefix=sys.prefix,
                missing=", ".join(lacking),
            )
        ours, theirs = socket.socketpair()
        heard, said = os.pipe()
        try:
            self._child = subprocess.Popen(
                self._command(theirs.fileno()),
                env=environment(os.environ),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                pass_fds=(theirs.fileno(),),
                cwd="/",
                # Neither Ctrl-C nor the terminal's end may reach it before the daemon has stopped.
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            os.close(heard)
            raise ZhcacheError(
                mark("no worker can be started: {reason}"), reason=error.strerror
            ) from error
        finally:
            theirs.close()
            os.close(said)
        self._control = ours
        self._generation += 1
        self._words = Words(heard, _Said(self._child.pid))
        threading.Thread(
            target=_listen, args=(self._words, heard), name="spawner-words", daemon=True
        ).start()

    def _command(self, control: int) -> list[str]:
        command = [*abilities.program(), "spawner"]
        command += ["--control", str(control), "--idle", str(self._idle_s)]
        command += ["--scratch", str(self._home / "scratch")]
        for part in ("hub", "blobs"):
            command += ["--read", str(self._home / part)]
        return command

    def _let_go(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._child is not None:
            try:
                self._child.wait(ENDING_S)
            except subprocess.TimeoutExpired:
                # In the middle of its imports it hears nothing.
                self._child.kill()
                self._child.wait()
            self._child = None


class _Said:
    def __init__(self, pid: int) -> None:
        self._log = log.bind(pid=pid)

    def __call__(self, text: str) -> None:
        self._log.info("spawner.says", text=text)


def _listen(words: Words, heard: int) -> None:
    os.set_blocking(heard, True)
    with contextlib.suppress(OSError):
        while words.take():
            pass
    os.close(heard)
