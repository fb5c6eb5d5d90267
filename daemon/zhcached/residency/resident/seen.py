"""What calls of resident pipelines took of GPUs, kept for the planner in ``seen.json``.

The highest of each phase, for each size of each snapshot or variant. A worker's word is taken where
its pipeline was one that anybody might have and where the device could have held it. No truth: it
may be lost at any time, and is as good as the calls were. Thread-safe.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec
import structlog

from zhcache.errors import UsageError, ZhcacheError
from zhcache.protocol.placement import SeenCall, WeightsList
from zhcached.residency.devices import CPU
from zhcached.residency.resident.kinds import Kind
from zhcached.store import files

MAX_SNAPSHOTS = 256
"""Those of which calls were seen last are kept, variants apart."""

MAX_SIZES = 16
"""Of each of them: those that were seen last."""

MAX_SIDE = 16_384
MAX_BATCH = 1024
MAX_FRAMES = 4096

Key = tuple[str, str, str | None]
"""Repository, commit and variant as users know them."""

At = tuple[int, int, int, int, bool]

K = TypeVar("K")
V = TypeVar("V")

log = structlog.get_logger()


class _Snapshot(msgspec.Struct):
    repo: str
    commit: str
    variant: str | None
    calls: list[SeenCall]


class _Recorded(msgspec.Struct):
    snapshots: list[_Snapshot]
    format: int = 1


class SeenCalls:
    """The record. Both levels are in the order in which calls were seen last.

    Args:
        path: Its file; made when there is something to keep.
        total: Returns the bytes of a GPU.
    """

    def __init__(self, path: Path, total: Callable[[str], int]) -> None:
        self._path = path
        self._total = total
        self._lock = threading.Lock()
        self._by_key: dict[Key, dict[At, SeenCall]] = _read(path)
        self._is_new = False

    def add(self, kind: Kind, seen: SeenCall) -> None:
        """Takes in what a worker says of one call of its pipeline; what cannot be is left out."""
        if not _is_common(kind):
            return
        try:
            is_possible = _is_possible(seen, self._total(kind.device))
        except UsageError:
            # The GPU was lost since: what was taken of it helps nobody.
            return
        if not is_possible:
            log.warning("resident.seen_impossible", kind=str(kind), seen=msgspec.to_builtins(seen))
            return
        key = (kind.repo, kind.made_of or kind.commit, kind.variant)
        at = _at(seen)
        with self._lock:
            of = self._by_key.pop(key, {})
            old = of.pop(at, None)
            of[at] = seen if old is None else _both(old, seen)
            self._by_key[key] = of
            _keep_last(of, MAX_SIZES)
            _keep_last(self._by_key, MAX_SNAPSHOTS)
            self._is_new = True

    def told(self, weights: WeightsList) -> WeightsList:
        """Returns ``weights`` with what calls of them took."""
        with self._lock:
            of = self._by_key.get((weights.repo, weights.commit, weights.variant), {})
            return msgspec.structs.replace(weights, seen=list(of.values()))

    def prune(self, is_held: Callable[[str, str], bool]) -> None:
        """Forgets snapshots that are gone.

        Args:
            is_held: Tells whether the store has a repository at a commit.
        """
        with self._lock:
            for repo, commit, variant in list(self._by_key):
                if not is_held(repo, commit):
                    del self._by_key[repo, commit, variant]
                    self._is_new = True

    def save(self) -> None:
        """Writes the record where it is not what the file says; a disk that cannot is told of."""
        with self._lock:
            if not self._is_new:
                return
            self._is_new = False
            snapshots = [_Snapshot(*key, list(of.values())) for key, of in self._by_key.items()]
        try:
            files.write_durably(self._path, msgspec.json.encode(_Recorded(snapshots)))
        except ZhcacheError as error:
            log.warning("resident.seen_not_kept", error=str(error))


def _is_common(kind: Kind) -> bool:
    """Whether calls take what anybody's would: as loaded by default, on one GPU."""
    is_plain = kind.attention is None and not kind.compile and kind.options == b"{}"
    return is_plain and not kind.is_prompts and not kind.sharing and kind.device != CPU


def _is_possible(seen: SeenCall, total: int) -> bool:
    return (
        0 < seen.width <= MAX_SIDE
        and 0 < seen.height <= MAX_SIDE
        and 0 < seen.batch <= MAX_BATCH
        and 0 < seen.frames <= MAX_FRAMES
        and seen.calls == 1
        and all(0 <= count <= total for count in (seen.encode, seen.step, seen.decode))
    )


def _at(seen: SeenCall) -> At:
    return seen.width, seen.height, seen.batch, seen.frames, seen.is_tiled


def _both(one: SeenCall, other: SeenCall) -> SeenCall:
    return msgspec.structs.replace(
        one,
        encode=max(one.encode, other.encode),
        step=max(one.step, other.step),
        decode=max(one.decode, other.decode),
        calls=one.calls + other.calls,
    )


def _keep_last(of: dict[K, V], most: int) -> None:
    while len(of) > most:
        del of[next(iter(of))]


def _read(path: Path) -> dict[Key, dict[At, SeenCall]]:
    try:
        found = msgspec.json.decode(path.read_bytes(), type=_Recorded).snapshots
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.MsgspecError) as error:
        log.warning("resident.seen_unreadable", path=str(path), error=str(error))
        return {}
    return {
        (one.repo, one.commit, one.variant): {_at(call): call for call in one.calls}
        for one in found
    }
