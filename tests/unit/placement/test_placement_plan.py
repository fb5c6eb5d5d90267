"""Where pipelines are placed: a table of families, variants and devices, and the way expected."""

from dataclasses import replace

import pytest

from harness.placementkit import GIB, machine, model
from zhcache.errors import NoSpace, UsageError, fill
from zhcache.placement.activation import Needs
from zhcache.placement.devices import Device, Machine, chosen
from zhcache.placement.model import Model
from zhcache.placement.packing import packed
from zhcache.placement.plan import decide
from zhcache.placement.simulate import simulate
from zhcache.placement.sizes import Part

FITS = "all of it fits on gpu0"
EACH = "makes images of its own"
APART = "whole components lie on gpu0, gpu1"
WAIT = "wait in host memory and come to gpu0 layer by layer for the prompt"
STREAM = "the weights stay in host memory and come layer by layer"
CASES = [
    # pipeline, variant, devices; how, devices with weights, a piece of the reason
    ("sd15", None, "24GiB", "one", "gpu0", FITS),
    ("sd15", None, "4GiB", "one", "gpu0", FITS),
    ("sd15", None, "cpu", "one", "cpu", "all of it fits on cpu"),
    ("sd15", None, "cpu,cpu", "copies", "cpu", EACH),
    ("sd15", None, "24GiB,24GiB,24GiB,24GiB", "copies", "gpu0 gpu1 gpu2 gpu3", EACH),
    ("sd15", None, "2GiB", "streamed", "gpu0 cpu", STREAM),
    ("sd15", "fp32", "8GiB", "one", "gpu0", FITS),
    ("sdxl", None, "12GiB", "one", "gpu0", FITS),
    ("sdxl", None, "10GiB", "freed", "gpu0 cpu", WAIT),
    ("sdxl", None, "8GiB", "streamed", "gpu0 cpu", STREAM),
    ("sdxl", None, "10GiB,3GiB", "apart", "gpu0 gpu1", APART),
    ("sd35", None, "24GiB", "freed", "gpu0 cpu", WAIT),
    ("sd35", None, "24GiB,12GiB", "apart", "gpu0 gpu1", APART),
    ("sd35", "int8", "24GiB", "one", "gpu0", FITS),
    ("flux", None, "80GiB", "one", "gpu0", FITS),
    ("flux", None, "80GiB,80GiB", "copies", "gpu0 gpu1", EACH),
    ("flux", None, "80GiB,24GiB", "one", "gpu0", "gpu1 is left out"),
    ("flux", None, "80GiB,80GiB,24GiB", "copies", "gpu0 gpu1", "gpu2 is left out"),
    ("flux", None, "24GiB,24GiB", "apart", "gpu0 gpu1", APART),
    ("flux", None, "24GiB,24GiB@none", "streamed", "gpu0 cpu", STREAM),
    ("flux", None, "24GiB", "streamed", "gpu0 cpu", STREAM),
    ("flux", None, "28GiB", "freed", "gpu0 cpu", WAIT),
    ("flux", None, "16GiB,16GiB,16GiB", "sharded", "gpu0 gpu1 gpu2", "its layers lie on"),
    ("flux", "int8", "24GiB", "one", "gpu0", FITS),
    ("flux", "int4", "16GiB", "one", "gpu0", FITS),
    ("flux2", None, "80GiB,80GiB", "apart", "gpu0 gpu1", APART),
    ("flux2", None, "141GiB", "one", "gpu0", FITS),
    ("qwen", None, "48GiB,24GiB", "apart", "gpu0 gpu1", APART),
    ("qwen", None, "48GiB", "freed", "gpu0 cpu", WAIT),
    ("qwen", "int4", "24GiB", "one", "gpu0", FITS),
    ("wan", None, "48GiB", "one", "gpu0", FITS),
    ("wan", None, "24GiB", "streamed", "gpu0 cpu", STREAM),
    ("zimage", None, "16GiB", "freed", "gpu0 cpu", WAIT),
    ("zimage", None, "24GiB,24GiB", "copies", "gpu0 gpu1", EACH),
    ("pixart", None, "8GiB,8GiB", "freed", "gpu0 cpu", WAIT),
    ("hunyuan", None, "12GiB", "one", "gpu0", FITS),
]


def told(phrases):
    return "; ".join(fill(one.template, one.values) for one in phrases)


@pytest.mark.parametrize(("name", "variant", "devices", "how", "used", "reason"), CASES)
def test_the_way_that_costs_least_and_fits(name, variant, devices, how, used, reason):
    placed, there = model(name, variant), machine(devices)
    plan = decide(placed, there)
    assert (plan.way.how, " ".join(plan.way.takes)) == (how, used)
    assert reason in told(plan.reason)
    for device, (peak, _) in simulate(plan.way, placed, there).items():
        assert peak <= plan.way.takes[device] <= there.named(device).free
    # Whatever was not taken is told of, each kind.
    kinds = {each.kind for each in plan.rejected} | {plan.way.kind}
    assert kinds == {"single", "replicate", "split", "parallel", "offload"}


PARALLEL = [
    ("sdxl", "24GiB,24GiB", "guidance", 2),
    ("sd15", "24GiB,24GiB,24GiB", "guidance", 2),
    ("sd35", "80GiB,80GiB", "guidance", 2),
    ("pixart", "24GiB,24GiB", "guidance", 2),
    ("flux", "80GiB,80GiB,80GiB,80GiB@nvlink", "ulysses", 4),
    ("flux", "80GiB,80GiB,80GiB,80GiB,80GiB@nvlink", "ulysses", 5),
    ("flux", ",".join(["80GiB"] * 8), "ulysses", 4),
    ("qwen", "80GiB,80GiB@nvlink", "ulysses", 2),
]


@pytest.mark.parametrize(("name", "devices", "how", "count"), PARALLEL)
def test_one_image_is_shared_for_who_asks(name, devices, how, count):
    plan = decide(model(name), machine(devices), "parallel")
    assert (plan.way.how, len(plan.way.workers)) == (how, count)
    assert decide(model(name), machine(devices)).way.kind == "replicate"


@pytest.mark.parametrize(
    ("name", "devices", "asked", "kind", "words"),
    [
        (
            "zimage",
            "80GiB,80GiB",
            "parallel",
            UsageError,
            "image of ZImagePipeline cannot be shared",
        ),
        ("flux", "80GiB", "parallel", UsageError, "here are not two of them"),
        ("flux", "80GiB,80GiB@none", "parallel", UsageError, "do not reach each other"),
        ("flux", "24GiB,24GiB", "parallel", NoSpace, "33.72 GiB are needed on gpu0"),
        ("flux", "24GiB", "single", NoSpace, "as single, 33.72 GiB are needed on gpu0, 24.00"),
        ("flux", "80GiB,24GiB", "replicate", NoSpace, "on gpu1, 24.00 GiB are free"),
        ("flux", "cpu", "split", UsageError, "no GPU to split it with"),
        ("flux", "cpu", "offload", UsageError, "no GPU that it could come to"),
        ("flux", "1GiB", "auto", NoSpace, "as offload"),
        ("sd15", "24GiB", "balanced", UsageError, "placement='balanced' cannot be meant"),
    ],
)
def test_what_cannot_be_says_why_not(name, devices, asked, kind, words):
    with pytest.raises(kind, match=words) as failed:
        decide(model(name), machine(devices), asked)
    assert failed.value.hint


@pytest.mark.parametrize(
    ("name", "devices", "asked", "how"),
    [
        ("sd15", "24GiB,24GiB", "single", "one"),
        ("sd15", "24GiB,24GiB", "split", "apart"),
        ("sd15", "24GiB", "split", "freed"),
        ("sd15", "24GiB", "offload", "streamed"),
        ("sd15", "24GiB", "replicate", "copies"),
    ],
)
def test_one_kind_is_planned_where_it_is_asked_for(name, devices, asked, how):
    plan = decide(model(name), machine(devices), asked)
    assert plan.way.how == how
    if how == "apart":
        assert plan.way.places["text_encoder"].shares.keys() == {"gpu1"}
        assert plan.way.places["unet"].shares.keys() == {"gpu0"}


def test_a_large_image_is_decoded_in_tiles_before_anything_is_split():
    plan = decide(model("sd15", size=(2048, 2048, 1)), machine("8GiB"))
    assert (plan.way.kind, plan.way.is_tiled) == ("single", True)
    assert "in tiles" in told(plan.reason)


def test_many_images_at_once_take_more_and_are_decoded_one_by_one():
    one, eight = (decide(model("sd15", size=(512, 512, n)), machine("6GiB")) for n in (1, 8))
    assert not one.way.is_tiled
    assert decide(model("sd15", size=(512, 512, 8)), machine("24GiB")).way.takes["gpu0"] > 6 * GIB
    assert eight.way.takes["gpu0"] > one.way.takes["gpu0"]


def test_heads_that_do_not_divide_are_told_of():
    five = decide(model("flux"), machine(",".join(["80GiB"] * 5) + "@nvlink"), "parallel")
    assert "are padded" in told(five.reason)
    assert "joined by NVLink" not in told(five.reason)
    two = decide(model("flux"), machine("80GiB,80GiB"), "parallel")
    assert "are padded" not in told(two.reason)
    assert "joined by NVLink" in told(two.reason)


def test_weights_that_are_on_a_device_already_draw_the_pipeline_there():
    assert decide(model("sd15"), machine(None, there=(9, 8))).way.workers == ("cuda:0",)
    drawn = decide(model("sd15", there=("cuda:1",)), machine(None, there=(9, 8)))
    assert drawn.way.workers == ("cuda:1",)
    there = machine("cuda:0,cuda:1", there=(20, 8))
    placed = model("flux", there=("cuda:1",))
    plan = decide(placed, there)
    assert (plan.way.kind, list(plan.way.takes)) == ("single", ["cuda:1"])
    assert "the weights are on cuda:1 already" in told(plan.reason)
    assert simulate(plan.way, placed, there)["cuda:1"][0] <= 8 * GIB


def test_without_devices_named_one_gpu_is_used_and_the_others_if_it_must():
    assert decide(model("sd15"), machine(None, there=(20, 22))).way.takes.keys() == {"cuda:1"}
    assert decide(model("flux"), machine(None, there=(24, 24))).way.how == "apart"
    assert decide(model("sd15"), machine(None)).way.takes.keys() == {"cpu"}


def test_host_memory_is_as_scarce_as_that_of_devices():
    with pytest.raises(NoSpace, match=r"31.42 GiB are needed on cpu, 16.00 GiB are free"):
        decide(model("flux"), machine("24GiB", host=16), "offload")
    assert decide(model("flux"), machine("28GiB", host=16)).way.how == "freed"


def test_supposed_gpus_with_this_machines_memory_are_told_to_be():
    ours, note = machine("28GiB", host=16), "taken to be this machine's"
    assert note in told(decide(model("flux"), ours).reason)
    assert note not in told(decide(model("sd15"), ours).reason)
    with pytest.raises(NoSpace) as failed:
        decide(model("flux"), machine("24GiB", host=16), "offload")
    assert "--host-memory 128GiB" in failed.value.hint
    there = machine(None, host=16, there=(24,))
    for text in ("24GiB", "cuda:0"):
        plan = decide(model("flux"), chosen(text, there, 40 * GIB))
        assert plan.way.how == "streamed"
        assert note not in told(plan.reason)
    with pytest.raises(NoSpace) as failed:
        decide(model("flux"), chosen("24GiB", there, 20 * GIB))
    assert "--host-memory" not in failed.value.hint
    assert decide(model("sd15"), chosen("cpu", there, 4 * GIB)).way.takes.keys() == {"cpu"}
    with pytest.raises(NoSpace, match=r"2.00 GiB are free"):
        decide(model("sd15"), chosen("cpu", there, 2 * GIB))


def kept_to(most, *free):
    return [
        Device(f"cuda:{n}", 80 * GIB, each * GIB, most=most * GIB) for n, each in enumerate(free)
    ]


def test_weights_keep_to_their_share_of_a_device():
    host = Device("cpu", 512 * GIB, 512 * GIB)
    one = Machine(kept_to(30, 80), ["cuda:0"], host)
    plan = decide(model("flux"), one)
    assert plan.way.how == "freed"
    assert "zhcached keeps 30.00 GiB there at most" in told([plan.rejected[0].why])
    with pytest.raises(NoSpace, match=r"31.42 GiB of weights are needed on cuda:0") as failed:
        decide(model("flux"), one, "single")
    assert "[residency] vram" in failed.value.hint
    two = Machine(kept_to(30, 80, 80), ["cuda:0", "cuda:1"], host, is_named=True)
    assert decide(model("flux"), two).way.how == "apart"
    cut = Machine(kept_to(18, 80, 80), ["cuda:0", "cuda:1"], host, is_named=True)
    assert decide(model("flux"), cut).way.how == "sharded"


def test_encoders_wait_beside_whichever_gpu_has_room():
    host = Device("cpu", 512 * GIB, 512 * GIB)
    full = Device("cuda:0", 80 * GIB, 40 * GIB, most=0)
    free = Device("cuda:1", 80 * GIB, 28 * GIB)
    plan = decide(model("flux"), Machine([full, free], ["cuda:0", "cuda:1"], host))
    assert (plan.way.how, plan.way.workers) == ("freed", ("cuda:1",))


def test_gpus_that_reach_each_other_are_used_where_the_roomiest_reaches_none():
    host = Device("cpu", 512 * GIB, 512 * GIB)
    gpus = [Device(f"cuda:{n}", 80 * GIB, free * GIB) for n, free in enumerate((25, 24, 23))]
    names = [gpu.name for gpu in gpus]
    links = {frozenset(("cuda:0", other)): "none" for other in names[1:]}
    there = Machine(gpus, names, host, links)
    assert [[one.name for one in group] for group in there.groups()] == [names[:1], names[1:]]
    plan = decide(model("sd35"), there, "split")
    assert (plan.way.how, set(plan.way.takes)) == ("apart", set(names[1:]))
    assert decide(model("flux"), replace(there, links={**links, frozenset(names[1:]): "none"})).way


def test_a_large_component_makes_way_for_two_that_fit_nowhere_else():
    sizes = {"text_encoder": 3, "text_encoder_2": 3, "image_encoder": 4}
    parts = {name: Part(size * GIB) for name, size in sizes.items()}
    gpus = machine("4.5GiB,6.5GiB", host=0)
    plan = decide(Model(parts, Needs(0, 0, 0)), gpus)
    where = {name: list(place.shares) for name, place in plan.way.places.items()}
    assert where == {
        "text_encoder": ["gpu1"],
        "text_encoder_2": ["gpu1"],
        "image_encoder": ["gpu0"],
    }


def test_where_nothing_fits_the_search_ends():
    parts = {f"c{n}": Part(5 * GIB + n) for n in range(20)}
    gpus = [Device(f"cuda:{n}", 80 * GIB, 11 * GIB + n) for n in range(9)]
    assert packed(Model(parts, Needs(0, 0, 0)), gpus, is_tiled=False, is_spread=False) is None


def test_a_pipeline_without_weights_is_none():
    with pytest.raises(UsageError, match="no weights in safetensors"):
        decide(Model({}, Needs(0, 0, 0)), machine("24GiB"))
