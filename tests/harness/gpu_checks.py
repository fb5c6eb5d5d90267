"""What only a real GPU can show, checked in a process of its own.

``python -m harness.gpu_checks NAME``.
"""

from __future__ import annotations

import gc
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from harness.fill_checks import SIZE, opened
from harness.vmm_checks import is_mapped
from zhcache.pipeline import cuda, vmm
from zhcache.protocol.residency import Arena, Table
from zhcached.residency import nvml
from zhcached.workers import template

LARGE = 1 << 30
TABLE = Table(component="one", library="diffusers", class_name="One", tensors=[])


def arena(size: int) -> Arena:
    """Returns the description of an arena on the first GPU."""
    return Arena(key="a", device=vmm.uuid_of(0), bytes=size, table=TABLE)


def made(value: int = 7, size: int = SIZE) -> tuple[int, int]:
    """Returns a descriptor of memory that is ``value`` all over, and its size."""
    memory = opened(size)
    count = memory.flat.numel()
    memory.put(0, torch.full((count,), value, dtype=torch.uint8))
    fd, _ = memory.finish()
    return fd, count


def mapping_ends_with_its_last_view() -> None:
    fd, size = made()
    flat = cuda.map_arena(arena(size), fd)
    pointer = flat.data_ptr()
    view = flat[1024:2048].view(torch.float16).view(16, -1)
    del flat
    gc.collect()
    assert int(view.view(torch.uint8)[0, 0]) == 7
    del view
    gc.collect()
    assert not is_mapped(pointer)


def torch_and_nvml_name_the_same_gpu() -> None:
    # torch's ordinals follow CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER, NVML's do not.
    listed = {gpu.uuid for gpu in nvml.gpus()}
    for ordinal in range(torch.cuda.device_count()):
        name = cuda.uuid_of(f"cuda:{ordinal}")
        assert name in listed
        told = str(getattr(torch.cuda.get_device_properties(ordinal), "uuid", name))
        assert told.removeprefix("GPU-") == name.removeprefix("GPU-")


def kernel_that_writes_ends_only_its_own_process() -> None:
    fd, size = made()
    reader = cuda.map_arena(arena(size), fd)
    ours, theirs = socket.socketpair()
    writer = subprocess.Popen(
        [sys.executable, "-m", "harness.gpu_checks", "_write", str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        stderr=subprocess.PIPE,
        text=True,
    )
    socket.send_fds(ours, [str(size).encode()], [fd])
    _, said = writer.communicate(timeout=120)
    assert writer.returncode, "a write into shared weights went through"
    assert "CUDA error" in said or "illegal" in said, said
    assert int(reader.to(torch.int64).sum()) == 7 * size
    # Nor did it cost those who come later anything.
    later = cuda.map_arena(arena(size), fd)
    assert torch.equal(later, reader)


def _write(line: str) -> None:
    told, fds, _, _ = socket.recv_fds(socket.socket(fileno=int(line)), 64, 1)
    flat = cuda.map_arena(arena(int(told)), fds[0])
    flat.add_(1)
    torch.cuda.synchronize()


def memory_returns_when_the_last_descriptor_closes() -> None:
    opened(SIZE).close()
    torch.cuda.synchronize()
    before = nvml.gpus()[0].free
    fd, size = made(size=LARGE)
    gc.collect()
    torch.cuda.empty_cache()
    held = nvml.gpus()[0].free
    # Nothing maps it: the descriptor alone keeps it. Others may use the GPU meanwhile, hence half.
    assert before - held > LARGE // 2, (before, held)
    os.close(fd)
    for _ in range(50):
        if nvml.gpus()[0].free - held > size // 2:
            return
        time.sleep(0.1)
    raise AssertionError("closing the last descriptor freed nothing")


def half_precision_views_are_in_place() -> None:
    fd, size = made(value=0x3C)
    flat = cuda.map_arena(arena(size), fd)
    for dtype in (torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float32):
        view = torch.empty(0, dtype=dtype, device=flat.device)
        view.set_(flat.untyped_storage(), 512 // dtype.itemsize, [4, 8], [8, 1])
        assert view.data_ptr() == flat.data_ptr() + 512
        assert bool(torch.isfinite(view.float()).all())


def graphs_run_over_a_read_only_mapping() -> None:
    fd, size = made(value=0)
    weight = cuda.map_arena(arena(size), fd)[: 1 << 20].view(torch.float16).view(512, -1)
    source = torch.ones(weight.shape[1], 8, device="cuda", dtype=torch.float16)
    _ = weight @ source
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = weight @ source
    graph.replay()
    torch.cuda.synchronize()
    assert float(result.abs().sum()) == 0


def template_can_be_forked_and_the_fork_has_cuda() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        template.prepare(Path(scratch))
        template.fill_up()
    assert not template.hindrance()
    held = [os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.exists()]
    assert not [path for path in held if "nvidia" in path], held
    if (pid := os.fork()) == 0:
        good = float(torch.ones(8, device="cuda").sum()) == 8 and torch.cuda.device_count() > 0
        os._exit(0 if good else 1)
    assert os.waitpid(pid, 0)[1] == 0


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
