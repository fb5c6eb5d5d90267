"""Journey A: a repository's name becomes verified blobs, a manifest and a view.

Resolve, decide, fetch what is missing, publish. The network is asked in ``resolve``, the
decisions are ``brief``; here they are carried out, in the thread of the job.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager

import msgspec
import structlog

from zhcache.errors import IntegrityError, NotFound
from zhcache.protocol.messages import (
    LockedFile,
    LockedRepo,
    PrefetchPlan,
    PrefetchRequest,
)
from zhcache.protocol.names import LOCAL, RepoId, is_commit, parse_repo
from zhcached.clock import Clock
from zhcached.convert.pickled import Pickles
from zhcached.convert.variants import Variants
from zhcached.jobs import state
from zhcached.jobs.asking.brief import DEFAULT_REF, Brief, Settled, prepare
from zhcached.jobs.brought import Brought, manifest_of, plan_of, result_of
from zhcached.jobs.control import Control
from zhcached.jobs.fetching.gather import Fetcher, Gathering
from zhcached.jobs.fetching.meter import Meter
from zhcached.jobs.pickled import converted_before, standing_in
from zhcached.jobs.variants import Making, Wanted, holds, planned
from zhcached.sources.alias import HubNames
from zhcached.sources.base import Source
from zhcached.store.digest import Promise
from zhcached.store.snapshots import IMPORTED, Manifest, ManifestFile

log = structlog.get_logger()


def key_of(request: PrefetchRequest) -> str:
    """Returns the key by which equal requests join one job."""
    canonical = msgspec.json.encode(
        msgspec.structs.replace(
            request,
            include=sorted(request.include),
            exclude=sorted(request.exclude),
            variants=sorted(set(request.variants)),
        ),
        order="deterministic",
    )
    return "prefetch " + hashlib.sha256(canonical).hexdigest()


class Prefetcher:
    """Carries out prefetches; one for the daemon, used by any number of jobs at once."""

    def __init__(
        self,
        fetcher: Fetcher,
        sources: Sequence[Source],
        aliases: Mapping[str, HubNames],
        clock: Clock,
        variants: Variants,
        pickles: Pickles,
    ) -> None:
        self.health = fetcher.health
        self._fetcher = fetcher
        self._store = fetcher.store
        self._sources = sources
        self._aliases = aliases
        self._clock = clock
        self.variants = variants
        self._pickles = pickles

    def plan(self, request: PrefetchRequest) -> PrefetchPlan:
        """Returns what ``run`` would do, having asked the sources and fetched nothing."""
        wanted = Wanted(request, self.variants)
        brief = self._prepare(request, lambda: None, wanted)
        here = {
            file.path
            for file in brief.comparison.files
            if self._store.presence.find(file.promise) is not None
        }
        return plan_of(brief, here, planned(self._store, self.variants, brief, wanted))

    def look(self, request: PrefetchRequest, check: Callable[[], None]) -> Brief:
        """Returns what the sources say of a request now; fetches nothing.

        Raises:
            ZhcacheError: As ``prepare`` does.
        """
        return self._prepare(request, check, Wanted(request, self.variants))

    def run(
        self,
        request: PrefetchRequest,
        record: state.Record,
        control: Control,
        refresh: state.Refresh | None = None,
    ) -> state.Done:
        """Does one prefetch.

        With ``refresh`` it is of that commit, and the ref moves only once the variants are there
        too; up to then it means what it meant.

        Raises:
            ZhcacheError: As ``prepare``, ``obtain`` and ``Variants.make`` do; what was fetched
                and made stays for the next time.
        """
        started = self._clock.monotonic()
        control.enter(state.Resolving())
        wanted = Wanted(request, self.variants)
        settled = refresh and Settled(refresh.commit, refresh.is_git)
        try:
            brought = self._obtain(request, wanted, record, control, settled)
            making = Making(self._store, self.variants, record, control)
            made = making.all(brought.manifest, wanted)
            if refresh is not None:
                ref, repo = request.revision or DEFAULT_REF, brought.manifest.repo_id
                self._store.refs.advance(repo, ref, refresh.commit, was=refresh.was)
        finally:
            # What a job brought that only rests is not to be collected while it does.
            if not control.suspended:
                self._store.leases.release_holds(record.id)
        brought.warnings.extend(making.warnings)
        place = self._store.view.snapshot_dir(brought.manifest.repo_id, brought.manifest.commit)
        seconds = self._clock.monotonic() - started
        return state.Done(result=result_of(brought, made, place, seconds))

    def _obtain(
        self,
        request: PrefetchRequest,
        wanted: Wanted,
        record: state.Record,
        control: Control,
        settled: Settled | None,
    ) -> Brought:
        commit = settled.commit if settled else request.revision
        if held := self._held(request, commit, wanted):
            return Brought(held, request.revision or held.commit, reused=held.bytes)
        brief = self._prepare(request, control.check, wanted, settled)
        try:
            return self._bring(brief, record, control)
        except IntegrityError:
            # A branch may have moved under the download: then the listing is another now.
            control.enter(state.Resolving())
            again = self._prepare(request, control.check, wanted, settled)
            if _promises(again) == _promises(brief):
                raise
            log.warning("prefetch.moved", was=brief.primary.commit, now=again.primary.commit)
            return self._bring(again, record, control)

    def bring(self, request: PrefetchRequest, record: state.Record, control: Control) -> Manifest:
        """Brings a snapshot, or a part of one, as a step of another job, which holds its blobs.

        Raises:
            ZhcacheError: As ``run``.
        """
        wanted = Wanted(request, self.variants)
        return self._obtain(request, wanted, record, control, None).manifest

    def refetch(
        self, manifest: Manifest, paths: Collection[str], job: str, control: Control
    ) -> None:
        """Brings back files of a snapshot that were lost, held to the digests it records.

        What was converted here is converted anew.

        Raises:
            ZhcacheError: As ``run``.
        """
        published = [f.converted_from or f for f in manifest.files if f.path in paths]
        lost = [LockedFile(path=f.path, size=f.size, sha256=f.sha256) for f in published]
        commit = manifest.commit
        pinned = LockedRepo(repo=manifest.repo, revision=commit, commit=commit, files=lost)
        request = PrefetchRequest(repo=manifest.repo, lock=pinned, allow_pickle=True)
        brief = self._prepare(request, control.check)
        total = sum(file.size for file in lost)
        meter = Meter(total, self._clock)
        gathering = Gathering(self._fetcher, brief, job, control, meter)
        try:
            gathering.run()
            with self._standing_in(brief, gathering, job, control):
                self._store.publish(manifest, None)
        finally:
            self._store.leases.release_holds(job)

    def restore(self, repo: RepoId, ref: str, record: state.Record, control: Control) -> None:
        """Makes a snapshot anew whose manifest was lost; blobs that are here are not fetched.

        Raises:
            ZhcacheError: As ``run``.
        """
        brief = self._prepare(PrefetchRequest(repo=str(repo), revision=ref), control.check)
        meter = Meter(sum(file.size for file in brief.selection.taken), self._clock)
        gathering = Gathering(self._fetcher, brief, record.id, control, meter)
        try:
            gathering.run()
            self._store.publish(manifest_of(brief, gathering, record, ()), brief.ref)
        finally:
            self._store.leases.release_holds(record.id)

    def _prepare(
        self,
        request: PrefetchRequest,
        check: Callable[[], None],
        wanted: Wanted | None = None,
        settled: Settled | None = None,
    ) -> Brief:
        return prepare(
            request,
            self._sources,
            self.health,
            self._aliases,
            check,
            precisions=wanted.precisions if wanted else {None},
            converted=lambda repo, commit: converted_before(self._store, repo, commit),
            settled=settled,
            tiers=self._fetcher.tiers,
            is_here=self._store.blobs.has,
        )

    def _standing_in(
        self, brief: Brief, gathering: Gathering, job: str, control: Control
    ) -> AbstractContextManager[list[ManifestFile]]:
        return standing_in(self._store, self._pickles, brief, gathering, job, control)

    def _held(
        self, request: PrefetchRequest, commit: str | None, wanted: Wanted
    ) -> Manifest | None:
        """Returns the snapshot if it cannot have changed and all that is wanted of it is here."""
        plain = not (request.include or request.exclude or request.lock)
        repo, is_settled = parse_repo(request.repo), commit is not None and is_commit(commit)
        if not plain or not (is_settled or repo.owner == LOCAL):
            return None
        try:
            manifest = self._store.resolve(repo, commit)
        except (NotFound, IntegrityError):
            return None
        if not (is_settled or manifest.source == IMPORTED):
            return None
        is_whole = holds(manifest, wanted.precisions, only_pipeline=request.only_pipeline)
        return manifest if is_whole else None

    def _bring(self, brief: Brief, record: state.Record, control: Control) -> Brought:
        total = sum(file.promise.size for file in brief.comparison.files)
        for warning in brief.warnings:
            log.warning("prefetch.warning", text=warning)
        control.enter(state.Fetching(total))
        meter = Meter(total, self._clock)
        control.progress = meter.picture()
        gathering = Gathering(self._fetcher, brief, record.id, control, meter)
        gathering.run()
        if brief.selection.converted:
            control.enter(state.Converting())
        with self._standing_in(brief, gathering, record.id, control) as made:
            control.enter(state.Publishing(total))
            manifest = manifest_of(brief, gathering, record, made)
            self._displace_import(manifest)
            self._store.publish(manifest, brief.ref)
        return Brought(
            manifest,
            brief.revision,
            dict(gathering.fetched),
            gathering.reused,
            brief.warnings,
        )

    def _displace_import(self, manifest: Manifest) -> None:
        """Lets go of files that a user once imported as this commit and that are others."""
        try:
            held = self._store.manifests.read(manifest.repo_id, manifest.commit)
        except FileNotFoundError:
            return
        known = {file.path: file.sha256 for file in held.files}
        differs = [f.path for f in manifest.files if known.get(f.path, f.sha256) != f.sha256]
        if held.source == IMPORTED and differs:
            log.warning("prefetch.import_displaced", uid=held.uid, paths=differs[:10])
            self._store.remove(manifest.repo_id, manifest.commit)


def _promises(brief: Brief) -> dict[str, Promise]:
    return {file.path: file.promise for file in brief.comparison.files}
