"""The kernel's notices of changes in folders: inotify, one thread for all of them.

Of watchdog the layer below its observers is used. Those add a watch for each folder of a tree by
themselves, following whatever is there, keep to themselves that the kernel had none left for a
folder, and repair a lost queue without telling that something was missed.

Source: watchdog 7.1, ``observers/inotify.py`` and ``inotify_c.py``; inotify(7).
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterable

from watchdog.observers.inotify_c import (
    CallbackId,
    InotifyConstants,
    InotifyEvent,
    InotifyFD,
    Mask,
    WatchDescriptor,
)

from zhcache.errors import Busy
from zhcache.i18n import mark

_SELF = (
    InotifyConstants.IN_DELETE_SELF
    | InotifyConstants.IN_MOVE_SELF
    | InotifyConstants.IN_ONLYDIR
    | InotifyConstants.IN_DONT_FOLLOW
)
_NAMES = (
    InotifyConstants.IN_CREATE
    | InotifyConstants.IN_DELETE
    | InotifyConstants.IN_MOVE
    | InotifyConstants.IN_ATTRIB
)
# Not each write: a copy makes thousands, and that it goes on is seen when it should be at rest.
DROPPED_IN = Mask(_SELF | _NAMES | InotifyConstants.IN_CLOSE_WRITE)
TOUCHED = Mask(_SELF | _NAMES | InotifyConstants.IN_MODIFY)

Tell = Callable[[str, str], None]
"""Takes the folder and the name in it that changed, empty for the folder itself."""


class NoNotices(Busy):
    """The kernel has no notices to give; whoever wants to know must look again and again."""


class Notices:
    """Watches on folders, in groups. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._fd: InotifyFD | None = None

    def group(self, mask: Mask, tell: Tell, overflow: Callable[[], None]) -> Group:
        """Returns a group of folders that are watched together.

        Args:
            mask: What is told.
            tell: Called in the reading thread.
            overflow: Called there when notices were lost.

        Raises:
            NoNotices: The kernel has no inotify instance left for this user.
        """
        with self._lock:
            if self._fd is None:
                try:
                    self._fd = InotifyFD()
                except OSError as error:
                    raise _spent(error) from error
                self._fd.start()
            return Group(self._fd, mask, tell, overflow)

    def close(self) -> None:
        """Ends all groups and the thread."""
        with self._lock:
            if self._fd is not None:
                self._fd.stop()
                self._fd.join(5.0)
                self._fd = None


class Group:
    """Folders that are watched together; made by ``Notices``."""

    def __init__(self, fd: InotifyFD, mask: Mask, tell: Tell, overflow: Callable[[], None]) -> None:
        self._fd = fd
        self._mask = mask
        self._lock = threading.Lock()
        self._places: dict[str, _Place] = {}
        self.tell = tell
        self.overflow = overflow
        self.is_overfull = False

    def follow(self, folders: Iterable[str]) -> int:
        """Watches these folders and no others; returns how many of them are new.

        Raises:
            NoNotices: The kernel has no watch left; none of the group's is held any more.
        """
        wanted = set(folders)
        with self._lock:
            self._release([path for path in self._places if path not in wanted])
            new = 0
            for path in wanted:
                if path in self._places:
                    continue
                try:
                    new += self._add(path)
                except OSError as error:
                    if error.errno in (errno.ENOSPC, errno.EMFILE, errno.ENOMEM):
                        self._release(list(self._places))
                        raise _spent(error) from error
                    # Gone since it was seen, which the next look sees.
            return new

    def close(self) -> None:
        """Watches nothing any more."""
        with self._lock:
            self._release(list(self._places))

    def gone(self, place: _Place) -> None:
        """Drops a folder that the kernel watches no more."""
        with self._lock:
            if self._places.get(place.path) is place:
                del self._places[place.path]

    def _add(self, path: str) -> bool:
        place = _Place(self, path)
        place.wd = self._fd.add_callback(
            os.fsencode(path), self._mask, place, CallbackId(id(place))
        )
        # What may not be watched for want of rights has this number, and no error.
        if place.wd == -1:
            return False
        self._places[path] = place
        return True

    def _release(self, paths: list[str]) -> None:
        places = [self._places.pop(path) for path in paths]
        self._fd.remove_callbacks([(place.wd, CallbackId(id(place))) for place in places])


class _Place:
    """One watched folder, as the reading thread calls it."""

    def __init__(self, group: Group, path: str) -> None:
        self._group = group
        self.path = path
        self.wd = WatchDescriptor(-1)

    def on_event(self, event: InotifyEvent) -> None:
        self._group.is_overfull = False
        self._group.tell(self.path, os.fsdecode(event.name))

    def on_watch_deleted(self, wd: WatchDescriptor) -> None:
        self._group.gone(self)
        self._group.tell(self.path, "")

    def on_queue_overflow(self) -> None:
        # Each folder is told, one after the other; once is enough.
        if not self._group.is_overfull:
            self._group.is_overfull = True
            self._group.overflow()


def _spent(error: OSError) -> NoNotices:
    if error.errno == errno.EMFILE:
        return NoNotices(
            mark("the kernel has no inotify instance left for uid {uid}: changes are looked for"),
            hint=mark("raise fs.inotify.max_user_instances with sysctl, and restart the daemon"),
            uid=os.geteuid(),
        )
    return NoNotices(
        mark("the kernel has no inotify watch left for uid {uid}: changes are looked for"),
        hint=mark("raise fs.inotify.max_user_watches with sysctl, and restart the daemon"),
        uid=os.geteuid(),
    )
