"""A client, the daemon's side of its conversation, and a worker: all real but the pipeline."""

import os

import pytest

from harness.standin import read_all, sealed
from zhcache.protocol import residency


def test_call_goes_to_the_worker_and_its_result_comes_back(make):
    client = make().client()
    opened = client.opened()
    returned = client.do(prompt="山", seed=4)
    assert (opened.repo, opened.device, opened.class_name) == ("lab/one", "cpu", "Tiny")
    got = (returned.id, returned.fields["got"], returned.class_name)
    assert got == (1, {"prompt": "山"}, "Out")


def test_seed_options_and_sealed_memory_reach_the_worker(make):
    client = make().client(options={"safety_checker": None})
    client.opened()
    fd = sealed(b"a mask")
    number = client.call([fd], seed=[1, 2])
    os.close(fd)
    fields = client.end_of(number).fields
    assert fields["seed"] == [1, 2]
    assert fields["memory"] == ["a mask"]
    assert fields["options"] == {"safety_checker": None}


def test_sealed_memory_of_the_result_reaches_the_client(make):
    client = make().client()
    number = client.call(do="image")
    while True:
        event, fds = client.next_with_fds()
        if isinstance(event, residency.Returned):
            break
    assert (event.id, [read_all(fd) for fd in fds]) == (number, [b"pixels"])
    os.close(fds[0])


def test_call_sent_before_the_worker_is_ready_is_made_once_it_is(make):
    client = make().client()
    number = client.call(prompt="early")
    assert client.end_of(number).fields["got"] == {"prompt": "early"}


@pytest.mark.parametrize(("wants_steps", "steps"), [(True, [0, 1, 2]), (False, [])])
def test_steps_come_to_whom_wants_them(make, wants_steps, steps):
    client = make().client()
    client.opened()
    number = client.call(steps=3, wants_steps=wants_steps)
    heard = []
    while not isinstance(event := client.next(), residency.Returned):
        heard.append(event)
    told = [e.step for e in heard if isinstance(e, residency.Step)]
    assert (told, event.id) == (steps, number)


def test_who_waits_for_the_worker_is_told_how_far_it_is(make):
    client = make().client()
    assert [client.next().note for _ in range(2)] == ["a worker starts", "reads weights"]


def test_equal_requests_share_one_worker_and_others_have_their_own(make):
    house = make()
    first, same = house.client(uid=1), house.client(uid=2)
    other = house.client(uid=1, options={"safety_checker": None})
    pids = [client.do().fields["pid"] for client in (first, same, other)]
    assert (pids[0] == pids[1], pids[0] == pids[2]) == (True, False)


def test_gpu_worker_gets_arenas_that_are_the_daemons_own_and_given_back(make):
    house = make()
    client = house.client(device="GPU-1")
    assert client.until_note("fills")
    assert client.opened().device == "GPU-1"
    assert client.do().fields["artifacts"] == ["weights"]
    assert (len(house.arenas.held), house.arenas.uids) == (1, {os.geteuid()})
    client.close()
    house.residents.stop("lab/one", uid=os.getuid())
    assert house.arenas.held == []


def test_connection_is_the_lease(make, store):
    house = make()
    client = house.client(uid=77)
    client.opened()
    leased = [uid for _, _, uid in store.leases.counts()]
    counted = house.residents.leases()
    client.close()
    assert (leased, list(counted.values())) == ([77], [1])
    assert (store.leases.counts(), house.residents.leases()) == ({}, {})


def test_lease_does_not_outlive_the_daemon(make, store):
    make().client().opened()
    store.leases._connected.clear()  # as after a restart
    store.leases.prune_dead()
    assert store.leases.counts() == {}


def test_unknown_repository_is_told_and_the_conversation_ends(make):
    client = make().client("lab/none")
    failed = client.next()
    assert (failed.id, failed.error.code) == (0, "not_found")
    with pytest.raises(EOFError):
        client.next()


def test_pipeline_that_cannot_be_loaded_is_told_to_all_who_wait(make, tmp_path):
    house = make(told={"load": "refuse"})
    clients = [house.client(), house.client(uid=5)]
    told = [client.until(residency.Failed).error.message for client in clients]
    assert told == ["no such pipeline"] * 2


def test_error_of_a_call_leaves_the_worker_as_it_was(make):
    client = make().client()
    before = client.do().fields["pid"]
    failed = client.do(do="fail")
    assert (failed.error.message, client.do().fields["pid"]) == ("no such argument", before)


def test_other_protocol_is_refused(make):
    client = make().client(protocol=99)
    assert client.next().error.code == "version_mismatch"
