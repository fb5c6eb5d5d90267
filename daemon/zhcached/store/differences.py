"""Where index and disk differ, by names, inodes and times alone. Pure; no byte is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from zhcached.store.blobs import Identity

Key = tuple[str, str]
"""Repository and commit."""


class Stamp(NamedTuple):
    """By what a manifest file is known again without being read."""

    inode: int
    size: int
    mtime_ns: int


class SnapshotRow(NamedTuple):
    """What is recorded of a snapshot. ``is_sound``: its rows still have their checksum."""

    key: Key
    stamp: Stamp
    is_sound: bool
    is_removing: bool


@dataclass(frozen=True, slots=True)
class BlobDifferences:
    """Blobs on disk that are not recorded, recorded ones that are gone, and touched ones."""

    new: list[str]
    gone: list[str]
    touched: list[str]


@dataclass(frozen=True, slots=True)
class SnapshotDifferences:
    """Removals cut short; rows without a manifest; manifests that the rows do not say.

    ``half_removed`` are in the order of their rows.
    """

    half_removed: list[Key] = field(default_factory=list[Key])
    vanished: list[Key] = field(default_factory=list[Key])
    changed: list[Key] = field(default_factory=list[Key])


def blobs(on_disk: Mapping[str, Identity], recorded: Mapping[str, Identity]) -> BlobDifferences:
    """Compares blobs by their names and by what the file system says of each."""
    return BlobDifferences(
        new=[name for name in on_disk if name not in recorded],
        gone=[name for name in recorded if name not in on_disk],
        touched=[name for name, was in recorded.items() if on_disk.get(name, was) != was],
    )


def snapshots(on_disk: Mapping[Key, Stamp], rows: Iterable[SnapshotRow]) -> SnapshotDifferences:
    """Compares manifests with the rows that were made of them."""
    found = SnapshotDifferences()
    settled: set[Key] = set()
    for row in rows:
        if row.is_removing:
            found.half_removed.append(row.key)
            settled.add(row.key)
        elif row.key not in on_disk:
            found.vanished.append(row.key)
        elif row.is_sound and row.stamp == on_disk[row.key]:
            settled.add(row.key)
    found.changed.extend(key for key in on_disk if key not in settled)
    return found
