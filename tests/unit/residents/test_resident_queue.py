"""Calls in line: positions, turns between users, cancelling, and clients that hang up."""

import os

import msgspec
import pytest

from zhcache.protocol import residency
from zhcached.residency.resident import calls


@pytest.fixture
def gate(tmp_path):
    """Returns where calls wait; ``gate.touch()`` lets them go on."""
    return tmp_path / "gate"


def waiting(client, gate):
    """Starts a call that waits for the gate, and returns once the worker has it."""
    number = client.call(do="wait", gate=str(gate), steps=1, wants_steps=True)
    client.until(residency.Step, number=number)
    return number


def line_of(house):
    (line,) = house.residents.listing()
    return line.running, line.queued


def test_positions_are_told_and_count_down(make, gate):
    client = make().client()
    first = waiting(client, gate)
    second, third = client.call(), client.call()
    assert client.until(residency.Queued, number=second).position == 1
    assert client.until(residency.Queued, number=third).position == 2
    gate.touch()
    client.end_of(first)
    heard = [client.next() for _ in range(4)]
    told = [(e.id, e.position) for e in heard if isinstance(e, residency.Queued)]
    assert told == [(second, 0), (third, 1), (third, 0)]


def test_users_take_turns(make, gate):
    house = make()
    many, few = house.client(uid=1), house.client(uid=2)
    first = waiting(many, gate)
    numbers = [many.call() for _ in range(5)]
    many.until(residency.Queued, number=numbers[-1])
    late = few.call()
    assert few.until(residency.Queued, number=late).position == 1, (
        "the running call was the turn of the other"
    )
    gate.touch()
    many.end_of(first)
    nth = few.end_of(late).fields["nth"]
    assert (nth, many.end_of(numbers[-1]).fields["nth"]) == (2, 7)


def test_queued_call_that_is_cancelled_never_reaches_the_worker(make, gate):
    client = make().client()
    first = waiting(client, gate)
    second, third = client.call(), client.call()
    client.cancel(second)
    assert client.end_of(second).error.code == "cancelled"
    gate.touch()
    client.end_of(first)
    assert client.end_of(third).fields["nth"] == 2


def test_running_call_that_is_cancelled_is_answered_at_once_and_the_worker_stays(make, gate):
    client = make().client()
    number = waiting(client, gate)
    client.cancel(number)
    assert client.end_of(number).error.code == "cancelled"
    assert client.do().fields["nth"] == 2


def test_cancelled_calls_id_may_be_used_again(make, gate):
    client = make().client()
    number = waiting(client, gate)
    client.cancel(number)
    client.end_of(number)
    assert client.do(id=number).fields["nth"] == 2


def test_worker_that_does_not_stop_is_ended_and_others_go_on(make):
    house = make(timeouts={"cancel": 0.2})
    deaf, other = house.client(uid=1), house.client(uid=2)
    number = deaf.call(do="deaf", steps=1, wants_steps=True)
    deaf.until(residency.Step)
    queued = other.call()
    other.until(residency.Queued)
    deaf.cancel(number)
    assert deaf.end_of(number).error.code == "cancelled"
    assert other.end_of(queued).fields["nth"] == 1
    assert len(house.launcher.started) == 2


def test_call_over_its_time_is_ended_and_told(make):
    house = make(call_timeout=0.3)
    client = house.client()
    failed = client.do(do="wait")
    assert "longer than 0.3 seconds" in failed.error.message
    assert client.do().fields["nth"] == 2


def test_cancel_of_a_call_that_is_over_or_never_was_does_nothing(make):
    client = make().client()
    number = client.call()
    client.end_of(number)
    client.cancel(number)
    client.cancel(4711)
    assert client.do().fields["nth"] == 2


def test_client_that_hangs_up_takes_its_calls_along(make, gate, tmp_path):
    house = make(told={"log": str(tmp_path / "log")})
    gone, other = house.client(uid=1), house.client(uid=2)
    waiting(gone, gate)
    gone.call()
    gone.until(residency.Queued, number=2)
    queued = other.call()
    other.until(residency.Queued, number=queued)
    gone.close()
    assert other.end_of(queued).fields["nth"] == 2
    assert "cancels" in (tmp_path / "log").read_text()


def test_client_that_hangs_up_while_the_worker_loads_is_forgotten(make, gate, store):
    house = make(told={"gate": str(gate)})
    gone = house.client(uid=1)
    gone.call()
    gone.until(residency.Queued)
    gone.close()
    gate.touch()
    other = house.client(uid=2)
    assert other.do().fields["nth"] == 1
    assert [uid for _, _, uid in store.leases.counts()] == [2]


def test_one_user_cannot_fill_the_line(make, gate):
    house = make()
    greedy, other = house.client(uid=1), house.client(uid=2)
    waiting(greedy, gate)
    numbers = [greedy.call() for _ in range(calls.MAX_CALLS)]
    failed = greedy.end_of(numbers[-1])
    assert (failed.error.code, failed.error.hint) == (
        "busy", "wait for some of them to return",
    )  # fmt: skip
    queued = other.call()
    assert other.until(residency.Queued, number=queued).position == 1
    gate.touch()
    assert greedy.end_of(numbers[-2]).fields["got"] == {}
    assert greedy.do().fields["got"] == {}


def test_what_runs_and_waits_is_listed(make, gate):
    house = make()
    client = house.client(uid=9)
    number = waiting(client, gate)
    client.until(residency.Queued, number=client.call())
    (line,) = house.residents.listing()
    said = (line.running, line.queued, line.leases, line.uid, line.expires, line.mode, line.bytes)
    assert said == (1, 1, 1, 9, None, "resident", 1000)
    # A bool would pass for a number here and be refused by who reads the answer.
    assert msgspec.convert(msgspec.to_builtins(line), type(line)) == line
    os.kill(line.pid, 0)
    gate.touch()
    client.end_of(number)
