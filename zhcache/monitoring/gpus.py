"""The GPUs and who uses them, asked of the driver through NVML: no CUDA context, no root.

nvidia-ml-py and the driver are both optional: without either there are no GPUs. NVML stays open
while it is asked every second or so, since opening it costs as much as a hundred questions.

Source: NVML API reference, "Device Queries", "Multi Instance GPU Management" and
``nvmlDeviceGetProcessUtilization``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zhcache.monitoring.records import GpuUse

_FIRST_PID_NAMESPACE = 0xEFFFFFFC
"""Inode of the namespace that the machine began with, PROC_PID_INIT_INO in the kernel."""


@dataclass(slots=True)
class Share:
    """What one process has of all GPUs. None: the driver does not say, as on a divided GPU."""

    vram: int | None = None
    busy: float | None = None


@dataclass(slots=True)
class Found:
    """One look at all GPUs. ``by_process`` is by pid."""

    devices: list[GpuUse] = field(default_factory=list)
    by_process: dict[int, Share] = field(default_factory=dict)


def are_pids_ours() -> bool:
    """Whether the driver's process ids mean here what they mean to it.

    In a container they are those of the machine outside, and the same number may be another
    process here.
    """
    try:
        return Path("/proc/self/ns/pid").stat().st_ino == _FIRST_PID_NAMESPACE
    except OSError:
        return False


class Gpus:
    """NVML, opened. Use from one thread at a time.

    Args:
        names_processes: Whether process ids mean here what they mean to the driver.
    """

    def __init__(self, *, names_processes: bool | None = None) -> None:
        self._names_processes = are_pids_ours() if names_processes is None else names_processes
        self._nvml: Any = _opened()
        self._asked_until: dict[int, int] = {}
        self._handles = [] if self._nvml is None else list(_handles(self._nvml))
        self._fixed: dict[int, tuple[str, str]] = {}

    def close(self) -> None:
        """Lets NVML go."""
        if self._nvml is not None:
            with contextlib.suppress(self._nvml.NVMLError):
                self._nvml.nvmlShutdown()
            self._nvml = None
            self._handles = []

    def look(self) -> Found:
        """Returns the devices and their processes; a device that does not answer is left out."""
        found = Found()
        for index, handle in enumerate(self._handles):
            with contextlib.suppress(self._nvml.NVMLError):
                found.devices.append(self._device(index, handle))
                if self._names_processes:
                    self._processes(index, handle, found.by_process)
        return found

    def _device(self, index: int, handle: Any) -> GpuUse:
        nvml = self._nvml
        if index not in self._fixed:
            self._fixed[index] = (
                _text(nvml.nvmlDeviceGetUUID(handle)),
                _text(nvml.nvmlDeviceGetName(handle)),
            )
        uuid, name = self._fixed[index]
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        # Used as its owners see it: the reserve that the driver keeps for itself is not free.
        used = int(memory.total) - int(memory.free)
        busy = None
        with contextlib.suppress(nvml.NVMLError):
            busy = float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
        return GpuUse(
            uuid=uuid, index=index, name=name, total=int(memory.total), used=used, busy=busy
        )

    def _processes(self, index: int, handle: Any, by_process: dict[int, Share]) -> None:
        nvml = self._nvml
        held: dict[int, int | None] = {}
        for ask in (
            nvml.nvmlDeviceGetComputeRunningProcesses,
            nvml.nvmlDeviceGetGraphicsRunningProcesses,
        ):
            with contextlib.suppress(nvml.NVMLError):
                # One that computes and draws stands in both lists, with the same memory.
                held |= {one.pid: one.usedGpuMemory for one in ask(handle)}
        busy = self._busy(index, handle)
        for pid in held.keys() | (busy or {}).keys():
            share = by_process.setdefault(pid, Share())
            if (vram := held.get(pid)) is not None:
                share.vram = (share.vram or 0) + int(vram)
            if busy is not None:
                share.busy = (share.busy or 0.0) + busy.get(pid, 0.0)

    def _busy(self, index: int, handle: Any) -> dict[int, float] | None:
        """Returns the processes that were busy since the last look, in percent of the time.

        None where the device does not count it. Processes that were idle are not in the answer.
        """
        nvml = self._nvml
        since = self._asked_until.get(index, 0)
        try:
            samples = nvml.nvmlDeviceGetProcessUtilization(handle, since)
        except nvml.NVMLError as error:
            # An empty answer is told as an error, and by this binding as the error "success".
            is_empty = error.value in (nvml.NVML_ERROR_NOT_FOUND, nvml.NVML_SUCCESS)
            return {} if is_empty else None
        of_each: dict[int, list[float]] = {}
        for one in samples:
            self._asked_until[index] = max(self._asked_until.get(index, 0), int(one.timeStamp))
            of_each.setdefault(int(one.pid), []).append(float(one.smUtil))
        return {pid: sum(values) / len(values) for pid, values in of_each.items()}


def _opened() -> Any:
    """Returns NVML's binding, or None where there is no GPU to be asked."""
    try:
        # NVIDIA's own binding; the distribution is nvidia-ml-py.
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml


def _handles(nvml: Any) -> Iterator[Any]:
    for place in range(nvml.nvmlDeviceGetCount()):
        try:
            whole = nvml.nvmlDeviceGetHandleByIndex(place)
        except nvml.NVMLError:
            # One that fell off the bus must not hide the others.
            continue
        yield from _slices(nvml, whole) or [whole]


def _slices(nvml: Any, whole: Any) -> list[Any]:
    """Returns the handles of a divided GPU's parts; none where it is not divided."""
    found: list[Any] = []
    with contextlib.suppress(nvml.NVMLError):
        # Most GPUs answer that they know no such mode.
        if nvml.nvmlDeviceGetMigMode(whole)[0] == nvml.NVML_DEVICE_MIG_ENABLE:
            for number in range(nvml.nvmlDeviceGetMaxMigDeviceCount(whole)):
                with contextlib.suppress(nvml.NVMLError):
                    found.append(nvml.nvmlDeviceGetMigDeviceHandleByIndex(whole, number))
    return found


def _text(value: Any) -> str:
    # Older bindings return bytes.
    return value.decode() if isinstance(value, bytes) else str(value)
