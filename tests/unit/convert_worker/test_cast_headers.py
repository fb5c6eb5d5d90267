"""What the worker believes of a safetensors file: nothing until all of it agrees."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from corpora.hostile_headers import DATA, HOSTILE_HEADERS, one, packed
from zhcache.errors import IntegrityError
from zhcached.workers.tensors import WeightsFile, encoded


def header(folder: Path, content: bytes):
    (folder / "w.safetensors").write_bytes(content)
    file = WeightsFile(folder, "w.safetensors", len(content))
    try:
        return file.header()
    finally:
        file.close()


@pytest.mark.parametrize("name", HOSTILE_HEADERS)
def test_a_hostile_header_is_refused_with_the_next_step(tmp_path: Path, name: str) -> None:
    content = HOSTILE_HEADERS[name]
    tracemalloc.start()
    try:
        with pytest.raises(IntegrityError) as caught:
            header(tmp_path, content)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert "w.safetensors" in caught.value.message
    assert "zhcache verify" in caught.value.hint
    assert len(caught.value.message) < 600
    assert peak < 64 * 2**20 + 16 * len(content)


def test_a_sound_header_is_read_in_the_order_of_the_bytes(tmp_path: Path) -> None:
    table = {
        "late": {"dtype": "F32", "shape": [2], "data_offsets": [1, 9]},
        "early": {"dtype": "BOOL", "shape": [], "data_offsets": [0, 1]},
        "none": {"dtype": "F16", "shape": [0, 3], "data_offsets": [9, 9]},
        "__metadata__": {"format": "pt"},
    }
    read = header(tmp_path, packed(table, b"\1" + DATA))
    assert list(read.tensors) == ["early", "late", "none"]
    assert read.metadata == {"format": "pt"}
    assert read.tensors["late"].shape == (2,)
    assert read.tensors["late"].bytes == 8


def test_one_tensor_of_the_corpus_is_sound_where_nothing_is_changed(tmp_path: Path) -> None:
    assert list(header(tmp_path, packed(one(), DATA)).tensors) == ["w"]


def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(packed(one(), DATA))
    file = WeightsFile(tmp_path, path.name, path.stat().st_size)
    try:
        path.write_bytes(path.read_bytes()[:-4])
        with pytest.raises(IntegrityError, match="ends at byte"):
            file.read_into(memoryview(bytearray(8)), file.size - 8)
    finally:
        file.close()


def test_a_file_of_another_size_than_the_manifest_says_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(packed(one(), DATA))
    with pytest.raises(IntegrityError, match="bytes, not 5"):
        WeightsFile(tmp_path, "w.safetensors", 5)
    with pytest.raises(IntegrityError, match="No such file"):
        WeightsFile(tmp_path, "x.safetensors", 5)


def test_what_is_written_is_what_safetensors_reads(tmp_path: Path) -> None:
    import safetensors

    head = encoded([("b", "F32", (2,), 8), ("a", "U8", (3,), 3)], {"format": "pt", "x": "ü"})
    (tmp_path / "w.safetensors").write_bytes(head + DATA + b"abc")
    assert len(head) % 8 == 0
    with safetensors.safe_open(tmp_path / "w.safetensors", "pt") as file:
        assert sorted(file.keys()) == ["a", "b"]
        assert file.metadata() == {"format": "pt", "x": "ü"}
        assert file.get_tensor("a").tolist() == [97, 98, 99]
