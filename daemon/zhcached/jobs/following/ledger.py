"""Which models are followed, as kept on disk: ``follow.json`` is the truth, whole at any time.

It names repositories and commits, never paths, and neither the index nor a repair touches it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import structlog

from zhcache.errors import UsageError, ZhcacheError
from zhcached.clock import Clock
from zhcached.jobs.following.followed import Entry, check
from zhcached.store import files

NAME = "follow.json"

log = structlog.get_logger()


class _Recorded(msgspec.Struct):
    followed: list[Entry]
    format: int = 1


class Ledger:
    """The entries, in memory and on disk. Thread-safe.

    Attributes:
        problems: What was found damaged, for ``doctor``.

    Args:
        root: The store's root.
        clock: The time.

    Raises:
        ZhcacheError: The disk failed.
    """

    def __init__(self, root: Path, clock: Clock) -> None:
        self._path = root / NAME
        self._clock = clock
        self._lock = threading.Lock()
        self.problems: list[str] = []
        self._entries = {entry.repo: entry for entry in self._read()}

    def all(self) -> list[Entry]:
        """Returns every entry, in the order in which they were made."""
        with self._lock:
            return list(self._entries.values())

    def find(self, repo: str) -> Entry | None:
        """Returns one entry."""
        with self._lock:
            return self._entries.get(repo)

    def put(self, repo: str, make: Callable[[Entry | None], Entry]) -> Entry:
        """Adds an entry, or replaces the one of its repository, durably; returns it.

        Args:
            repo: The repository.
            make: Returns the entry, given the one that is there; what it raises is raised here.

        Raises:
            NoSpace: No room.
            ZhcacheError: The disk failed.
        """
        with self._lock:
            entry = make(self._entries.get(repo))
            entries = {**self._entries, repo: entry}
            self._write(entries)
            self._entries = entries
            return entry

    def drop(self, repo: str) -> None:
        """Removes an entry durably.

        Raises:
            NoSpace: No room.
            ZhcacheError: The disk failed.
        """
        with self._lock:
            entries = {name: entry for name, entry in self._entries.items() if name != repo}
            self._write(entries)
            self._entries = entries

    def note(self, repo: str, change: Callable[[Entry], Entry]) -> Entry | None:
        """Changes an entry and returns it; None if there is none any more.

        What cannot be written is told in the log and holds as long as this daemon runs: following
        goes on with a full disk, and a later note is written with it.
        """
        with self._lock:
            entry = self._entries.get(repo)
            if entry is None:
                return None
            changed = change(entry)
            if changed == entry:
                return entry
            self._entries[repo] = changed
            try:
                self._write(self._entries)
            except (ZhcacheError, OSError) as error:
                log.warning("follow.not_recorded", repo=repo, error=str(error))
            return changed

    def reschedule(self, due: Mapping[str, float]) -> None:
        """Sets when looks are due, in memory alone: another daemon would reckon it anew."""
        with self._lock:
            for repo, at in due.items():
                if (entry := self._entries.get(repo)) is not None:
                    self._entries[repo] = msgspec.structs.replace(entry, due=at)

    def claim(self, repo: str, commit: str) -> None:
        """Says that a user asked for a revision himself: following will not prune it."""
        self.note(repo, lambda entry: entry.without({commit}))

    def _write(self, entries: dict[str, Entry]) -> None:
        body = msgspec.json.encode(_Recorded(list(entries.values())))
        files.write_durably(self._path, msgspec.json.format(body, indent=1))

    def _read(self) -> list[Entry]:
        try:
            recorded = msgspec.json.decode(self._path.read_bytes(), type=_Recorded)
            for entry in recorded.followed:
                check(entry)
        except FileNotFoundError:
            return []
        except (OSError, msgspec.MsgspecError, UsageError) as error:
            self._set_aside(error)
            return []
        return recorded.followed

    def _set_aside(self, error: Exception) -> None:
        aside = self._path.with_name(f"{NAME}.damaged-{int(self._clock.wall())}")
        with files.disk_errors(self._path):
            self._path.rename(aside)
            files.sync_dir(aside.parent)
        log.error("follow.damaged", aside=str(aside), error=str(error))
        self.problems.append(f"{NAME} was damaged ({error}); it is kept as {aside.name}")
