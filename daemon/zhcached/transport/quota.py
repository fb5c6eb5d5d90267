"""Request budgets: how many requests an origin still wants, and until when it wants none.

A lab behind one address shares one budget at a hub, and whoever goes on asking after it is spent
is locked out for longer. So there is one account for each origin and for the whole machine: while
it is spent, no request is sent at all. A hub that keeps separate accounts names them; an answer
tells which one its kind of request is charged to.

What a header says is a stranger's word: read strictly, and never believed for more than an hour.
Source: RateLimit header fields for HTTP (draft-ietf-httpapi-ratelimit-headers-08 and later), RFC
9110 section 10.2.3, and the Hub's ``ratelimit: "api";r=0;t=55``.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from zhcached.clock import Clock
from zhcached.errors import LimitedError
from zhcached.transport.address import Origin
from zhcached.transport.message import asked_s

MAX_WAIT_S = 3600.0
UNSTATED_WAIT_S = 1.0
"""After a first refusal that names no time; doubles with each further one."""
MAX_UNSTATED_WAIT_S = 60.0
LOW_SHARE = 0.1
LOW_COUNT = 5
MAX_ORIGINS = 256
_MAX_HEADER = 1024
_MAX_ITEMS = 8
_ITEM = re.compile(r"\s*\"?([\w.\- ]{1,64})\"?((?:\s*;\s*[a-z]{1,8}=[\w:+/=.\-]{1,40})+)\s*")
_PARAMETER = re.compile(r"([rt])=(\d{1,12})(?![\w.])")
_QUOTA = re.compile(r";\s*q=(\d{1,9})(?![\w.])")

Purpose = Literal["words", "bytes"]
"""What a request is for: hubs charge listings and files to different accounts."""

_EVERYTHING = ""


@dataclass(frozen=True, slots=True)
class Stated:
    """One item of a ``RateLimit`` field: requests left, and seconds until it is renewed."""

    name: str
    left: int
    renewed_s: float


def stated(headers: Mapping[str, str]) -> list[Stated]:
    """Returns what the answer says of its budgets; what is not well-formed says nothing. Pure."""
    text = headers.get("ratelimit", "")
    if not text or len(text) > _MAX_HEADER:
        return []
    found: list[Stated] = []
    for item in text.split(",")[:_MAX_ITEMS]:
        if (match := _ITEM.fullmatch(item)) is None:
            continue
        numbers = {name: int(number) for name, number in _PARAMETER.findall(match[2])}
        if "r" in numbers and "t" in numbers:
            renewed_s = min(float(numbers["t"]), MAX_WAIT_S)
            found.append(Stated(match[1].strip(), numbers["r"], renewed_s))
    return found


def _most(headers: Mapping[str, str]) -> int | None:
    """Returns how many requests a window has, where just one number is given."""
    quotas = _QUOTA.findall(headers.get("ratelimit-policy", "")[:_MAX_HEADER])
    return int(quotas[0]) if len(quotas) == 1 else None


@dataclass(slots=True)
class _Budget:
    left: int
    until: float
    most: int | None = None

    @property
    def is_low(self) -> bool:
        return self.left <= max(LOW_COUNT, LOW_SHARE * (self.most or 0))


@dataclass(slots=True)
class _Account:
    """One origin's budgets by name, and which of them each purpose was last charged to."""

    budgets: dict[str, _Budget] = field(default_factory=dict[str, _Budget])
    charged: dict[Purpose, set[str]] = field(default_factory=dict[Purpose, "set[str]"])
    refusals: int = 0

    def live(self, purpose: Purpose | None, now: float) -> Iterator[_Budget]:
        """Yields the budgets that hold for ``purpose``; all, where it is not known which do."""
        charged = self.charged.get(purpose) if purpose else None
        for name, budget in self.budgets.items():
            if budget.until > now and (charged is None or name in charged or name == _EVERYTHING):
                yield budget

    def closed_s(self, purpose: Purpose | None, now: float) -> float:
        return max((b.until - now for b in self.live(purpose, now) if b.left <= 0), default=0.0)


class Quotas:
    """The accounts of all origins. Thread-safe.

    Args:
        clock: Gives the present.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._accounts: dict[Origin, _Account] = {}

    def admit(self, origin: Origin, purpose: Purpose) -> None:
        """Takes one request out of the budget.

        Raises:
            LimitedError: It is spent; ``retry_after_s`` says for how long.
        """
        now = self._clock.monotonic()
        with self._lock:
            account = self._accounts.get(origin)
            if account is None:
                return
            closed_s = account.closed_s(purpose, now)
            if closed_s <= 0:
                for budget in account.live(purpose, now):
                    budget.left -= 1
                return
        error = LimitedError(
            f"{origin} asked for no requests for another {math.ceil(closed_s)} s",
            status=429,
            retry_after_s=closed_s,
        )
        error.place = str(origin)
        raise error

    def learn(
        self, origin: Origin, purpose: Purpose, status: int, headers: Mapping[str, str]
    ) -> None:
        """Takes in what an answer of ``origin`` says about its budgets."""
        said = stated(headers)
        if not said and status != 429 and origin not in self._accounts:
            return
        now, most = self._clock.monotonic(), _most(headers)
        with self._lock:
            account = self._accounts.setdefault(origin, _Account())
            if said:
                account.charged[purpose] = {item.name for item in said}
            for item in said:
                self._take_in(account, item, most, now)
            if status != 429:
                account.refusals = 0
            else:
                spent = [item.name for item in said if item.left <= 0 and item.renewed_s > 0]
                self._close(account, spent or [_EVERYTHING], self._wait_s(account, headers), now)
            self._forget(now)

    def rest(self, origin: Origin, seconds: float) -> None:
        """Lets ``origin`` alone for so long, as an earlier run was asked to."""
        with self._lock:
            account = self._accounts.setdefault(origin, _Account())
            self._close(account, [_EVERYTHING], seconds, self._clock.monotonic())

    def closed_s(self, origin: Origin, purpose: Purpose | None = None) -> float:
        """Returns for how many seconds no request is sent; by default of any purpose."""
        with self._lock:
            account = self._accounts.get(origin)
            return account.closed_s(purpose, self._clock.monotonic()) if account else 0.0

    def is_low(self, origin: Origin) -> bool:
        """Tells whether what is left is too little to be spent on anything but users' wishes."""
        with self._lock:
            account = self._accounts.get(origin)
            now = self._clock.monotonic()
            return account is not None and any(b.is_low for b in account.live(None, now))

    @staticmethod
    def _take_in(account: _Account, item: Stated, most: int | None, now: float) -> None:
        until = now + item.renewed_s
        known = account.budgets.get(item.name)
        if known is not None and abs(known.until - until) < 2 and known.until > now:
            # Answers overtake each other, and what was sent since is not in this number.
            known.left, known.most = min(known.left, item.left), most or known.most
        elif len(account.budgets) < _MAX_ITEMS or known is not None:
            account.budgets[item.name] = _Budget(item.left, until, most)

    def _wait_s(self, account: _Account, headers: Mapping[str, str]) -> float:
        asked = asked_s(headers, self._clock.wall())
        if asked:
            return asked
        # A zero is no leave to hammer, and neither is silence.
        account.refusals += 1
        return min(UNSTATED_WAIT_S * 2 ** min(account.refusals - 1, 10), MAX_UNSTATED_WAIT_S)

    @staticmethod
    def _close(account: _Account, names: list[str], seconds: float, now: float) -> None:
        until = now + min(max(seconds, 0.0), MAX_WAIT_S)
        for name in names:
            known = account.budgets.get(name)
            most = known.most if known else None
            account.budgets[name] = _Budget(0, max(until, known.until if known else 0.0), most)

    def _forget(self, now: float) -> None:
        """Drops what is over; a hub's redirects decide how many origins are visited."""
        for account in self._accounts.values():
            account.budgets = {n: b for n, b in account.budgets.items() if b.until > now}
        while len(self._accounts) > MAX_ORIGINS:
            soonest = min(self._accounts, key=lambda origin: self._last(origin, now))
            del self._accounts[soonest]

    def _last(self, origin: Origin, now: float) -> float:
        return max((b.until for b in self._accounts[origin].budgets.values()), default=now)
