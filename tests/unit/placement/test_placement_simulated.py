"""Whatever the sizes and devices: a plan is never found over memory when it is played through."""

from collections import Counter

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from harness.placementkit import GIB
from zhcache.errors import NoSpace, UsageError
from zhcache.placement.activation import Needs
from zhcache.placement.devices import Device, Machine
from zhcache.placement.families import FAMILIES
from zhcache.placement.model import Model
from zhcache.placement.plan import decide
from zhcache.placement.simulate import events, simulate
from zhcache.placement.sizes import Part
from zhcache.placement.ways import KINDS, Place, Way

NAMES = ("text_encoder", "text_encoder_2", "transformer", "transformer_2", "unet", "vae", "thing")
BYTES = st.integers(0, 40 * GIB)


@st.composite
def parts(draw):
    size = draw(BYTES)
    # Hundreds of tensors at most: each is an event of the simulator's. Rounded up, as bytes lie in
    # some tensor: none is a part of which nothing is known.
    block = draw(st.integers(-(-size // 64), size))
    return Part(size, largest=draw(st.integers(-(-block // 8), block)), block=block)


@st.composite
def models(draw, devices):
    decode = draw(st.integers(0, 10 * GIB))
    calls = Needs(
        step=draw(st.integers(0, 10 * GIB)),
        decode=decode,
        decode_tiled=draw(st.integers(0, decode)),
        encode=draw(st.integers(0, 2 * GIB)),
    )
    return Model(
        draw(st.dictionaries(st.sampled_from(NAMES), parts(), min_size=1)),
        calls,
        draw(st.sampled_from(list(FAMILIES.values()))),
        draw(st.integers(0, 64)),
        draw(st.sampled_from(["", "StableDiffusionPipeline"])),
        frozenset(draw(st.sets(st.sampled_from(devices)))),
    )


@st.composite
def cases(draw):
    gpus = [
        Device(f"cuda:{n}", 80 * GIB, free, most=draw(st.none() | st.integers(0, 80 * GIB)))
        for n, free in enumerate(draw(st.lists(st.integers(0, 80 * GIB), max_size=5)))
    ]
    host = Device("cpu", 512 * GIB, draw(st.integers(0, 512 * GIB)))
    names = [one.name for one in (*gpus, host)]
    workers = draw(st.lists(st.sampled_from(names), min_size=1, max_size=6))
    pairs = [frozenset((a, b)) for a in names for b in names if a < b]
    kinds = st.sampled_from(["nvlink", "pcie", "system", "none"])
    links = {pair: draw(kinds) for pair in pairs}
    by_name = {one.name: one for one in (*gpus, host)}
    devices = [by_name[name] for name in dict.fromkeys(workers)]
    machine = Machine(devices, workers, host, links, is_named=draw(st.booleans()))
    return draw(models(names)), machine, draw(st.sampled_from(["auto", *KINDS]))


@settings(max_examples=150, deadline=None)
@given(cases())
def test_no_plan_is_found_over_memory(case):
    model, machine, placement = case
    try:
        plan = decide(model, machine, placement)
    except (NoSpace, UsageError):
        return
    peaks = simulate(plan.way, model, machine)
    for device, (peak, at) in peaks.items():
        assert peak <= machine.named(device).free, (device, at, plan.way)
        # Nothing is used that the plan does not speak of.
        assert peak <= plan.way.takes.get(device, 0), (device, at, plan.way)
    loaded = Counter[str]()
    for event in events(plan.way, model, machine):
        loaded[event.device] += event.bytes * event.at.startswith("load ")
    for device in machine.devices:
        count = loaded[device.name]
        # On the host they may wait.
        assert device == machine.host or count <= plan.way.weights.get(device.name, 0)
        assert device.most is None or count <= device.most
    assert plan.way.places.keys() == model.parts.keys()
    if placement == "auto":
        assert plan.way.kind != "parallel"


@settings(max_examples=60, deadline=None)
@given(cases())
def test_what_fits_on_one_device_is_never_split_or_offloaded(case):
    model, machine, _ = case
    try:
        decide(model, machine, "single")
    except (NoSpace, UsageError):
        assume(False)
    assert decide(model, machine).way.kind in ("single", "replicate")


def test_the_simulator_finds_a_plan_that_forgets_what_lies_there():
    model = Model({"unet": Part(4 * GIB), "vae": Part(GIB)}, Needs(GIB, 2 * GIB, 2 * GIB))
    machine = Machine([Device("cuda:0", 8 * GIB, 8 * GIB)], ["cuda:0"], Device("cpu", 1, 1))
    places = {name: Place({"cuda:0": part.bytes}) for name, part in model.parts.items()}
    peak, at = simulate(Way("single", "one", places, {"cuda:0": 0}, {}), model, machine)["cuda:0"]
    assert at == "decode"
    assert peak == 5 * GIB + int(2 * GIB * 1.2) + machine.devices[0].reserve


def test_the_simulator_finds_a_piece_that_is_nowhere():
    model = Model({"transformer": Part(8 * GIB, block=GIB)}, Needs(0, 0, 0))
    gpus = [Device(f"cuda:{n}", 8 * GIB, 8 * GIB) for n in range(2)]
    machine = Machine(gpus, ["cuda:0", "cuda:1"], Device("cpu", 1, 1))
    shares = {"transformer": Place({"cuda:0": 3 * GIB, "cuda:1": 3 * GIB}, "shard")}
    way = Way("split", "sharded", shares, {"cuda:0": 4 * GIB, "cuda:1": 4 * GIB}, {})
    assert simulate(way, model, machine)["cuda:0"][0] > way.takes["cuda:0"]
