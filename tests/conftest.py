"""Fixtures that more than one suite uses."""

from __future__ import annotations

import gc
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from demohub import Hub
from harness.daemon import Daemon
from harness.workers import SharedWorkers
from zhcache import i18n
from zhcache.protocol.ready import make_ready

# Several tests at once on few cores: threads of torch that spin while they wait take those cores
# from each other (four times the time, measured). Read by libgomp when torch is imported; how many
# threads there are, which decides last bits, stays.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

# A shell starts what it runs in the background with Ctrl-C ignored, and every program that a test
# starts would inherit that and outlive the Ctrl-C it is sent.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keeps what tests and torch bring, which stays, out of every look for garbage.

    To look through it again and again while it grows is half of what collecting takes, and half a
    second of every full look that comes after.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def pytest_collection_finish() -> None:
    """Does what the daemon does at its start, for tests that run parts of it in threads."""
    make_ready()


@pytest.fixture(autouse=True)
def own_language() -> Iterator[None]:
    """Forgets the language that a test chose, the environment's part of it too."""
    before = os.environ.get("LANGUAGE")
    yield
    i18n._chosen.clear()
    if before is None:
        os.environ.pop("LANGUAGE", None)
    else:
        os.environ["LANGUAGE"] = before


@pytest.fixture(autouse=True, scope="module")
def as_many_threads_of_torch_for_all() -> Iterator[None]:
    """Refuses a module that changed how many threads torch takes in threads to come.

    The number that was set last is every new thread's, and those that have one keep it. It decides
    last bits: a worker that is a thread would draw other images than stock beside it.
    """
    yield
    if torch := sys.modules.get("torch"):
        with ThreadPoolExecutor(1) as later:
            assert later.submit(torch.get_num_threads).result() == torch.get_num_threads()


@pytest.fixture(scope="session")
def pipeline_dir() -> Path:
    """A tiny real Stable Diffusion pipeline; built once per recipe and kept between runs."""
    from demohub import pipeline

    return pipeline.build(pipeline.shared_folder(Path(tempfile.gettempdir())))


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A hub that listens on loopback and serves nothing yet."""
    with Hub() as started:
        yield started


@pytest.fixture(scope="session")
def shared_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedWorkers]:
    """The spawner of every daemon that a test makes; nothing is started before it is wanted."""
    # A socket's path has 108 bytes.
    with tempfile.TemporaryDirectory(prefix="zh-") as folder:
        shared = SharedWorkers(Path(folder), tmp_path_factory.getbasetemp())
        yield shared
        shared.close()


@pytest.fixture
def make_daemon(
    tmp_path: Path, shared_workers: SharedWorkers, request: pytest.FixtureRequest
) -> Iterator[Callable[..., Daemon]]:
    """Returns a function that makes daemons with a configuration; all end after the test.

    They share a spawner; those of a test marked ``own_workers`` start one each.
    """
    made: list[Daemon] = []
    is_shared = request.node.get_closest_marker("own_workers") is None
    shared = {"ZHCACHE_WORKERS": str(shared_workers.path)} if is_shared else {}

    def make(config: str, *, name: str = "d", **environ: str) -> Daemon:
        daemon = Daemon(tmp_path / name, config, {**shared, **environ})
        made.append(daemon)
        return daemon

    yield make
    for daemon in made:
        daemon.stop()
