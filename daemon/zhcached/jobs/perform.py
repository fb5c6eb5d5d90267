"""What each kind of job does, by name. One match, no registry."""

from __future__ import annotations

import threading

import msgspec

from zhcache.errors import IntegrityError, UsageError
from zhcache.protocol.messages import ImportRequest, PrefetchRequest, VerifyResult
from zhcache.protocol.names import RepoId, parse_repo
from zhcached.jobs import state
from zhcached.jobs.arrivals import Arrivals
from zhcached.jobs.imports import take_in
from zhcached.jobs.prefetch import Prefetcher
from zhcached.jobs.queue import Control
from zhcached.store.store import Store


class Performer:
    """Does jobs. Holds what an import needs that cannot be kept: its open connection."""

    def __init__(self, store: Store, prefetcher: Prefetcher) -> None:
        self._store = store
        self._prefetcher = prefetcher
        self._lock = threading.Lock()
        self._expected: dict[str, tuple[ImportRequest, Arrivals]] = {}

    def expect(self, key: str, request: ImportRequest, arrivals: Arrivals) -> None:
        """Keeps an import's connection for the job with ``key``."""
        with self._lock:
            self._expected[key] = (request, arrivals)

    def forget(self, key: str) -> None:
        """Drops what ``expect`` kept."""
        with self._lock:
            self._expected.pop(key, None)

    def perform(self, record: state.Record, control: Control) -> state.Done:
        """Does one job in the calling thread.

        Raises:
            ZhcacheError: As the work does; a failed verification carries its report.
        """
        match record.task:
            case state.Prefetch(request):
                return self._prefetcher.run(request, record, control)
            case state.Verify(request):
                repo = parse_repo(request.repo) if request.repo else None
                return self._verify(repo, control)
            case state.Repair():
                return self._repair(control)
            case state.Import():
                return self._import(record, control)

    def _import(self, record: state.Record, control: Control) -> state.Done:
        with self._lock:
            expected = self._expected.pop(record.key, None)
        if expected is None:
            raise UsageError(
                "the daemon was restarted before {repo} was imported",
                hint="start the import again; what was taken in is not read twice",
                repo=record.repo,
            )
        request, arrivals = expected
        try:
            control.enter(state.Running(sum(file.size for file in request.files)))
            return take_in(self._store, request, arrivals, record, control)
        finally:
            arrivals.close()

    def _verify(self, repo: RepoId | None, control: Control) -> state.Done:
        control.enter(state.Running())
        found = self._hash_all(repo, control)
        if found.damaged or found.missing:
            raise _damage(found)
        return state.Done(verify=found)

    def _repair(self, control: Control) -> state.Done:
        """Rebuilds the index from disk, then refetches what is damaged or missing."""
        control.enter(state.Running())
        self._store.rebuild()
        found = self._hash_all(None, control)
        found.rebuilt = True
        lost = sorted({user for blob in found.damaged for user in blob.used_by})
        for repo, commit in self._store.incomplete():
            request = PrefetchRequest(repo=repo, revision=commit)
            self._prefetcher.refetch(request, control)
            found.refetched += 1
        found.missing = []
        control.note(", ".join(lost))
        return state.Done(verify=found)

    def _hash_all(self, repo: RepoId | None, control: Control) -> VerifyResult:
        done = 0

        def count(step: int) -> None:
            nonlocal done
            done += step
            control.progress = state.Progress(bytes_done=done)

        return self._store.verify(repo, count, control.cancelled)


def _damage(found: VerifyResult) -> IntegrityError:
    names = sorted({user for blob in found.damaged for user in blob.used_by} | set(found.missing))
    error = IntegrityError(
        "{count} blobs are damaged or missing; {names} cannot be used as they are",
        hint="zhcache repair fetches them again",
        count=len(found.damaged) + len(found.missing),
        names=", ".join(names) or "nothing in use",
    )
    error.verify = msgspec.structs.replace(found)  # pyright: ignore[reportAttributeAccessIssue]
    return error
