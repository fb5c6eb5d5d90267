"""Fill workers that die, hang or lie: all who wait are told, and nothing of it is kept."""

import os
import signal
import threading

import pytest

from harness.daemon import until
from zhcache.errors import NoSpace, WorkerDied, ZhcacheError


def nothing_is_left(desk, descriptors):
    until(lambda: desk.arenas.bytes_on("cpu") == 0, "nothing is kept")
    assert descriptors() == 0
    assert list(desk.arenas._shelf) == []


def test_killed_worker_is_told_to_all_who_wait_and_nothing_is_kept(desk, control, descriptors):
    control.do("gate")
    waiting = [desk.later(uid=uid) for uid in (7, 8)]
    until(lambda: [f for f in desk.arenas._supply._fills if len(f.leases) == 2], "both wait")
    os.kill(control.pid(), signal.SIGKILL)
    for one in waiting:
        with pytest.raises(WorkerDied, match="ended early: it ended with -9"):
            one.end()
    nothing_is_left(desk, descriptors)
    control.do()
    assert len(desk.attach()) == 2


def test_death_between_two_components_keeps_neither(desk, control, descriptors):
    control.do("die")
    with pytest.raises(WorkerDied, match="ended early"):
        desk.attach()
    nothing_is_left(desk, descriptors)


def test_silent_worker_is_ended(desk, control, launcher, descriptors):
    control.do("hang")
    desk.renew(stall_s=2.0)
    with pytest.raises(WorkerDied, match=r"said nothing for 2\.0 seconds"):
        desk.attach()
    assert launcher.children[0].process.poll() is not None
    nothing_is_left(desk, descriptors)


@pytest.mark.parametrize(
    ("lie", "words"),
    [
        ("garbage", "a frame of"),
        ("unsealed", "the memory of unet is not sealed"),
        ("short", "the memory of unet is not sealed"),
        ("stray", "'other', which was not asked for"),
        ("askew", "weight lies at 7"),
    ],
)
def test_what_a_worker_says_is_checked(desk, control, launcher, descriptors, lie, words):
    control.do(lie)
    with pytest.raises(WorkerDied, match=words):
        desk.attach()
    assert launcher.children[0].process.poll() is not None
    nothing_is_left(desk, descriptors)


def test_reported_error_reaches_who_asked(desk, control, descriptors):
    control.do("fail")
    with pytest.raises(NoSpace, match="the GPU is full"):
        desk.attach()
    nothing_is_left(desk, descriptors)


def test_worker_that_cannot_be_started_is_told(desk, launcher, descriptors):
    def refuse(kind, name):
        raise ZhcacheError("no torch here", hint="install it")

    launcher.launch = refuse
    with pytest.raises(ZhcacheError, match="no torch here"):
        desk.attach()
    nothing_is_left(desk, descriptors)


def test_defect_while_starting_is_told_and_not_hung_on(desk, launcher, descriptors):
    def break_down(kind, name):
        raise AttributeError(name)

    launcher.launch = break_down
    with pytest.raises(ZhcacheError, match="defect of its own: AttributeError"):
        desk.attach()
    nothing_is_left(desk, descriptors)


def test_worker_abandoned_while_it_starts_is_ended(desk, launcher, control):
    launch, gate, gone = launcher.launch, threading.Event(), threading.Event()

    def slow(kind, name):
        gate.wait(30)
        return launch(kind, name)

    launcher.launch = slow
    control.do("gate")
    waiting = desk.later(cancelled=gone)
    until(lambda: desk.arenas._supply._fills, "a fill begins")
    gone.set()
    with pytest.raises(ZhcacheError):
        waiting.end()
    gate.set()
    until(lambda: launcher.children and launcher.children[0].process.poll() is not None, "it ends")
    until(lambda: not desk.arenas._supply._fills, "the fill is over")


def test_lease_that_ends_while_it_waits_ends_the_fill(desk, control, launcher):
    control.do("gate")
    lease = desk.lease()
    waiting = desk.later(lease=lease)
    control.pid()
    until(lambda: [f for f in desk.arenas._supply._fills if f.leases], "it waits")
    desk.release(lease)
    with pytest.raises(ZhcacheError):
        waiting.end()
    until(lambda: launcher.children[0].process.poll() is not None, "the worker ends")


def test_fill_that_lands_after_all_who_wanted_it_left_can_be_seen_and_stopped(
    desk, control, launcher
):
    launch, gone = launcher.launch, threading.Event()

    def deaf(kind, name):
        worker = launch(kind, name)
        worker.kill = lambda: None
        return worker

    launcher.launch = deaf
    control.do("gate")
    waiting = desk.later(cancelled=gone)
    control.pid()
    gone.set()
    with pytest.raises(ZhcacheError):
        waiting.end()
    control.go()
    until(lambda: desk.arenas.bytes_on("cpu") and not desk.arenas._supply._fills, "it lands")
    assert [line.bytes for line in desk.arenas.listing()] == [4000]
    assert desk.arenas.stop("lab/pipe", None, lambda uid: True) == (4000, ["cpu"])
