"""Misbehaviour on request: what can go wrong, for which requests, how often.

Nothing here is random: a fault counts the requests it matches and strikes from the ``after``-th
on, ``times`` times. Whether it matches and what it changes is decided here; the bytes are sent
elsewhere.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Final

REQUIRED: Final = object()

KINDS: Final[dict[str, dict[str, Any]]] = {
    # Instead of the answer.
    "delay": {"seconds": 1.0},
    "status": {"status": 503, "headers": {}, "body": b""},
    "redirect": {"to": REQUIRED, "status": 302},  # {target} in it is the request's own
    "html": {"body": b"<!DOCTYPE html><html><body>Please log in to the network.</body></html>"},
    "slow_header": {"interval": 0.05},
    "expire": {"uses": 1},
    # Another content.
    "change": {"content": None},
    "lie": {"content": None},
    # Another range than the one asked for.
    "ignore_range": {},
    "range_200": {},
    "wrong_range": {"shift": 1, "total": None},
    # The body, on its way. ``at`` counts the bytes of this answer; None is half of it.
    "cut": {"at": None},
    "reset": {"at": None},
    "stall": {"at": None, "seconds": None},
    "trickle": {"rate": 64, "at": 0},
    "rate": {"rate": REQUIRED},
    "line": {"rate": REQUIRED},  # of all answers that it strikes together
    "corrupt": {"offset": 0},
    "zeros": {},
    "short": {"by": 1},
    "long": {"by": 1},
    "gzip": {},
    # The listing.
    "hostile_listing": {"names": REQUIRED},
    "endless_pages": {},
    "huge_listing": {"bytes": 64 << 20},
    "deep_json": {"depth": 100_000},
}
"""Each kind's parameters and their defaults. Bytes, seconds, bytes per second."""

LISTING_FAULTS: Final = frozenset({"endless_pages", "huge_listing", "deep_json"})
"""Strike once per listing, whatever its path."""

STANDING_FAULTS: Final = frozenset({"lie", "hostile_listing"})
"""States of the hub rather than events: they hold on both planes until healed."""


@dataclass(slots=True)
class Fault:
    """One kind of misbehaviour and the requests it is for.

    Attributes:
        path: Glob over the file's path in the repository (``*`` spans slashes).
        plane: ``"bytes"`` for GETs of files, ``"meta"`` for listings, HEADs and all else.
        after: Matching requests that are let through first.
        times: How often it strikes; None is for ever.
        applied: How often it has struck.
    """

    kind: str
    path: str
    repo: str
    plane: str
    times: int | None
    after: int
    params: dict[str, Any]
    seen: int = 0
    applied: int = 0

    def __getitem__(self, name: str) -> Any:
        return self.params[name]

    def covers(self, repo: str, path: str, plane: str) -> bool:
        """Whether this fault is for such a request, its counts aside."""
        return (
            plane == self.plane
            and fnmatchcase(repo, self.repo)
            and (fnmatchcase(path, self.path) or self.kind in LISTING_FAULTS)
        )


def new_fault(
    kind: str,
    *,
    path: str = "*",
    repo: str = "*",
    plane: str | None = None,
    times: int | None = None,
    after: int = 0,
    **params: Any,
) -> Fault:
    """A fault of a known kind, on the plane of listings if it is of listings.

    Raises:
        ValueError: The kind or the plane does not exist.
        TypeError: A parameter is unknown to the kind, or a required one is missing.
    """
    if kind not in KINDS:
        raise ValueError(f"no fault {kind!r}; there are {', '.join(sorted(KINDS))}")
    plane = plane or ("meta" if kind in LISTING_FAULTS else "bytes")
    if plane not in {"bytes", "meta"}:
        raise ValueError(f"no plane {plane!r}; there are bytes and meta")
    if unknown := params.keys() - KINDS[kind].keys():
        raise TypeError(f"{kind} takes {sorted(KINDS[kind])}, not {sorted(unknown)}")
    if kind in STANDING_FAULTS and (times is not None or after):
        raise TypeError(f"{kind} stands until healed; it takes neither times nor after")
    merged = KINDS[kind] | params
    if missing := [name for name, value in merged.items() if value is REQUIRED]:
        raise TypeError(f"{kind} needs {missing}")
    return Fault(kind, path, repo, plane, times, after, merged)


@dataclass(slots=True)
class FaultBook:
    """The faults in force. Thread-safe."""

    _faults: list[Fault] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, fault: Fault) -> Fault:
        """Puts a fault in force."""
        with self._lock:
            self._faults.append(fault)
        return fault

    def clear(self) -> None:
        """Ends all faults for requests to come."""
        with self._lock:
            self._faults.clear()

    def remove(self, fault: Fault) -> None:
        """Ends one fault; one that is not in force is no error."""
        with self._lock:
            self._faults = [kept for kept in self._faults if kept is not fault]

    def standing(self, repo: str) -> list[Fault]:
        """The faults of ``STANDING_FAULTS`` in force for a repository."""
        with self._lock:
            return [
                fault
                for fault in self._faults
                if fault.kind in STANDING_FAULTS and fnmatchcase(repo, fault.repo)
            ]

    def strike(
        self,
        kinds: frozenset[str],
        repo: str,
        path: str,
        plane: str,
        suits: Callable[[Fault], bool] = lambda _fault: True,
    ) -> list[Fault]:
        """Counts a request against the faults that cover it and returns those that strike.

        Args:
            kinds: The kinds that make sense at this step of answering.
            repo: The repository's name.
            path: The file's path, empty for a listing.
            plane: ``"bytes"`` or ``"meta"``.
            suits: What else must hold; a request that does not suit is not counted.
        """
        struck: list[Fault] = []
        with self._lock:
            for fault in self._faults:
                if fault.kind not in kinds or not fault.covers(repo, path, plane):
                    continue
                if not suits(fault):
                    continue
                fault.seen += 1
                spent = fault.times is not None and fault.applied >= fault.times
                if fault.seen > fault.after and not spent:
                    fault.applied += 1
                    struck.append(fault)
        return struck
