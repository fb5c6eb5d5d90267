"""The torrent of a blob: the same everywhere, and what is told of it is checked."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhcached.errors import RemoteInvalid
from zhcached.store.ranges import Ranges
from zhcached.swarm.coming import pieces_not_in
from zhcached.swarm.table import PieceTable
from zhcached.swarm.torrent import (
    check_told,
    hash_pieces,
    info,
    infohash,
    piece_count,
    piece_length,
)

MIB = 2**20
BYTES = bytes(range(251)) * 4178
NAME = hashlib.sha256(BYTES).hexdigest()
SIZE = len(BYTES)


@pytest.fixture
def hashes(tmp_path):
    blob = tmp_path / "blob"
    blob.write_bytes(BYTES)
    return hash_pieces(blob, SIZE, lambda: False)


@given(st.integers(1, 2**40))
def test_pieces_cover_a_blob_and_are_few(size):
    length = piece_length(size)
    assert length & (length - 1) == 0
    assert (piece_count(size) - 1) * length < size <= piece_count(size) * length
    assert piece_count(size) <= 1024 or length == 16 * MIB


def test_libtorrent_calls_the_torrent_by_the_same_name(hashes):
    lt = pytest.importorskip("libtorrent", reason="pip install 'zhcache[swarm]'")
    torrent = lt.torrent_info(b"d4:info" + info(NAME, SIZE, hashes) + b"e")
    assert str(torrent.info_hashes().v1) == infohash(NAME, SIZE, hashes)
    assert (torrent.num_pieces(), torrent.total_size()) == (piece_count(SIZE), SIZE)


def test_hashes_are_those_of_the_pieces(hashes):
    length = piece_length(SIZE)
    pieces = [BYTES[at : at + length] for at in range(0, SIZE, length)]
    assert hashes == b"".join(hashlib.sha1(piece).digest() for piece in pieces)


@pytest.mark.parametrize("size", [SIZE - 1, SIZE + 1])
def test_file_of_another_size_has_no_hashes(tmp_path, hashes, size):
    with pytest.raises(OSError, match="er than"):
        hash_pieces(tmp_path / "blob", size, lambda: False)


def test_hashing_that_is_stopped_says_nothing(tmp_path, hashes):
    assert hash_pieces(tmp_path / "blob", SIZE, lambda: True) is None


def test_hashes_that_are_told_are_held_to_size_and_infohash(hashes):
    told = infohash(NAME, SIZE, hashes)
    check_told(NAME, SIZE, hashes, told)
    for wrong in (hashes[:-20], hashes + bytes(20), hashes[:-1] + b"\0", b""):
        with pytest.raises(RemoteInvalid, match="not those of torrent"):
            check_told(NAME, SIZE, wrong, told)


def test_table_gives_back_what_it_keeps_and_nothing_that_was_spoilt(tmp_path, hashes):
    table = PieceTable(tmp_path / "pieces")
    assert table.load(NAME, SIZE) is None
    table.save(NAME, SIZE, hashes)
    assert (table.load(NAME, SIZE), table.names()) == (hashes, {NAME})
    assert table.load(NAME, SIZE + MIB) is None
    kept = tmp_path / "pieces" / NAME
    kept.write_bytes(kept.read_bytes()[:-1] + b"\0")
    assert table.load(NAME, SIZE) is None
    table.forget([NAME, "0" * 64])
    assert table.names() == set()


def test_pieces_of_which_anything_is_missing_are_asked_for():
    length, size = piece_length(5 * MIB), 5 * MIB
    assert pieces_not_in(Ranges([(0, size)]), size) == []
    missing = Ranges([(length - 1, length + 1), (size - 1, size)])
    assert pieces_not_in(missing, size) == list(range(2, piece_count(size) - 1))
