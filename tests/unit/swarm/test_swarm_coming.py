"""A piece that libtorrent says is there, and is not on disk yet."""

import hashlib
import os
import random
import threading

from zhcached.clock import SystemClock
from zhcached.config import DownloadConfig
from zhcached.fetch.offer import Control, Sender
from zhcached.store.ranges import Ranges
from zhcached.swarm.coming import Coming
from zhcached.swarm.torrent import hash_pieces, piece_count
from zhcached.swarm.words import Came

BYTES = random.Random(3).randbytes(600 * 2**10)
SIZE = len(BYTES)


class Taken:
    """An ingest that takes any bytes."""

    def __init__(self):
        self.bytes, self.left = bytearray(SIZE), [(0, SIZE)]

    def missing(self):
        return Ranges(self.left)

    def write(self, at, chunk, source):
        self.bytes[at : at + len(chunk)] = chunk
        stop = at + len(chunk)
        cut = [part for s, e in self.left for part in ((s, min(e, at)), (max(s, stop), e))]
        self.left = [(start, end) for start, end in cut if start < end]

    def maybe_sync(self):
        pass


def test_piece_that_is_told_too_early_is_read_once_it_is_there(tmp_path):
    whole, file = tmp_path / "whole", tmp_path / "file"
    whole.write_bytes(BYTES)
    hashes = hash_pieces(whole, SIZE, lambda: False)
    file.write_bytes(bytes(SIZE))
    coming = Coming("ab" * 32, SIZE, "", hashes, file)
    coming.heard(Came("ab" * 32, list(range(piece_count(SIZE))), SIZE))
    looks = []

    def each():
        looks.append(None)
        if len(looks) == 2:
            with file.open("r+b") as late:
                os.pwrite(late.fileno(), BYTES, 0)

    taken = Taken()
    control = Control(threading.Event())
    coming.bring(taken, control, DownloadConfig(), SystemClock(), Sender("swarm", ""), each)
    assert hashlib.sha256(taken.bytes).digest() == hashlib.sha256(BYTES).digest()
