"""torch's own peaks in this process, if it uses torch with a GPU. Never imports torch."""

from __future__ import annotations

import sys
from typing import Any

from zhcache.monitoring.records import TorchPeak


def reset() -> None:
    """Lets torch's peaks begin at what is allocated now."""
    cuda = _initialised()
    if cuda is not None:
        for device in range(cuda.device_count()):
            cuda.reset_peak_memory_stats(device)


def peaks() -> dict[str, TorchPeak]:
    """Returns each device's peaks since they were reset; none where torch has used no GPU."""
    cuda = _initialised()
    if cuda is None:
        return {}
    found: dict[str, TorchPeak] = {}
    for device in range(cuda.device_count()):
        stats = cuda.memory_stats(device)
        allocated, reserved = (
            int(stats.get(f"{what}_bytes.all.peak", 0)) for what in ("allocated", "reserved")
        )
        if reserved:
            found[f"cuda:{device}"] = TorchPeak(allocated=allocated, reserved=reserved)
    return found


def _initialised() -> Any | None:
    # Another thread may be importing torch at this moment: what is not there yet is not used yet.
    cuda = sys.modules.get("torch.cuda")
    ask = getattr(cuda, "__dict__", {}).get("is_initialized")
    return cuda if ask is not None and ask() else None
