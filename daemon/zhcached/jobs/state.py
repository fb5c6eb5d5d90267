"""The life of a job: every state, what exists in it, and every step that may be taken.

Everything about states is here; this module knows neither threads nor the index. The diagram in
ARCHITECTURE.md is made from ``STEPS``.
"""

from __future__ import annotations

from typing import Any

import msgspec

from zhcache.protocol.messages import (
    ErrorInfo,
    FileProgress,
    Job,
    JobKind,
    JobState,
    PrefetchRequest,
    PrefetchResult,
    VerifyRequest,
    VerifyResult,
    WarmResult,
)
from zhcache.protocol.residency import WarmRequest


class Queued(msgspec.Struct, frozen=True, tag="queued"):
    """Accepted and durable; waits for a free place."""


class Resolving(msgspec.Struct, frozen=True, tag="resolving"):
    """The sources are asked what the revision is and what it holds."""


class Fetching(msgspec.Struct, frozen=True, tag="fetching"):
    """Bytes arrive. Counts are of the files taken, verified blobs included."""

    bytes_total: int


class Publishing(msgspec.Struct, frozen=True, tag="publishing"):
    """All bytes are verified; manifest and view are written."""

    bytes_total: int


class Converting(msgspec.Struct, frozen=True, tag="converting"):
    """Workers convert: pickles before the snapshot is published, variants of it after that."""

    bytes_total: int = 0


class Running(msgspec.Struct, frozen=True, tag="running"):
    """Local work: hashing, rebuilding, taking in files."""

    bytes_total: int = 0


class Done(msgspec.Struct, frozen=True, tag="done"):
    """Ended well."""

    result: PrefetchResult | None = None
    verify: VerifyResult | None = None
    warm: WarmResult | None = None


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """Ended with an error."""

    error: ErrorInfo
    verify: VerifyResult | None = None


class Cancelled(msgspec.Struct, frozen=True, tag="cancelled"):
    """Ended because somebody asked; what was fetched stays for the next time."""

    by_uid: int


State = (
    Queued | Resolving | Fetching | Publishing | Converting | Running | Done | Failed | Cancelled
)

ENDED = (Done, Failed, Cancelled)
_ENDINGS = frozenset({Failed, Cancelled})

STEPS: dict[type[State], frozenset[type[State]]] = {
    Queued: frozenset({Resolving, Running}) | _ENDINGS,
    Resolving: frozenset({Fetching, Converting, Done, Queued}) | _ENDINGS,
    Fetching: frozenset({Publishing, Converting, Resolving, Queued}) | _ENDINGS,
    Publishing: frozenset({Converting, Done, Resolving, Queued}) | _ENDINGS,
    Converting: frozenset({Publishing, Done, Resolving, Queued}) | _ENDINGS,
    Running: frozenset({Done, Queued}) | _ENDINGS,
    Done: frozenset(),
    Failed: frozenset(),
    Cancelled: frozenset(),
}
"""Which state may follow which. Back to ``Queued`` is a daemon that stops or was killed; back to
``Resolving`` is a source whose files changed under the download."""


class Prefetch(msgspec.Struct, frozen=True, tag="prefetch"):
    """What a prefetch job was asked."""

    request: PrefetchRequest


class Verify(msgspec.Struct, frozen=True, tag="verify"):
    """What a verify job was asked."""

    request: VerifyRequest


class Repair(msgspec.Struct, frozen=True, tag="repair"):
    """A repair takes no arguments."""


class Import(msgspec.Struct, frozen=True, tag="import"):
    """An import; its descriptors live only as long as the daemon that received them.

    ``folder`` is the watched folder that the daemon takes them from by itself.
    """

    repo: str
    commit: str | None
    revision: str | None
    folder: str = ""


class Warm(msgspec.Struct, frozen=True, tag="warm"):
    """What a warm job was asked."""

    request: WarmRequest


class Refresh(msgspec.Struct, frozen=True, tag="refresh"):
    """A prefetch for a followed model: the commit that its revision was found to mean.

    Attributes:
        request: What is followed; its revision is the branch or tag.
        commit: What it was found to mean.
        is_git: Whether hubs can be asked for that commit.
        was: What the ref meant here then; the ref is moved from there and from nowhere else.
    """

    request: PrefetchRequest
    commit: str
    is_git: bool
    was: str | None


Task = Prefetch | Verify | Repair | Import | Warm | Refresh


class Record(msgspec.Struct, frozen=True):
    """A job as it is kept: what was asked, by whom, and where it stands."""

    id: str
    key: str
    uid: int
    created: float
    updated: float
    task: Task
    state: State

    @property
    def kind(self) -> JobKind:
        """The task's name on the wire."""
        match self.task:
            case Prefetch() | Refresh():
                return "prefetch"
            case Verify():
                return "verify"
            case Repair():
                return "repair"
            case Import():
                return "import"
            case Warm():
                return "warm"

    @property
    def repo(self) -> str:
        """The repository it is about, empty for the whole store."""
        match self.task:
            case Prefetch(request) | Refresh(request):
                return request.repo
            case Verify(request):
                return request.repo or ""
            case Import(repo=repo):
                return repo
            case Warm(request):
                return request.repo
            case Repair():
                return ""

    @property
    def ended(self) -> bool:
        """Whether nothing will happen to it any more."""
        return isinstance(self.state, ENDED)

    def step(self, state: State, now: float) -> Record:
        """Returns the record in ``state``.

        Raises:
            ValueError: The table has no such step; a defect, never a condition to handle.
        """
        if type(state) not in STEPS[type(self.state)] and type(state) is not type(self.state):
            raise ValueError(f"no step from {name(self.state)} to {name(state)}")
        return msgspec.structs.replace(self, state=state, updated=now)


def name(state: State) -> JobState:
    """Returns the state's name on the wire."""
    tag: Any = type(state).__struct_config__.tag
    return tag


class Progress(msgspec.Struct, frozen=True):
    """How far a running job is; counted by the work, shown with its record, never kept."""

    bytes_done: int = 0
    bytes_total: int = 0
    rate: float = 0.0
    files: tuple[FileProgress, ...] = ()
    note: str = ""


def view(record: Record, progress: Progress | None = None, *, joined: bool = False) -> Job:
    """Returns the job as the API shows it."""
    state = record.state
    seen = progress or Progress()
    total = seen.bytes_total or getattr(state, "bytes_total", 0)
    done = seen.bytes_done
    result = state.result if isinstance(state, Done) else None
    warm = state.warm if isinstance(state, Done) else None
    if (brought := result or warm) is not None:
        total = done = brought.bytes
    return Job(
        id=record.id,
        kind=record.kind,
        repo=record.repo,
        state=name(state),
        revision=_revision(record.task),
        uid=record.uid,
        created=record.created,
        updated=record.updated,
        bytes_done=done,
        bytes_total=total,
        rate=0.0 if record.ended else seen.rate,
        files=[] if record.ended else list(seen.files),
        note="" if record.ended else seen.note,
        error=state.error if isinstance(state, Failed) else None,
        result=result,
        verify=state.verify if isinstance(state, (Done, Failed)) else None,
        warm=warm,
        joined=joined,
    )


def _revision(task: Task) -> str | None:
    match task:
        case Prefetch(request) | Warm(request):
            return request.revision
        case Import(revision=revision):
            return revision
        case Refresh(commit=commit):
            return commit
        case _:
            return None
