"""Peaks that are true: reached between two samples, in this span, and by whom they are told of."""

import os
import subprocess
import sys

import pytest

import zhcache
from harness.allocating import Child

MIB = 2**20
BIG = 200


def touch(mib: int) -> None:
    block = bytearray(mib << 20)
    del block


def highest_sample(m, pid=None):
    uses = [one for sample in m.samples for one in sample.processes]
    return max(one.rss for one in uses if pid in (None, one.pid))


def test_memory_of_a_moment_between_two_samples_is_seen():
    with Child() as child, zhcache.monitor(by_hand=True) as m:
        m.tick()
        child.tell(f"touch {BIG}")
        m.tick()
        (told,) = [one for one in m.summary().processes if one.pid == child.pid]
        assert highest_sample(m, child.pid) < BIG * MIB < told.rss <= m.peak.rss


def test_memory_of_this_process_between_two_samples_is_seen():
    with zhcache.monitor(by_hand=True) as m:
        m.tick()
        touch(BIG)
    assert highest_sample(m) + BIG * MIB // 2 < m.peak.rss


def test_what_was_reached_before_is_not_of_this_span():
    with Child() as child:
        child.tell(f"touch {BIG}")
        with zhcache.monitor(by_hand=True, processes=[child.pid]) as m:
            m.tick()
            child.tell("touch 20")
            m.tick()
        assert 20 * MIB < m.peak.rss < BIG * MIB


def test_what_is_reset_by_an_inner_monitor_stays_with_the_outer_one():
    with Child() as child, zhcache.monitor(by_hand=True) as outer:
        outer.tick()
        child.tell(f"touch {BIG}")
        with zhcache.monitor(by_hand=True, processes=[child.pid]) as inner:
            inner.tick()
        assert inner.peak.rss < BIG * MIB < outer.peak.rss


def test_a_child_that_came_and_went_between_two_samples_is_seen():
    with zhcache.monitor(by_hand=True) as m:
        m.tick()
        subprocess.run([sys.executable, "-c", f"bytearray({4 * BIG} << 20)"], check=True)
        m.tick()
        assert m.peak.rss > 4 * BIG * MIB


def test_a_child_does_not_take_its_parents_past_for_its_own():
    # Until it begins its program, it is what it was forked from.
    code = (
        "import subprocess, zhcache\n"
        f"big = bytearray({4 * BIG} << 20)\n"
        "child = subprocess.Popen(['cat'], stdin=subprocess.PIPE)\n"
        "del big\n"
        "with zhcache.monitor(by_hand=True) as m:\n"
        "    m.tick(); child.communicate(); m.tick()\n"
        "    print(m.peak.rss)\n"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(told.stdout) < BIG * MIB


def test_a_process_of_others_is_not_touched():
    with Child() as child:
        child.tell(f"touch {BIG}")
        with zhcache.monitor(by_hand=True, processes="all") as m:
            m.tick()
        with open(f"/proc/{child.pid}/status") as status:
            (line,) = [line for line in status if line.startswith("VmHWM:")]
        assert int(line.split()[1]) * 1024 > BIG * MIB


def test_cpu_of_a_child_counts_once_and_to_its_end():
    with zhcache.monitor(by_hand=True) as m:
        m.tick()
        with Child() as child:
            child.tell("burn 0.3")
            m.tick()
            child.tell("burn 0.3")
            child.end()
        own = os.times()
        m.tick()
        assert m.summary().cpu_seconds >= 0.6
        # Were the child counted when it lived and again when it was waited for, it would be more.
        assert m.summary().cpu_seconds < 0.6 + 0.3 + own.user + own.system


def test_a_grandchild_whose_parent_ended_is_still_watched():
    code = (
        "import subprocess, sys\n"
        "one = subprocess.Popen(['sleep', '60'], stdout=subprocess.DEVNULL)\n"
        "print(one.pid, flush=True)\n"
        "sys.stdin.readline()\n"
    )
    with (
        zhcache.monitor(by_hand=True) as m,
        subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as parent,
    ):
        pid = int(parent.stdout.readline())
        try:
            assert pid in {one.pid for one in m.tick().processes}
            parent.communicate("\n", timeout=60)
            assert pid in {one.pid for one in m.tick().processes}
        finally:
            os.kill(pid, 9)


def test_disk_is_what_the_kernel_counts(tmp_path):
    def written():
        with open("/proc/self/io") as io:
            return next(int(line.split()[1]) for line in io if line.startswith("write_bytes"))

    before = written()
    with zhcache.monitor(by_hand=True) as m:
        m.tick()
        with (tmp_path / "file").open("wb") as file:
            file.write(os.urandom(MIB))
            file.flush()
            os.fsync(file.fileno())
        m.tick()
        wrote = written() - before
        if not wrote:
            pytest.skip("the folder for tests is on no disk")
        assert m.summary().written == wrote
