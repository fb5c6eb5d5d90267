"""Arenas in this process: shared until written, sealed, gone with the last tensor."""

import mmap
import os
from pathlib import Path

import pytest
import torch

from harness import arenas
from zhcache.errors import IntegrityError
from zhcache.pipeline import attach, mapping
from zhcache.pipeline.checksum import checksum
from zhcache.protocol.frames import close_all
from zhcache.protocol.residency import Arena, Table


def arena(size: int) -> Arena:
    table = Table(component="unet", library="diffusers", class_name="X", tensors=[])
    return Arena(key="k", device="cpu", bytes=size, table=table)


@pytest.fixture
def held(pipeline_dir: Path):
    with arenas.held(pipeline_dir) as got:
        yield got


def mapped_bytes() -> int:
    lines = Path("/proc/self/maps").read_text().splitlines()
    spans = [line.split()[0].split("-") for line in lines if "memfd:zhcache-arena" in line]
    return sum(int(end, 16) - int(start, 16) for start, end in spans)


def test_writes_into_attached_weights_reach_nobody_else(held, pipeline_dir):
    ours = attach.components(pipeline_dir, held)["unet"]
    others = attach.components(pipeline_dir, held)["unet"]
    with torch.no_grad():
        ours.conv_in.weight.add_(1)
    assert not torch.equal(ours.conv_in.weight, others.conv_in.weight)
    fresh = attach.components(pipeline_dir, held)["unet"]
    assert torch.equal(fresh.conv_in.weight, others.conv_in.weight)


def test_memory_of_an_arena_can_be_changed_by_nobody(held):
    _, fd = held[0]
    with pytest.raises(PermissionError):
        mmap.mmap(fd, 0, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 0)
    with pytest.raises(PermissionError):
        os.pwrite(fd, b"x", 0)


def test_memory_is_unmapped_when_its_last_tensor_dies(held, pipeline_dir):
    before = mapped_bytes()
    made = attach.components(pipeline_dir, held)
    assert mapped_bytes() > before
    weight = made["unet"].conv_in.weight
    assert mapping.is_shared(weight)
    assert not mapping.is_read_only(weight)
    place = mapping._place(weight)
    size = sum(a.bytes for a, _ in held if a.table.component == "unet")
    del made
    assert mapped_bytes() - before == -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    del weight
    assert mapped_bytes() == before
    assert place not in mapping._places


def test_closed_descriptors_leave_what_is_mapped(pipeline_dir):
    got = arenas.filled(pipeline_dir)
    made = attach.components(pipeline_dir, got)
    close_all([fd for _, fd in got])
    assert torch.isfinite(made["vae"].encoder.conv_in.weight).all()


@pytest.mark.parametrize("fault", ["unsealed", "short", "no memfd"])
def test_memory_that_could_change_or_shrink_is_refused(fault, tmp_path):
    if fault == "no memfd":
        fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    else:
        fd = os.memfd_create("x", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 4096 if fault == "short" else 8192)
    if fault == "short":
        import fcntl

        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, mapping.SEALS)
    with pytest.raises(IntegrityError, match="not sealed"):
        mapping.map_arena(arena(8192), fd)
    os.close(fd)


def test_checksum_sees_each_change_and_each_exchange():
    torch.manual_seed(0)
    flat = torch.randint(0, 256, (512 * 40,), dtype=torch.uint8)
    told = checksum(flat)
    assert told == checksum(flat.clone())
    changed = flat.clone()
    changed[777] ^= 1
    rows = flat.view(40, 512)
    words = flat.view(-1, 8)
    for other in (
        changed,
        rows.flip(0).reshape(-1),
        words.view(40, 64, 8).flip(1).reshape(-1),
        torch.cat([rows[1], rows[0], *rows[2:]]),
        torch.zeros_like(flat),
    ):
        assert checksum(other.contiguous()) != told


def test_checksum_of_chunks_is_that_of_the_whole(monkeypatch):
    from zhcache.pipeline import checksum as module

    flat = torch.arange(512 * 30, dtype=torch.int64).view(torch.uint8)
    told = checksum(flat)
    monkeypatch.setattr(module, "CHUNK_ROWS", 7)
    assert checksum(flat) == told


def test_checksum_takes_whole_rows_of_bytes_alone():
    with pytest.raises(ValueError, match="rows"):
        checksum(torch.zeros(100, dtype=torch.uint8))
    with pytest.raises(ValueError, match="rows"):
        checksum(torch.zeros(512, dtype=torch.int8))


def test_arena_whose_content_changed_is_named(held):
    good, fd = held[0]
    flat = mapping.map_arena(good, fd)
    good.checksum = checksum(flat)
    assert mapping.damaged([(good, flat)]) == []
    flat[0] ^= 1
    assert mapping.damaged([(good, flat)]) == [good.key]
