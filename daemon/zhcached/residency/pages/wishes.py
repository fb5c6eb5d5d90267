"""What users asked to be kept in the page cache, as it is recorded for the next daemon."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec
import structlog

from zhcache.errors import UsageError
from zhcache.protocol.names import parse_repo
from zhcached.store import files

log = structlog.get_logger()


class Wish(msgspec.Struct):
    """One user's wish that a snapshot be kept. Times are wall-clock seconds.

    Attributes:
        repo: The repository.
        commit: The snapshot.
        uid: Whose wish.
        until: Up to when it holds at the least; None is until it is taken back.
        since: When it was last uttered.
        used: When the snapshot was last seen leased since then, 0 if never.
    """

    repo: str
    commit: str
    uid: int
    until: float | None
    since: float
    used: float = 0.0

    @property
    def key(self) -> tuple[str, str, int]:
        """Names it: one wish for each user and snapshot."""
        return self.repo, self.commit, self.uid

    def expires(self, keep_alive_s: float) -> float | None:
        """Returns when it is over if nobody uses the snapshot from now on."""
        if self.until is None:
            return None
        return max(self.until, self.used + keep_alive_s if self.used else 0.0)


class _Recorded(msgspec.Struct):
    wishes: list[Wish]
    format: int = 1


def read(path: Path) -> list[Wish]:
    """Returns what is recorded; a record that cannot be read is told in the log and is as none."""
    try:
        wishes = msgspec.json.decode(path.read_bytes(), type=_Recorded).wishes
        for wish in wishes:
            parse_repo(wish.repo)
    except FileNotFoundError:
        return []
    except (OSError, msgspec.MsgspecError, UsageError) as error:
        log.warning("wishes.unreadable", path=str(path), error=str(error))
        return []
    return wishes


def write(path: Path, wishes: Iterable[Wish]) -> None:
    """Records ``wishes``, whole and durably.

    Raises:
        NoSpace: No room.
        ZhcacheError: The disk failed.
    """
    body = msgspec.json.encode(_Recorded(list(wishes)))
    files.write_durably(path, msgspec.json.format(body, indent=1))
