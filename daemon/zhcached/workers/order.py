"""In which order a file's tensors lie, so that each starts at a multiple of its element's size.

Safetensors leaves no holes, and readers that map want aligned tensors: wide ones go first, as in
files that safetensors itself writes, and otherwise the source's order stays.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from zhcached.workers.schemes import Entry, Group
from zhcached.workers.tensors import BITS, size_of


@dataclass(frozen=True)
class Piece:
    """What is written at a stretch: entries of one group."""

    group: Group
    entries: tuple[Entry, ...]


def ordered(groups: Iterable[Group]) -> list[Piece]:
    """Returns the groups' entries in the order in which they are written.

    A group's entries lie beside each other, the wide ones first, but where that would leave what
    follows at an odd place: then each is a piece of its own.
    """
    pieces: list[Piece] = []
    for group in groups:
        entries = tuple(sorted(group.entries, key=_element, reverse=True))
        if sum(map(_bytes, entries)) % _element(entries[0]) == 0:
            pieces.append(Piece(group, entries))
        else:
            pieces += [Piece(group, (entry,)) for entry in entries]
    # Every piece is a multiple of its widest element, so what follows it, being no wider, fits.
    return sorted(pieces, key=lambda piece: _element(piece.entries[0]), reverse=True)


def _element(entry: Entry) -> int:
    return max(1, BITS[entry.dtype] // 8)


def _bytes(entry: Entry) -> int:
    return size_of(entry.dtype, entry.shape)
