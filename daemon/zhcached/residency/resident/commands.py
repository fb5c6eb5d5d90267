"""What an instance has its supervisor do next."""

from __future__ import annotations

from dataclasses import dataclass

from zhcached.residency.resident.calls import Call


@dataclass(frozen=True, slots=True)
class Start:
    """Give the worker this call."""

    call: Call


@dataclass(frozen=True, slots=True)
class Stop:
    """Tell the worker that this call is no longer wanted."""

    call: Call


@dataclass(frozen=True, slots=True)
class Rest:
    """Nothing to do for so many seconds; None is until something happens."""

    seconds: float | None


@dataclass(frozen=True, slots=True)
class Kill:
    """The worker does not obey."""

    reason: str


@dataclass(frozen=True, slots=True)
class End:
    """The worker is no longer wanted."""


Order = Start | Stop | Rest | Kill | End
