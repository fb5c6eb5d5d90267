"""What a store holds, asked of its index and its manifests; nothing is changed here."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from zhcache.errors import IntegrityError
from zhcache.protocol import messages
from zhcache.protocol.names import RepoId, parse_repo
from zhcached.errors import StoreDamaged
from zhcached.store import listing, lockfile, lookup, variants
from zhcached.store.context import Context
from zhcached.store.presence import Presence
from zhcached.store.quality import Qualities
from zhcached.store.snapshots import Manifest
from zhcached.store.space import Space

_S = TypeVar("_S", bound=messages.Snapshot)


class Holdings:
    """The part of a ``Store`` that answers. Thread-safe.

    Args:
        context: The store's.
        presence: Reads again what was touched.
        space: The ledger of its room.
    """

    def __init__(self, context: Context, presence: Presence, space: Space) -> None:
        self.layout = context.layout
        self.config = context.config
        self.catalog = context.catalog
        self.blobs = context.blobs
        self.manifests = context.manifests
        self.view = context.view
        self.qualities = Qualities(context.layout)
        self.presence = presence
        self.space = space

    def resolve(self, repo: RepoId, revision: str | None) -> Manifest:
        """Returns the snapshot that ``revision`` means here, without network.

        Args:
            repo: The repository.
            revision: Branch, tag, commit, the first 7 or more digits of one, or None for
                ``main``, else ``master``, else the newest.

        Raises:
            NotFound: No such snapshot here.
            IntegrityError: Its bytes were found damaged.
            UsageError: The revision is malformed or means several commits.
            StoreDamaged: Index or manifest is damaged.
        """
        return self._whole(repo, lookup.commit_of(self.catalog, repo, revision))

    def variant(self, repo: RepoId, base_commit: str, name: str) -> Manifest:
        """Returns the variant of that name that was made of a snapshot; the newest, if of several.

        Raises:
            NotFound: There is none; the message names those that are here.
            IntegrityError: Its bytes were found damaged.
            StoreDamaged: Index or manifest is damaged.
        """
        return self._whole(repo, variants.commit_of(self.catalog, repo, base_commit, name))

    def variants(self, repo: RepoId, base_commit: str) -> dict[str, Manifest]:
        """Returns the variants that were made of a snapshot, by name, those that miss bytes too.

        Raises:
            StoreDamaged: Index or a manifest is damaged.
        """
        found = variants.named(self.catalog, repo, base_commit)
        return {name: self._read(repo, commits[0]) for name, commits in found.items()}

    def origin(self, repo: RepoId, commit: str) -> tuple[str, str | None]:
        """Returns (what it was made of, its name) of a variant, else (``commit``, None).

        Raises:
            NotFound: No such snapshot here.
            StoreDamaged: The index is damaged.
        """
        return variants.origin(self.catalog, repo, commit)

    def broken_variants(self) -> list[tuple[RepoId, str, str, str]]:
        """Returns (repository, commit made of, name, own commit) of variants that miss bytes.

        No source has these bytes: they are made anew.

        Raises:
            StoreDamaged: The index is damaged.
        """
        return variants.broken(self.catalog)

    def _whole(self, repo: RepoId, commit: str) -> Manifest:
        for sha256, size in listing.suspects(self.catalog, repo, commit):
            self.presence.is_sound(sha256, size)
        if holes := listing.holes_of(self.catalog, repo, commit):
            raise IntegrityError(
                "{path} of {repo} was damaged on disk or is missing",
                hint="run `zhcache repair`",
                path=holes[0],
                repo=repo,
            )
        return self._read(repo, commit)

    def _read(self, repo: RepoId, commit: str) -> Manifest:
        try:
            return self.manifests.read(repo, commit)
        except FileNotFoundError:
            raise StoreDamaged(reason=f"the manifest of {repo} at {commit} is missing") from None

    def snapshots(self) -> list[messages.Snapshot]:
        """Returns every snapshot here, each with the variants that were made of it."""
        return [self._with_quality(each) for each in listing.snapshots(self.catalog, self.view)]

    def detail(
        self, repo: RepoId, revision: str | None, variant: str | None = None
    ) -> messages.SnapshotDetail:
        """Returns one snapshot, or a variant of it, with its files.

        Raises:
            NotFound: No such snapshot or variant here.
            UsageError: The revision is malformed or means several commits.
        """
        commit = lookup.commit_of(self.catalog, repo, revision)
        if variant is not None:
            commit = variants.commit_of(self.catalog, repo, commit, variant)
        found = listing.detail(self.catalog, self.view, self.blobs, repo, commit)
        return self._with_quality(found)

    def _with_quality(self, snapshot: _S) -> _S:
        """Adds what was measured of the variants."""
        repo = parse_repo(snapshot.repo)
        for made in snapshot.variants.values():
            made.quality = self.qualities.of(repo, Path(made.path).name)
        return snapshot

    def sizes(self) -> dict[tuple[str, str], int]:
        """Returns the bytes of each (repository, commit), variants by their own commits."""
        return listing.sizes(self.catalog)

    def space_report(self) -> messages.Space:
        """Returns what takes how much room."""
        return listing.space(self.catalog, self.space, self.config)

    def lock_file(self, repos: Iterable[str]) -> messages.LockFile:
        """Returns the commits and hashes of snapshots here, each named ``OWNER/NAME[@REVISION]``.

        Raises:
            NotFound: One is not here.
            UsageError: A name is malformed, or means a variant.
        """
        return messages.LockFile(
            repos=[lockfile.entry(self.catalog, text, self.resolve) for text in repos]
        )
