"""A daemon that starts takes back the memory that the service manager kept, and no other."""

import contextlib
import os

import pytest

from harness.daemon import until
from harness.fillkit import GPU, arenas_of
from harness.manager import Manager
from harness.storekit import COMMIT
from zhcached.residency.arena import custody


@pytest.fixture
def manager(tmp_path, monkeypatch):
    with contextlib.closing(Manager(tmp_path)) as made:
        monkeypatch.setenv("NOTIFY_SOCKET", made.address)
        yield made


@pytest.fixture
def restart(desk, manager, clock):
    """Ends the front without a word, as a kill would, and starts the next."""

    def again(kept=None, **settings):
        desk.arenas.close()
        desk.arenas = arenas_of(desk.store, desk.clock, desk.launcher, **settings)
        desk.arenas.take_over(manager.copies() if kept is None else kept)
        return desk.arenas

    return again


def filled(desk, manager, **more):
    found = desk.attach(**more)
    until(lambda: len(manager.names()) == len(found), "the manager keeps them")
    return found


def records(store):
    return sorted(path.name for path in (store.layout.root / "residency").glob("*.json"))


def test_manager_keeps_each_arena_by_its_key(desk, manager):
    found = filled(desk, manager)
    assert manager.names() == sorted(f"arena-{arena.key}" for arena, _ in found)


def test_next_daemon_attaches_without_a_fill(desk, manager, restart, control):
    before = filled(desk, manager)
    restart()
    after = desk.attach(uid=8)
    assert [arena for arena, _ in after] == [arena for arena, _ in before]
    assert [os.pread(fd, 5, 0) for _, fd in after] == [b"uuuuu", b"vvvvv"]
    assert len(control.starts) == 1


def test_leases_from_before_hold_their_arenas_until_their_process_is_gone(
    desk, manager, restart, store, clock
):
    lease = desk.lease()
    filled(desk, manager, lease=lease)
    restart(keep_alive=0.0)
    clock.pass_s(10**6)
    desk.arenas.expire()
    assert desk.arenas.bytes_on("cpu") == 4000
    (line,) = desk.arenas.listing()
    assert (line.uid, line.leases) == (7, 1)
    store.leases.end(lease)  # as the store does when it finds the process gone
    desk.arenas.expire()
    assert desk.arenas.bytes_on("cpu") == 0
    until(lambda: manager.names() == [], "the manager lets them go")
    assert records(store) == ["state.json"]


def test_lease_that_ended_while_no_daemon_ran_holds_nothing(desk, manager, restart, store):
    lease = desk.lease()
    filled(desk, manager, lease=lease)
    store.leases.end(lease)
    restart(keep_alive=0.0)
    assert desk.arenas.bytes_on("cpu") == 0


def test_what_was_kept_warm_is_kept_on(desk, manager, restart, clock):
    desk.arenas.keep("lab/pipe", COMMIT, "cpu", 7, None)
    until(lambda: len(manager.names()) == 2, "the manager keeps them")
    restart(keep_alive=1.0)
    clock.pass_s(10**6)
    desk.arenas.expire()
    (line,) = desk.arenas.listing()
    assert (line.repo, line.bytes, line.expires) == ("lab/pipe", 4000, None)


def test_memory_without_a_record_is_closed_and_forgotten(desk, manager, restart, store):
    filled(desk, manager)
    for name in records(store):
        if name != "state.json":
            (store.layout.root / "residency" / name).unlink()
    restart()
    assert desk.arenas.bytes_on("cpu") == 0
    until(lambda: manager.names() == [], "the manager lets them go")


def test_record_without_memory_is_deleted(desk, manager, restart, store, control):
    filled(desk, manager)
    restart(kept=[])
    assert records(store) == ["state.json"]
    desk.attach()
    assert len(control.starts) == 2


@pytest.mark.parametrize("spoil", ["torn", "state", "boot", "other", "unsealed", "short", "alien"])
def test_what_does_not_fit_together_is_not_taken(desk, manager, restart, store, spoil, monkeypatch):
    # A GPU's memory tells nothing of itself; there the names alone must agree.
    found = filled(desk, manager, device=GPU if spoil == "other" else "cpu")
    folder = store.layout.root / "residency"
    names = [name for name in records(store) if name != "state.json"]
    kept = manager.copies()
    if spoil == "torn":
        for name in names:
            (folder / name).write_bytes(b'{"boot": "x", "ar')
    if spoil == "state":
        (folder / "state.json").write_bytes(b"\xff[[[")
    if spoil == "boot":
        monkeypatch.setattr(custody, "boot_id", lambda: "another")
    if spoil == "other":
        a, b = (folder / name for name in names)
        content = a.read_bytes()
        a.write_bytes(b.read_bytes())
        b.write_bytes(content)
    if spoil in ("unsealed", "short"):
        fd = os.memfd_create("arena", os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, found[0][0].bytes)
        if spoil == "short":
            os.close(fd)
            fd = os.dup(kept[1][1])
        for _, old in kept:
            os.close(old)
        kept = [(f"arena-{found[0][0].key}", fd)]
        del found[1:]
    if spoil == "alien":
        kept = [("arena-../../x", kept[0][1]), ("other", kept[1][1])]
    restart(kept=kept)
    assert desk.arenas.bytes_on("cpu") == desk.arenas.bytes_on(GPU) == 0
    assert records(store) == ["state.json"]


def test_same_memory_twice_is_kept_once(desk, manager, restart, descriptors):
    filled(desk, manager)
    ours = descriptors() - len(manager.names())
    restart(kept=[*manager.copies(), *manager.copies()])
    assert desk.arenas.bytes_on("cpu") == 4000
    assert descriptors() - len(manager.names()) == ours
    assert len(manager.names()) == 2


def test_gpu_memory_comes_back_with_its_scope(desk, manager, restart, control):
    filled(desk, manager, device=GPU)
    restart()
    desk.attach(device=GPU)
    assert len(control.starts) == 1
    desk.attach(device=GPU, uid=8)
    assert len(control.starts) == 2


def test_full_disk_costs_the_next_daemon_a_fill_and_nothing_else(desk, manager, store, control):
    folder = store.layout.root / "residency"
    folder.rmdir() if folder.exists() else None
    folder.write_text("in the way")
    assert len(desk.attach()) == 2
    assert manager.names() == []


def test_without_a_manager_arenas_live_as_long_as_the_daemon(desk, monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert len(desk.attach()) == 2
