"""An import of a whole model in one file: what it needs of another model, then the conversion."""

from __future__ import annotations

import fcntl
import os
import time

from zhcache.errors import Gated, IntegrityError, NotFound, NotPermitted, SourcesFailed, UsageError
from zhcache.i18n import mark
from zhcache.protocol.messages import PrefetchRequest, PrefetchResult
from zhcache.protocol.names import RepoId, parse_repo
from zhcached.convert import single_plan
from zhcached.convert.single import Asker, Checkpoints, Taken
from zhcached.convert.variants import Picture
from zhcached.jobs import state
from zhcached.jobs.control import Control
from zhcached.jobs.importing.arrivals import Incoming
from zhcached.jobs.importing.imports import DEFAULT_REF
from zhcached.jobs.prefetch import Prefetcher
from zhcached.residency.arena.contents import classes
from zhcached.sources.alias import known_as
from zhcached.store.snapshots import Manifest
from zhcached.store.store import Store


def take_in_checkpoint(
    store: Store,
    checkpoints: Checkpoints,
    prefetcher: Prefetcher,
    record: state.Record,
    control: Control,
) -> state.Done:
    """Takes in the file that the job was given, whose request has ``op`` ``checkpoint``.

    Raises:
        UsageError: It is open for writing; or as ``Checkpoints.take_in``.
        ZhcacheError: As ``Checkpoints.take_in``; or what its kind needs besides cannot be had.
    """
    started = time.monotonic()
    incoming = control.resource
    assert isinstance(incoming, Incoming)
    request = incoming.request
    ref = request.revision or DEFAULT_REF
    asker = Asker(record.id, record.uid, lambda picture: _show(control, picture))
    beside = _Beside(store, prefetcher, record, control)
    try:
        (taken,) = (
            checkpoints.take_in(_readable(fd), request, ref, beside.fetch, asker)
            for fd in incoming.take(1)
        )
    finally:
        store.leases.release_holds(record.id)
    return state.Done(result=_result(store, taken, ref, started))


class _Beside:
    """The small files of the model that a checkpoint was made from."""

    def __init__(
        self, store: Store, prefetcher: Prefetcher, record: state.Record, control: Control
    ) -> None:
        self._store = store
        self._prefetcher = prefetcher
        self._record = record
        self._control = control

    def fetch(self, repo: RepoId) -> Manifest:
        """Returns a snapshot that has them; nobody is asked where one is here.

        Raises:
            ZhcacheError: They are not here, and no source has them.
        """
        for name in known_as(repo):
            if (held := self._held(name)) is not None:
                return held
        self._control.progress = state.Progress(note=f"fetching the configuration of {repo}")
        request = PrefetchRequest(
            repo=str(repo), include=[*single_plan.INCLUDE], exclude=[*single_plan.EXCLUDE]
        )
        # The states of a download are not this job's.
        step = Control(lambda _: None, None)
        step.cancelled = self._control.cancelled
        try:
            return self._prefetcher.bring(request, self._record, step)
        except (NotFound, Gated, NotPermitted, SourcesFailed) as error:
            raise type(error)(
                mark(
                    "a checkpoint of this kind needs the configuration of {repo}, which cannot be"
                    " had: {reason}"
                ),
                hint=mark(
                    "`zhcache prefetch {repo}` where there is a line, or another model that is"
                    " here: --like OWNER/NAME"
                ),
                repo=repo,
                reason=error.message,
            ) from error

    def _held(self, repo: RepoId) -> Manifest | None:
        try:
            held = self._store.resolve(repo, None)
            lacking = single_plan.lacking(held, classes(self._store, held))
        except (NotFound, IntegrityError, UsageError):
            return None
        return held if lacking is None else None


def _readable(fd: int) -> int:
    # It goes on to a worker, which must not be able to write what its owner can.
    if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY:
        raise UsageError("a descriptor is open for more than reading")
    return fd


def _show(control: Control, picture: Picture) -> None:
    control.check()
    control.progress = state.Progress(
        bytes_done=picture.bytes_done,
        bytes_total=picture.bytes_total,
        files=picture.components,
        note=picture.note,
    )


def _result(store: Store, taken: Taken, ref: str, started: float) -> PrefetchResult:
    manifest = taken.manifest
    repo = parse_repo(manifest.repo)
    return PrefetchResult(
        repo=manifest.repo,
        revision=ref,
        commit=manifest.commit,
        path=str(store.view.snapshot_dir(repo, manifest.commit)),
        files=len(manifest.files),
        bytes=manifest.bytes,
        bytes_fetched=0,
        bytes_reused=manifest.bytes,
        seconds=round(time.monotonic() - started, 3),
        sources={},
        trust=manifest.trust,
        warnings=taken.warnings,
    )
