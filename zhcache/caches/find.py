"""Which models lie in a folder, whatever tool put them there."""

from __future__ import annotations

from pathlib import Path

from zhcache.caches import disks, huggingface, modelscope, plain
from zhcache.caches.found import Found
from zhcache.errors import NotFound, UsageError
from zhcache.protocol.names import RepoId, parse_repo


def find(folder: Path, *, repo: str | None = None, revision: str | None = None) -> list[Found]:
    """Returns the snapshots that lie under ``folder``.

    Args:
        folder: A cache's root, one repository's folder in it, or a plain folder.
        repo: Takes this one alone; for a plain folder, what it is.
        revision: What a plain folder's snapshot is to be called.

    Raises:
        NotFound: No such folder, or nothing in it.
        UsageError: A plain folder and no name for it, or a disk's lock is none.
        IntegrityError: A disk's lock has paths that cannot be kept.
    """
    if not folder.is_dir():
        raise NotFound(
            "there is no folder {folder}",
            hint="give a folder that exists, or a model's file",
            folder=folder,
        )
    wanted = parse_repo(repo) if repo is not None else None
    known = (
        list(disks.find(folder)) or list(huggingface.find(folder)) or list(modelscope.find(folder))
    )
    if known:
        found = [snapshot for snapshot in known if wanted in (None, snapshot.repo)]
    elif wanted is not None:
        found = [plain.model(folder, wanted, revision)]
    else:
        raise UsageError(
            "{folder} is neither a Hugging Face nor a ModelScope cache",
            hint="say what it is: zhcache import {folder} --repo OWNER/NAME",
            folder=folder,
        )
    found = [snapshot for snapshot in found if snapshot.files]
    if not found:
        raise NotFound(
            "nothing in {folder} can be imported",
            hint="without --repo all that is in it is taken, or told",
            folder=folder,
        )
    return found


def held(folder: Path, repo: RepoId) -> list[Found]:
    """Returns what lies under ``folder`` of one repository; nothing else there is looked at.

    Besides caches and disks that is a plain folder ``OWNER/NAME``. What a disk has in part is not
    returned.

    Raises:
        UsageError: A disk's lock is none.
        IntegrityError: A disk's lock has paths that cannot be kept.
        OSError: The folder cannot be read.
    """
    found = (
        disks.held(folder, repo) + huggingface.held(folder, repo) + modelscope.held(folder, repo)
    )
    return [one for one in found or plain.held(folder, repo) if one.files]
