"""Several workers on one line: who takes what, dies, cannot be had, and whose turn it is."""

import os
import signal

import pytest

from harness.daemon import until
from harness.standin import sealed
from zhcache.protocol import residency
from zhcached.residency.resident import calls

TWO = ["cpu", "cpu"]


@pytest.fixture
def gate(tmp_path):
    """Returns where calls wait; ``gate.touch()`` lets them go on."""
    return tmp_path / "gate"


def both(house):
    """Waits until both workers are ready; returns their lines."""
    until(lambda: len(loaded(house)) == 2, "both workers are ready")
    return house.residents.listing()


def loaded(house):
    return [one for one in house.residents._instances.all() if one.loaded is not None]


def waiting(client, gate, **more):
    number = client.call(do="wait", gate=str(gate), steps=1, wants_steps=True, **more)
    client.until(residency.Step, number=number)
    return number


def pid_at(house, client, number):
    """Returns the pid of the worker that a call of this test is at."""
    (found,) = [
        one.pid
        for one in house.residents._instances.all()
        if one.current is not None and one.current.message.id == number
    ]
    return found


def ends(client, numbers):
    """Returns the fields of several calls' results, which come in any order."""
    found = {}
    while not found.keys() >= set(numbers):
        event = client.until(residency.Returned, residency.Failed)
        found[event.id] = getattr(event, "fields", event)
    return [found[number] for number in numbers]


def test_two_calls_run_at_once_on_two_workers_that_share_the_cores(make, gate):
    house = make()
    client = house.client(devices=TWO)
    assert client.opened().devices == TWO
    both(house)
    numbers = [waiting(client, gate) for _ in range(2)]
    assert [line.running for line in house.residents.listing()] == [1, 1]
    gate.touch()
    fields = ends(client, numbers)
    assert sorted(each["part"] for each in fields) == [[0, 2], [1, 2]]


def test_equal_requests_share_the_set_and_another_number_does_not(make):
    house = make()
    first, same = (house.client(uid=uid, devices=["GPU-1", "GPU-2"]) for uid in (1, 2))
    turned, fewer = house.client(devices=["GPU-2", "GPU-1"]), house.client(device="GPU-1")
    for client in (first, same, turned, fewer):
        client.opened()
    until(lambda: len(loaded(house)) == 3, "all workers are ready")
    assert len(house.launcher.started) == 3


def test_set_opens_with_its_first_worker(make):
    house = make(told={"load": "hang", "part": "1"}, timeouts={"silence": 60.0})
    client = house.client(devices=TWO)
    assert client.opened().devices == TWO
    assert client.do().fields["part"] == [0, 2]


@pytest.mark.parametrize(
    "devices", [["cpu", "GPU-1"], ["auto", "auto"], ["cpu"] * 65], ids=["mixed", "auto", "many"]
)
def test_devices_that_cannot_make_equal_images_are_refused(make, devices):
    assert make().client(devices=devices).next().error.code == "usage"


def test_memory_that_depends_on_what_is_free_is_refused(make):
    house = make()
    assert house.client(devices=TWO, memory="auto").next().error.code == "usage"
    assert house.client(devices=TWO, memory="low").opened()


def test_call_in_the_middle_goes_to_another_worker_with_its_memory(make, gate):
    house = make()
    client = house.client(devices=TWO)
    both(house)
    fd = sealed(b"a mask")
    number = client.call([fd], do="wait", gate=str(gate), steps=1, wants_steps=True)
    os.close(fd)
    client.until(residency.Step)
    killed = pid_at(house, client, number)
    os.kill(killed, signal.SIGKILL)
    client.until(residency.Step)
    gate.touch()
    fields = client.end_of(number).fields
    assert (fields["memory"], fields["pid"] != killed) == (["a mask"], True)
    assert len(both(house)) == 2


def test_call_that_costs_two_workers_is_told_and_the_others_go_on(make, gate):
    house = make()
    client, other = house.client(uid=1, devices=TWO), house.client(uid=2, devices=TWO)
    both(house)
    poison = client.call(do="crash")
    numbers = [other.call() for _ in range(4)]
    failed = client.end_of(poison)
    assert (failed.error.code, "during the call" in failed.error.message) == ("worker_died", True)
    assert ends(other, numbers)
    until(lambda: len(house.launcher.started) == 4, "both dead workers have successors")


def test_one_worker_alone_tells_at_once_as_ever(make):
    house = make()
    client = house.client(devices=["cpu"])
    assert client.do(do="crash").error.code == "worker_died"
    assert client.do().fields["part"] == [0, 1]


@pytest.mark.parametrize("keep_alive", [0, 600])
def test_worker_that_cannot_be_had_leaves_the_set_with_a_note(make, keep_alive):
    house = make(workers=1, keep_alive=keep_alive)
    client = house.client(devices=TWO)
    assert client.do().fields["nth"] == 1
    until(lambda: any(line.note for line in house.residents.listing()), "one has left")
    first, second = house.residents.listing()
    assert "no room on cpu for another worker" in (first.note or second.note)
    assert client.do().fields["nth"] == 2
    assert len(house.launcher.started) == 1, "none makes room for another of its own set"


def test_worker_that_dies_again_and_again_leaves_the_set(make):
    house = make(told={"load": "crash", "part": "1"}, timeouts={"crashes": 2, "rest": 3600})
    client = house.client(devices=TWO)
    until(lambda: any(line.note for line in house.residents.listing()), "one has left")
    assert [client.do().fields["nth"] for _ in range(3)] == [1, 2, 3]
    assert len(house.launcher.started) == 3


def test_set_none_of_whose_workers_can_be_had_is_told(make):
    house = make(told={"load": "refuse"})
    assert house.client(devices=TWO).until(residency.Failed).error.message == "no such pipeline"
    house.launcher.told = {}
    assert house.client(devices=TWO).do().fields["nth"] == 1


def test_weights_are_counted_once_on_a_device(make):
    house = make(ram=1500)
    house.client(devices=TWO)
    assert sorted(line.bytes for line in both(house)) == [0, 1000]
    assert house.residents.bytes_on("cpu") == 1000


def test_two_users_take_turns_over_the_set(make, gate):
    house = make()
    many, few = house.client(uid=1, devices=TWO), house.client(uid=2, devices=TWO)
    both(house)
    first = [waiting(many, gate) for _ in range(2)]
    numbers = [many.call() for _ in range(6)]
    many.until(residency.Queued, number=numbers[-1])
    late = few.call()
    assert few.until(residency.Queued, number=late).position == 1
    # Behind the turn of the other's that came before him, not behind six of them.
    assert [c.uid for c in house.residents._instances.all()[0].line.turns.order()][:3] == [2, 1, 1]
    gate.touch()
    assert ends(many, first + numbers)
    assert few.end_of(late).fields


def test_client_that_hangs_up_takes_its_calls_from_both_workers(make, gate, tmp_path):
    house = make(told={"log": str(tmp_path / "log")})
    gone, other = house.client(uid=1, devices=TWO), house.client(uid=2, devices=TWO)
    both(house)
    for _ in range(2):
        waiting(gone, gate)
    gone.call()
    queued = [other.call() for _ in range(3)]
    other.until(residency.Queued, number=queued[-1])
    gone.close()
    assert ends(other, queued)
    until(lambda: (tmp_path / "log").read_text().count("cancels") == 2, "both have stopped")


def test_worker_that_made_room_is_there_again_for_the_next_call(make):
    house = make(workers=2, keep_alive=0)
    client = house.client(devices=TWO)
    client.do()
    both(house)
    other = house.client("lab/two")
    other.do()
    assert len(loaded(house)) == 2
    other.close()
    assert client.do().fields
    until(lambda: len([x for x in loaded(house) if x.kind.repo == "lab/one"]) == 2, "both again")


def test_stop_ends_the_whole_set(make):
    house = make()
    client = house.client(devices=TWO)
    both(house)
    client.close()
    done = house.residents.stop("lab/one", uid=os.getuid(), device="cpu")
    assert len(done.freed) == 2
    until(lambda: not house.residents.listing(), "both have ended")


def test_one_user_still_has_no_more_calls_than_one_user_may(make, gate):
    house = make()
    client = house.client(devices=TWO)
    both(house)
    for _ in range(2):
        waiting(client, gate)
    numbers = [client.call() for _ in range(calls.MAX_CALLS - 1)]
    assert client.end_of(numbers[-1]).error.code == "busy"
    gate.touch()
    assert ends(client, numbers[:-1])
