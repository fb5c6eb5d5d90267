"""A monitor from its beginning to its end: threads, forks, errors, what it holds and writes."""

import json
import os
import subprocess
import sys
import threading
import types

import pytest

import zhcache
from harness.allocating import Child
from zhcache.errors import UsageError


@pytest.fixture
def scripted(tmp_path):
    """Runs a script in a process of its own and returns what it said."""

    def run(code: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    return run


def lines(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_a_thread_takes_samples_until_the_block_ends():
    seen = threading.Event()

    class Counting(zhcache.monitor):
        def tick(self):
            sample = super().tick()
            if len(self.samples) >= 3:
                seen.set()
            return sample

    with Counting(interval=0.05) as m:
        assert seen.wait(30)
    count = len(m.samples)
    assert count >= 4
    assert m.samples[0].elapsed < m.samples[-1].elapsed <= m.seconds
    assert m.tick() is None
    assert "zhcache-monitor" not in {one.name for one in threading.enumerate()}


def test_what_the_block_raises_passes_and_the_log_is_ended(tmp_path):
    log = tmp_path / "log.jsonl"
    with pytest.raises(KeyError), zhcache.monitor(log=log):
        raise KeyError("mine")
    assert [one["kind"] for one in lines(log)] == ["sample", "sample", "summary"]
    assert {one["schema"] for one in lines(log)} == {1}


def test_what_is_not_known_is_left_out_of_the_log(tmp_path):
    with zhcache.monitor(log=tmp_path / "log", by_hand=True) as m:
        first = m.tick()
    shown = lines(tmp_path / "log")[0]
    assert "cpu" not in shown["machine"]
    assert first.machine.cpu is None
    assert all("cpu" not in one and "vram" not in one for one in shown["processes"])
    assert "gpus" not in shown


def test_a_monitor_that_nobody_ended_is_ended_with_its_process(scripted, tmp_path):
    scripted("import zhcache\nm = zhcache.monitor(log='log').__enter__()\n")
    assert lines(tmp_path / "log")[-1]["kind"] == "summary"


def test_a_fork_does_not_end_its_parents_monitor(scripted, tmp_path):
    said = scripted(
        "import os, sys, zhcache\n"
        "with zhcache.monitor(log='log') as m:\n"
        "    m._lock.acquire()\n"
        "    pid = os.fork()\n"
        "    if not pid:\n"
        "        m.stop(); m.peak; assert m.tick() is None\n"
        # One of its own works in the child.
        "        with zhcache.monitor(by_hand=True) as n: assert n.tick().processes[0].pid\n"
        "        sys.exit(0)\n"
        "    m._lock.release()\n"
        "    assert os.waitpid(pid, 0)[1] == 0\n"
        "    m.tick()\n"
        "print('ended')\n"
    )
    assert said == "ended\n"
    assert [one["kind"] for one in lines(tmp_path / "log")].count("summary") == 1


def test_a_full_disk_is_told_once_and_measuring_goes_on():
    told = []
    with zhcache.monitor(log="/dev/full", by_hand=True, warn=told.append) as m:
        m.tick()
        m.tick()
    assert [one.code for one in told] == ["no_space"]
    assert len(m.samples) == 3


def test_who_is_told_of_a_full_disk_may_end_the_monitor():
    m = zhcache.monitor(log="/dev/full", by_hand=True, warn=lambda error: m.stop())
    with m:
        assert m.samples == []
    assert m.seconds is not None
    m.stop()
    assert m.tick() is None


def test_without_descriptors_samples_are_left_out_and_nobody_is_taken_for_dead(scripted):
    said = scripted(
        "import resource, zhcache\n"
        "with zhcache.monitor(by_hand=True) as m:\n"
        "    m.tick()\n"
        "    limit = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limit[1]))\n"
        "    assert m.tick() is None and m.tick() is None\n"
        "    resource.setrlimit(resource.RLIMIT_NOFILE, limit)\n"
        "    print(len(m.tick().processes))\n"
    )
    number, warning = said.splitlines()
    assert number == "1"
    assert "could not be taken" in warning


def test_the_processes_of_a_list_and_what_they_start():
    with (
        Child() as watched,
        Child() as other,
        zhcache.monitor(by_hand=True, processes=[watched.pid]) as m,
    ):
        assert [one.pid for one in m.tick().processes] == [watched.pid]
        assert not m.is_over
        m.add(other.pid)
        assert {one.pid for one in m.tick().processes} == {watched.pid, other.pid}
        watched.end()
        other.end()
        assert m.tick().processes == []
        assert m.is_over


def test_everybody_is_those_who_take_something():
    with Child() as child, zhcache.monitor(by_hand=True, processes="all") as m:
        m.tick()
        child.tell("burn 0.5")
        assert child.pid in {one.pid for one in m.tick().processes}
        child.tell("nothing")
        m.tick()
        assert child.pid not in {one.pid for one in m.tick().processes}


def test_a_process_that_begins_another_program_is_called_by_it():
    with subprocess.Popen(
        ["sh", "-c", "read x; exec sleep 60"], stdin=subprocess.PIPE, text=True
    ) as shell:
        with zhcache.monitor(by_hand=True, processes=[shell.pid]) as m:
            assert m.tick().processes[0].command.startswith("sh -c")
            shell.stdin.write("\n")
            shell.stdin.flush()
            # Ends when the kernel has the other program's name; the limit is the test's own.
            while m.tick().processes[0].command != "sleep 60":
                pass
        shell.kill()


BLANKS_ITS_COMMAND_LINE = """
import ctypes
words = open("/proc/self/stat").read().rpartition(")")[2].split()
begin, size = int(words[45]), int(words[46]) - int(words[45])
kept = ctypes.string_at(begin, size)
ctypes.memset(begin, 0, size)
print(flush=True)
input()
ctypes.memmove(begin, kept, size)
print(flush=True)
input()
"""


def test_who_has_no_command_line_yet_is_asked_again():
    # As between the steps of execve, where the kernel's new name comes before the new arguments.
    with subprocess.Popen(
        [sys.executable, "-c", BLANKS_ITS_COMMAND_LINE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdin is not None and child.stdout is not None
        child.stdout.readline()
        with zhcache.monitor(by_hand=True, processes=[child.pid]) as m:
            assert m.tick().processes[0].command.startswith("[")
            child.stdin.write("\n")
            child.stdin.flush()
            child.stdout.readline()
            assert m.tick().processes[0].command.startswith(sys.executable)
        child.kill()


def test_models_are_told_of_those_who_hold_them():
    with Child() as child, zhcache.monitor(by_hand=True, processes=[child.pid]) as m:
        m.label({child.pid: "org/name"})
        m.tick()
    assert m.summary().processes[0].model == "org/name"


class Cuda(types.ModuleType):
    """What torch.cuda answers with, for a device that allocated 7 of 9 bytes."""

    def __init__(self):
        super().__init__("torch.cuda")
        self.peak, self.resets = 7, 0

        def is_initialized():
            return True

        self.is_initialized = is_initialized

    def device_count(self):
        return 1

    def reset_peak_memory_stats(self, device):
        self.peak, self.resets = 1, self.resets + 1

    def memory_stats(self, device):
        return {"allocated_bytes.all.peak": self.peak, "reserved_bytes.all.peak": self.peak + 2}


def test_torchs_own_peaks_are_told_and_an_inner_monitor_takes_none_away(monkeypatch):
    cuda = Cuda()
    monkeypatch.setitem(sys.modules, "torch.cuda", cuda)
    with zhcache.monitor(by_hand=True) as outer:
        assert cuda.resets == 1
        cuda.peak = 50
        with zhcache.monitor(by_hand=True) as inner:
            inner.tick()
    assert outer.peak.torch["cuda:0"].allocated == 50
    assert outer.peak.torch["cuda:0"].reserved == 52
    assert inner.peak.torch["cuda:0"].allocated == 1


def test_torch_is_not_imported(scripted):
    said = scripted(
        "import sys, zhcache\n"
        "with zhcache.monitor(by_hand=True) as m: m.tick()\n"
        "print('torch' in sys.modules)\n"
    )
    assert said == "False\n"


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"interval": 0}, "interval"),
        ({"interval": float("nan")}, "interval"),
        ({"processes": "some"}, "choice"),
        ({"processes": [2**22 + 1]}, "process"),
    ],
)
def test_wrong_arguments_are_told(wrong, word):
    with pytest.raises(UsageError, match=word):
        zhcache.monitor(**wrong)


def test_a_monitor_measures_once():
    m = zhcache.monitor(by_hand=True)
    with pytest.raises(UsageError, match="not begun"):
        m.peak  # noqa: B018
    with m:
        pass
    with pytest.raises(UsageError, match="once"):
        m.__enter__()


def test_without_psutil_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "psutil", None)
    with pytest.raises(UsageError, match=r"zhcache\[monitor\]"):
        zhcache.monitor().__enter__()
