"""Workers that die, hang or talk nonsense: who is told, and what goes on."""

import os
import signal

import pytest

from harness.daemon import until
from harness.standin import sealed
from zhcache.protocol import residency
from zhcached.residency.resident.instance import Instance


def test_killed_worker_is_replaced_and_its_caller_told(make):
    house = make()
    client, other = house.client(uid=1), house.client(uid=2)
    number = client.call(do="wait", steps=1, wants_steps=True)
    client.until(residency.Step)
    queued = other.call()
    other.until(residency.Queued)
    os.kill(house.launcher.started[0].pid, signal.SIGKILL)
    failed = client.end_of(number)
    assert failed.error.code == "worker_died"
    assert "was killed by SIGKILL" in failed.error.message
    assert other.end_of(queued).fields["nth"] == 1
    assert client.do().fields["nth"] == 2


@pytest.mark.parametrize(
    ("do", "why"),
    [
        ("crash", "was killed by SIGKILL"),
        ("garbage", "malformed frame"),
        ("forge", "out of turn"),
        ("unsealed", "not sealed"),
    ],
)
def test_worker_that_breaks_in_a_call_costs_only_that_call(make, do, why):
    client = make().client()
    before = client.do().fields["pid"]
    failed = client.do(do=do)
    assert (failed.error.code, why in failed.error.message) == ("worker_died", True)
    assert client.do().fields["pid"] != before


def test_worker_that_dies_while_nobody_calls_is_there_again_for_the_next_call(make):
    house = make()
    client = house.client()
    before = client.do().fields["pid"]
    os.kill(before, signal.SIGKILL)
    house.launcher.started[0].wait(30)
    assert client.do().fields["pid"] != before


def test_call_that_the_dead_worker_never_began_is_put_to_the_next_one_with_its_memory(make):
    house = make()
    client, other = house.client(uid=1), house.client(uid=2)
    client.opened()
    os.kill(house.launcher.started[0].pid, signal.SIGSTOP)
    fd = sealed(b"a mask")
    number = client.call([fd], prompt="x")
    os.close(fd)
    until(lambda: house.residents.listing()[0].running, "the call was given to the worker")
    queued = other.call()
    other.until(residency.Queued)
    os.kill(house.launcher.started[0].pid, signal.SIGKILL)
    fields = client.end_of(number).fields
    assert (fields["got"], fields["memory"], fields["nth"]) == ({"prompt": "x"}, ["a mask"], 1)
    assert other.end_of(queued).fields["nth"] == 2


def test_call_that_no_worker_begins_is_put_to_two_of_them_and_no_more(make, tmp_path):
    log = tmp_path / "log"
    house = make(told={"untaken": "crash", "log": str(log)}, timeouts={"crashes": 99})
    assert house.client().do().error.code == "worker_died"
    assert log.read_text().count("untaken") == 2


def test_workers_that_begin_nothing_are_given_up_at_last(make):
    house = make(told={"untaken": "crash"}, timeouts={"crashes": 1, "rest": 3600})
    failed = house.client().do()
    assert "ended 1 times in a row" in failed.error.message
    assert len(house.launcher.started) == 1


@pytest.mark.parametrize("load", ["crash", "garbage"])
def test_worker_that_never_comes_up_is_given_up(make, load, tmp_path):
    log = tmp_path / "log"
    house = make(told={"load": load, "log": str(log)}, timeouts={"crashes": 3, "rest": 3600})
    client = house.client()
    failed = client.until(residency.Failed)
    assert (failed.id, failed.error.code) == (0, "worker_died")
    assert "3 times in a row" in failed.error.message
    again = house.client().next()
    assert (again.error.code, len(log.read_text().splitlines())) == ("worker_died", 3)


def test_worker_that_was_given_up_is_tried_again_after_its_rest(make):
    house = make(told={"load": "crash"}, timeouts={"crashes": 2, "rest": 0.0})
    house.client().until(residency.Failed)
    house.launcher.told = {}
    assert house.client().do().fields["nth"] == 1


def test_calls_that_break_worker_after_worker_are_refused_at_last(make):
    house = make(timeouts={"crashes": 2, "rest": 3600})
    client = house.client()
    client.opened()
    numbers = [client.call(do="crash") for _ in range(4)]
    told = [client.end_of(number).error.message for number in numbers]
    assert ["in a row" in message for message in told] == [False, False, True, True]
    assert client.do().error.code == "worker_died"


def test_worker_that_hangs_while_it_loads_is_ended(make):
    house = make(told={"load": "hang"}, timeouts={"silence": 0.3, "crashes": 99})
    client = house.client()
    client.call()
    until(lambda: house.launcher.started, "a worker was started")
    assert house.launcher.started[0].wait(30) == "was killed by SIGKILL"
    house.launcher.told = {}
    assert client.end_of(1).fields["nth"] == 1


def test_worker_that_does_not_read_is_ended(make):
    house = make(timeouts={"frame": 0.3})
    client = house.client()
    client.opened()
    os.kill(house.launcher.started[0].pid, signal.SIGSTOP)
    assert client.do(prompt="x" * 2**20).fields["nth"] == 1
    assert house.launcher.started[0].wait(0) == "was killed by SIGKILL"


def test_daemon_that_stops_tells_everybody_and_leaves_no_worker(make):
    house = make()
    client = house.client()
    number = client.call(do="wait", steps=1, wants_steps=True)
    client.until(residency.Step)
    house.residents.close()
    assert client.end_of(number).error.code == "daemon_unreachable"
    assert [worker.wait(0) is not None for worker in house.launcher.started] == [True]
    assert house.client().next().error.code == "daemon_unreachable"


def test_fault_of_the_supervisor_is_told_and_the_next_call_has_another(make, monkeypatch):
    client = make().client()
    client.opened()
    with monkeypatch.context() as patch:
        patch.setattr(Instance, "hear", lambda *_: {}["a fault of ours"])
        failed = client.end_of(client.call())
    assert "could not be tended" in failed.error.message
    assert client.do().fields["nth"] == 1
