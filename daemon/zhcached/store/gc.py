"""What a collection is to remove, and why the rest stays. Pure: ``collector`` looks and removes.

A state in, a list of removals and reasons out, which makes ``--dry-run`` free and truthful.
"""

from __future__ import annotations

import msgspec

from zhcache.errors import fill
from zhcache.i18n import mark
from zhcache.protocol.messages import GcItem
from zhcache.protocol.sources import Phrase


class UnusedBlob(msgspec.Struct, frozen=True):
    """A blob that no manifest references."""

    sha256: str
    size: int
    age_s: float
    is_released: bool


class UsedBlobs(msgspec.Struct, frozen=True):
    """Blobs of a repository, or those of a variant that are its own, in sum; who leases them."""

    name: str
    bytes: int
    count: int
    holders: tuple[str, ...]


class Leftover(msgspec.Struct, frozen=True):
    """A partial download, or a damaged file set aside."""

    name: str
    size: int
    age_s: float
    is_active: bool = False


class GcState(msgspec.Struct, frozen=True):
    """Everything that a plan is made from. Times are seconds."""

    unused: tuple[UnusedBlob, ...]
    used: tuple[UsedBlobs, ...]
    held: dict[str, str]
    ingests: tuple[Leftover, ...]
    quarantine: tuple[Leftover, ...]
    grace_s: float
    keep_partial_s: float
    has_lost: bool = False


class GcPlan(msgspec.Struct, frozen=True):
    """What goes and what stays, each with its reason."""

    remove: tuple[GcItem, ...]
    keep: tuple[GcItem, ...]


def plan(state: GcState) -> GcPlan:
    """Decides. Kept things are one item for each reason, removed ones one each."""
    remove: list[GcItem] = []
    keep = [_used(use) for use in state.used]
    young: list[UnusedBlob] = []
    orphaned: list[UnusedBlob] = []
    held: dict[str, list[UnusedBlob]] = {}
    for blob in state.unused:
        if blob.sha256 in state.held:
            held.setdefault(state.held[blob.sha256], []).append(blob)
        elif blob.is_released:
            remove.append(_item("blob", blob.sha256, blob.size, mark("released: nothing needs it")))
        elif state.has_lost:
            orphaned.append(blob)
        elif blob.age_s >= state.grace_s:
            reason = mark("unused and older than the grace time")
            remove.append(_item("blob", blob.sha256, blob.size, reason))
        else:
            young.append(blob)
    for job, blobs in held.items():
        keep.append(_group(blobs, mark("needed by the running job {job}"), job=job))
    if young:
        reason = mark("younger than the grace time of {grace_s} s")
        keep.append(_group(young, reason, grace_s=f"{state.grace_s:.0f}"))
    if orphaned:
        reason = mark("a snapshot's manifest was lost: run `zhcache repair`")
        keep.append(_group(orphaned, reason))
    _sort_leftovers(state, remove, keep)
    return GcPlan(tuple(remove), tuple(keep))


def _sort_leftovers(state: GcState, remove: list[GcItem], keep: list[GcItem]) -> None:
    limit = state.keep_partial_s
    for ingest in state.ingests:
        left = limit - ingest.age_s
        if ingest.is_active:
            reason = mark("download in progress")
            keep.append(_item("ingest", ingest.name, ingest.size, reason))
        elif left > 0:
            reason = mark("partial download, resumable for another {left_s} s")
            name, size = ingest.name, ingest.size
            keep.append(_item("ingest", name, size, reason, left_s=f"{left:.0f}"))
        else:
            reason = mark("partial download that nobody resumed")
            remove.append(_item("ingest", ingest.name, ingest.size, reason))
    for file in state.quarantine:
        left = limit - file.age_s
        if left > 0:
            reason = mark("damaged; kept another {left_s} s so that it can be examined")
            name, size = file.name, file.size
            keep.append(_item("quarantine", name, size, reason, left_s=f"{left:.0f}"))
        else:
            reason = mark("damaged, and kept long enough to be examined")
            remove.append(_item("quarantine", file.name, file.size, reason))


def _used(use: UsedBlobs) -> GcItem:
    reason = mark("used by {name}")
    values = {"name": use.name}
    if use.holders:
        reason = mark("used by {name}, leased by {holders}")
        values["holders"] = ", ".join(use.holders)
    return GcItem(
        kind="blob",
        name=_counted(use.count),
        bytes=use.bytes,
        reason=fill(reason, values),
        used_by=[use.name],
        count=use.count,
        why=[Phrase(template=reason, values=values)],
    )


def _group(blobs: list[UnusedBlob], reason: str, **values: str) -> GcItem:
    item = _item("blob", _counted(len(blobs)), sum(blob.size for blob in blobs), reason, **values)
    item.count = len(blobs)
    return item


def _counted(blobs: int) -> str:
    return "1 blob" if blobs == 1 else f"{blobs} blobs"


def _item(kind: str, named: str, size: int, reason: str, **values: str) -> GcItem:
    return GcItem(
        kind=kind,  # pyright: ignore[reportArgumentType]
        name=named,
        bytes=size,
        reason=fill(reason, values),
        why=[Phrase(template=reason, values=values)],
    )
