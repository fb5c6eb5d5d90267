"""The view put right where somebody else altered it."""

from __future__ import annotations

import contextlib

from zhcache.protocol.names import RepoId
from zhcached.errors import StoreDamaged
from zhcached.store.context import Context


class Mending:
    """Mends the view of one repository at a time. Thread-safe; made by ``Store``."""

    def __init__(self, context: Context) -> None:
        self._manifests = context.manifests
        self._view = context.view
        # What a writer is about to change is no damage.
        self._writing = context.writing

    def mend(self, repo: RepoId) -> list[str]:
        """Makes the links of a repository's snapshots right; returns those that were wrong.

        Raises:
            NoSpace: No room.
            ZhcacheError: The disk failed.
        """
        mended: list[str] = []
        with self._writing:
            for _, commit, _ in list(self._manifests.list(repo)):
                with contextlib.suppress(FileNotFoundError, StoreDamaged):
                    manifest = self._manifests.read(repo, commit)
                    if wrong := self._view.altered(manifest):
                        self._view.publish(manifest)
                        mended += [f"{commit[:12]} {path}" for path in wrong]
            for ref, commit in self._manifests.refs(repo).items():
                if (
                    self._view.ref(repo, ref) != commit
                    and self._view.snapshot_dir(repo, commit).is_dir()
                ):
                    self._view.set_ref(repo, ref, commit)
                    mended.append(f"refs/{ref}")
        return mended
