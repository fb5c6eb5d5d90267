"""A model's files as an import takes them: opened one by one below the watched folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from zhcache.errors import UsageError, ZhcacheError
from zhcache.protocol.messages import ImportFile, ImportRequest
from zhcache.protocol.names import check_listing, is_sha256, parse_path, printable
from zhcached.jobs.importing.arrivals import Incoming
from zhcached.store.blobs import Identity
from zhcached.watch import beneath
from zhcached.watch.memory import Kept, is_same_content
from zhcached.watch.recognise import Model


class FromFolder(Incoming):
    """The files of one model.

    Args:
        folder: The watched folder.
        model: What lies in it; of a file that is another by now nothing is taken.
        before: What was taken of it earlier, by path.

    Raises:
        IntegrityError: Two of its names cannot lie side by side.
    """

    def __init__(self, folder: Path, model: Model, before: Mapping[str, Kept]) -> None:
        self.folder = str(folder)
        self._files = [model.files[path] for path in sorted(model.files)]
        paths = sorted(model.files)
        check_listing([parse_path(path) for path in paths])
        self.request = ImportRequest(
            repo=str(model.repo),
            commit=model.commit,
            revision=model.revision,
            files=[
                ImportFile(
                    path=path, size=held.identity.size, sha256=_cache_name(model, held.where)
                )
                for path, held in zip(paths, self._files, strict=True)
            ],
            link=model.is_linkable,
            # What lies there now takes the place of what lay there.
            replace=True,
            op="checkpoint" if model.kind == "checkpoint" else "import",
        )
        self._before = before
        self._current: Identity | None = None
        self.after: dict[str, Identity] = {}
        """What the inode of each file says once it was taken, which a hard link has changed."""

    def take(self, count: int) -> Iterator[int]:
        """Yields a descriptor of each file, as ``Incoming`` says.

        Raises:
            UsageError: A file changed since it was looked at, or is none any more.
        """
        root = beneath.open_root(Path(self.folder))
        try:
            for file, held in zip(self.request.files[:count], self._files, strict=True):
                fd = self._open(root, held.where)
                try:
                    before = Identity.of(os.fstat(fd))
                    if not is_same_content(before, held.identity):
                        raise _changed(held.where)
                    self._current = before
                    yield fd
                    after = Identity.of(os.fstat(fd))
                    if not is_same_content(before, after):
                        raise _changed(held.where)
                    self.after[file.path] = after
                finally:
                    os.close(fd)
        finally:
            os.close(root)

    def known(self, path: str) -> str | None:
        """Returns the digest of a file that is as it was when it was taken."""
        kept = self._before.get(path)
        if kept is None or kept.identity != self._current:
            return None
        return kept.sha256 or None

    def close(self) -> None:
        """Nothing is open between two files."""

    def _open(self, root: int, where: str) -> int:
        try:
            return beneath.open_file(root, where)
        except OSError as error:
            raise ZhcacheError(
                "{path} cannot be read: {reason}", path=printable(where), reason=error.strerror
            ) from error


def _cache_name(model: Model, where: str) -> str:
    """Returns the sha256 that a Hugging Face cache calls a file, if it does."""
    blobs, _, name = where.rpartition("/")
    # Only the repository's own: names in the blobs that repositories share are no digests.
    is_own = model.kind == "hub" and blobs == model.where.rpartition("snapshots/")[0] + "blobs"
    return name if is_own and is_sha256(name) else ""


def _changed(path: str) -> UsageError:
    return UsageError("{path} changed while it was read", path=printable(path))
