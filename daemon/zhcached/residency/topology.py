"""What joins the machine's GPUs, asked of the driver through NVML. Blocking, for milliseconds.

Source: NVML API reference, ``nvmlDeviceGetP2PStatus`` and ``nvmlDeviceGetTopologyCommonAncestor``;
MIG User Guide, "CUDA Device Enumeration": a process is shown one slice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import Any, Literal

from zhcache.protocol.placement import DeviceInfo, DeviceList, LinkInfo
from zhcached.residency.devices import CPU, Devices, shared, visible
from zhcached.residency.nvml import Gpu, listed, opened

_SLICE = "MIG-"


Kept = Callable[[str], tuple[int, int]]
"""Returns the bytes of weights that are kept on a GPU, and those of them that nobody uses."""


def machine(
    environ_visible: str | None = None,
    devices: Devices | None = None,
    *,
    share: float = 1.0,
    kept: Kept = lambda uuid: (0, 0),
) -> DeviceList:
    """Returns the GPUs that a process sees, what joins them, and the machine's memory.

    Args:
        environ_visible: The process's ``CUDA_VISIBLE_DEVICES``; None where it is not set.
        devices: The machine's devices.
        share: Of a GPU's memory that weights may be kept in: a fraction up to 1, bytes above it.
        kept: Tells what is there of them.
    """
    devices = devices or Devices()
    total, free = devices.memory(CPU)
    seen = visible(devices.list(), environ_visible)
    uuids = {gpu.uuid for gpu in seen}
    return DeviceList(
        devices=[
            _info(f"cuda:{n}", gpu, shared(gpu.total, share), *kept(gpu.uuid))
            for n, gpu in enumerate(seen)
        ],
        links=[link for link in links() if {link.one, link.other} <= uuids],
        host_total=total,
        host_free=free,
    )


def links() -> Sequence[LinkInfo]:
    """Returns what joins each two of the GPUs; of those the driver does not speak of, nothing."""
    with opened() as nvml:
        return list(_links(nvml, list(listed(nvml)))) if nvml else []


def _info(name: str, gpu: Gpu, most: int, held: int, idle: int) -> DeviceInfo:
    return DeviceInfo(
        name=name,
        uuid=gpu.uuid,
        model=gpu.name,
        total=gpu.total,
        free=gpu.free,
        most=max(most - held + idle, 0),
        idle=idle,
    )


def _links(nvml: Any, found: Sequence[tuple[Gpu, Any]]) -> Iterator[LinkInfo]:
    for (one, first), (other, second) in combinations(found, 2):
        kind = _kind(nvml, (one, first), (other, second))
        if kind is not None:
            yield LinkInfo(one=one.uuid, other=other.uuid, kind=kind)


def _kind(
    nvml: Any, one: tuple[Gpu, Any], other: tuple[Gpu, Any]
) -> Literal["nvlink", "pcie", "system", "none"] | None:
    if any(gpu.uuid.startswith(_SLICE) for gpu, _ in (one, other)):
        return "none"
    handles = one[1], other[1]
    try:
        # Through switches too, where no link of one ends at the other.
        status = nvml.nvmlDeviceGetP2PStatus(*handles, nvml.NVML_P2P_CAPS_INDEX_NVLINK)
        if status == nvml.NVML_P2P_STATUS_OK:
            return "nvlink"
    except nvml.NVMLError:
        # Older drivers do not know the question.
        pass
    try:
        ancestor = nvml.nvmlDeviceGetTopologyCommonAncestor(*handles)
    except nvml.NVMLError:
        return None
    return "system" if ancestor >= nvml.NVML_TOPOLOGY_SYSTEM else "pcie"
