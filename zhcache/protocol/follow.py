"""Messages about followed models."""

from __future__ import annotations

from typing import Literal

from zhcache.protocol.base import Message
from zhcache.protocol.messages import ErrorInfo

FollowState = Literal["new", "looking", "waiting", "fetching", "fresh", "failing"]


class FollowRequest(Message):
    """``POST /v1/follows``: keep a model fresh. None leaves what was said before.

    ``every`` is in seconds; ``keep`` is how many earlier revisions stay.
    """

    repo: str
    revision: str | None = None
    every: float | None = None
    variants: list[str] | None = None
    keep: int | None = None
    only_pipeline: bool | None = None
    allow_pickle: bool | None = None


class Followed(Message):
    """One followed model.

    ``commit`` is what its revision means here, None before anything came. ``looked`` and ``next``
    are the last look and the next, in seconds since the epoch, None where there is none.
    ``waiting`` is a new revision that waits for its turn or for the hours of fetching; ``job``
    fetches it, or will.
    """

    repo: str
    revision: str
    every: float
    variants: list[str]
    keep: int
    uid: int
    state: FollowState
    commit: str | None = None
    looked: float | None = None
    next: float | None = None
    job: str | None = None
    failures: int = 0
    error: ErrorInfo | None = None
    only_pipeline: bool = False
    allow_pickle: bool = False
    schema: int = 1


class Follows(Message):
    """What ``zhcache follow`` lists."""

    followed: list[Followed]
    schema: int = 1
