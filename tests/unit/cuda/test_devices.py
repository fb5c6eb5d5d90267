"""Which device a name means, and how much it holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import cudakit
from zhcache.errors import UsageError
from zhcached.residency import devices
from zhcached.residency.devices import Devices, same, visible
from zhcached.residency.nvml import Gpu

GIB = 2**30
LITTLE = Gpu("GPU-aaaa1111-0000-0000-0000-000000000000", 0, "little", 8 * GIB, 2 * GIB)
LARGE = Gpu("GPU-bbbb2222-0000-0000-0000-000000000000", 1, "large", 80 * GIB, 60 * GIB)
SLICE = Gpu("MIG-cccc3333-0000-0000-0000-000000000000", 2, "slice", 10 * GIB, 9 * GIB)
ALL = (LITTLE, LARGE, SLICE)


@pytest.fixture
def there() -> Devices:
    return Devices(lambda: ALL, lambda: 64 * GIB)


@pytest.mark.parametrize(
    ("device", "seen", "meant"),
    [
        ("cpu", None, "cpu"),
        ("cpu", "", "cpu"),
        ("cpu:0", None, "cpu"),
        ("auto", None, LARGE.uuid),
        ("auto", "0,2", SLICE.uuid),
        ("auto", "", "cpu"),
        ("auto", "-1", "cpu"),
        ("cuda", None, LITTLE.uuid),
        ("cuda", "1", LARGE.uuid),
        ("cuda:1", None, LARGE.uuid),
        ("cuda:1", "2,0", LITTLE.uuid),
        ("cuda:0", "GPU-bbbb", LARGE.uuid),
        (LARGE.uuid, None, LARGE.uuid),
        (LARGE.uuid.lower().replace("gpu", "GPU"), None, LARGE.uuid),
        (SLICE.uuid.replace("MIG", "GPU"), None, SLICE.uuid),
    ],
)
def test_device_means(there, device, seen, meant):
    assert there.resolve(device, seen) == meant


@pytest.mark.parametrize(
    ("device", "seen"),
    [
        ("cuda:3", None),
        ("cuda", ""),
        ("cuda:1", "0"),
        (LARGE.uuid, "0"),
        ("GPU-dddd4444-0000-0000-0000-000000000000", None),
    ],
)
def test_device_that_is_not_there_names_those_that_are(there, device, seen):
    with pytest.raises(UsageError, match="cpu") as told:
        there.resolve(device, seen)
    assert told.value.values["device"] == device


@pytest.mark.parametrize(
    "device",
    ["", "gpu", "cuda:", "cuda:-1", "CUDA:0", "mps", "cuda:0\n", "cuda:99999", "GPU-", "x" * 500],
)
def test_device_that_is_no_name_is_refused(there, device):
    with pytest.raises(UsageError, match="is not a device"):
        there.resolve(device)


def test_auto_goes_where_the_model_is_warm(there):
    assert there.resolve("auto", prefer={LITTLE.uuid}) == LITTLE.uuid
    assert there.resolve("auto", prefer={"cpu", "GPU-gone"}) == LARGE.uuid


@pytest.mark.parametrize(
    ("device", "share", "bytes_"),
    [
        ("cpu", 0.5, 32 * GIB),
        ("cpu", 1.0, 64 * GIB),
        ("cpu", 4.0 * GIB, 4 * GIB),
        (LITTLE.uuid, 0.5, 4 * GIB),
        # More than there is cannot be promised.
        (LITTLE.uuid, 20.0 * GIB, 8 * GIB),
    ],
)
def test_capacity(there, device, share, bytes_):
    assert there.capacity(device, share) == bytes_


def test_capacity_of_a_lost_gpu_is_refused():
    with pytest.raises(UsageError, match="is not there"):
        Devices(lambda: ()).capacity(LARGE.uuid, 0.5)


@given(st.text(alphabet="0123,-GPUMIabc ", max_size=20))
def test_visible_is_a_part_without_repetition(environ):
    seen = visible(ALL, environ)
    assert len(seen) == len(set(seen))
    assert set(seen) <= set(ALL)


def test_visible_ends_at_the_first_that_is_none():
    assert visible(ALL, "1,7,0") == [LARGE]
    assert visible(ALL, "1,1,0") == [LARGE]


def test_same_device_by_two_spellings():
    assert same(SLICE.uuid, SLICE.uuid.replace("MIG", "GPU").upper())
    assert not same(LITTLE.uuid, LARGE.uuid)


def test_ram_is_the_smallest_limit_of_the_control_groups(tmp_path, monkeypatch):
    own = Path("/proc/self/cgroup").read_text().splitlines()
    group = next((line[3:].lstrip("/") for line in own if line.startswith("0::")), None)
    if group is None:
        pytest.skip("this kernel has no cgroup v2")
    monkeypatch.setattr(devices, "_CGROUPS", tmp_path)
    folder = tmp_path / group
    folder.mkdir(parents=True, exist_ok=True)
    (tmp_path / "memory.max").write_text("4096\n")
    if folder != tmp_path:
        (folder / "memory.max").write_text("max\n")
    assert devices.ram() == 4096


def _listed(libraries: Path, **environ: str) -> list[dict[str, object]]:
    return json.loads(cudakit.run(libraries, "harness.nvml_listing", **environ).splitlines()[-1])


def test_nvml_lists_gpus(stand_ins):
    first, second = _listed(stand_ins)
    assert first == {
        "uuid": "GPU-5741ed10-0000-4000-8000-000000000000",
        "index": 0,
        "name": "Stand-in 0",
        "total": 80 * GIB,
        "free": 10 * GIB,
    }
    assert second["index"] == 1


def test_nvml_lists_the_slices_of_a_divided_gpu(stand_ins):
    listed = _listed(stand_ins, STAND_IN_MIG="0")
    assert [gpu["uuid"][:3] for gpu in listed] == ["MIG", "MIG", "GPU"]
    assert [gpu["index"] for gpu in listed] == [0, 1, 2]


def test_nvml_lists_the_others_when_one_is_lost(stand_ins):
    listed = _listed(stand_ins, STAND_IN_LOST="0")
    assert [gpu["name"] for gpu in listed] == ["Stand-in 1"]


def test_nvml_without_a_driver_lists_none():
    import ctypes

    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        assert _listed(Path("/nonexistent")) == []
    else:
        pytest.skip("this machine has an NVIDIA driver")
