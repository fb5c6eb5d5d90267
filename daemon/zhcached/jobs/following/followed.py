"""A followed model: what was said of it and what is remembered. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from zhcache.errors import UsageError
from zhcache.protocol.messages import ErrorInfo, PrefetchRequest
from zhcache.protocol.names import (
    RepoId,
    is_commit,
    is_sha256,
    parse_repo,
    parse_revision,
    parse_variant,
)
from zhcached.jobs.asking.brief import DEFAULT_REF

MAX_PAST = 100


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One followed model. Times are wall-clock seconds.

    Attributes:
        repo: The repository.
        uid: Who follows it; what it brings is his.
        revision: Branch or tag; None is the default branch.
        every: Seconds between two looks; None as configured.
        keep: Earlier revisions that stay; None as configured.
        variants: Made of every revision before it counts as here.
        only_pipeline: As in a prefetch.
        allow_pickle: As in a prefetch.
        due: When the next look is due.
        looked: When the last look was, 0 for never.
        commit: What the revision means here, as far as following brought it; empty before that.
        vouchers: The sources that named this commit.
        heads: What each source named when it was last heard.
        past: What it meant before, oldest first.
        brought: Revisions that following brought and nobody else asked for, oldest first. Only
            they are ever pruned.
        held: Blobs that a fetch brought which rests; they are not to be collected.
        failures: Looks and fetches that failed one after the other, up to now.
        failing_since: When the first of them did.
        error: The last of their errors.
    """

    repo: str
    uid: int
    revision: str | None = None
    every: float | None = None
    keep: int | None = None
    variants: tuple[str, ...] = ()
    only_pipeline: bool = False
    allow_pickle: bool = False
    due: float = 0.0
    looked: float = 0.0
    commit: str = ""
    vouchers: tuple[str, ...] = ()
    heads: dict[str, str] = {}
    past: tuple[str, ...] = ()
    brought: tuple[str, ...] = ()
    held: tuple[str, ...] = ()
    failures: int = 0
    failing_since: float = 0.0
    error: ErrorInfo | None = None

    @property
    def repo_id(self) -> RepoId:
        """The repository, parsed."""
        return parse_repo(self.repo)

    @property
    def ref(self) -> str:
        """The ref that it keeps fresh."""
        return self.revision or DEFAULT_REF

    @property
    def request(self) -> PrefetchRequest:
        """What is asked of the sources, and fetched."""
        return PrefetchRequest(
            repo=self.repo,
            revision=self.revision,
            variants=list(self.variants),
            only_pipeline=self.only_pipeline,
            allow_pickle=self.allow_pickle,
        )

    def fresh(
        self, commit: str, vouchers: Collection[str], heads: Mapping[str, str], was: str | None
    ) -> Entry:
        """Returns the entry once its revision means ``commit`` here and all of that is here.

        Args:
            commit: What it means.
            vouchers: Who named it. Who has not answered and named it before still does.
            heads: What each source named.
            was: What the ref meant before that, if following moved it.
        """
        silent = [v for v in self.vouchers if v not in heads and commit == self.commit]
        left = [one for one in (self.commit, was) if one and one != commit]
        past = [one for one in self.past if one != commit and one not in left]
        past += dict.fromkeys(left)
        return msgspec.structs.replace(
            self,
            commit=commit,
            vouchers=(*vouchers, *silent),
            heads={**self.heads, **heads},
            past=tuple(past[-MAX_PAST:]),
            held=(),
            failures=0,
            failing_since=0.0,
            error=None,
        )

    def failed(self, error: ErrorInfo, now: float) -> Entry:
        """Returns the entry after a look or a fetch that failed."""
        return msgspec.structs.replace(
            self,
            looked=now,
            failures=self.failures + 1,
            failing_since=self.failing_since or now,
            error=error,
        )

    def bringing(self, commit: str) -> Entry:
        """Returns the entry once following is about to bring a revision that is not here."""
        brought = (*(one for one in self.brought if one != commit), commit)
        return msgspec.structs.replace(self, brought=brought)

    def without(self, commits: Collection[str]) -> Entry:
        """Returns the entry once these revisions are gone, or are somebody else's."""
        brought = tuple(one for one in self.brought if one not in commits)
        return msgspec.structs.replace(self, brought=brought)


def check(entry: Entry) -> None:
    """Checks every name in an entry that was read.

    Raises:
        UsageError: One is malformed.
    """
    parse_repo(entry.repo)
    if entry.revision is not None:
        parse_revision(entry.revision)
    for name in entry.variants:
        parse_variant(name)
    if not all(map(is_commit, (*entry.past, *entry.brought))) or not all(
        map(is_sha256, entry.held)
    ):
        raise UsageError("{repo} has a name that is no digest", repo=entry.repo)
    if (entry.every is not None and not entry.every > 0) or (entry.keep or 0) < 0:
        raise UsageError("{repo} is followed in no way that can be meant", repo=entry.repo)
