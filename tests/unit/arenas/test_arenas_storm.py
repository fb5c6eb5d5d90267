"""Many clients at once on little memory: everybody is served, nothing is over budget or left."""

import os
import random
import threading

import pytest

from harness.daemon import until
from harness.fillkit import Devices, put_pipeline
from zhcache.errors import Cancelled
from zhcached.store import layout

COMMIT = "beef" + "0" * 36
ROOM = 9000
SHARED = b"s" * 1000


@pytest.mark.parametrize("seed", [1, 2])
def test_storm_of_clients_leaves_nothing_and_is_never_over_budget(desk, store, descriptors, seed):
    for number in range(4):
        unet = bytes([number]) * (2000 + 500 * number)
        put_pipeline(store, f"lab/m{number}", COMMIT, unet=unet, vae=SHARED)
    desk.renew(Devices(cpu=ROOM), keep_alive=1000.0)
    over, failed, served = [], [], []

    def client(which):
        chance = random.Random(seed * 100 + which)
        for _ in range(5):
            number = chance.randrange(4)
            repo = f"lab/m{number}"
            lease, gone = desk.lease(repo, COMMIT, uid=which), threading.Event()
            timer = threading.Timer(chance.choice([0.05, 60]), gone.set)
            timer.daemon = True
            timer.start()
            try:
                found = desk.attach(lease, repo, COMMIT, uid=which, cancelled=gone)
                mine = {arena.table.component: os.pread(fd, 9999, 0) for arena, fd in found}
                served.append(mine == {"unet": bytes([number]) * len(mine["unet"]), "vae": SHARED})
                if (bytes_on := desk.arenas.bytes_on("cpu")) > ROOM:
                    over.append(bytes_on)
            except Cancelled:
                pass
            except Exception as error:
                failed.append(error)
            timer.cancel()
            desk.release(lease)

    threads = [threading.Thread(target=client, args=(which,)) for which in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    assert not any(thread.is_alive() for thread in threads)
    assert failed == over == []
    assert served
    assert all(served)
    until(lambda: not desk.arenas._supply._fills, "no fill is left")
    assert not any(held.leases for held in desk.arenas._shelf.everything())
    desk.arenas.close()
    assert descriptors() == 0


def test_weights_reach_the_cpu_as_arenas_where_the_store_lies_on_a_network(store, monkeypatch):
    from zhcached.app import _host
    from zhcached.config import ResidencyConfig

    assert _host(store, ResidencyConfig()) == "files"
    assert _host(store, ResidencyConfig(host="arenas")) == "arenas"
    monkeypatch.setattr(layout, "filesystem_type", lambda path: 0x6969)
    assert _host(store, ResidencyConfig()) == "arenas"
    assert _host(store, ResidencyConfig(host="files")) == "files"
