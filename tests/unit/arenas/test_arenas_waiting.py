"""Room is given in the order in which it was asked for, and what that may not hold up."""

import threading

import pytest

from harness.daemon import until
from harness.fillkit import GPU, Devices, put_pipeline
from zhcache.errors import Cancelled

OTHER = "beef" + "0" * 36


def sizes_of(found):
    return {arena.table.component: arena.bytes for arena, _ in found}


@pytest.fixture
def line(desk, store):
    """A holder of most of the room, and who waits for all of it: uids 7 and 8."""
    put_pipeline(store, "lab/large", OTHER, unet=b"l" * 5000)
    put_pipeline(store, "lab/small", OTHER, unet=b"s" * 1000)
    desk.renew(Devices(cpu=6000), keep_alive=0.0)
    holder, told, gone = desk.lease(), [], threading.Event()
    desk.attach(holder)
    large = desk.later(
        repo="lab/large", commit=OTHER, uid=8, on_progress=told.append, cancelled=gone
    )
    until(lambda: told, "the large one waits")
    return holder, large, gone


def filled(control):
    return len(control.starts)


def test_small_request_does_not_overtake_a_large_one_that_came_before(desk, line, control):
    holder, large, _ = line
    told = []
    small = desk.later(repo="lab/small", commit=OTHER, uid=9, on_progress=told.append)
    until(lambda: told, "the small one is told what it waits for")
    assert told[0].note == "waits for room on cpu, after 1 who came before"
    assert filled(control) == 1
    desk.release(holder)
    assert sizes_of(large.end()) == {"unet": 5000}
    assert sizes_of(small.end()) == {"unet": 1000}


def test_who_has_what_the_first_waits_for_is_let_past(desk, line):
    holder, large, _ = line
    # It will not let go of what it has before it has this as well.
    assert sizes_of(desk.attach(repo="lab/small", commit=OTHER, uid=7)) == {"unet": 1000}
    desk.release(holder)
    assert large.result is None


def test_who_gives_up_holds_nobody_up(desk, line):
    _, large, gone = line
    small = desk.later(repo="lab/small", commit=OTHER, uid=9)
    gone.set()
    with pytest.raises(Cancelled):
        large.end()
    assert sizes_of(small.end()) == {"unet": 1000}


def test_waiting_for_one_device_holds_up_no_other(desk, line):
    assert sizes_of(desk.attach(repo="lab/small", commit=OTHER, uid=9, device=GPU))
