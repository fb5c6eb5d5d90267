"""Plans against what could have been planned: all places tried, more memory, a smaller call.

Published pipelines of any size and batch, films among them, on unequal GPUs with little free.
"""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.placementkit import GIB, PUBLISHED, weights
from zhcache.errors import NoSpace, UsageError
from zhcache.placement.activation import Needs, Size
from zhcache.placement.devices import RESERVE, Device, Machine
from zhcache.placement.heard import model_of
from zhcache.placement.model import Model
from zhcache.placement.plan import decide
from zhcache.placement.simulate import simulate
from zhcache.placement.sizes import Part
from zhcache.placement.ways import KINDS

pytestmark = pytest.mark.slow
SETTINGS = settings(max_examples=300, deadline=None)
WORTH = {"replicate": 0, "single": 1, "split": 2, "offload": 3}
LINKS = ["nvlink", "pcie", "system", "none"]
SIDES = st.sampled_from([64, 256, 512, 768, 1024, 1536, 2048, 4096])
FREE = st.integers(0, 4 * GIB) | st.integers(0, 80 * GIB)
UNIT = GIB // 4


def planned(model, machine, placement="auto"):
    try:
        return decide(model, machine, placement).way
    except (NoSpace, UsageError):
        return None


@st.composite
def machines(draw, free=FREE, most=st.none() | st.integers(0, 100 * GIB)):  # noqa: B008
    gpus = [
        Device(f"cuda:{n}", 141 * GIB, each, most=draw(most))
        for n, each in enumerate(draw(st.lists(free, min_size=1, max_size=5)))
    ]
    names = [gpu.name for gpu in gpus]
    pairs = itertools.combinations(names, 2)
    links = {frozenset(pair): draw(st.sampled_from(LINKS)) for pair in pairs}
    host = Device("cpu", 512 * GIB, draw(st.sampled_from([0, 8, 32, 512])) * GIB)
    return Machine(gpus, names, host, links, is_named=draw(st.booleans()))


CALLS = st.tuples(
    st.sampled_from(list(PUBLISHED)), st.none() | st.builds(Size, SIDES, SIDES), st.integers(1, 64)
)


def model(name, size, batch):
    return model_of(weights("lab/one", name), size, batch)[0]


@SETTINGS
@given(CALLS, machines(), st.sampled_from(["auto", *KINDS]))
def test_no_plan_of_a_published_pipeline_is_over_memory(call, machine, placement):
    placed = model(*call)
    way = planned(placed, machine, placement)
    if way is None:
        return
    for device, (peak, at) in simulate(way, placed, machine).items():
        assert peak <= way.takes.get(device, 0) <= machine.named(device).free, (device, at)


@SETTINGS
@given(CALLS, machines())
def test_a_smaller_call_is_planned_no_worse(call, machine):
    name, size, batch = call
    way = planned(model(*call), machine)
    if batch == 1 or way is None:
        return
    fewer = planned(model(name, size, batch - 1), machine)
    assert fewer
    assert WORTH[fewer.kind] <= WORTH[way.kind]


@st.composite
def puzzles(draw):
    """Components and GPUs of some units each: most nearly fit."""
    names = ["text_encoder", "text_encoder_2", "image_encoder", "transformer", "unet", "vae"]
    sizes = draw(st.dictionaries(st.sampled_from(names), st.integers(1, 24), min_size=2))
    parts = {
        name: Part(size * UNIT, largest=size * UNIT // 40, block=size * UNIT // 10)
        for name, size in sizes.items()
    }
    calls = [draw(st.integers(0, 8)) * UNIT for _ in range(4)]
    free = st.integers(0, 40).map(lambda count: count * UNIT + RESERVE)
    most = st.none() | st.integers(0, 30).map(lambda count: count * UNIT)
    return Model(parts, Needs(*calls)), replace(draw(machines(free, most)), links={})


@SETTINGS
@given(puzzles())
def test_whole_components_are_placed_apart_if_there_is_any_way(puzzle):
    placed, machine = puzzle
    way = planned(placed, machine)
    if way and way.how in ("one", "copies", "apart"):
        return
    tiled = (False, True) if placed.needs.decode_tiled < placed.needs.decode else (False,)
    devices = machine.devices[:4]
    for where in itertools.product(devices, repeat=len(placed.parts)):
        held = [
            (device, [name for name, at in zip(placed.parts, where, strict=True) if at == device])
            for device in devices
        ]
        assert not any(
            all(
                device.left(placed.weights(names), placed.calls(names, is_tiled=each)) >= 0
                for device, names in held
                if names
            )
            for each in tiled
        ), (way and way.how, held)


@SETTINGS
@given(puzzles(), st.integers(0, 4), st.integers(1, 8))
def test_more_memory_or_another_gpu_is_never_worse(puzzle, number, more):
    placed, machine = puzzle
    way = planned(placed, machine)
    if way is None or way.kind == "replicate":
        return
    devices = list(machine.devices)
    if number < len(devices):
        devices[number] = replace(devices[number], free=devices[number].free + more * UNIT)
    else:
        devices.append(Device("cuda:9", 141 * GIB, more * UNIT))
    better = planned(placed, replace(machine, devices=devices, workers=[d.name for d in devices]))
    assert better
    assert WORTH[better.kind] <= WORTH[way.kind], (way.how, better.how)
