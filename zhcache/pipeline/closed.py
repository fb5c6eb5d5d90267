"""Snapshots whose files are closed to this user: what is small comes by descriptor.

Who may speak to the daemon may have what its store holds, and need not be able to open the store's
files. The daemon hands over the small ones for the lease; they are copied into a folder that only
this user enters, for as long as the libraries read them. Weights come as arenas and are not copied.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
import weakref
from pathlib import Path
from types import TracebackType
from typing import Any

from zhcache.completeness import gaps, is_closed
from zhcache.errors import IntegrityError, NoSpace, ZhcacheError
from zhcache.handover import small_files
from zhcache.i18n import mark
from zhcache.lease import Lease
from zhcache.protocol.names import parse_path
from zhcache.protocol.residency import SmallFile

PREFIX = "zhcache-files-"

_WHERE = mark("XDG_RUNTIME_DIR, else TMPDIR, names where copies lie while a pipeline is loaded")
_STEP = 1 << 20
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Readable:
    """A leased snapshot as this process can read it, until the end of the ``with`` block.

    Args:
        api_socket: The daemon's API socket.
        lease: Of the snapshot.

    Attributes:
        shown: The snapshot's own folder, whether it is open or not.
        folder: Where to read its files: ``shown``, or this process's copies of the small ones.
        weights: Paths of the files with weights, which are not in ``folder``; None where all is.

    Raises:
        NoSpace: There is no room for the copies.
        IntegrityError: The daemon named files that cannot be meant.
        ZhcacheError: What the daemon reported.
    """

    def __init__(self, api_socket: Path, lease: Lease) -> None:
        self.shown = self.folder = lease.path
        self.weights: list[str] | None = None
        if not is_closed(lease.path):
            return
        self.folder, lock = _new_folder()
        self._remove = weakref.finalize(self, _remove, self.folder, lock, os.getpid())
        try:
            self.weights = small_files(
                api_socket, lease.granted.id, lambda file, fd: _copy(file, fd, self.folder)
            )
        except BaseException:
            self.close()
            raise

    def gaps(self) -> list[str]:
        """Returns what is missing, as ``zhcache.completeness.gaps``."""
        return gaps(self.folder, self.weights or ())

    def close(self) -> None:
        """Removes the copies; a second call does nothing."""
        if self.folder != self.shown:
            self._remove()

    def __enter__(self) -> Readable:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, ZhcacheError):
            self._name_in(error)
        self.close()

    def name_in(self, pipeline: Any) -> None:
        """Has a pipeline name the snapshot's folder where it names the one of the copies."""
        if self.folder == self.shown:
            return
        for part in (pipeline, *pipeline.components.values()):
            # Models of transformers hold others that name it as well.
            for one in part.modules() if hasattr(part, "modules") else (part,):
                self._name_part(one)

    def _name_part(self, part: Any) -> None:
        if hasattr(part, "register_to_config"):
            # Diffusers' configurations are frozen.
            named = part.config.get("_name_or_path")
            if isinstance(named, str):
                part.register_to_config(_name_or_path=self._renamed(named))
            return
        named = getattr(part, "init_kwargs", None)
        for holder in (_dict(part), _dict(getattr(part, "config", None)), named or {}):
            for key, value in list(holder.items()):
                if isinstance(value, str):
                    holder[key] = self._renamed(value)
                elif hasattr(value, "init_kwargs"):
                    # The tokenizer of a processor.
                    self._name_part(value)

    def _name_in(self, error: ZhcacheError) -> None:
        # By the time it is read, the copies are gone.
        error.values.update({key: self._renamed(str(v)) for key, v in error.values.items()})
        error.args = (error.message,)

    def _renamed(self, text: str) -> str:
        return text.replace(str(self.folder), str(self.shown))


def _dict(one: object) -> dict[str, Any]:
    return getattr(one, "__dict__", {})


def _copy(file: SmallFile, fd: int, folder: Path) -> None:
    path = folder / parse_path(file.path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as copy:
            done = 0
            while part := os.pread(fd, _STEP, done):
                done += len(part)
                if done > file.size:
                    break
                copy.write(part)
    except (FileExistsError, NotADirectoryError):
        raise IntegrityError(
            "the daemon named {path} twice, or as a file and as a folder",
            hint="run `zhcache verify`",
            path=file.path,
        ) from None
    except OSError as error:
        kind = NoSpace if error.errno in (errno.ENOSPC, errno.EDQUOT) else ZhcacheError
        raise kind(
            mark("{path} cannot be copied to {folder}: {reason}"),
            hint=_WHERE,
            path=file.path,
            folder=folder.parent,
            reason=os.strerror(error.errno or 0),
        ) from error
    if done != file.size:
        raise IntegrityError(
            "the daemon handed over {path}, which has not its {size} bytes",
            hint="run `zhcache verify`",
            path=file.path,
            size=file.size,
        )


def _base() -> Path:
    """Returns where copies lie: memory that is this user's own where there is such a folder."""
    if named := os.environ.get("XDG_RUNTIME_DIR"):
        with contextlib.suppress(OSError):
            is_own = Path(named).stat().st_uid == os.geteuid()
            if is_own and os.access(named, os.W_OK | os.X_OK):
                return Path(named)
    return Path(tempfile.gettempdir())


def _new_folder() -> tuple[Path, int]:
    """Returns a folder for this user alone, and the descriptor whose lock says that it is in use.

    Those that killed processes left behind are removed first: the kernel has freed their locks.

    Raises:
        ZhcacheError: None can be made.
    """
    base = _base()
    for left in base.glob(f"{PREFIX}*"):
        _sweep(left)
    try:
        while True:
            folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
            # Before it is locked another process may take it for one that was left behind.
            with contextlib.suppress(FileNotFoundError):
                lock = os.open(folder, _OPEN)
                fcntl.flock(lock, fcntl.LOCK_EX)
                if folder.is_dir():
                    return folder, lock
                os.close(lock)
    except OSError as error:
        raise ZhcacheError(
            "no folder can be made in {folder}: {reason}",
            hint=_WHERE,
            folder=base,
            reason=error.strerror or "?",
        ) from error


def _sweep(left: Path) -> None:
    with contextlib.suppress(OSError):
        lock = os.open(left, _OPEN)
        try:
            if os.fstat(lock).st_uid == os.geteuid():
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)
        finally:
            os.close(lock)


def _remove(folder: Path, lock: int, pid: int) -> None:
    # A forked child runs finalizers at its end as well.
    if pid == os.getpid():
        shutil.rmtree(folder, ignore_errors=True)
    os.close(lock)
