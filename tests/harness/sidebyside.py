"""A script run by ``python`` and by ``zhcache exec``: the same folder, environment and input."""

from __future__ import annotations

import difflib
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

BIN = Path(sys.executable).parent
PYTHON = [str(BIN / "python")]
EXEC = [str(BIN / "zhcache"), "exec"]
_OURS = ("ZHCACHE_", "XDG_", "LC_", "PYTHON", "VIRTUAL_ENV", "CONDA_", "COV_")


@dataclass
class Pair:
    """Both ways to run a script, in a folder of their own."""

    folder: Path
    environ: dict[str, str]
    python: Sequence[str] = field(default_factory=lambda: PYTHON)
    zhcache: Sequence[str] = field(default_factory=lambda: EXEC)

    def script(self, text: str, name: str = "script.py") -> str:
        """Writes a script into the folder and returns its name."""
        (self.folder / name).write_text(text)
        return name

    def run(
        self,
        first: Sequence[str],
        arguments: Sequence[str | bytes],
        env: Mapping[str, str] | None = None,
        **how,
    ) -> subprocess.CompletedProcess[bytes]:
        """Runs one of both."""
        how = {"stdin": subprocess.DEVNULL, "cwd": self.folder} | how
        if "input" in how:
            del how["stdin"]
        return subprocess.run(
            [*first, *arguments],
            env=self.environ | dict(env or {}),
            capture_output=True,
            timeout=60,
            check=False,
            **how,
        )

    def both(
        self, *arguments: str | bytes, **how
    ) -> tuple[subprocess.CompletedProcess[bytes], ...]:
        """Runs both, ``python`` first."""
        return self.run(self.python, arguments, **how), self.run(self.zhcache, arguments, **how)

    def same(self, *arguments: str | bytes, **how) -> subprocess.CompletedProcess[bytes]:
        """Runs both, compares all they did, and returns ours."""
        return compared(*self.both(*arguments, **how))

    def shell(self, text: str, **how) -> subprocess.CompletedProcess[bytes]:
        """Runs a line of bash for both, whose ``"$@"`` is either; compares and returns ours."""
        return compared(
            *(
                self.run(["bash", "-c", text, "bash", *w], [], **how)
                for w in (self.python, self.zhcache)
            )
        )


def compared(
    real: subprocess.CompletedProcess[bytes], ours: subprocess.CompletedProcess[bytes]
) -> subprocess.CompletedProcess[bytes]:
    """Returns ``ours`` if it did what ``real`` did."""
    assert told(ours) == told(real), "\n".join(
        difflib.unified_diff(told(real), told(ours), "python", "exec", lineterm="", n=1)
    )
    return ours


def said(done: subprocess.CompletedProcess[bytes]) -> tuple[int, bytes, list[str]]:
    """Returns all that a process did, what it said on stderr in whatever order.

    Libraries that are imported ahead are in another order than where one import brings another.
    """
    lines = told(done)
    return done.returncode, done.stdout, sorted(line for line in lines if line.startswith("err"))


def told(done: subprocess.CompletedProcess[bytes]) -> list[str]:
    """Returns all that a process did, line by line."""
    streams = (("out", done.stdout), ("err", done.stderr))
    lines = [f"{n}: {line}" for n, s in streams for line in s.decode(errors="replace").split("\n")]
    # Where an object lies is another matter in each process.
    lines = [re.sub(r"\b0x[0-9a-f]{6,}\b", "0x", line) for line in lines]
    # So is when torch's log says something, and in which process.
    lines = [re.sub(r"^(err: [A-Z]\d{4}) [\d:.]+ \d+ ", r"\1 ", line) for line in lines]
    return [f"status: {done.returncode}", *lines]


def clean_environ(runtime: Path) -> dict[str, str]:
    """Returns this environment without what steers either, and with a run-time folder."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(_OURS)}
    runtime.mkdir(mode=0o700, exist_ok=True)
    return kept | {"XDG_RUNTIME_DIR": str(runtime), "LANG": "C.UTF-8", "ZHCACHE_EXEC_IDLE": "120"}
