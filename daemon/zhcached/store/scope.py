"""The ModelScope view: ``modelscope/`` is a cache that modelscope's own client reads, offline.

``models/O--N/snapshots/<branch>`` is one link to the snapshot in the Hugging Face view, so that a
branch moves in one step and nothing is linked twice. Their client takes any folder that is not
empty for a whole snapshot: only whole ones are shown to it.

Source: modelscope_hub 0.5.1, ``_download.py``, ``_resolve_cached_snapshot``.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

from zhcache.protocol.names import RepoId, parse_revision
from zhcached.store import files, folders
from zhcached.store.layout import Layout

# One branch: what a hub of git calls main is called master there, and users pass either.
_DEFAULT = ("main", "master")


class ScopeView:
    """The view of one store. Writers are serialised by the store.

    Args:
        layout: Where the store lies.
        is_whole: Tells whether a snapshot has every file that its hub lists.
        displace: Takes a name out of a folder in one step.
    """

    def __init__(
        self,
        layout: Layout,
        is_whole: Callable[[RepoId, str], bool],
        displace: folders.Displace,
    ) -> None:
        self._layout = layout
        self._is_whole = is_whole
        self._displace = displace

    def set_ref(self, repo: RepoId, ref: str, commit: str) -> None:
        """Shows a snapshot under a branch or tag, if it is whole.

        Raises:
            NoSpace: No room.
            ZhcacheError: The disk failed.
        """
        for name in _names(ref) if repo.owner else ():
            self._place(repo, name, commit)

    def remove_ref(self, repo: RepoId, ref: str) -> None:
        """Takes a branch or tag out of the view, with the other name of the default branch."""
        if not repo.owner:
            return
        own = self._target(repo, ref)
        for name in _names(ref):
            if self._target(repo, name) == own:
                self._unlink(repo, name)

    def _place(self, repo: RepoId, ref: str, commit: str) -> None:
        *parents, name = parse_revision(ref).split("/")
        target = _target_of(repo, parents, commit)
        if self._target(repo, ref) == target:
            return
        if not self._is_whole(repo, commit):
            self._unlink(repo, ref)
            return
        with files.disk_errors(self._layout.scope):
            self._layout.scope.mkdir(mode=0o750, exist_ok=True)
        with (
            files.disk_errors(self._layout.scope),
            folders.opened(self._layout.scope) as top,
            folders.entered(top, [*_chain(repo), *parents], self._displace) as folder,
        ):
            folders.place_link(folder, name, target, self._displace)
            os.fsync(folder)

    def _target(self, repo: RepoId, ref: str) -> str | None:
        """Returns where the link of a ref leads, None if there is none."""
        *parents, name = parse_revision(ref).split("/")
        try:
            with (
                folders.opened(self._layout.scope) as top,
                folders.found(top, [*_chain(repo), *parents]) as folder,
            ):
                return None if folder is None else os.readlink(name, dir_fd=folder)
        except OSError:
            return None

    def _unlink(self, repo: RepoId, ref: str) -> None:
        *parents, name = parse_revision(ref).split("/")
        with contextlib.suppress(FileNotFoundError), folders.opened(self._layout.scope) as top:
            # Their client lists what is there: an emptied folder would be a model of nothing.
            folders.drop(top, [*_chain(repo), *parents], name, keep=1)


def _names(ref: str) -> tuple[str, ...]:
    return _DEFAULT if ref in _DEFAULT else (ref,)


def _chain(repo: RepoId) -> list[str]:
    return ["models", f"{repo.owner}--{repo.name}", "snapshots"]


def _target_of(repo: RepoId, parents: list[str], commit: str) -> str:
    up = "../" * (4 + len(parents))
    return f"{up}hub/{repo.folder}/snapshots/{commit}"
