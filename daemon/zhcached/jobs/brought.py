"""What a prefetch is to bring and has brought, as it is told and recorded. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from zhcache.protocol.messages import (
    PlannedFile,
    PrefetchPlan,
    PrefetchResult,
    VariantResult,
)
from zhcache.protocol.variants import PlannedVariant
from zhcached.jobs import state
from zhcached.jobs.asking.brief import Brief
from zhcached.jobs.fetching.gather import Gathering
from zhcached.sources.trust import overall
from zhcached.store.snapshots import Manifest, ManifestFile


@dataclass(frozen=True, slots=True)
class Brought:
    """A snapshot that is here now, and what the network did for it."""

    manifest: Manifest
    revision: str
    fetched: dict[str, int] = field(default_factory=dict[str, int])
    reused: int = 0
    warnings: list[str] = field(default_factory=list[str])


def plan_of(
    brief: Brief, here: Collection[str], variants: dict[str, PlannedVariant]
) -> PrefetchPlan:
    """Returns what a prefetch would do.

    Args:
        brief: What the sources say.
        here: Paths of which the bytes are in the store.
        variants: What would become of each variant, by name.
    """
    files = [
        PlannedFile(
            path=file.path,
            size=file.promise.size,
            present=file.promise.size if file.path in here else 0,
            sources=list(file.served_by),
        )
        for file in brief.comparison.files
    ]
    return PrefetchPlan(
        repo=str(brief.repo),
        revision=brief.revision,
        commit=brief.primary.commit,
        trust=brief.comparison.grade,
        files=files,
        bytes=sum(file.size for file in files),
        bytes_present=sum(file.present for file in files),
        left_out=brief.selection.left_out,
        variants=variants,
    )


def result_of(
    brought: Brought, variants: dict[str, VariantResult], place: Path, seconds: float
) -> PrefetchResult:
    """Returns what a prefetch tells of its end; ``place`` is the snapshot's folder."""
    manifest = brought.manifest
    return PrefetchResult(
        repo=manifest.repo,
        revision=brought.revision,
        commit=manifest.commit,
        path=str(place),
        files=len(manifest.files),
        bytes=manifest.bytes,
        bytes_fetched=sum(brought.fetched.values()),
        bytes_reused=brought.reused,
        seconds=round(seconds, 3),
        sources=brought.fetched,
        trust=manifest.trust,
        variants=variants,
        left_out=manifest.left_out,
        warnings=brought.warnings,
    )


def manifest_of(
    brief: Brief, gathering: Gathering, record: state.Record, made: Sequence[ManifestFile]
) -> Manifest:
    """Returns the manifest of what was gathered and of what was ``made`` of pickles among it."""
    listed = brief.listings[brief.primary.source]
    # The pickles' grades too: what was made of them is no better founded.
    trust = gathering.trust()
    files = list(made)
    for file in trust:
        if file.path in brief.selection.converted:
            continue
        origin = listed.get(file.path)
        found = gathering.committed[file.path]
        files.append(
            ManifestFile(
                path=file.path,
                size=found.size,
                sha256=found.sha256,
                # Only what was hashed: a hub's word about other bytes must not become ours.
                git_sha1=found.git_sha1 if origin and origin.git_sha1 == found.git_sha1 else None,
                trust=file.grade,
            )
        )
    return Manifest(
        repo=str(brief.repo),
        commit=brief.primary.commit,
        created=record.created,
        source=brief.primary.source,
        trust="pinned" if brief.comparison.grade == "pinned" else overall(trust),
        uid=record.uid,
        files=tuple(files),
        complete=brief.selection.is_complete,
        left_out=brief.selection.left_out,
        private=brief.is_private,
    )
