"""Devices: what a client's ``device=`` means on this machine, and how much one holds.

A device has one name everywhere in the daemon: ``cpu``, or a GPU's UUID as NVML spells it. An
ordinal is never kept: it depends on the environment of whoever counts. Imports no torch and makes
no CUDA context. Thread-safe.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import psutil

from zhcache.errors import UsageError
from zhcached.residency.nvml import Gpu, gpus

CPU = "cpu"
_NAMES = re.compile(
    r"auto|cpu(?::0)?|cuda(?::(?P<ordinal>\d{1,4}))?|(?P<uuid>(?:GPU|MIG)-[0-9A-Fa-f/-]+)"
)
_CGROUPS = Path("/sys/fs/cgroup")


class Devices:
    """The machine's devices.

    Args:
        probe: Returns the GPUs there are now.
        memory: Returns the bytes of RAM that this daemon may use.
    """

    def __init__(
        self,
        probe: Callable[[], Sequence[Gpu]] = gpus,
        memory: Callable[[], int] | None = None,
    ) -> None:
        self._probe = probe
        self._memory = memory or ram

    def list(self) -> Sequence[Gpu]:
        """Returns the GPUs there are now, in NVML's order."""
        return self._probe()

    def resolve(
        self, device: str, environ_visible: str | None = None, *, prefer: Collection[str] = ()
    ) -> str:
        """Returns ``cpu`` or the UUID of the GPU that ``device`` means.

        Args:
            device: ``auto``: a GPU where there is one, the one with most free memory, else the
                CPU; ``cpu``; ``cuda``: the first visible GPU; ``cuda:N``; or a GPU's UUID. ``N``
                counts as ``nvidia-smi`` does, not as CUDA's own order by speed: whoever attaches
                asks by UUID, so only requests that come without torch are counted here.
            environ_visible: The caller's ``CUDA_VISIBLE_DEVICES``; None where it is not set.
            prefer: UUIDs that ``auto`` takes first, where the model is warm already for instance.

        Raises:
            UsageError: It is none of these, or there is no such GPU for the caller.
        """
        form = _NAMES.fullmatch(device)
        if form is None:
            raise UsageError(
                "{device} is not a device",
                hint="auto, cpu, cuda, cuda:N, or a GPU's UUID",
                device=repr(device[:80]),
            )
        if device in (CPU, "cpu:0"):  # torch spells its one CPU both ways
            return CPU
        seen = visible(self._probe(), environ_visible)
        if device == "auto":
            return _roomiest(seen, prefer)
        if form["uuid"]:
            found = [gpu for gpu in seen if same(gpu.uuid, device)]
        else:
            ordinal = int(form["ordinal"] or 0)
            found = list(seen[ordinal : ordinal + 1])
        if not found:
            raise UsageError(
                "there is no device {device} here",
                hint="there is: {there}",
                device=device,
                there=", ".join([CPU, *(gpu.uuid for gpu in seen)]),
            )
        return found[0].uuid

    def capacity(self, device: str, share: float) -> int:
        """Returns the bytes that may be kept on ``device``.

        Args:
            device: ``cpu`` or a UUID.
            share: A fraction of the device's memory up to 1, bytes above it.

        Raises:
            UsageError: There is no such device.
        """
        return shared(self.memory(device)[0], share)

    def memory(self, device: str) -> tuple[int, int]:
        """Returns the total and the free bytes of ``device`` now, other programs counted in.

        Raises:
            UsageError: There is no such device.
        """
        if device == CPU:
            return self._memory(), int(psutil.virtual_memory().available)
        for gpu in self._probe():
            if same(gpu.uuid, device):
                return gpu.total, gpu.free
        raise UsageError(
            "the GPU {device} is not there",
            hint="see `nvidia-smi`: it may have been lost or its driver unloaded",
            device=device,
        )


def shared(total: int, share: float) -> int:
    """Returns the bytes that a share of ``total`` is: a fraction up to 1, bytes above it."""
    return min(total, int(share * total) if share <= 1 else int(share))


def same(one: str, other: str) -> bool:
    """Whether two UUIDs name one device: CUDA spells a slice's as a GPU's, NVML as ``MIG-``."""
    return one.partition("-")[2].lower() == other.partition("-")[2].lower()


def visible(there: Sequence[Gpu], environ_visible: str | None) -> Sequence[Gpu]:
    """Returns the GPUs that a process with this ``CUDA_VISIBLE_DEVICES`` sees, in its order.

    Source: CUDA C++ Programming Guide, "CUDA Environment Variables": indices or UUIDs, which may
    be cut short; what follows the first that names no GPU is not seen.
    """
    if environ_visible is None:
        return there
    seen: list[Gpu] = []
    for part in environ_visible.split(","):
        name = part.strip()
        found = [gpu for gpu in there if name == str(gpu.index) or _begins(gpu.uuid, name)]
        if len(found) != 1 or found[0] in seen:
            break
        seen.append(found[0])
    return seen


def ram() -> int:
    """Returns the bytes of RAM this process may use: the machine's, or its control group's limit.

    Source: Linux's Documentation/admin-guide/cgroup-v2.rst, ``memory.max``.
    """
    limits = [int(psutil.virtual_memory().total)]
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    group = next((line[3:].lstrip("/") for line in lines if line.startswith("0::")), None)
    if group is not None:
        folder = _CGROUPS / group
        for place in (folder, *folder.parents):
            if not place.is_relative_to(_CGROUPS):
                break
            try:
                limits.append(int((place / "memory.max").read_text()))
            except (OSError, ValueError):
                # No file at the root, "max" where there is no limit.
                continue
    return min(limits)


def _begins(uuid: str, name: str) -> bool:
    return name.startswith(("GPU-", "MIG-")) and len(name) > len("GPU-") and uuid.startswith(name)


def _roomiest(seen: Sequence[Gpu], prefer: Collection[str]) -> str:
    if not seen:
        return CPU
    warm = [gpu for gpu in seen if gpu.uuid in prefer]
    return max(warm or seen, key=lambda gpu: (gpu.free, -gpu.index)).uuid
