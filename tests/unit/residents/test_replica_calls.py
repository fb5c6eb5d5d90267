"""A client with several calls in flight: too many, one that fails, one who leaves in the middle."""

import os
import signal

import pytest

from harness.daemon import until
from zhcache.errors import Busy, UsageError
from zhcache.protocol.residency import Call, ResidentRequest, Step
from zhcache.resident.conversation import Conversation
from zhcache.resident.session import Session
from zhcached.residency.resident import calls


@pytest.fixture
def house(make, tmp_path):
    return make(told={"log": str(tmp_path / "log")})


@pytest.fixture
def session(house, tmp_path):
    request = ResidentRequest(repo="lab/one", device="cpu", devices=["cpu", "cpu"])
    socket = house.listen(tmp_path)
    opened = Session(socket, request, Conversation(socket, request))
    workers = house.residents._instances.all
    until(lambda: all(one.loaded for one in workers()), "both workers are ready")
    yield opened
    opened.end()


def make_calls(session, arguments, on_event=lambda *_: None):
    """Makes calls with these arguments; returns what came of each."""
    found = {}

    def made(place, number):
        return Call(id=number, arguments=arguments[place], wants_steps=True), []

    def read(place, answer, fds):
        found[place] = answer.fields

    session.calls(len(arguments), made, on_event, read)
    return [found[place] for place in range(len(arguments))]


def test_answers_are_given_to_their_places(session):
    found = make_calls(session, [{"prompt": str(number)} for number in range(20)])
    assert [one["got"]["prompt"] for one in found] == [str(number) for number in range(20)]


def test_both_workers_have_calls_and_two_for_each_are_in_flight(session, house, tmp_path):
    gate = tmp_path / "gate"
    seen = []

    def look(_, event):
        if isinstance(event, Step):
            counted = house.residents._allowance._calls
            if not seen:
                until(lambda: counted.total() == 4, "as many are in flight as should be")
                gate.touch()
            seen.append(counted.total())

    found = make_calls(session, [{"do": "wait", "gate": str(gate), "steps": 1}] * 12, look)
    assert (len({one["pid"] for one in found}), max(seen)) == (2, 4)


def test_calls_refused_as_too_many_are_made_when_others_have_ended(session, monkeypatch):
    monkeypatch.setattr(calls, "MAX_CALLS", 3)
    found = make_calls(session, [{"n": number} for number in range(9)])
    assert [one["got"]["n"] for one in found] == list(range(9))


def test_call_refused_with_none_of_ours_in_flight_is_told(session, monkeypatch):
    monkeypatch.setattr(calls, "MAX_CALLS", 0)
    with pytest.raises(Busy):
        make_calls(session, [{}] * 3)


def test_error_of_one_cancels_all_others_and_the_next_calls_work(session, tmp_path):
    waits = {"do": "wait", "gate": str(tmp_path / "never")}
    with pytest.raises(UsageError, match="no such argument"):
        make_calls(session, [waits, {"do": "fail"}, waits, waits, waits])
    assert len(make_calls(session, [{}] * 4)) == 4
    until(lambda: "cancels" in (tmp_path / "log").read_text(), "the running call was cancelled")


@pytest.mark.parametrize("error", [KeyboardInterrupt, FileNotFoundError])
def test_interrupt_in_the_middle_cancels_all_and_keeps_the_connection(session, tmp_path, error):
    waits = {"do": "wait", "gate": str(tmp_path / "never"), "steps": 1}
    before = session._conversation

    def stop(_, event):
        if isinstance(event, Step):
            raise error

    with pytest.raises(error):
        make_calls(session, [waits] * 9, stop)
    assert len(make_calls(session, [{}] * 4)) == 4
    assert session._conversation is before


def test_every_call_that_loses_a_worker_once_arrives(make, tmp_path):
    house = make(timeouts={"crashes": 99})
    request = ResidentRequest(repo="lab/one", device="cpu", devices=["cpu", "cpu"])
    socket = house.listen(tmp_path)
    session = Session(socket, request, Conversation(socket, request))
    begun = []

    def look(place, event):
        if not isinstance(event, Step) or place % 3:
            return
        begun.append(place)
        if begun.count(place) == 2:
            (tmp_path / f"gate {place}").touch()
            return
        at = [one for one in house.residents._instances.all() if one.current is not None]
        (pid,) = [one.pid for one in at if one.current.message.arguments["n"] == place]
        os.kill(pid, signal.SIGKILL)

    arguments = [{"n": number} for number in range(9)]
    for number in (0, 3, 6):
        gate = str(tmp_path / f"gate {number}")
        arguments[number] |= {"do": "wait", "gate": gate, "steps": 1}
    found = make_calls(session, arguments, look)
    assert [one["got"]["n"] for one in found] == list(range(9))
    assert sorted(begun) == [0, 0, 3, 3, 6, 6]
    session.end()
