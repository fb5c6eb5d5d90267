"""Copies a snapshot out of the store into a plain folder that is the caller's own.

Blobs are cloned where the file system can (no second copy until one is changed), else copied;
never hard-linked: the caller may write into what they get, and a blob must not change.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from zhcache.errors import IntegrityError, NoSpace, NotPermitted, UsageError, ZhcacheError
from zhcache.protocol.messages import SnapshotFile
from zhcache.protocol.names import parse_path

_FICLONE = 0x40049409
"""``ioctl`` that makes two files share their blocks. Source: ioctl_ficlone(2)."""

_CANNOT_CLONE = {
    errno.EOPNOTSUPP,
    errno.EXDEV,
    errno.EINVAL,
    errno.ENOTTY,
    errno.EPERM,
    errno.ENOSYS,
}


@dataclass
class Exported:
    """What was written. Sizes in bytes."""

    path: Path
    commit: str = ""
    files: int = 0
    bytes: int = 0
    bytes_cloned: int = 0


def check_target(target: Path) -> None:
    """Checks that ``target`` can become the copy.

    Raises:
        UsageError: It exists and is not an empty folder.
    """
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise UsageError(
            "{target} exists and is no folder",
            hint="name a folder that does not exist yet",
            target=target,
        )
    if target.is_dir() and any(target.iterdir()):
        raise UsageError(
            "{target} is not empty",
            hint="name a folder that does not exist yet",
            target=target,
        )


def check_outside(snapshot: Path, target: Path) -> None:
    """Checks that a copy would not lie in the store, which holds what the daemon wrote alone.

    Raises:
        UsageError: It would.
    """
    folder, real = snapshot.parent.parent, target.resolve()
    store = folder.parent.parent.resolve()
    if folder.name.startswith("models--") and (real == store or store in real.parents):
        raise UsageError(
            "{target} lies in the store {store}",
            hint="name a folder outside it",
            target=target,
            store=store,
        )


def export(snapshot: Path, files: Sequence[SnapshotFile], target: Path) -> Exported:
    """Copies ``files`` of ``snapshot`` to ``target``, which exists only once it is whole.

    Raises:
        UsageError: ``target`` is taken, or in the store.
        IntegrityError: A file is gone from the store or has another size.
        NoSpace: The disk under ``target`` is full.
        NotPermitted: Its folder is closed to the caller.
    """
    target = target.absolute()
    check_target(target)
    check_outside(snapshot, target)
    done = Exported(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            for file in files:
                _one(snapshot, file, staging, done)
            # mkdtemp makes it private; a copy is as open as the caller's umask says.
            staging.chmod(0o777 & ~_umask())
            staging.rename(target)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
        sync(target.parent)
    except OSError as error:
        raise explained(error, target) from error
    return done


def _one(snapshot: Path, file: SnapshotFile, staging: Path, done: Exported) -> None:
    parse_path(file.path)
    goal = staging / file.path
    goal.parent.mkdir(parents=True, exist_ok=True)
    try:
        source = (snapshot / file.path).open("rb")
    except FileNotFoundError:
        raise damaged(file.path) from None
    with source, goal.open("xb") as sink:
        if _clone(sink.fileno(), source.fileno()):
            done.bytes_cloned += file.size
        else:
            shutil.copyfileobj(source, sink, 2**20)
        sink.flush()
        os.fsync(sink.fileno())
        if os.fstat(sink.fileno()).st_size != file.size:
            raise damaged(file.path)
    done.files += 1
    done.bytes += file.size


def _clone(sink: int, source: int) -> bool:
    try:
        fcntl.ioctl(sink, _FICLONE, source)
    except OSError as error:
        if error.errno in _CANNOT_CLONE:
            return False
        raise
    return True


def damaged(path: str) -> IntegrityError:
    """Returns what to say of a file whose bytes in the store are not what they were."""
    return IntegrityError("{file} is damaged in the store", hint="run `zhcache repair`", file=path)


def explained(error: OSError, target: Path) -> ZhcacheError:
    """Returns what an error of the disk under ``target`` means to the user."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace("no room for the copy at {target}", target=target)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return NotPermitted("no permission to write {target}", target=target)
    return ZhcacheError(
        "the copy at {target} failed: {reason}", target=target, reason=error.strerror or error
    )


def _umask() -> int:
    # The only way to read it is to set it.
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def sync(folder: Path) -> None:
    """Makes the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
