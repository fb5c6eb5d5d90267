"""The fill worker: what it says, what it refuses, what it leaves behind."""

import fcntl
import json
import os
import shutil
import socket
from pathlib import Path

import pytest
import torch

from harness import arenas, families
from harness.spoilt import GAPS, spoilt
from zhcache.errors import Incomplete, IntegrityError, NoSpace, UsageError, ZhcacheError
from zhcache.protocol import frames
from zhcache.protocol.residency import ALIGNMENT, Fill, Filled, FromFillWorker, Progress, Table
from zhcached.workers import fill, memfd
from zhcached.workers.layout import as_bytes, lay_out
from zhcached.workers.memfd import SEALS, MemfdMemory


def table() -> Table:
    return Table(component="part", library="diffusers", class_name="X", tensors=[])


def descriptors() -> set[str]:
    return {os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
            if Path(f"/proc/self/fd/{fd}").is_symlink()}  # fmt: skip


def test_worker_tells_progress_and_hands_over_sealed_memory(pipeline_dir):
    names = arenas.weighted(pipeline_dir)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        fill.run(theirs, Fill(folder=str(pipeline_dir), components=names, device="cpu"))
        events = []
        while sum(isinstance(event, Filled) for event, _ in events) < len(names):
            events.append(frames.receive(ours, FromFillWorker))
    told = [event for event, _ in events if isinstance(event, Progress)]
    assert told[0].bytes_total == 0
    assert told[-1].bytes_total >= told[-1].bytes_done > 0
    for event, fds in events:
        if isinstance(event, Filled):
            (fd,) = fds
            assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) & SEALS == SEALS
            assert os.fstat(fd).st_size == event.bytes
            spans = sorted((t.offset, t.name) for t in event.table.tensors)
            assert all(offset % ALIGNMENT == 0 for offset, _ in spans)
            assert len({offset for offset, _ in spans}) == len(spans)
            os.close(fd)


def test_worker_keeps_no_memory_of_what_it_handed_over(pipeline_dir):
    before = len(os.listdir("/proc/self/fd"))
    frames.close_all([fd for _, fd in arenas.filled(pipeline_dir)])
    assert len(os.listdir("/proc/self/fd")) == before


def test_component_of_another_library_is_not_imported(pipeline_dir, tmp_path):
    folder = tmp_path / "pipe"
    shutil.copytree(pipeline_dir, folder)
    index = folder / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "unet": ["os", "system"]}))
    with pytest.raises(UsageError, match=r"os\.system is no module"):
        arenas.filled(folder, ["unet"])


@pytest.mark.parametrize("way", ["truncated", "missing key", "wrong shape"])
def test_files_that_cannot_be_read_are_told_and_not_a_traceback(pipeline_dir, tmp_path, way):
    folder = spoilt(pipeline_dir, tmp_path, way)
    with pytest.raises(IntegrityError, match=r"cannot be read|lack") as caught:
        arenas.filled(folder, ["unet"])
    assert "Traceback" not in str(caught.value)
    assert "zhcache verify" in caught.value.hint


@pytest.mark.parametrize("way", GAPS)
def test_files_that_are_missing_are_told_as_such(pipeline_dir, tmp_path, way):
    with pytest.raises(Incomplete, match=GAPS[way][2]):
        arenas.filled(spoilt(pipeline_dir, tmp_path, way), ["unet"])


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("x")]
)
def test_memory_that_runs_out_is_no_fault_of_the_files(pipeline_dir, error):
    def full(size_bytes, device):
        raise error

    with pytest.raises(ZhcacheError) as caught:
        arenas.filled(pipeline_dir, ["unet"], open_memory=full)
    assert isinstance(caught.value, NoSpace) == ("memory" in repr(error).lower())
    assert "zhcache" in caught.value.hint


def test_no_room_for_the_second_component_is_no_space(pipeline_dir):
    made = []

    def open_memory(size: int, device: str) -> MemfdMemory:
        if made:
            raise NoSpace("no room for {size}", size=size)
        made.append(MemfdMemory(size))
        return made[0]

    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(NoSpace):
        frames.close_all([fd for _, fd in arenas.filled(pipeline_dir, open_memory=open_memory)])
    assert len(os.listdir("/proc/self/fd")) <= before + 1


def test_more_memory_than_there_is_is_refused_before_it_is_touched(monkeypatch):
    # Lowered, so that a failure of this test does not bring the machine to its knees.
    assert 0 < memfd.available() < 2**50
    monkeypatch.setattr(memfd, "available", lambda: 4096)
    MemfdMemory(4096).close()
    with pytest.raises(NoSpace, match="no 4097 bytes"):
        MemfdMemory(4097)


def test_front_that_went_away_ends_the_worker(pipeline_dir):
    ours, theirs = socket.socketpair()
    ours.close()
    with theirs, pytest.raises(ConnectionError):
        fill.run(theirs, Fill(folder=str(pipeline_dir), components=["unet"], device="cpu"))


def test_memory_that_is_still_in_use_is_not_sealed():
    memory = MemfdMemory(4096)
    view = memory.flat[10:]
    with pytest.raises(OSError, match="busy"):
        memory.finish()
    view.fill_(1)
    memory.close()


@pytest.mark.parametrize(
    ("offset", "source"),
    [
        (-1, torch.zeros(1, dtype=torch.uint8)),
        (4090, torch.zeros(10, dtype=torch.uint8)),
        (0, torch.zeros(4, dtype=torch.int8)),
        (0, torch.zeros(2, 2, dtype=torch.uint8)),
    ],
)
def test_memory_takes_bytes_within_itself_alone(offset, source):
    memory = MemfdMemory(4096)
    with pytest.raises(ValueError):
        memory.put(offset, source)
    memory.close()


class Odd(torch.nn.Module):
    """All that can be odd about a module's tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(3, 5)
        self.tied = torch.nn.Linear(3, 5)
        self.tied.weight = self.first.weight
        self.twice = self.first
        last = torch.arange(2 * 3 * 4 * 5.0).view(2, 3, 4, 5)
        self.moved = torch.nn.Parameter(last.to(memory_format=torch.channels_last))
        self.spread = torch.nn.Parameter(torch.arange(6.0).expand(4, 6))
        self.empty = torch.nn.Parameter(torch.zeros(0, 3))
        self.scalar = torch.nn.Parameter(torch.tensor(7.0))
        self.register_buffer("count", torch.tensor(3), persistent=False)
        self.register_buffer("kept", torch.ones(3, dtype=torch.bool))
        self.register_buffer("absent", None)
        self.turns = torch.ones(2, 2, dtype=torch.complex64) * 1j


def test_layout_has_every_tensor_once_and_every_name():
    laid = lay_out(Odd(), table())
    entries = {entry.name: entry for entry in laid.table.tensors}
    assert laid.table.aliases == {
        "tied.weight": "first.weight",
        "twice.weight": "first.weight",
        "twice.bias": "first.bias",
    }
    assert [name for name, e in entries.items() if e.kind == "attribute"] == ["turns"]
    assert {n: e.persistent for n, e in entries.items() if e.kind == "buffer"} == {
        "count": False,
        "kept": True,
    }
    assert entries["moved"].strides == list(Odd().moved.stride())
    assert entries["spread"].strides == [6, 1]
    assert entries["turns"].dtype == "complex64"
    assert laid.bytes % ALIGNMENT == 0


def test_laid_out_tensors_come_back_as_they_were():
    odd = Odd()
    laid = lay_out(odd, table())
    memory = MemfdMemory(laid.bytes)
    for entry, tensor in zip(laid.table.tensors, laid.tensors, strict=True):
        memory.put(entry.offset, as_bytes(tensor))
    from zhcache.pipeline.attach import _view

    named = {**dict(odd.named_parameters()), **dict(odd.named_buffers()), "turns": odd.turns}
    for entry in laid.table.tensors:
        assert torch.equal(_view(entry, memory.flat), named[entry.name]), entry.name
    memory.close()


def test_tensor_that_is_more_than_its_bytes_is_refused():
    class Quantized(torch.Tensor):
        pass

    part = torch.nn.Linear(2, 2)
    part.register_buffer("scale", torch.ones(3).as_subclass(Quantized))
    with pytest.raises(UsageError, match="scale is a Quantized"):
        lay_out(part, table())


def test_widened_parts_stay_wide():
    folder = families.folder("sd3")
    with arenas.held(folder, names=["text_encoder_3"]) as ((arena, _),):
        dtypes = {entry.dtype for entry in arena.table.tensors}
    assert arena.table.dtype == "float16"
    assert dtypes == {"float16", "float32"}
