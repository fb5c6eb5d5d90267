"""What is told of a checkpoint that is taken in: how far it is, of what it was made, what to doubt.

The record's bytes follow from what it tells: no times, no names of files or machines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

import msgspec

from zhcache.protocol.messages import FileProgress
from zhcache.protocol.names import printable
from zhcached.convert import single_kinds
from zhcached.convert.runner import Conversion, Converted
from zhcached.convert.single_header import Tensors
from zhcached.convert.single_kinds import Kind
from zhcached.convert.single_plan import Extraction, File
from zhcached.convert.variants import Picture
from zhcached.store.snapshots import Manifest


class Report(msgspec.Struct, frozen=True):
    """The content of ``zhcache-checkpoint.json``: of what a snapshot was made, and with what."""

    kind: str
    sha256: str
    size: int
    like: str
    like_commit: str
    tools: dict[str, str]
    nonfinite: dict[str, int]
    format: int = 1


class Checkpoint(msgspec.Struct, frozen=True):
    """One checkpoint on its way, and the model whose configurations it gets."""

    fd: int
    file: File
    sha256: str
    kind: Kind
    tensors: Tensors
    like: Manifest


def report_of(job: Checkpoint, made: Sequence[tuple[Extraction, Converted]]) -> Report:
    """Returns the record of what was made of a checkpoint."""
    nonfinite = {
        one.piece.component: sum(t.nonfinite_in for t in chain(*converted.tensors.values()))
        for one, converted in made
    }
    tools: Mapping[str, str] = {}
    for _, converted in made:
        tools = {**tools, **converted.tools}
    return Report(
        kind=job.kind.title,
        sha256=job.sha256,
        size=job.file.size,
        like=job.like.repo,
        like_commit=job.like.commit,
        tools=dict(sorted(tools.items())),
        nonfinite={name: count for name, count in sorted(nonfinite.items()) if count},
    )


def doubts(job: Checkpoint, report: Report, *, is_asked: bool) -> list[str]:
    """Returns what whoever takes it in should hear.

    Args:
        job: The checkpoint.
        report: What was made of it.
        is_asked: Whether the user named the model that it is to be like.
    """
    found = [
        f"{count} values of {component} are NaN or infinite in the file"
        for component, count in report.nonfinite.items()
    ]
    if job.kind.doubt and not is_asked:
        found.append(job.kind.doubt)
    if odd := single_kinds.beside(job.tensors, job.kind):
        first = printable(odd[0])
        found.append(f"{len(odd)} tensors belong to no component and are left out, as {first}")
    return found


def picture(conversions: Sequence[Conversion[Extraction]], file: File) -> Picture:
    """Returns how far the conversions of a file are."""
    parts = tuple(
        FileProgress(path=c.work.piece.component, size=c.work.bytes, done=c.bytes_done)
        for c in conversions
    )
    return Picture(
        note=f"converting {file.name}",
        bytes_done=sum(part.done for part in parts),
        bytes_total=sum(part.size for part in parts),
        components=tuple(part for part in parts if part.done < part.size),
    )
