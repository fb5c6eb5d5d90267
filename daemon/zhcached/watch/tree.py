"""One look at all that lies in a watched folder: names and inodes, no contents, no links followed.

Strangers may fill the folder, so that a look is bounded in files, folders and depth, and says
which bound it met.
"""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from zhcache.caches.found import FOREIGN_NAMES
from zhcache.errors import UsageError
from zhcache.i18n import mark
from zhcache.protocol.names import MAX_DEPTH
from zhcached.store.blobs import Identity
from zhcached.watch import beneath

MAX_ENTRIES = 100_000
MAX_FOLDERS = 20_000


class TooMuch(UsageError):
    """A folder that holds more than is looked at."""


@dataclass
class Tree:
    """What one look found. Paths are relative to the watched folder, with ``/``.

    Attributes:
        files: Plain files and what their inodes say.
        links: Symbolic links and where they say they lead.
        folders: Every folder that was entered, the watched one as ``""`` first.
        odd: What is neither, or could not be entered, and why.
    """

    files: dict[str, Identity] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)
    odd: dict[str, str] = field(default_factory=dict)

    def children(self) -> dict[str, list[str]]:
        """Returns the names of the folders in each folder."""
        inner: dict[str, list[str]] = {folder: [] for folder in self.folders}
        for folder in self.folders[1:]:
            outer, _, name = folder.rpartition("/")
            inner[outer].append(name)
        return inner


def look(root: int, *, max_entries: int | None = None, max_folders: int | None = None) -> Tree:
    """Returns what lies below the open folder ``root``.

    Args:
        root: The watched folder.
        max_entries: Files and links that are looked at, ``MAX_ENTRIES`` if not given.
        max_folders: Folders that are entered, ``MAX_FOLDERS`` if not given.

    Raises:
        TooMuch: There are more.
        OSError: The watched folder itself cannot be read.
    """
    tree = Tree()
    limits = (max_entries or MAX_ENTRIES, max_folders or MAX_FOLDERS)
    _enter(tree, os.dup(root), "", 0, limits)
    return tree


def look_at(folder: Path) -> Tree:
    """Returns what lies below the folder at that path.

    Raises:
        ZhcacheError: It cannot be read, or holds too much; the message says which.
    """
    root = beneath.open_root(folder)
    try:
        return look(root)
    except OSError as error:
        raise beneath.explain(folder, error) from error
    finally:
        os.close(root)


def _enter(tree: Tree, fd: int, path: str, depth: int, limits: tuple[int, int]) -> None:
    tree.folders.append(path)
    prefix = f"{path}/" if path else ""
    inner: list[str] = []
    try:
        with os.scandir(fd) as entries:
            for entry in entries:
                _note(tree, fd, entry, prefix, inner)
                _check(tree, limits, len(inner))
        for name in sorted(inner):
            where = prefix + name
            if depth + 1 > MAX_DEPTH:
                tree.odd[where] = "lies too deep"
                continue
            try:
                opened = beneath.open_folder(fd, name)
            except OSError as error:
                tree.odd[where] = error.strerror or "cannot be read"
                continue
            # Gone meanwhile, or a disk that fails: the next look sees it anew.
            with contextlib.suppress(OSError):
                _enter(tree, opened, where, depth + 1, limits)
    finally:
        os.close(fd)


def _note(tree: Tree, fd: int, entry: os.DirEntry[str], prefix: str, inner: list[str]) -> None:
    where = prefix + entry.name
    if entry.name in FOREIGN_NAMES:
        # Their marks tell what a folder is; what is in them is nobody's model.
        tree.odd[where] = "belongs to another tool"
        return
    try:
        found = entry.stat(follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            inner.append(entry.name)
        elif stat.S_ISREG(found.st_mode):
            tree.files[where] = Identity.of(found)
        elif stat.S_ISLNK(found.st_mode):
            tree.links[where] = os.readlink(entry.name, dir_fd=fd)
        else:
            tree.odd[where] = "is no plain file"
    except FileNotFoundError:
        pass
    except OSError as error:
        tree.odd[where] = error.strerror or "cannot be read"


def _check(tree: Tree, limits: tuple[int, int], waiting: int = 0) -> None:
    entries, folders = limits
    if len(tree.files) + len(tree.links) + len(tree.odd) > entries:
        raise TooMuch(
            mark("there are more than {count} files in it, the most that are looked at"),
            hint=mark("watch the folders in it that hold models, one by one"),
            count=entries,
        )
    if len(tree.folders) + waiting > folders:
        raise TooMuch(
            mark("there are more than {count} folders in it, the most that are looked at"),
            hint=mark("watch the folders in it that hold models, one by one"),
            count=folders,
        )
