"""How fast weights come onto the GPU, into a process, and are proven: against what the link gives.

A file of the size of a model's weights, in the page cache, goes into GPU memory the way a fill
worker does it, and by the simple ways beside it. Then what a client does: take up the descriptor,
map it, compute its checksum, let it go.
"""

from __future__ import annotations

import mmap
import os
import time
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.gpu import common

CHUNK = 4 * 2**20
"""Bytes of one tensor, about the mean of a large one."""


def main() -> None:
    """Measures and reports."""
    common.main(__doc__ or "", _measure, mib=(int, 2048), repeat=(int, 5))


def _measure(options: Any, folder: Path) -> None:
    if options.device == "cpu":
        print("skipped: there is no link to measure on the CPU")
        return
    size = options.mib << 20
    found: dict[str, list[float]] = {}
    source = _weights(folder / "weights", size)
    for _ in range(options.repeat):
        for name, seconds in _fill(source).items():
            found.setdefault(name, []).append(seconds)
    rows = []
    for name, values in found.items():
        rate = "" if "map" in name else report.spread([size / s / 1e9 for s in values], ".1f")
        rows.append((name, report.spread(values, ".2f", 1e3), rate))
    report.table((f"{options.mib} MiB", "ms", "GB/s"), rows)
    report.write_json(options.json, {"bytes": size, "seconds": found})


def _weights(path: Path, size: int) -> Any:
    """Returns ``(size,) uint8`` over a file in the page cache, mapped as from_pretrained does."""
    import torch

    with path.open("wb") as file:
        part = os.urandom(1 << 24)
        for _ in range(0, size, len(part)):
            file.write(part)
    with path.open("rb") as file:
        # Copy-on-write, so that torch need not warn of memory that cannot be written to.
        area = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY)
    path.unlink()
    return torch.frombuffer(area, dtype=torch.uint8)


def _fill(source: Any) -> dict[str, float]:
    import torch

    from zhcache.pipeline import cuda, vmm
    from zhcache.pipeline.checksum import checksum
    from zhcached.workers.cuda import CudaMemory

    marks = _Marks()
    target = torch.empty(source.numel(), dtype=torch.uint8, device="cuda")
    marks.take("")
    target.copy_(source)
    marks.take("pageable, one copy, as .to() does")
    pinned = torch.empty(source.numel(), dtype=torch.uint8, pin_memory=True)
    pinned.copy_(source)
    marks.take("")
    target.copy_(pinned, non_blocking=True)
    marks.take("pinned, the link alone")
    del target, pinned
    torch.cuda.empty_cache()
    marks.take("")
    memory = CudaMemory.open(source.numel(), vmm.uuid_of(0))
    marks.take("a fill: allocate, map and clear")
    for start in range(0, source.numel(), CHUNK):
        memory.put(start, source[start : start + CHUNK])
    memory._staging.flush()
    marks.take("a fill: page cache to pinned to device")
    size = memory.flat.numel()
    fd, told = memory.finish()
    marks.take("a fill: checksum and export")
    allocation = vmm.Allocation.receive(fd, size, 0)
    flat = cuda.as_tensor(allocation.map(writable=False))
    allocation.close()
    os.close(fd)
    marks.take("a client: take up and map")
    if checksum(flat) != told:
        raise SystemExit("the bytes that arrived are not those that were put")
    marks.take("a client: checksum")
    copy = flat.clone()
    marks.take("a client: private copy")
    del flat
    marks.take("a client: unmap")
    del copy
    return marks.taken


class _Marks:
    """Seconds between moments at which the GPU has nothing left to do."""

    def __init__(self) -> None:
        self.taken: dict[str, float] = {}
        self._last = time.perf_counter()

    def take(self, name: str) -> None:
        """Notes the time since the last moment as ``name``, unless that is empty."""
        import torch

        torch.cuda.synchronize()
        now = time.perf_counter()
        if name:
            self.taken[name] = now - self._last
        self._last = time.perf_counter()


if __name__ == "__main__":
    main()
