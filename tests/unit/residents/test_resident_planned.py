"""Resident pipelines over several GPUs: planned where room is made, accounted device by device."""

import os
import signal
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.daemon import until
from harness.residentkit import WAIT_S
from zhcache.errors import NoSpace, UsageError
from zhcache.protocol.placement import WeightsList, WeightsPart
from zhcache.protocol.residency import Failed
from zhcached.residency import topology
from zhcached.residency.devices import Devices
from zhcached.residency.nvml import Gpu
from zhcached.residency.resident.kinds import Kind
from zhcached.residency.resident.planned import (
    GPU_CONTEXT,
    Held,
    Placements,
    account_of,
    home_of,
)

GIB = 2**30
OTHER = 9 * GIB
"""What the worker of another pipeline takes."""


def part(kind, count):
    return WeightsPart(
        library="diffusers", class_name=kind, bytes=count * GIB,
        largest=GIB // 8, block=GIB // 2, dtype="bfloat16",
    )  # fmt: skip


def weigh(repo, commit, variant, sizes=(8, 12, 1)):
    kinds = ("T5EncoderModel", "FluxTransformer2DModel", "AutoencoderKL")
    names = ("text_encoder", "transformer", "vae")
    parts = {name: part(*each) for name, *each in zip(names, kinds, sizes, strict=True)}
    return WeightsList(
        repo=repo, commit=commit, variant=variant, parts=parts, pipeline="FluxPipeline"
    )


class Machine:
    """GPUs of these GiB; workers have what the daemon reckons, other programs ``others``."""

    def __init__(self, make, *sizes, **settings):
        self.sizes = sizes
        self.others = dict.fromkeys(range(1, 4), 0)
        self.is_taken = True
        self.house = None
        self.house = make(
            gpus=self.gpus, weigh=weigh, ram=64 * GIB, told={"bytes": str(OTHER)}, **settings,
        )  # fmt: skip

    def gpus(self):
        is_taken = self.house and self.is_taken
        taken = self.house.residents.bytes_on if is_taken else lambda _: 0
        return [
            Gpu(uuid := f"GPU-{n}", n, "H", size * GIB, size * GIB - taken(uuid) - self.others[n])
            for n, size in enumerate(self.sizes, 1)
        ]

    def split(self, **fields):
        return self.house.client(**{"devices": ["GPU-2", "GPU-1"], "placement": "split", **fields})


def test_components_lie_where_the_plan_has_them_and_are_accounted_there(make):
    machine = Machine(make, 18, 18)
    client = machine.split()
    opened = client.opened()
    assert (opened.placement, opened.plan.how, opened.device) == ("split", "apart", "GPU-1")
    assert opened.devices == ["GPU-1", "GPU-2"]
    assert client.do().fields["plan"] == "apart"
    house = machine.house
    assert house.launcher.kinds == ["resident"]
    asked = {"GPU-1": ["transformer", "vae"], "GPU-2": ["text_encoder"]}
    assert dict(house.arenas.asked) == asked
    assert house.residents.bytes_on("GPU-1") == 13 * GIB + GPU_CONTEXT
    assert house.residents.bytes_on("GPU-2") == 8 * GIB + GPU_CONTEXT
    assert house.residents.beside_on("GPU-2") == GPU_CONTEXT
    (listed,) = house.residents.listing()
    assert (listed.device, listed.bytes) == ("GPU-1", 21 * GIB + 2 * GPU_CONTEXT)
    assert "split (apart): 13.59 GiB on GPU-1, 8.59 GiB on GPU-2" in listed.note
    second = machine.split(devices=["auto"])
    assert second.opened().plan == opened.plan
    assert len(house.launcher.started) == 1


def test_pieces_are_the_workers_own_and_host_memory_that_waits_counts_as_such(make):
    pieces = account_of(Machine(make, 14, 12, 12).split(devices=["auto"]).opened().plan)
    assert pieces.arenas == {"GPU-1": ["text_encoder"], "GPU-2": ["vae"]}
    own = sum(pieces.beside.values()) - 3 * GPU_CONTEXT
    assert own == 12 * GIB
    waiting = Machine(make, 18)
    opened = waiting.split(devices=["GPU-1"]).opened()
    assert (opened.plan.how, opened.devices) == ("freed", ["GPU-1"])
    residents = waiting.house.residents
    assert residents.bytes_on("cpu") == 8 * GIB
    assert residents.bytes_on("GPU-1") == 13 * GIB + GPU_CONTEXT


def test_idle_worker_makes_room_for_a_plan_and_a_busy_one_is_waited_for(make, tmp_path):
    # In pieces, or not at all.
    machine = Machine(make, 15, 15, keep_alive=0)
    gate = tmp_path / "gate"
    busy = machine.house.client("lab/two", device="GPU-2")
    busy.opened()
    call = busy.call(do="wait", gate=str(gate))
    idle = machine.house.client("lab/three", device="GPU-1")
    idle.opened()
    idle.close()
    split = machine.split()
    assert "lab/two" in split.until_note("waits for room")
    gate.touch()
    busy.end_of(call)
    busy.close()
    assert split.opened().devices == ["GPU-1", "GPU-2"]
    assert [one.repo for one in machine.house.residents.listing()] == ["lab/one"]


def test_what_fits_nowhere_is_the_planners_error(make):
    error = Machine(make, 6, 6).split().until(Failed).error
    assert error.code == "no_space"
    assert "as split" in error.message


def test_memory_that_other_programs_took_is_told_when_a_worker_comes_back(make):
    machine = Machine(make, 18, 18)
    client = machine.split()
    client.opened()
    pid = client.do().fields["pid"]
    machine.others[2] = 12 * GIB
    os.kill(pid, signal.SIGKILL)
    failed = client.do()
    assert failed.error.code == "no_space"
    assert "other programs" in failed.error.message
    machine.others[2] = 0
    assert client.do().fields["plan"] == "apart"


def test_plan_outlives_its_worker_and_not_its_clients(make):
    machine = Machine(make, 40, 18, keep_alive=0)
    machine.others[1] = 22 * GIB
    client = machine.split()
    plan = client.opened().plan
    os.kill(client.do().fields["pid"], signal.SIGKILL)
    # One of them could hold all of it now.
    machine.others[1] = 0
    assert client.do().fields["nth"] == 1
    joined = machine.split()
    assert joined.opened().plan == plan
    client.close()
    joined.close()
    machine.house.residents.expire()
    until(lambda: not machine.house.residents.listing(), "the worker has ended", WAIT_S)
    assert machine.split().opened().plan.devices[0].free == 40 * GIB


@pytest.mark.parametrize(
    ("sizes", "placement"), [((40, 40), "replicate"), ((40, 6), "replicate"), ((18, 18), "split")]
)
def test_auto_is_a_worker_on_each_or_a_split_of_what_none_has_room_for(make, sizes, placement):
    opened = Machine(make, *sizes).split(placement="auto").opened()
    assert (opened.placement, opened.plan is not None) == (placement, placement == "split")
    assert opened.devices == ["GPU-1", "GPU-2"]
    if placement == "split":
        assert "no device has room for all of it" in str(opened.plan)


def test_auto_does_not_ask_what_is_free(make):
    machine = Machine(make, 40, 40)
    machine.others |= {1: 39 * GIB, 2: 39 * GIB}
    assert machine.split(placement="auto").opened().placement == "replicate"


def test_what_cannot_be_planned_is_refused_with_a_next_step(make):
    error = Machine(make).split(devices=["cpu", "cpu"]).until(Failed).error
    assert "no GPU to split it with" in error.message
    error = Machine(make, 40).split(devices=["GPU-1"], memory="low").until(Failed).error
    assert error.code == UsageError.code
    assert "exclude each other" in error.message


def test_what_a_worker_that_loads_will_take_is_no_room_for_another_plan(make, tmp_path):
    machine = Machine(make, 34, 34)
    machine.others |= {1: 10 * GIB, 2: 10 * GIB}
    gate = tmp_path / "gate"
    machine.house.launcher.told["gate"] = str(gate)
    # The driver sees nothing of the first yet.
    machine.is_taken = False
    first = machine.split()
    first.until_note("fills")
    second = machine.split(repo="lab/two")
    second.until_note("fills")
    gate.touch()
    assert [one.opened().device for one in (first, second)] == ["GPU-1", "GPU-2"]


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(*[st.integers(1, 40)] * 3),
    st.lists(st.integers(1, 80), min_size=1, max_size=4),
    st.sampled_from(["split", "offload"]),
)
def test_account_of_a_plan_has_all_weights_once_and_no_device_has_more_than_planned(
    sizes, totals, placement
):
    gpus = [Gpu(f"GPU-{n}", n, "H", size * GIB, size * GIB) for n, size in enumerate(totals)]
    placements = Placements(
        partial(weigh, sizes=sizes),
        partial(topology.machine, None, Devices(lambda: gpus, lambda: 2**40)),
    )
    named = tuple(gpu.uuid for gpu in gpus)
    kind = Kind("lab/one", "c" * 40, named[0], sharing=named, placement=placement)
    try:
        plan = placements.plan(kind, placements.weigh(kind), lambda _: Held())
    except NoSpace:
        return
    account = account_of(plan)
    contexts = len(account.takes) * GPU_CONTEXT
    assert sum(map(account.on, account.devices)) - contexts == sum(sizes) * GIB
    for device, most in account.takes.items():
        assert account.on(device) - GPU_CONTEXT <= most <= totals[int(device[-1])] * GIB
    whole = {name for names in account.arenas.values() for name in names}
    assert whole == {name for name, one in plan.components.items() if one.use == "whole"}
    assert home_of(plan) in account.takes
