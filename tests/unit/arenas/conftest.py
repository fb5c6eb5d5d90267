import contextlib
import os
import threading

import pytest

from harness.fillkit import Control, FillLauncher, arenas_of, put_pipeline
from harness.storekit import COMMIT, Clock, open_store
from zhcache.protocol.names import parse_repo

REPO = "lab/pipe"


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def control(tmp_path):
    return Control(tmp_path / "control")


@pytest.fixture
def store(tmp_path, clock):
    with contextlib.closing(open_store(tmp_path / "store", clock)) as opened:
        put_pipeline(opened, REPO, COMMIT, unet=b"u" * 3000, vae=b"v" * 1000)
        yield opened


@pytest.fixture
def launcher(control):
    with contextlib.closing(FillLauncher(control)) as made:
        yield made


class Desk:
    """Arenas, and clients with leases who ask for them."""

    def __init__(self, store, clock, launcher):
        self.store, self.clock, self.launcher = store, clock, launcher
        self.arenas = arenas_of(store, clock, launcher)

    def renew(self, devices=None, **settings):
        self.arenas.close()
        self.arenas = arenas_of(self.store, self.clock, self.launcher, devices, **settings)
        return self.arenas

    def lease(self, repo=REPO, commit=COMMIT, uid=7):
        return self.store.leases.grant(parse_repo(repo), commit, uid=uid, pid=os.getpid())

    def attach(self, lease=None, repo=REPO, commit=COMMIT, uid=7, device="cpu", **more):
        lease = lease or self.lease(repo, commit, uid)
        return self.arenas.attach(lease, repo, commit, uid, device, **more)

    def release(self, lease):
        self.store.leases.end(lease)
        self.arenas.released(lease)

    def later(self, **more):
        """Attaches in a thread; returns what becomes of it."""
        return Later(lambda: self.attach(**more))


class Later:
    def __init__(self, do):
        self._do = do
        self.result = self.error = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        try:
            self.result = self._do()
        except BaseException as error:
            self.error = error

    def end(self):
        self._thread.join(30)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error
        return self.result


@pytest.fixture
def desk(store, clock, launcher):
    made = Desk(store, clock, launcher)
    yield made
    made.arenas.close()


@pytest.fixture
def descriptors():
    """Tells how many descriptors of memory this process has."""

    def count():
        links = []
        for fd in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                links.append(os.readlink(f"/proc/self/fd/{fd}"))
        return sum("memfd:arena" in link for link in links)

    return count
