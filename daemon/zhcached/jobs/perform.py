"""What each kind of job does, by name. One match, no registry."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from zhcache.errors import Cancelled, IntegrityError, Partial, UsageError, ZhcacheError
from zhcache.i18n import mark
from zhcache.protocol.messages import VerifyResult
from zhcache.protocol.names import RepoId, parse_repo
from zhcached.convert.single import Checkpoints
from zhcached.jobs import state
from zhcached.jobs.control import Control
from zhcached.jobs.importing.arrivals import Incoming
from zhcached.jobs.importing.checkpoints import take_in_checkpoint
from zhcached.jobs.importing.imports import take_in
from zhcached.jobs.prefetch import Prefetcher
from zhcached.jobs.variants import Making
from zhcached.jobs.warm import make_warm
from zhcached.residency.door import Residency
from zhcached.store.store import Store


class Performer:
    """Does jobs, each in the thread it is called in.

    Args:
        store: Where the snapshots are.
        prefetcher: Fetches them.
        residency: Keeps them warm.
        checkpoints: Takes in whole models in one file.
        claim: Told of each revision that a user brought here himself.
    """

    def __init__(
        self,
        store: Store,
        prefetcher: Prefetcher,
        residency: Residency,
        checkpoints: Checkpoints,
        claim: Callable[[str, str], object] = lambda _repo, _commit: None,
    ) -> None:
        self._store = store
        self._prefetcher = prefetcher
        self._residency = residency
        self._checkpoints = checkpoints
        self._claim = claim

    def perform(self, record: state.Record, control: Control) -> state.Done:
        """Does one job in the calling thread.

        Raises:
            ZhcacheError: As the work does; a failed verification carries its report.
        """
        done = self._perform(record, control)
        if done.result is not None and not isinstance(record.task, state.Refresh):
            self._claim(done.result.repo, done.result.commit)
        return done

    def _perform(self, record: state.Record, control: Control) -> state.Done:
        match record.task:
            case state.Prefetch(request):
                return self._prefetcher.run(request, record, control)
            case state.Refresh(request):
                return self._prefetcher.run(request, record, control, record.task)
            case state.Verify(request):
                repo = parse_repo(request.repo) if request.repo else None
                return self._verify(repo, control)
            case state.Repair():
                return self._repair(record, control)
            case state.Import():
                return self._import(record, control)
            case state.Warm():
                return make_warm(self._residency, record, control)

    def _import(self, record: state.Record, control: Control) -> state.Done:
        if not isinstance(control.resource, Incoming):
            if isinstance(record.task, state.Import) and record.task.folder:
                raise UsageError(
                    "the daemon was restarted before {repo} was taken in from {folder}",
                    hint="nothing need be done: the folder is looked at again",
                    repo=record.repo,
                    folder=record.task.folder,
                )
            raise UsageError(
                "the daemon was restarted before {repo} was imported",
                hint="start the import again; what was taken in is not stored twice",
                repo=record.repo,
            )
        request = control.resource.request
        control.enter(state.Running(sum(file.size for file in request.files)))
        if request.op == "checkpoint":
            return take_in_checkpoint(
                self._store, self._checkpoints, self._prefetcher, record, control
            )
        return take_in(self._store, control.resource, record, control)

    def _verify(self, repo: RepoId | None, control: Control) -> state.Done:
        control.enter(state.Running())
        found = self._hash(repo, control)
        if found.damaged or found.missing:
            raise _Damaged(found)
        return state.Done(verify=found)

    def _repair(self, record: state.Record, control: Control) -> state.Done:
        """Rebuilds the index from disk, re-hashes all, then refetches what is lost."""
        control.enter(state.Running())
        self._store.rebuild()
        found = self._hash(None, control)
        found.rebuilt = True
        lost: dict[tuple[RepoId, str], set[str]] = defaultdict(set)
        for repo, commit, path, _ in self._store.checks.holes():
            lost[repo, commit].add(path)
        for (repo, commit), paths in lost.items():
            control.check()
            manifest = self._store.manifests.read(repo, commit)
            self._prefetcher.refetch(manifest, paths, record.id, control)
            found.refetched += len(paths)
        for repo, ref, _ in self._store.checks.lost():
            control.check()
            self._prefetcher.restore(repo, ref, record, control)
            found.refetched += 1
        found.missing = self._remake(record, control)
        if found.missing:
            raise _Unmended(found)
        return state.Done(verify=found)

    def _remake(self, record: state.Record, control: Control) -> list[str]:
        """Makes variants anew that miss bytes; returns those that cannot be made, and why."""
        making = Making(self._store, self._prefetcher.variants, record, control)
        unmade: list[str] = []
        try:
            for repo, of, name, own in self._store.broken_variants():
                try:
                    made = making.one(self._store.resolve(repo, of), name)
                    if made.path != str(self._store.view.snapshot_dir(repo, own)):
                        # The recipe is another by now, or the tools: nobody can make that one.
                        self._store.remove(repo, own)
                except Cancelled:
                    raise
                except ZhcacheError as error:
                    unmade.append(f"{repo} {name}: {error}")
        finally:
            self._store.leases.release_holds(record.id)
        return unmade

    def _hash(self, repo: RepoId | None, control: Control) -> VerifyResult:
        done = 0

        def count(step: int) -> None:
            nonlocal done
            done += step
            control.progress = state.Progress(bytes_done=done)

        return self._store.checks.verify(repo, count, control.cancelled)


class _Unmended(Partial):
    """A repair that could not make all variants anew; carries its report."""

    def __init__(self, found: VerifyResult) -> None:
        self.verify = found
        super().__init__(
            mark("{count} damaged variants cannot be made anew: {reasons}"),
            hint=mark("`zhcache rm REPO --variant V` lets one go"),
            count=len(found.missing),
            reasons="; ".join(found.missing),
        )


class _Damaged(IntegrityError):
    """A verification that found damage; carries its report."""

    def __init__(self, found: VerifyResult) -> None:
        self.verify = found
        names = {user for blob in found.damaged for user in blob.used_by} | set(found.missing)
        super().__init__(
            mark("{count} files are damaged or missing; they concern {names}"),
            hint=mark("zhcache repair fetches them again"),
            count=len(found.damaged) + len(found.missing),
            names=", ".join(sorted(names)) or "nothing that is in use",
        )
