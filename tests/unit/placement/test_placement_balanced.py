"""Three defects of diffusers' own ``device_map="balanced"``, and what is planned instead."""

import pytest

from harness.placementkit import GIB, machine, model
from zhcache.placement.activation import Needs
from zhcache.placement.model import Model
from zhcache.placement.plan import decide
from zhcache.placement.sizes import Part


def balanced(parts, memory):
    """Returns where diffusers' function puts components, asked as its caller asks it."""
    loading = pytest.importorskip("diffusers.pipelines.pipeline_loading_utils")
    by_size = dict(sorted(parts.items(), key=lambda item: -item[1]))
    rooms = dict(sorted(memory.items(), key=lambda item: -item[1]))
    return loading._assign_components_to_devices(by_size, rooms)


def small(sizes):
    parts = {
        name: Part(size * GIB, size * GIB // 40, size * GIB // 30) for name, size in sizes.items()
    }
    return Model(parts, Needs(GIB // 8, GIB // 8, GIB // 8))


def test_a_second_component_that_fits_nowhere_makes_the_first_vanish():
    sizes = {"transformer": 40, "text_encoder": 30, "vae": 1}
    found = balanced(sizes, {0: 24, 1: 24})
    assert "transformer" not in [name for names in found.values() for name in names]

    plan = decide(small(sizes), machine("24GiB,24GiB,24GiB,24GiB"))
    assert plan.way.places.keys() == sizes.keys()
    plan = decide(small(sizes), machine("24GiB,24GiB"))
    assert (plan.way.kind, set(plan.way.places)) == ("offload", set(sizes))


def test_a_component_goes_to_the_cpu_though_a_later_gpu_has_room():
    sizes = {"transformer": 20, "text_encoder": 9, "text_encoder_2": 8, "vae": 1}
    found = balanced(sizes, {0: 24, 1: 18, 2: 4})
    # On GPU 1 are 9 of 18 left.
    assert found["cpu"] == ["text_encoder_2"]
    plan = decide(small(sizes), machine("24GiB,19GiB,4GiB"))
    assert "cpu" not in plan.way.takes
    assert plan.way.places["text_encoder_2"].shares.keys() == {"gpu1"}


def test_a_small_pipeline_is_spread_over_every_gpu():
    placed = model("sd15")
    sizes = {name: part.bytes for name, part in placed.parts.items()}
    found = balanced(sizes, dict.fromkeys(range(4), 24 * GIB))
    assert [len(names) for names in found.values()] == [1, 1, 1, 1]

    gpus = "24GiB,24GiB,24GiB,24GiB"
    plan = decide(placed, machine(gpus))
    assert (plan.way.kind, len(plan.way.workers)) == ("replicate", 4)
    assert decide(placed, machine(gpus), "single").way.takes.keys() == {"gpu0"}
