"""Bytes of a file that belongs to someone else, brought beside the blobs.

A reflink shares blocks and nothing else. A hard link shares the inode, so that it is taken only
of a file of our own user under a read lease, which the kernel grants while nobody has the file
open for writing and which holds up whoever wants to. All else is copied. A file may grow, shrink
or be made up as it is read: never is more read or written than it had at the beginning.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
from pathlib import Path
from typing import Final

import msgspec

from zhcache.errors import UsageError
from zhcached.store import files
from zhcached.store.digest import READ_STEP, Committed, ContentDigest, Progress, hash_file
from zhcached.store.layout import filesystem_type

# Source: linux/fs.h, FICLONE = _IOW(0x94, 9, int).
_FICLONE: Final = 0x40049409
# Their files are regular, say any size, and end when they like. Source: linux/magic.h.
_MADE_UP: Final = {
    0x9FA0: "procfs",
    0x62656572: "sysfs",
    0x64626720: "debugfs",
    0x74726163: "tracefs",
    0x27E0EB: "cgroup",
    0x63677270: "cgroup2",
}


def check_source(fd: int, size: int) -> os.stat_result:
    """Returns the stat of a file that can be taken in.

    Args:
        fd: The file.
        size: Its bytes when room for it was set aside.

    Raises:
        UsageError: Not a regular file of a real file system, or no longer of that size.
    """
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        raise UsageError("only regular files can be imported")
    if kind := _MADE_UP.get(filesystem_type(fd)):
        raise UsageError(
            "{path} lies on {kind} and cannot be imported: the kernel makes it up as it is read",
            path=_name(fd),
            kind=kind,
        )
    if found.st_size != size:
        raise _changed(fd)
    return found


def bring_in(
    fd: int,
    found: os.stat_result,
    path: Path,
    *,
    link_ok: bool,
    want_git: bool,
    mode: int,
    progress: Progress | None,
) -> tuple[int, Committed]:
    """Makes ``path`` hold the bytes of ``fd`` and returns it open, with what they hash to.

    A linked file is read-only then, and while the descriptor stays open nobody opens it for
    writing. A link that had to be given up for a copy is read, and told to ``progress``, twice.

    Raises:
        UsageError: The file changed while it was read.
        OSError: The disk failed.
    """
    if link_ok:
        linked = _bring_linked(fd, found, path, mode, want_git=want_git, progress=progress)
        if linked is not None:
            return linked
    out = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        if _reflink(fd, out):
            return out, _hash(out, fd, found.st_size, want_git=want_git, progress=progress)
        return out, _copy(fd, out, found.st_size, want_git=want_git, progress=progress)
    except BaseException:
        os.close(out)
        raise


def _bring_linked(
    fd: int,
    found: os.stat_result,
    path: Path,
    mode: int,
    *,
    want_git: bool,
    progress: Progress | None,
) -> tuple[int, Committed] | None:
    leased = _lease(fd, found, path)
    if leased is None:
        return None
    try:
        if _link(leased, path):
            came = _hash(leased, fd, found.st_size, want_git=want_git, progress=progress)
            os.fchmod(leased, mode)
            # The kernel makes a writer wait, and in the end takes the lease away for it. After
            # the chmod no new one gets in, so that a lease which still stands proves the bytes.
            if fcntl.fcntl(leased, fcntl.F_GETLEASE) == fcntl.F_RDLCK:
                return leased, came
            os.fchmod(leased, stat.S_IMODE(found.st_mode))
            path.unlink()
    except BaseException:
        os.close(leased)
        raise
    os.close(leased)
    return None


def _lease(fd: int, found: os.stat_result, path: Path) -> int | None:
    """Returns a descriptor of our own with a read lease, or None where a link is not safe.

    The one we were handed is shared with its sender, who could turn the lease's signal to one
    that ends us. Without F_SETSIG it is SIGIO, which does so by default; SIGURG does nothing.

    Source: fcntl(2), F_SETLEASE and F_SETSIG; signal(7).
    """
    if found.st_uid != os.geteuid() or found.st_dev != path.parent.stat().st_dev:
        return None
    try:
        mine = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.ENOENT):
            return None
        raise
    try:
        fcntl.fcntl(mine, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(mine, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError:
        os.close(mine)
        return None
    return mine


def _link(fd: int, path: Path) -> bool:
    try:
        # Only with a folder's descriptor does Python call linkat, which alone can follow the
        # symlink; the path is absolute, so that any descriptor will do.
        os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd, follow_symlinks=True)
    except OSError as error:  # unlinked meanwhile, link limit, protected_hardlinks
        if error.errno in (errno.ENOENT, errno.EMLINK, errno.EPERM, errno.EXDEV):
            return False
        raise
    return True


def _reflink(source: int, target: int) -> bool:
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        unable = (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS)
        if error.errno in unable or error.errno == errno.EPERM:
            return False
        raise
    return True


def _hash(
    fd: int, source: int, size: int, *, want_git: bool, progress: Progress | None
) -> Committed:
    came = hash_file(fd, want_git=want_git, progress=progress)
    if came.size != size:
        raise _changed(source)
    return msgspec.structs.replace(came, is_shared=True)


def _copy(
    source: int, target: int, size: int, *, want_git: bool, progress: Progress | None
) -> Committed:
    digest = ContentDigest(size, want_git=want_git)
    buffer = memoryview(bytearray(min(READ_STEP, max(size, 1))))
    at = 0
    while at < size and (got := os.preadv(source, [buffer[: size - at]], at)):
        files.write_all_at(target, buffer[:got], at)
        digest.update(buffer[:got])
        at += got
        if progress is not None:
            progress(got)
    if at != size or os.fstat(source).st_size != size:
        raise _changed(source)
    return Committed(digest.sha256(), digest.git_sha1(), at)


def _changed(fd: int) -> UsageError:
    return UsageError(
        "{path} changed while it was read",
        hint="import it once nothing writes to it any more",
        path=_name(fd),
    )


def _name(fd: int) -> str:
    return os.fsencode(Path(f"/proc/self/fd/{fd}").readlink()).decode("utf-8", "replace")
