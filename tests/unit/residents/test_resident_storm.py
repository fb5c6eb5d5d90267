"""Many clients at once who call, cancel, hang up and break workers: nothing is left afterwards."""

import os
import random
import threading

import pytest

from harness.standin import sealed
from zhcache.protocol import frames, residency


def behave(house, uid, seed, errors):
    dice = random.Random(seed)
    try:
        for _ in range(4):
            repo = dice.choice(["lab/one", "lab/two", "lab/three"])
            client = house.client(repo, uid=uid)
            for _ in range(dice.randrange(6)):
                do = dice.choice(["echo", "echo", "image", "fail", "crash", "wait", "unsealed"])
                fds = [sealed(b"mask")] if dice.random() < 0.5 else []
                number = client.call(fds, do=do, steps=dice.randrange(3), wants_steps=True)
                frames.close_all(fds)
                if do == "wait" or dice.random() < 0.3:
                    client.cancel(number)
                if dice.random() < 0.7:
                    ends(client, number)
            client.close()
    except Exception as error:
        errors.append((seed, error))


def ends(client, number):
    while True:
        event, fds = client.next_with_fds()
        for fd in fds:
            os.close(fd)
        is_end = isinstance(event, (residency.Returned, residency.Failed))
        if is_end and event.id == number:
            return


@pytest.mark.parametrize("seed", [1, 2])
def test_storm_leaves_nothing(make, store, seed):
    house = make(workers=2, timeouts={"cancel": 1.0, "crashes": 10**6})
    before = len(os.listdir("/proc/self/fd"))
    errors: list = []
    threads = [
        threading.Thread(target=behave, args=(house, uid % 3, seed * 100 + uid, errors))
        for uid in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert (errors, [thread for thread in threads if thread.is_alive()]) == ([], [])
    house.residents.close()
    assert (store.leases.counts(), house.residents.leases(), house.residents.listing()) == (
        {}, {}, [],
    )  # fmt: skip
    allowance = house.residents._allowance
    assert (allowance._calls, allowance._words, allowance._blobs) == ({}, {}, {})
    assert len(os.listdir("/proc/self/fd")) <= before
