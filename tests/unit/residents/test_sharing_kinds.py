"""What is asked of a worker whose devices make one image together."""

import pytest

from zhcache.errors import UsageError
from zhcache.protocol.residency import Failed, ResidentRequest
from zhcached.residency.resident import kinds
from zhcached.residency.resident.planned import GPU_CONTEXT
from zhcached.store.snapshots import Manifest

HELD = Manifest(
    repo="lab/tiny", commit="c" * 40, created=1.0, source="hub", trust="first-use", uid=7, files=()
)


def together(*devices, **fields):
    request = ResidentRequest(
        repo="lab/tiny", devices=list(devices), placement="parallel", **fields
    )
    return kinds.together_of(request, HELD, lambda name: name)


def test_equal_devices_in_any_order_are_one_worker_and_not_the_one_of_a_single_device():
    one, other = together("GPU-2", "GPU-1"), together("GPU-1", "GPU-2")
    assert one == other
    assert (one.device, one.sharing) == ("GPU-1", ("GPU-1", "GPU-2"))
    assert one != kinds.kind_of(ResidentRequest(repo="lab/tiny"), HELD, "GPU-1")


def test_cpu_counts_as_often_as_it_is_named_and_is_one_device_to_have_room_on():
    kind = together("cpu", "cpu")
    assert (kind.sharing, kind.devices) == (("cpu", "cpu"), ["cpu"])
    assert str(kind) == "lab/tiny on cpu and cpu"


@pytest.mark.parametrize(
    ("devices", "fields", "words"),
    [
        (["cpu"], {}, "share an image"),
        ([], {}, "share an image"),
        (["auto", "cpu"], {}, "share an image"),
        (["cpu"] * (kinds.MAX_REPLICAS + 1), {}, "share an image"),
        (["GPU-1", "GPU-1"], {}, "different GPUs"),
        (["GPU-1", "cpu"], {}, "different GPUs"),
        (["GPU-1", "cpu", "cpu"], {}, "different GPUs"),
        (["cpu", "cpu"], {"memory": "low"}, "exclude each other"),
    ],
)
def test_devices_that_cannot_share_an_image_are_refused_with_a_next_step(devices, fields, words):
    with pytest.raises(UsageError, match=words) as told:
        together(*devices, **fields)
    assert told.value.hint


def test_worker_that_is_several_ranks_is_launched_as_such_with_all_their_devices(make):
    house = make()
    client = house.client(devices=["GPU-2", "GPU-1"], placement="parallel")
    opened = client.opened()
    assert (opened.device, opened.devices) == ("GPU-1", ["GPU-1", "GPU-2"])
    assert opened.placement == "parallel"
    fields = client.do().fields
    assert house.launcher.kinds == ["parallel"]
    assert fields["devices"] == fields["arenas"] == ["GPU-1", "GPU-2"]
    assert [house.residents.beside_on(f"GPU-{n}") for n in (1, 2)] == [GPU_CONTEXT] * 2
    (listed,) = house.residents.listing()
    assert "GPU-1 and GPU-2 together" in listed.note


def test_room_is_had_on_every_device_or_waited_for(make, tmp_path):
    house = make(vram=1000 * 2**20)
    other = house.client("lab/two", device="GPU-2")
    other.opened()
    gate = tmp_path / "gate"
    waiting = other.call(do="wait", gate=str(gate))
    shared = house.client(devices=["GPU-1", "GPU-2"], placement="parallel")
    assert "lab/two" in str(shared.until_note("waits for room"))
    gate.touch()
    other.end_of(waiting)
    other.close()
    assert shared.opened().devices == ["GPU-1", "GPU-2"]
    assert house.residents.beside_on("GPU-2") == GPU_CONTEXT


def test_device_without_room_at_all_is_an_error_that_names_it(make):
    house = make(vram=600 * 2**20)
    client = house.client(devices=["GPU-1", "GPU-2"], placement="parallel")
    error = client.until(Failed).error
    assert error.code == "no_space"
    assert "GPU-1" in error.message
