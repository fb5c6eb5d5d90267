"""Ctrl-C leaves a job running; a second one cancels it."""

import signal
from pathlib import Path

from simulators.daemon import DaemonSimulator, describe


def test_first_ctrl_c_leaves_the_job_running_and_says_so(
    daemon: DaemonSimulator, started, snapshot: Path
) -> None:
    daemon.incoming["org/name"] = describe("org/name", snapshot)
    daemon.go_on.clear()
    process = started("prefetch", "org/name")
    assert daemon.streaming.wait(20)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "zhcache wait j1" in err
    assert "Traceback" not in err
    assert daemon.jobs["j1"].state == "queued"


def test_second_ctrl_c_cancels_the_job(daemon: DaemonSimulator, started, snapshot: Path) -> None:
    daemon.incoming["org/name"] = describe("org/name", snapshot)
    daemon.go_on.clear()
    process = started("prefetch", "org/name")
    assert daemon.streaming.wait(20)
    process.send_signal(signal.SIGINT)
    while "wait j1" not in process.stderr.readline():
        pass
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "cancelled" in err
    assert daemon.jobs["j1"].state == "cancelled"


def test_a_closed_pipe_ends_the_command_quietly(
    daemon: DaemonSimulator, started, snapshot: Path
) -> None:
    for number in range(2000):
        daemon.hold(f"org/name-{number}", snapshot)
    process = started("ls")
    process.stdout.readline()
    process.stdout.close()
    err = process.stderr.read()
    process.wait(20)
    assert err == ""
