"""The head of a checkpoint, and files that are none."""

import json
import os

import pytest

from zhcache.errors import IntegrityError, UnsafeWeights
from zhcached.convert import single_header

HEAD = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}


def encoded(table, data=b"\0" * 8):
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.fixture
def read(tmp_path):
    def of(content):
        file = tmp_path / "f"
        file.write_bytes(content)
        fd = os.open(file, os.O_RDONLY)
        try:
            return single_header.read(fd, "my file")
        finally:
            os.close(fd)

    return of


def test_tensors_are_told_with_shape_and_bytes(read):
    found = read(encoded({"__metadata__": {"format": "pt"}, **HEAD}))
    assert {name: (t.shape, t.bytes) for name, t in found.items()} == {"a": ((2,), 8)}


def test_a_head_whose_length_begins_as_a_pickle_is_read(read):
    text = json.dumps(HEAD).encode()
    assert read(encoded(text + b" " * (0x280 - len(text))))["a"].bytes == 8


@pytest.mark.parametrize("start", [b"PK\x03\x04rest of an archive", b"\x80\x02}q\x00."])
def test_a_pickle_is_refused_and_the_hint_says_how_it_is_converted(read, start):
    with pytest.raises(UnsafeWeights, match="'my file' is a pickle") as refused:
        read(start)
    assert "save_file" in refused.value.hint


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "does not begin as one"),
        (b"abc", "does not begin as one"),
        (b"\0\0\0\0\1\0\0\0" + b" " * 64, "does not begin as one"),
        ((16 * 2**20 + 1).to_bytes(8, "little") + b"{}", "does not begin as one"),
        (encoded(HEAD)[:20], "it was cut"),
        (encoded(HEAD, b"\0" * 7), "76 of 77 bytes: it was cut"),
        (encoded(HEAD, b"\0" * 9), "1 bytes more"),
        (encoded(b"no json"), "does not begin as one"),
        (encoded(b"{no json"), "cannot be read"),
        (encoded(b'{"a":' + b"[" * 100_000), "cannot be read"),
        (encoded({"a": {"shape": [2]}}), "cannot be read"),
        (encoded({"a": {"shape": ["x"], "data_offsets": [0, 8]}}), "cannot be read"),
        (encoded({"a": {"shape": [2], "data_offsets": [8, 0]}}), "ends before it begins"),
        (encoded({"a": {"shape": [2], "data_offsets": [-8, 8]}}), "ends before it begins"),
    ],
)
def test_what_is_no_safetensors_file_is_told(read, content, words):
    with pytest.raises(IntegrityError) as refused:
        read(content)
    assert words in refused.value.message
    assert "'my file'" in refused.value.message
