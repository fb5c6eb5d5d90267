"""A simulator, a snapshot, and the command line run in this process."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from simulators.daemon import DaemonSimulator
from zhcache import i18n
from zhcache.cli import run

_LOCALE = ("LC_ALL", "LC_MESSAGES", "LANG", "LANGUAGE")


@dataclass
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The last line of stdout."""
        return json.loads(self.out.splitlines()[-1])


Zhcache = Callable[..., Ran]


@pytest.fixture(autouse=True)
def english(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Starts each test without a locale and forgets the language it chose."""
    for name in _LOCALE:
        monkeypatch.setenv(name, "")
    yield
    i18n._chosen.clear()


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    """A folder with a configuration and a file with a Chinese name."""
    folder = tmp_path / "snapshot"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "模型.safetensors").write_bytes(b"w" * 2000)
    return folder


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DaemonSimulator]:
    """A running simulator that the environment points at."""
    with DaemonSimulator(tmp_path / "run" / "api.sock") as simulator:
        monkeypatch.setenv("ZHCACHE_SOCKET", str(simulator.socket))
        yield simulator


@pytest.fixture
def zhcache(capsys: pytest.CaptureFixture[str]) -> Zhcache:
    """Runs one command line."""

    def call(*args: object) -> Ran:
        capsys.readouterr()
        code = run([str(arg) for arg in args])
        out, err = capsys.readouterr()
        return Ran(code, out, err)

    return call


@pytest.fixture
def started(daemon: DaemonSimulator) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a command line as a process of its own."""
    running: list[subprocess.Popen[str]] = []

    def start(*args: str) -> subprocess.Popen[str]:
        running.append(
            subprocess.Popen(
                [sys.executable, "-m", "zhcache", *args],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        )
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.communicate()
