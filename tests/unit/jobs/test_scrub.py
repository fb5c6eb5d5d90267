import pytest

from harness.storekit import Clock, open_store, put, sha256
from zhcached.jobs.scrub import RATE_BYTES_PER_S, Scrub

DAY = 86400.0
OLD, NEW = b"old" * 1000, b"new" * 1000


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(tmp_path, clock):
    opened = open_store(tmp_path / "store", clock)
    yield opened
    opened.close()


def scrub_of(store, clock, every_s=30 * DAY, rest=lambda _: None):
    return Scrub(store, every_s, clock, rest)


def test_scrub_reads_only_what_is_due(store, clock):
    put(store, OLD, keep_hold=True)
    scrub = scrub_of(store, clock)
    assert not scrub.next()
    clock.pass_s(31 * DAY)
    put(store, NEW, keep_hold=True)
    assert scrub.next()
    assert not scrub.next()


def test_scrub_quarantines_a_blob_that_rotted_unseen(store, clock):
    put(store, OLD, keep_hold=True)
    path = store.blobs.path(sha256(OLD))
    path.chmod(0o640)
    with path.open("r+b") as stream:
        stream.write(b"ROT")
    clock.pass_s(31 * DAY)
    assert scrub_of(store, clock).next()
    assert not path.exists()
    assert any(sha256(OLD) in problem for problem in store.problems)


def test_scrub_reads_no_faster_than_its_rate(store, clock):
    put(store, OLD, keep_hold=True)
    clock.pass_s(31 * DAY)
    rested = []
    scrub_of(store, clock, rest=rested.append).next()
    assert sum(rested) == pytest.approx(len(OLD) / RATE_BYTES_PER_S)


def test_scrub_ends_in_the_middle_of_a_blob_when_the_daemon_stops(store, clock):
    put(store, OLD, keep_hold=True)
    clock.pass_s(31 * DAY)
    scrub = scrub_of(store, clock, rest=lambda _: scrub.stop())
    assert not scrub.next()
    assert store.blobs.has(sha256(OLD))
    assert store.checks.overdue(clock.wall() - 30 * DAY) == sha256(OLD)
