"""Whole models in one file become snapshots in diffusers' layout.

The file stays where it is and is read through a descriptor, by the front for its digest and by
workers for its tensors. Configurations, tokenizers and scheduler are those of the model that it was
made from; everything that its weights become goes the way of variants.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence

import msgspec
import structlog

from zhcache.errors import IntegrityError, NotFound, UsageError
from zhcache.protocol.messages import ImportRequest
from zhcache.protocol.names import RepoId, parse_repo, printable
from zhcached.clock import Clock
from zhcached.convert import single_header, single_kinds, single_plan
from zhcached.convert.places import Places
from zhcached.convert.runner import STALL_S, Conversion, Converted
from zhcached.convert.single_plan import INDEX, REPORT, SCHEDULER, Extraction, File
from zhcached.convert.single_report import Checkpoint, Report, doubts, picture, report_of
from zhcached.convert.variants import Picture, Show
from zhcached.errors import StoreDamaged
from zhcached.residency.arena.contents import classes
from zhcached.residency.launch.launch import Launcher
from zhcached.store.snapshots import IMPORTED, Manifest, ManifestFile, Original
from zhcached.store.store import Store

STEP = 8 * 2**20

log = structlog.get_logger()

Fetch = Callable[[RepoId], Manifest]
"""Returns a snapshot with a model's small files, from here or from the network."""

NameCommit = Callable[[Sequence[ManifestFile]], str]
"""Returns the commit that names exactly these files."""


class Taken(msgspec.Struct, frozen=True):
    """A checkpoint as a snapshot; ``is_new`` is False if the same file was taken in before."""

    manifest: Manifest
    warnings: list[str]
    is_new: bool


class Asker(msgspec.Struct, frozen=True):
    """For whom: the job that holds the blobs, its user, and who is told how far it is."""

    job: str
    uid: int
    show: Show


class Checkpoints:
    """Takes in checkpoints. Thread-safe; ``take_in`` blocks for as long as it takes.

    Args:
        store: Where snapshots are.
        launcher: Starts workers.
        places: For them.
        clock: The time.
        make_room: Makes sure that so many bytes fit, or raises NoSpace.
        name_commit: As imports name theirs.
        stall_s: How long a worker may be silent.
    """

    def __init__(
        self,
        store: Store,
        launcher: Launcher,
        places: Places,
        *,
        clock: Clock,
        make_room: Callable[[int], None],
        name_commit: NameCommit,
        stall_s: float = STALL_S,
    ) -> None:
        self._store = store
        self._launcher = launcher
        self._places = places
        self._clock = clock
        self._make_room = make_room
        self._name_commit = name_commit
        self._stall_s = stall_s

    def take_in(
        self, fd: int, request: ImportRequest, ref: str, fetch: Fetch, asker: Asker
    ) -> Taken:
        """Returns the snapshot of a checkpoint, made and published if it is not here.

        Its blobs are held for the job until ``leases.release_holds``.

        Args:
            fd: The file, open for reading alone; stays the caller's.
            request: With ``op`` ``checkpoint``.
            ref: The branch that will point at it.
            fetch: Brings the small files of a model.
            asker: For whom.

        Raises:
            UsageError: It is no whole model of a known kind, or none like the one that was named;
                or its name is taken; or it changed meanwhile.
            UnsafeWeights: It is a pickle.
            IntegrityError: It is damaged or cut.
            WorkerDied: A worker ended early.
            NoSpace: No room.
            Cancelled: ``asker.show`` raised it.
            ZhcacheError: As ``fetch``; or no worker can be started; or a disk failed.
        """
        repo = parse_repo(request.repo)
        (told,) = request.files
        file = File(told.path, os.fstat(fd).st_size)
        tensors = single_header.read(fd, file.name)
        kind = single_kinds.tell(tensors, file.name)
        before = _identity(fd)
        sha256 = self._digest(fd, file, asker.show)
        if (held := self._held(repo, ref, request, sha256, asker.uid)) is not None:
            return Taken(held, [], is_new=False)
        like = fetch(parse_repo(request.like or kind.like))
        job = Checkpoint(fd, file, sha256, kind, tensors, like)
        files, report = self._make(job, asker)
        if _identity(fd) != before:
            raise _changed(file)
        manifest = Manifest(
            repo=str(repo),
            commit=self._name_commit(files),
            created=self._clock.wall(),
            source=IMPORTED,
            trust="first-use",
            uid=asker.uid,
            files=tuple(files),
        )
        self._store.publish(manifest, ref)
        log.info("checkpoint.published", kind=kind.title, commit=manifest.commit)
        return Taken(manifest, doubts(job, report, is_asked=bool(request.like)), is_new=True)

    def _digest(self, fd: int, file: File, show: Show) -> str:
        digest, at = hashlib.sha256(), 0
        note = f"reading {file.name}"
        while at < file.size:
            show(Picture(note, at, file.size))
            part = os.pread(fd, STEP, at)
            if not part:
                raise _changed(file)
            digest.update(part)
            at += len(part)
        return digest.hexdigest()

    def _held(
        self, repo: RepoId, ref: str, request: ImportRequest, sha256: str, uid: int
    ) -> Manifest | None:
        """Returns the snapshot if the same file was taken in under that name and is sound."""
        sound = True
        try:
            held = self._store.resolve(repo, ref)
        except NotFound:
            return None
        except IntegrityError:
            sound = False
            held = self._store.manifests.read(repo, self._store.manifests.refs(repo)[ref])
        of = {file.converted_from.sha256 for file in held.files if file.converted_from}
        is_alike = request.like is None or (
            (report := self._report(held)) is not None and report.like == request.like
        )
        if of == {sha256} and held.source == IMPORTED and is_alike:
            return held if sound else None
        if request.replace and held.source == IMPORTED and held.uid in (uid, os.geteuid()):
            return None
        raise UsageError(
            "{repo} is here already, and it is not this file",
            hint="take it in under another name: --repo OWNER/NAME; or `zhcache rm {repo}` first",
            repo=repo,
        )

    def _report(self, held: Manifest) -> Report | None:
        found = next((file for file in held.files if file.path == REPORT), None)
        try:
            return msgspec.json.decode(self._content(held, REPORT), type=Report) if found else None
        except msgspec.MsgspecError:
            return None

    def _make(self, job: Checkpoint, asker: Asker) -> tuple[list[ManifestFile], Report]:
        """Returns the files of the snapshot, all of them held for the job."""
        like, store = job.like, self._store
        # Nobody may collect it while workers read its folder.
        lease = store.leases.grant(like.repo_id, like.commit, uid=asker.uid, pid=os.getpid())
        try:
            named = classes(store, like)
            single_plan.check_scheduler(job.file, job.tensors, like, self._content(like, SCHEDULER))
            work = single_plan.work(job.kind, job.file, job.tensors, like, named)
            self._make_room(sum(one.bytes for one in work))
            made = self._convert(job, work, asker)
            report = report_of(job, made)
            small = {
                INDEX: single_plan.index(self._content(like, INDEX)),
                REPORT: msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n",
            }
            files = single_plan.taken(like, named)
            for file in files:
                store.leases.hold(asker.job, file.sha256)
        finally:
            store.leases.end(lease)
        files = [ManifestFile(file.path, file.size, file.sha256) for file in files]
        for path, content in small.items():
            put = store.intake.put(content, asker.job)
            files.append(ManifestFile(path, put.size, put.sha256))
        original = Original(job.file.name, job.file.size, job.sha256)
        for one, converted in made:
            (came,) = converted.files.values()
            path = f"{one.piece.component}/{one.output}"
            files.append(ManifestFile(path, came.size, came.sha256, converted_from=original))
        return files, report

    def _convert(
        self, job: Checkpoint, work: Sequence[Extraction], asker: Asker
    ) -> list[tuple[Extraction, Converted]]:
        folder = str(self._store.view.snapshot_dir(job.like.repo_id, job.like.commit))
        conversions = [
            Conversion(
                one,
                folder,
                asker.job,
                launcher=self._launcher,
                intake=self._store.intake,
                stall_s=self._stall_s,
                fds=(job.fd,),
            )
            for one in sorted(work, key=lambda one: one.bytes, reverse=True)
        ]
        return self._places.run(
            conversions, lambda *_: None, lambda: asker.show(picture(conversions, job.file))
        )

    def _content(self, manifest: Manifest, path: str) -> bytes:
        found = next((file for file in manifest.files if file.path == path), None)
        if found is None:
            raise UsageError(
                "{repo} is no model that a checkpoint could be like: it has no {path}",
                hint="name another one with --like",
                repo=manifest.repo,
                path=path,
            )
        try:
            return self._store.layout.blob(found.sha256).read_bytes()
        except OSError as error:
            raise StoreDamaged(reason=f"{path} of {manifest.repo}: {error}") from error


def _identity(fd: int) -> tuple[int, ...]:
    found = os.fstat(fd)
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _changed(file: File) -> UsageError:
    return UsageError(
        "{file} changed while it was read",
        hint="start the import again once it is written",
        file=printable(file.name),
    )
