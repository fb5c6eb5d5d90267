"""What was pulled file by file becomes a snapshot: a manifest that grows until all is there.

One thread publishes; what comes in meanwhile goes into the next manifest, so that a repository of
a thousand small files does not mean a thousand manifests.
"""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping

import msgspec
import structlog

from zhcache.errors import ZhcacheError
from zhcache.protocol.messages import Trust
from zhcache.protocol.names import RepoId, parse_repo
from zhcached.clock import Clock
from zhcached.sources.pickles import ONLY_PICKLE
from zhcached.sources.trust import is_document
from zhcached.store.snapshots import IMPORTED, Manifest, ManifestFile
from zhcached.store.store import Store

NOT_YET = "not asked for yet"

log = structlog.get_logger()


class Whole(msgspec.Struct, frozen=True):
    """A commit as its listing has it.

    Attributes:
        repo: The repository.
        commit: The commit.
        source: Who listed it.
        private: Not everybody may read it.
        paths: What may be pulled of it.
        left_out: What may not, with the reason.
    """

    repo: str
    commit: str
    source: str
    private: bool
    paths: frozenset[str]
    left_out: dict[str, str]


class _Piece(msgspec.Struct, frozen=True):
    whole: Whole
    file: ManifestFile
    job: str
    done: Callable[[], None]


class Publishing:
    """Publishes pulled files. Thread-safe.

    Args:
        store: Where.
        clock: The time.
        refs: Returns the branches and tags that mean a commit now.
    """

    def __init__(
        self, store: Store, clock: Clock, refs: Callable[[RepoId, str], Collection[str]]
    ) -> None:
        self._store = store
        self._clock = clock
        self._refs = refs
        self._news = threading.Condition()
        self._pending: list[_Piece] = []
        self._known: dict[tuple[str, str], set[str]] = {}
        self._is_stopped = False
        self._thread: threading.Thread | None = None

    def knows(self, repo: RepoId, commit: str, path: str) -> bool:
        """Tells whether a file is in a snapshot already, or on its way there."""
        key = (repo.folder, commit)
        known = self._known.get(key)
        if known is None:
            try:
                files = self._store.manifests.read(repo, commit).files
            except (FileNotFoundError, ZhcacheError):
                files = ()
            known = self._known.setdefault(key, {file.path for file in files})
        return path in known

    def add(
        self, whole: Whole, file: ManifestFile, job: str, done: Callable[[], None] = lambda: None
    ) -> None:
        """Takes a file whose blob is held for ``job``; the hold ends when it is published."""
        with self._news:
            self._pending.append(_Piece(whole, file, job, done))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="publish", daemon=True)
                self._thread.start()
            self._news.notify_all()

    def stop(self, grace_s: float = 5.0) -> None:
        """Publishes what is there and ends."""
        with self._news:
            self._is_stopped = True
            self._news.notify_all()
        if self._thread is not None:
            self._thread.join(grace_s)

    def _run(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._pending or self._is_stopped)
                if not self._pending:
                    return
                pieces, self._pending = self._pending, []
            by_commit: dict[tuple[str, str], list[_Piece]] = defaultdict(list)
            for piece in pieces:
                by_commit[piece.whole.repo, piece.whole.commit].append(piece)
            for together in by_commit.values():
                self._publish(together)

    def _publish(self, pieces: list[_Piece]) -> None:
        whole = pieces[-1].whole
        try:
            self._write(whole, {piece.file.path: piece.file for piece in pieces})
        except ZhcacheError as error:
            log.warning(
                "pull.not_published", repo=whole.repo, commit=whole.commit, error=str(error)
            )
        except Exception:
            log.exception("pull.not_published", repo=whole.repo, commit=whole.commit)
        finally:
            for piece in pieces:
                self._store.leases.release_holds(piece.job)
                piece.done()

    def _write(self, whole: Whole, new: Mapping[str, ManifestFile]) -> None:
        repo = parse_repo(whole.repo)
        held = self._held(repo, whole.commit)
        old = {file.path: file for file in held.files} if held else {}
        if held and held.source == IMPORTED and _differ(old, new):
            # A user's own files do not give way to what somebody on the network asks for; the blob
            # is served all the same, and a prefetch by a user of this machine settles it.
            log.warning("pull.import_in_the_way", uid=held.uid, repo=whole.repo)
            return
        manifest = manifest_of(whole, {**old, **new}, self._clock.wall())
        # By its branch a snapshot is found once it is whole: users of this machine must not be
        # given a part of it, and least in place of an older one that is whole.
        means = self._refs(repo, whole.commit) if manifest.complete else ()
        for ref in means or [None]:
            self._store.publish(manifest, ref)
        self._known.setdefault((repo.folder, whole.commit), set()).update(
            file.path for file in manifest.files
        )

    def _held(self, repo: RepoId, commit: str) -> Manifest | None:
        try:
            return self._store.manifests.read(repo, commit)
        except FileNotFoundError:
            return None


def manifest_of(whole: Whole, files: Mapping[str, ManifestFile], created: float) -> Manifest:
    """Returns the manifest of those files of a listing that are here. Pure."""
    missing = whole.paths - files.keys()
    left_out = {**whole.left_out, **dict.fromkeys(sorted(missing), NOT_YET)}
    return Manifest(
        repo=whole.repo,
        commit=whole.commit,
        created=created,
        source=whole.source,
        trust=_overall(files.values()),
        uid=os.geteuid(),
        files=tuple(files[path] for path in sorted(files)),
        complete=not missing and ONLY_PICKLE not in whole.left_out.values(),
        left_out={path: reason for path, reason in left_out.items() if path not in files},
        private=whole.private,
    )


def _overall(files: Collection[ManifestFile]) -> Trust:
    loaded = [file.trust for file in files if not is_document(file.path)]
    return "quorum" if loaded and "first-use" not in loaded else "first-use"


def _differ(old: Mapping[str, ManifestFile], new: Mapping[str, ManifestFile]) -> bool:
    return any(path in old and old[path].sha256 != file.sha256 for path, file in new.items())
