"""Messages of watched folders: ``/v1/watched``."""

from __future__ import annotations

from typing import Literal

from zhcache.protocol.base import Message
from zhcache.protocol.messages import ErrorInfo

WatchState = Literal["settling", "waiting", "taking", "taken", "refused", "failed", "removed"]
FolderState = Literal["watched", "starting", "gone", "unreadable", "too_much"]


class WatchRequest(Message):
    """``POST /v1/watched``: take in what lies in this folder, from now on."""

    folder: str


class WatchedModel(Message):
    """A model in a watched folder.

    Attributes:
        where: Its folder, relative to the watched one.
        repo: What it is called here, empty where it cannot be named.
        state: ``settling`` is still changing, ``waiting`` lacks something, ``removed`` was taken
            in once and removed from the store by ``rm``.
        revision: The ref that points at it, if one does.
        commit: Its snapshot, once it was taken in.
        reason: Why it is not taken in, or not as it stands there.
        skipped: How many of its files cannot be kept: links out of the folder, no plain files.
        job: The job that takes it in.
    """

    where: str
    repo: str
    state: WatchState
    revision: str | None = None
    commit: str | None = None
    files: int = 0
    bytes: int = 0
    reason: ErrorInfo | None = None
    skipped: int = 0
    job: str = ""


class WatchedFolder(Message):
    """A watched folder. ``mode`` says how changes are noticed, ``polling`` why by looking again."""

    folder: str
    state: FolderState
    mode: Literal["events", "polling"] = "events"
    polling: ErrorInfo | None = None
    configured: bool = False
    reason: ErrorInfo | None = None
    models: list[WatchedModel] = []
    schema: int = 1


class Watched(Message):
    """``GET /v1/watched``."""

    folders: list[WatchedFolder]
    schema: int = 1
