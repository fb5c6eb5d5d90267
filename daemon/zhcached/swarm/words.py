"""What the daemon and the process that is in torrents say to each other, a line of JSON each."""

from __future__ import annotations

import msgspec

ALIVE_EVERY_S = 1.0
HUNG_S = 30.0
"""The process says nothing for so long: it hangs."""


class Opening(msgspec.Struct, frozen=True):
    """The first line: the one address, who may take part, and the folders.

    ``networks`` are first and last addresses. ``given`` is how many bytes per second may be given
    to others, 0 for any.
    """

    address: str
    port: int
    networks: list[tuple[str, str]]
    blobs: str
    incoming: str
    given: int


class Seed(msgspec.Struct, frozen=True, tag=True):
    """Give a blob that is here whole."""

    sha256: str
    size: int
    hashes: bytes


class Fetch(msgspec.Struct, frozen=True, tag=True):
    """Take a blob into a new folder in ``incoming``, without the pieces in ``skipped``."""

    sha256: str
    size: int
    hashes: bytes
    folder: str
    skipped: list[int]


class Meet(msgspec.Struct, frozen=True, tag=True):
    """Who is in a torrent: addresses of its peers, and of the blob where it is sent by HTTP."""

    sha256: str
    peers: list[tuple[str, int]]
    web: list[str]


class Drop(msgspec.Struct, frozen=True, tag=True):
    """Leave a torrent, and delete what came by it."""

    sha256: str


class Limit(msgspec.Struct, frozen=True, tag=True):
    """How many bytes per second may come, 0 for any."""

    taken: int


Command = Seed | Fetch | Meet | Drop | Limit


class Ready(msgspec.Struct, frozen=True, tag=True):
    """It listens. ``lacking`` is what this kernel cannot keep it from, in words."""

    port: int
    lacking: list[str] = []


class Alive(msgspec.Struct, frozen=True, tag=True):
    """Once a second, whatever happens."""


class Came(msgspec.Struct, frozen=True, tag=True):
    """Pieces that are in the folder now, whole and on disk; and how much came in all, in bytes."""

    sha256: str
    pieces: list[int]
    done: int


class Broken(msgspec.Struct, frozen=True, tag=True):
    """A torrent that will not go on, or the process (no ``sha256``)."""

    sha256: str
    error: str


Event = Ready | Alive | Came | Broken
