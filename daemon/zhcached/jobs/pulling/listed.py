"""What a repository is, as the gateway tells it: asked of the sources, remembered, kept on disk.

A branch is asked about again after a while, a commit never. While a source is asked whose last
word is kept, nobody waits long: clients of hubs give up after ten seconds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

import msgspec
import structlog

from zhcache.errors import (
    Busy,
    Gated,
    IntegrityError,
    NotFound,
    NotPermitted,
    SourcesFailed,
    ZhcacheError,
)
from zhcache.protocol.messages import PrefetchRequest
from zhcache.protocol.names import RepoId, is_commit, parse_repo
from zhcached.clock import Clock
from zhcached.config import ServeConfig
from zhcached.errors import defect
from zhcached.jobs.asking.brief import DEFAULT_REF, Brief, prepare
from zhcached.jobs.fetching.gather import Fetcher
from zhcached.jobs.pulling.listings import Kept, Listings
from zhcached.jobs.pulling.shown import Listed, has_bytes, of_manifest, show, with_digest
from zhcached.sources.alias import HubNames
from zhcached.sources.base import RemoteFile, Resolution, Source
from zhcached.sources.selection import select_served

PATIENCE_S = 5.0
FAILED_S = 5.0
"""A failure is told again for so long without asking anew."""

MAX_REMEMBERED = 256

Count = Callable[[], None]
T = TypeVar("T")


def _freely() -> None:
    """Lets any number be asked."""


log = structlog.get_logger()


class _Asking:
    """One question to the sources, for all who want to know the same."""

    def __init__(self, since: float) -> None:
        self.since = since
        self.over = threading.Event()
        self.ended = 0.0
        self.brief: Brief | None = None
        self.kept: Kept | None = None
        self.error: ZhcacheError | None = None


class Listing:
    """Answers of sources. Thread-safe.

    Args:
        fetcher: Has the store and the sources' records.
        sources: All there are.
        aliases: The user's own names for repositories.
        clock: The time.
        config: What may be served, and how long a branch counts.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        sources: Sequence[Source],
        aliases: Mapping[str, HubNames],
        clock: Clock,
        config: ServeConfig,
    ) -> None:
        self._health = fetcher.health
        self._store = fetcher.store
        self._sources = sources
        self._tiers = fetcher.tiers
        self._aliases = aliases
        self._clock = clock
        self._config = config
        self._kept = Listings(fetcher.store.layout)
        self._hubs = {
            source.name for source in sources if source.kind in ("huggingface", "modelscope")
        }
        self._lock = threading.Lock()
        self._askings: dict[tuple[str, str], _Asking] = {}
        self._briefs: dict[tuple[str, str], tuple[Brief, float]] = {}
        self._listed: dict[tuple[str, str], Kept] = {}
        self._shown: dict[tuple[str, str], tuple[Kept, Listed]] = {}

    def find(self, repo: RepoId, revision: str | None, count: Count = _freely) -> Listed:
        """Returns what a repository is; see ``Pulls.listed``."""
        asked = revision or DEFAULT_REF
        if is_commit(asked):
            self.check_open(repo)
            kept, is_current = self._at_commit(repo, asked, count)
        else:
            # What is the default branch on one kind of hub is unknown on the other.
            ref = DEFAULT_REF if asked == "master" else asked
            kept, is_current = self._at_ref(repo, ref, count)
        if kept.private and str(repo) not in self._config.entitled:
            raise _not_served(repo)
        key = (repo.folder, kept.commit)
        shown = self._shown.get(key)
        if shown is None or shown[0] is not kept:
            shown = (kept, show(repo, kept, pickle=self._config.pickle))
            self._remember(self._shown, key, shown)
        return msgspec.structs.replace(shown[1], revision=asked, current=is_current)

    def refs(self, repo: RepoId) -> dict[str, str]:
        """Returns the commits that branches and tags were last known to mean."""
        return self._kept.refs(repo)

    def refs_to(self, repo: RepoId, commit: str) -> list[str]:
        """Returns the branches and tags that were last known to mean a commit."""
        return [ref for ref, means in self._kept.refs(repo).items() if means == commit]

    def brief(self, listed: Listed, file: RemoteFile) -> Brief:
        """Returns where the bytes of a file may come from.

        Raises:
            ZhcacheError: As ``find``; NotFound if no source has these bytes any more.
        """
        repo = parse_repo(listed.repo)
        held = self._briefs.get((repo.folder, listed.commit))
        if held is not None and self._clock.monotonic() - held[1] < self._config.refresh:
            return held[0]
        kept = self._read(repo, listed.commit)
        # By its branch first: that is mostly known, and hubs without commits answer to it alone.
        asked = dict.fromkeys((kept.asked if kept else listed.commit, listed.commit))
        error: ZhcacheError | None = None
        for revision in asked:
            try:
                brief, _ = self._wait(self._ask(repo, revision), None)
            except ZhcacheError as failed:
                error = error or failed
                continue
            if has_bytes(brief, file):
                return brief
        if held is not None:
            return held[0]
        raise error or NotFound(
            "no source has {path} of {repo} at {commit} any more",
            path=file.path,
            repo=listed.repo,
            commit=listed.commit,
        )

    def check_open(self, repo: RepoId) -> None:
        """Asks nobody whether the repository may be served by what was last said of it.

        Raises:
            Gated: Its terms must be accepted.
            NotPermitted: It was taken down.
            NotFound: It is private and not entitled.
        """
        asking = self._askings.get((repo.folder, DEFAULT_REF))
        if asking is None or str(repo) in self._config.entitled:
            return
        if isinstance(asking.error, (Gated, NotPermitted)):
            raise asking.error
        if asking.kept is not None and asking.kept.private:
            raise _not_served(repo)

    def _at_commit(self, repo: RepoId, commit: str, count: Count) -> tuple[Kept, bool]:
        kept = self._read(repo, commit)
        if kept is not None:
            return kept, True
        try:
            return self._wait(self._ask(repo, commit, count), None)[1], True
        except (SourcesFailed, NotFound, Busy) as error:
            return self._from_store(repo, commit, error), False

    def _at_ref(self, repo: RepoId, ref: str, count: Count) -> tuple[Kept, bool]:
        kept: Kept | None = None
        try:
            asking = self._ask(repo, ref, count)
            if asking.kept is not None:
                return asking.kept, True
            kept = self._kept_at(repo, ref)
            return self._wait(asking, PATIENCE_S if kept else None)[1], True
        except (SourcesFailed, NotFound, Busy) as error:
            # A repository that was deleted there is still what it was; one that is forbidden by
            # now is another error.
            kept = kept or self._kept_at(repo, ref)
            return kept or self._from_store(repo, ref, error), False

    def _kept_at(self, repo: RepoId, ref: str) -> Kept | None:
        commit = self._kept.refs(repo).get(ref)
        return self._read(repo, commit) if commit else None

    def _read(self, repo: RepoId, commit: str) -> Kept | None:
        key = (repo.folder, commit)
        kept = self._listed.get(key)
        if kept is None and (kept := self._kept.read(repo, commit)) is not None:
            self._remember(self._listed, key, kept)
        return kept

    def _from_store(self, repo: RepoId, revision: str, error: ZhcacheError) -> Kept:
        """Returns the files of a snapshot, where no listing of its repository is kept."""
        try:
            manifest = self._store.resolve(repo, None if revision == DEFAULT_REF else revision)
        except (NotFound, IntegrityError):
            raise error from None
        if manifest.derived is not None:
            raise error
        return of_manifest(manifest)

    def _ask(self, repo: RepoId, revision: str, count: Count = _freely) -> _Asking:
        """Returns the question that is under way or was answered lately, else begins one."""
        key, now = (repo.folder, revision), self._clock.monotonic()
        with self._lock:
            asking = self._askings.get(key)
            if asking is not None and not (asking.over.is_set() and self._is_stale(asking, now)):
                return asking
            count()
            asking = self._askings[key] = _Asking(now)
            for old in list(self._askings)[:-MAX_REMEMBERED]:
                del self._askings[old]
        # A thread of its own: whoever asks may lose patience, and others want the answer too.
        work = partial(self._work, asking, repo, revision)
        threading.Thread(target=work, name="listing", daemon=True).start()
        return asking

    def _is_stale(self, asking: _Asking, now: float) -> bool:
        life = self._config.refresh
        return now - asking.ended >= (life if asking.brief else min(life, FAILED_S))

    def _work(self, asking: _Asking, repo: RepoId, revision: str) -> None:
        try:
            request = PrefetchRequest(repo=str(repo), revision=revision)
            choose = partial(select_served, pickle=self._config.pickle)
            brief = prepare(
                request,
                self._sources,
                self._health,
                self._aliases,
                choose=choose,
                tiers=self._tiers,
                is_here=self._store.blobs.has,
            )
            asking.kept = self._keep(repo, revision, brief)
            asking.brief = brief
        except ZhcacheError as error:
            asking.error = error
        except Exception as error:
            log.exception("listing.defect", repo=str(repo))
            asking.error = defect(error)
        finally:
            asking.ended = self._clock.monotonic()
            asking.over.set()

    def _wait(self, asking: _Asking, patience_s: float | None) -> tuple[Brief, Kept]:
        if patience_s is not None:
            patience_s = max(0.0, asking.since + patience_s - self._clock.monotonic())
        if not asking.over.wait(patience_s):
            raise Busy("the sources have not answered yet", hint="ask again")
        if asking.brief is None or asking.kept is None:
            raise asking.error or SourcesFailed("the sources gave no answer")
        return asking.brief, asking.kept

    def _keep(self, repo: RepoId, revision: str, brief: Brief) -> Kept:
        if (told := self._told_by_hub(repo, revision, brief.primary)) is not None:
            return told
        kept = self._kept_of(brief)
        key = (repo.folder, kept.commit)
        before = self._kept.read(repo, kept.commit)
        if before is not None and is_commit(revision):
            # By its branch a hub without commits can be asked again.
            kept = msgspec.structs.replace(kept, asked=before.asked)
        self._remember(self._briefs, key, (brief, self._clock.monotonic()))
        self._remember(self._listed, key, kept)
        self._kept.write(repo, kept, None if is_commit(revision) else revision)
        return kept

    def _told_by_hub(self, repo: RepoId, revision: str, now: Resolution) -> Kept | None:
        """Returns what a hub said of a repository, if that counts more than what is said now.

        A cache may have a part of a commit, and knows of nothing whether it is public.
        """
        if now.is_hub:
            return None
        by_commit = is_commit(revision)
        kept = self._read(repo, revision) if by_commit else self._kept_at(repo, revision)
        if kept is None or kept.source not in self._hubs:
            return None
        return kept if now.kind == "folder" or kept.commit == now.commit else None

    def _kept_of(self, brief: Brief) -> Kept:
        promised = {file.path: file.promise for file in brief.comparison.files}
        files = (with_digest(file, promised) for file in brief.primary.files)
        return Kept(
            repo=str(brief.repo),
            commit=brief.primary.commit,
            asked=brief.revision,
            source=brief.primary.source,
            private=brief.is_private,
            files=tuple(file for file in files if file.promise is not None),
        )

    def _remember(self, memory: dict[tuple[str, str], T], key: tuple[str, str], value: T) -> None:
        with self._lock:
            memory.pop(key, None)
            memory[key] = value
            for old in list(memory)[:-MAX_REMEMBERED]:
                del memory[old]


def _not_served(repo: RepoId) -> NotFound:
    return NotFound(
        "{repo} is not served",
        hint="it is missing, private or gated, or not known to be public; the machine that serves "
        "it may name it under [serve] entitled",
        repo=repo,
    )
