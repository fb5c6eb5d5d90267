import os
import threading

import pytest

from harness.daemon import until
from harness.memory import can_drop, drop
from harness.storekit import COMMIT, REPO, Clock, open_store, publish, sha256
from zhcache.errors import Busy, Cancelled, NoSpace
from zhcache.protocol.names import parse_repo
from zhcached.errors import StoreDamaged
from zhcached.residency.pages import pagecache
from zhcached.residency.pages.pages import LOOK_S, Pages
from zhcached.residency.pages.reader import files_of

UID = os.getuid()
OTHER = parse_repo("lab/other")
WEIGHTS = os.urandom(2**20)
INDEX = b'{"_class_name": "Tiny", "unet": ["diffusers", "UNet"]}'
SIZE = len(WEIGHTS) + len(INDEX) + 2
KEEP_ALIVE = 100.0


def files(weights=WEIGHTS):
    return {
        "model_index.json": INDEX,
        "unet/config.json": b"{}",
        "unet/diffusion_pytorch_model.safetensors": weights,
        "unet/diffusion_pytorch_model.fp16.safetensors": weights[:1000],
        "checkpoint.safetensors": weights[:2000],
    }


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(tmp_path, clock):
    opened = open_store(tmp_path / "store", clock)
    publish(opened, files())
    yield opened
    opened.close()


@pytest.fixture
def make_pages(store, clock):
    made = []

    def make(capacity=2**30):
        tell = capacity if callable(capacity) else lambda: capacity
        made.append(Pages(store, clock, tell, KEEP_ALIVE))
        return made[-1]

    yield make
    for pages in made:
        pages.close()


@pytest.fixture
def pages(make_pages):
    return make_pages()


@pytest.fixture
def manifest(store):
    return store.resolve(REPO, None)


def forget(store):
    """Drops all blobs from memory that may leave it."""
    if not can_drop(store.layout.root):
        pytest.skip("files here never leave memory")
    drop(*(store.blobs.path(name) for name, _ in store.blobs.list()))


def unlocked(pages, monkeypatch):
    monkeypatch.setattr(pages._reader._locks, "lock", lambda *_: False)


def other(store, weights=None):
    content = files(os.urandom(2**20) if weights is None else weights)
    publish(store, content, repo=OTHER)
    return store.resolve(OTHER, None)


def test_files_are_those_that_from_pretrained_reads(store, manifest):
    read = files_of(store, manifest)
    assert read == {sha256(WEIGHTS): 2**20, sha256(INDEX): len(INDEX), sha256(b"{}"): 2}


def test_keep_reads_what_was_not_in_memory(store, pages, manifest):
    forget(store)
    steps = []
    shown = pages.keep(manifest, UID, 60.0, lambda *step: steps.append(step))
    assert (shown.bytes, shown.bytes_resident, shown.commit) == (SIZE, SIZE, COMMIT)
    assert steps[-1] == (SIZE, SIZE, "")


def test_kept_pages_stay_when_the_system_wants_them_back(store, pages, manifest):
    if not pages.keep(manifest, UID, 60.0).locked:
        pytest.skip("no memory may be locked here")
    forget(store)
    assert pages.listing()[0].bytes_resident == SIZE


def test_what_cannot_be_locked_is_said_and_read_again(store, pages, manifest, clock, monkeypatch):
    unlocked(pages, monkeypatch)
    assert not pages.keep(manifest, UID, 60.0).locked
    forget(store)
    assert pages.listing()[0].bytes_resident == 0
    pages.refresh()
    assert pages.listing()[0].bytes_resident == SIZE


def test_stop_while_pages_are_read_again_locks_nothing(store, pages, manifest, monkeypatch):
    with monkeypatch.context() as now:
        unlocked(pages, now)
        pages.keep(manifest, UID, 60.0)
    forget(store)
    read_in = pagecache.read_in

    def stopped(*args):
        read_in(*args)
        pages.stop(REPO)

    monkeypatch.setattr(pagecache, "read_in", stopped)
    pages.refresh()
    assert not pages._reader.are_locked({sha256(WEIGHTS): 2**20})


def test_what_is_taken_again_and_again_is_read_ever_more_rarely(
    store, pages, manifest, clock, monkeypatch
):
    unlocked(pages, monkeypatch)
    pages.keep(manifest, UID, None)
    reads = []
    for _ in range(12):
        forget(store)
        pages.refresh()
        reads.append(pages.listing()[0].bytes_resident == SIZE)
        clock.pass_s(LOOK_S)
    assert reads == [n in (0, 2, 6) for n in range(12)]


def test_pages_are_not_read_again_when_memory_is_short(store, pages, manifest, monkeypatch):
    unlocked(pages, monkeypatch)
    monkeypatch.setattr("zhcached.residency.pages.pages.SPARE_BYTES", 2**60)
    pages.keep(manifest, UID, 60.0)
    forget(store)
    pages.refresh()
    assert pages.listing()[0].bytes_resident == 0


def test_keep_expires(store, pages, manifest, clock):
    pages.keep(manifest, UID, 60.0)
    clock.pass_s(59)
    pages.expire()
    assert pages.listing()[0].expires == clock.wall() + 1
    clock.pass_s(2)
    pages.expire()
    assert pages.listing() == []


def test_keep_without_an_end_does_not_expire(pages, manifest, clock):
    pages.keep(manifest, UID, None)
    clock.pass_s(1e9)
    pages.expire()
    assert pages.listing()[0].expires is None


def test_use_prolongs_a_keep(store, pages, manifest, clock):
    pages.keep(manifest, UID, 60.0)
    lease = store.leases.grant(REPO, COMMIT, uid=4321, pid=os.getpid())
    clock.pass_s(500)
    pages.expire()
    store.leases.end(lease)
    clock.pass_s(KEEP_ALIVE - 1)
    pages.expire()
    assert len(pages.listing()) == 1
    clock.pass_s(2)
    pages.expire()
    assert pages.listing() == []


def test_removed_snapshot_is_let_go(store, pages, manifest):
    pages.keep(manifest, UID, None)
    store.remove(REPO, None)
    pages.expire()
    assert pages.listing() == []


def test_stop_ends_one_users_wish_and_leaves_anothers(store, pages, manifest):
    pages.keep(manifest, 1, None)
    pages.keep(manifest, 2, None)
    assert pages.bytes() == SIZE
    assert pages.stop(REPO, 1) == SIZE
    (left,) = pages.listing()
    assert (left.uid, left.bytes_resident) == (2, SIZE)
    assert pages.stop(REPO) == SIZE
    assert pages.stop(REPO) == 0


def test_shared_file_stays_locked_while_one_of_two_snapshots_goes(store, pages, manifest):
    if not pages.keep(manifest, UID, None).locked:
        pytest.skip("no memory may be locked here")
    pages.keep(other(store, WEIGHTS), UID, None)
    pages.stop(REPO)
    (left,) = pages.listing()
    assert left.locked
    forget(store)
    assert pages.listing()[0].bytes_resident == SIZE


def test_larger_than_allowed_is_refused(make_pages, manifest):
    small = make_pages(2**19)
    with pytest.raises(NoSpace, match="may be kept warm"):
        small.keep(manifest, UID, None)
    assert small.listing() == []


def test_oldest_goes_for_a_new_one(store, make_pages, manifest, clock):
    pages = make_pages(SIZE + 2**19)
    pages.keep(manifest, UID, None)
    clock.pass_s(1)
    pages.keep(other(store), UID, None)
    assert [row.repo for row in pages.listing()] == [str(OTHER)]


def test_what_is_in_use_does_not_go_for_a_new_one(store, make_pages, manifest):
    pages = make_pages(SIZE + 2**19)
    pages.keep(manifest, UID, None)
    store.leases.grant(REPO, COMMIT, uid=4321, pid=os.getpid())
    with pytest.raises(Busy, match=f"process {os.getpid()} of uid 4321"):
        pages.keep(other(store), UID, None)
    assert [row.repo for row in pages.listing()] == [str(REPO)]


def test_oldest_goes_when_less_may_be_kept(store, make_pages, manifest, clock):
    capacity = [2**30]
    pages = make_pages(lambda: capacity[0])
    pages.keep(manifest, UID, None)
    clock.pass_s(1)
    pages.keep(other(store), UID, None)
    capacity[0] = SIZE + 2**19
    pages.expire()
    assert [row.repo for row in pages.listing()] == [str(OTHER)]
    store.leases.grant(OTHER, COMMIT, uid=4321, pid=os.getpid())
    capacity[0] = -5
    pages.expire()
    assert pages.listing() == []


def test_cancelled_keep_leaves_nothing(pages, manifest):
    def cancel(*_):
        raise Cancelled("no")

    with pytest.raises(Cancelled):
        pages.keep(manifest, UID, None, cancel)
    assert pages.listing() == []


def test_cancelled_prolongation_leaves_what_was_kept(pages, manifest):
    def cancel(*_):
        raise Cancelled("no")

    pages.keep(manifest, UID, None)
    with pytest.raises(Cancelled):
        pages.keep(manifest, UID, 60.0, cancel)
    assert len(pages.listing()) == 1


def test_stop_ends_a_keep_that_is_under_way(store, pages, manifest):
    forget(store)
    outcome = []

    def stop(*_):
        if not outcome:
            outcome.append(pages.stop(REPO))

    with pytest.raises(Cancelled, match="stopped meanwhile"):
        pages.keep(manifest, UID, None, stop)
    assert outcome == [SIZE]
    assert pages.listing() == []


def test_stop_after_the_last_byte_locks_nothing(pages, manifest):
    def stop(done, total, note):
        if done == total:
            pages.stop(REPO)

    with pytest.raises(Cancelled, match="stopped meanwhile"):
        pages.keep(manifest, UID, None, stop)
    assert not pages._reader.are_locked({sha256(b"{}"): 2})


def test_second_keep_waits_for_the_first_and_says_so(store, pages, manifest):
    elsewhere = other(store)
    notes, begun, go_on = [], threading.Event(), threading.Event()

    def first(*_):
        begun.set()
        assert go_on.wait(20)

    def second(done, total, note):
        notes.append(note)

    one = threading.Thread(target=pages.keep, args=(manifest, UID, None, first))
    two = threading.Thread(target=pages.keep, args=(elsewhere, UID, None, second))
    one.start()
    assert begun.wait(20)
    two.start()
    until(lambda: any(notes), "the second one says what it waits for")
    go_on.set()
    one.join(20)
    two.join(20)
    assert {row.bytes_resident for row in pages.listing()} == {SIZE}


def test_file_that_is_gone_is_damage(store, pages, manifest):
    store.blobs.path(sha256(WEIGHTS)).unlink()
    with pytest.raises(StoreDamaged):
        pages.keep(manifest, UID, None)
    assert pages.listing() == []


def test_file_that_was_cut_short_is_damage(store, pages, manifest):
    path = store.blobs.path(sha256(WEIGHTS))
    path.chmod(0o600)
    os.truncate(path, 5)
    with pytest.raises(StoreDamaged):
        pages.keep(manifest, UID, None)


def test_next_daemon_goes_on_keeping(store, make_pages, manifest, clock):
    before = make_pages()
    before.keep(manifest, UID, None)
    before.keep(other(store), UID, 60.0)
    before.close()
    forget(store)
    clock.pass_s(61)
    again = make_pages()
    again.restore()
    (shown,) = again.listing()
    assert (shown.repo, shown.bytes_resident) == (str(REPO), SIZE)


def test_next_daemon_lets_expire_what_it_took_up(store, make_pages, manifest, clock):
    before = make_pages()
    before.keep(manifest, UID, 60.0)
    before.close()
    again = make_pages()
    again.restore()
    clock.pass_s(61)
    again.expire()
    assert again.listing() == []


def test_next_daemon_bears_a_record_it_cannot_read(store, pages):
    for content in (b"{", b'{"wishes": [{"repo": "../x"}]}', b"\xff" * 9):
        (store.layout.root / "warm.json").write_bytes(content)
        pages.restore()
    assert pages.listing() == []


def test_next_daemon_bears_a_snapshot_that_is_gone(store, make_pages, manifest):
    make_pages().keep(manifest, UID, None)
    store.remove(REPO, None)
    again = make_pages()
    again.restore()
    assert again.listing() == []


def test_close_ends_a_keep_that_is_under_way(pages, manifest):
    with pytest.raises(Cancelled):
        pages.keep(manifest, UID, None, lambda *_: pages.close())
