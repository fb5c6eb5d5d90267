"""A real daemon for each test that asks for one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.daemon import Daemon


@pytest.fixture
def make_daemon(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Returns a function that makes daemons; all are ended after the test."""
    made: list[Daemon] = []

    def make(config: str, *, name: str = "d", **environ: str) -> Daemon:
        daemon = Daemon(tmp_path / name, config, environ)
        made.append(daemon)
        return daemon

    yield make
    for daemon in made:
        daemon.stop()
