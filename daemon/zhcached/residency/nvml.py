"""The machine's GPUs, asked of the driver through NVML, which makes no CUDA context.

nvidia-ml-py and the driver are both optional: a machine without either has no GPUs. Blocking, for
milliseconds; thread-safe, since NVML is.

Source: NVML API reference, "Device Queries" and "Multi Instance GPU Management".
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import structlog

log = structlog.get_logger()
_lock = threading.Lock()
_told: set[str] = set()


@dataclass(frozen=True)
class Gpu:
    """One GPU, or one MIG slice of a GPU that is divided.

    Attributes:
        uuid: ``GPU-...`` or ``MIG-...``, as NVML spells it.
        index: Its place in NVML's order, which is that of ``nvidia-smi`` and of the PCI bus.
        name: What the vendor calls it.
        total: Bytes of memory.
        free: Bytes that nobody has allocated at this moment.
    """

    uuid: str
    index: int
    name: str
    total: int
    free: int


def gpus() -> tuple[Gpu, ...]:
    """Returns the GPUs there are now; none where there is no driver or no nvidia-ml-py."""
    with opened() as nvml:
        return tuple(gpu for gpu, _ in listed(nvml)) if nvml else ()


@contextlib.contextmanager
def opened() -> Iterator[Any]:
    """Gives NVML's binding, ready to be asked; None where there is no driver or no nvidia-ml-py.

    NVML is opened and closed each time: a driver that is loaded, reloaded or gone while the daemon
    runs is seen as it is, which a handle that is kept would not notice.
    """
    try:
        # NVIDIA's own binding; the distribution is nvidia-ml-py.
        import pynvml
    except ImportError:
        _tell_once("nvidia-ml-py is not installed")
        yield None
        return
    with _lock:
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            _tell_once(str(error))
            yield None
            return
        try:
            yield pynvml
        finally:
            with contextlib.suppress(pynvml.NVMLError):
                pynvml.nvmlShutdown()


def listed(nvml: Any) -> Iterator[tuple[Gpu, Any]]:
    """Yields each GPU with its handle."""
    index = 0
    for place in range(nvml.nvmlDeviceGetCount()):
        try:
            found = [(_gpu(nvml, one, index + n), one) for n, one in enumerate(_parts(nvml, place))]
        except nvml.NVMLError as error:
            # One that fell off the bus must not hide the others.
            log.warning("gpu.not_readable", place=place, error=str(error))
            continue
        index += len(found)
        yield from found


def _parts(nvml: Any, place: int) -> list[Any]:
    """Returns the handle of one GPU, or of each of its slices where it is divided."""
    whole = nvml.nvmlDeviceGetHandleByIndex(place)
    try:
        is_divided = nvml.nvmlDeviceGetMigMode(whole)[0] == nvml.NVML_DEVICE_MIG_ENABLE
    except nvml.NVMLError:
        # Most GPUs answer that they know no such mode.
        return [whole]
    if not is_divided:
        return [whole]
    slices = []
    for number in range(nvml.nvmlDeviceGetMaxMigDeviceCount(whole)):
        with contextlib.suppress(nvml.NVMLError):
            slices.append(nvml.nvmlDeviceGetMigDeviceHandleByIndex(whole, number))
    return slices


def _gpu(nvml: Any, handle: Any, index: int) -> Gpu:
    ask: dict[str, Callable[[Any], Any]] = {
        "uuid": nvml.nvmlDeviceGetUUID,
        "name": nvml.nvmlDeviceGetName,
    }
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    # Older bindings return bytes.
    words = {
        key: value.decode() if isinstance(value := call(handle), bytes) else str(value)
        for key, call in ask.items()
    }
    return Gpu(words["uuid"], index, words["name"], int(memory.total), int(memory.free))


def _tell_once(reason: str) -> None:
    if reason not in _told:
        _told.add(reason)
        log.info("gpu.none", reason=reason)
