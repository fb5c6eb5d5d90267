"""What joins GPUs, as the driver says it: asked through the real binding."""

import json

import pytest

from harness import cudakit
from zhcached.residency import topology
from zhcached.residency.devices import Devices
from zhcached.residency.nvml import Gpu


def kinds(libraries, **environ):
    told = json.loads(cudakit.run(libraries, "harness.nvml_links", **environ).splitlines()[-1])
    names = {one["uuid"]: one["name"] for one in told["devices"]}
    return {(names[each["one"]], names[each["other"]]): each["kind"] for each in told["links"]}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, {}),
        ({"STAND_IN_NVLINK": "2"}, {("cuda:0", "cuda:1"): "nvlink"}),
        ({"STAND_IN_SOCKET": "2"}, {("cuda:0", "cuda:1"): "pcie"}),
        ({"STAND_IN_SOCKET": "1"}, {("cuda:0", "cuda:1"): "system"}),
        (
            {"STAND_IN_GPUS": "3", "STAND_IN_NVLINK": "2", "STAND_IN_SOCKET": "2"},
            {
                ("cuda:0", "cuda:1"): "nvlink",
                ("cuda:0", "cuda:2"): "system",
                ("cuda:1", "cuda:2"): "system",
            },
        ),
        (
            {"STAND_IN_MIG": "0", "STAND_IN_NVLINK": "2"},
            dict.fromkeys(
                [("cuda:0", "cuda:1"), ("cuda:0", "cuda:2"), ("cuda:1", "cuda:2")], "none"
            ),
        ),
    ],
    ids=str,
)
def test_links(stand_ins, environ, expected):
    assert kinds(stand_ins, **environ) == expected


def test_who_sees_some_is_told_of_these(monkeypatch):
    there = [Gpu(f"GPU-{n}{n}", n, "H100", 80, 70) for n in range(3)]
    monkeypatch.setattr(topology, "links", lambda: [
        topology.LinkInfo(one=a.uuid, other=b.uuid, kind="nvlink")
        for a in there for b in there if a.index < b.index
    ])  # fmt: skip
    devices = Devices(lambda: there, lambda: 64)
    found = topology.machine("2,0", devices)
    assert [(one.name, one.uuid) for one in found.devices] == [
        ("cuda:0", "GPU-22"),
        ("cuda:1", "GPU-00"),
    ]
    assert [(each.one, each.other) for each in found.links] == [("GPU-00", "GPU-22")]
    assert topology.machine("", devices).devices == []


def test_weights_have_what_is_not_in_use_of_their_share():
    devices = Devices(lambda: [Gpu("GPU-0", 0, "H100", 100, 60)], lambda: 64)
    (found,) = topology.machine(None, devices, share=0.8, kept=lambda uuid: (40, 30)).devices
    assert (found.most, found.idle) == (70, 30)
    (full,) = topology.machine(None, devices, share=20, kept=lambda uuid: (40, 0)).devices
    assert (full.most, full.idle) == (0, 0)


def test_without_a_driver_nothing_is_joined():
    import ctypes

    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        assert topology.links() == []
        assert topology.machine().devices == []
    else:
        pytest.skip("there is a driver here")
