"""Every message on the API socket, as typed values.

The same structs are the JSON that ``--json`` prints where the contract names the fields. A field
may be added with a default; none is renamed or dropped, and readers ignore what they do not
know, so that an old client reads a new daemon. Sizes are bytes, times are seconds since the
epoch, rates are bytes per second.
"""

from __future__ import annotations

from typing import Any, Literal

from zhcache.protocol.base import Message
from zhcache.protocol.sources import Phrase, PlaneInfo
from zhcache.protocol.variants import (
    PlannedVariant,
    VariantPart,
    VariantResult,
    VariantUse,
)

Trust = Literal["pinned", "quorum", "first-use"]
JobState = Literal[
    "queued", "resolving", "fetching", "publishing", "converting", "running",
    "done", "failed", "cancelled",
]  # fmt: skip
JobKind = Literal["prefetch", "verify", "repair", "import", "warm"]
SourceKind = Literal["huggingface", "modelscope", "peer", "folder", "s3", "swarm"]
SourceState = Literal["unknown", "ok", "slow", "down", "lying", "limited"]


class ErrorInfo(Message):
    """An error on the wire. ``template`` and ``values`` let the reader's side translate it."""

    code: str
    message: str
    hint: str = ""
    template: str = ""
    hint_template: str = ""
    values: dict[str, str] = {}


class ErrorReply(Message):
    """The body of every answer that is not a success."""

    error: ErrorInfo
    schema: int = 1


class Version(Message):
    """Who answers: ``GET /v1/version``."""

    version: str
    protocol: int
    protocol_min: int
    home: str
    pid: int
    uid: int
    started: float
    schema: int = 1


# --- lock files ---------------------------------------------------------------------------------


class LockedFile(Message):
    """One file a lock file pins."""

    path: str
    size: int
    sha256: str


class LockedRepo(Message):
    """One repository a lock file pins to a commit and to the hashes of its files.

    ``complete`` is False where files of the hub's listing were left out.
    """

    repo: str
    revision: str
    commit: str
    files: list[LockedFile]
    complete: bool = True


class LockFile(Message):
    """What ``zhcache lock`` prints and ``prefetch --lock`` demands."""

    repos: list[LockedRepo]
    schema: int = 1


class LockRequest(Message):
    """``POST /v1/locks``."""

    repos: list[str]


# --- jobs ---------------------------------------------------------------------------------------


class PrefetchRequest(Message):
    """``POST /v1/prefetch``. Equal requests join one job.

    ``allow_pickle`` has weights that exist only as pickle converted to safetensors.
    """

    repo: str
    revision: str | None = None
    variants: list[str] = []
    include: list[str] = []
    exclude: list[str] = []
    source: str | None = None
    lock: LockedRepo | None = None
    only_pipeline: bool = False
    dry_run: bool = False
    allow_pickle: bool = False


class PlannedFile(Message):
    """One file of a dry run."""

    path: str
    size: int
    present: int
    sources: list[str]


class PrefetchPlan(Message):
    """The answer to a dry run: what would be fetched, from where, and what is left out."""

    repo: str
    revision: str
    commit: str
    trust: Trust
    files: list[PlannedFile]
    bytes: int
    bytes_present: int
    left_out: dict[str, str] = {}
    variants: dict[str, PlannedVariant] = {}
    schema: int = 1


class DiskUse(Message):
    """What taking in files did to the disk, in bytes.

    Attributes:
        found: Of all files that were taken.
        here: Of those, what the store had already.
        added: What is new in the store.
        shared: Of what is new, what takes no room: the original's own, by reflink or hard link.
    """

    found: int
    here: int
    added: int
    shared: int


class PrefetchResult(Message):
    """What a finished prefetch brought; the last line of ``prefetch --json``.

    Of an import ``disk`` says what it did to the disk.
    """

    repo: str
    revision: str
    commit: str
    path: str
    files: int
    bytes: int
    bytes_fetched: int
    bytes_reused: int
    seconds: float
    sources: dict[str, int]
    trust: Trust
    variants: dict[str, VariantResult] = {}
    left_out: dict[str, str] = {}
    warnings: list[str] = []
    disk: DiskUse | None = None
    schema: int = 1


class DamagedBlob(Message):
    """A blob whose bytes no longer hash to its name, and whom it concerns."""

    sha256: str
    size: int
    used_by: list[str]


class VerifyResult(Message):
    """What ``verify`` or ``repair`` found and did."""

    checked: int
    bytes: int
    damaged: list[DamagedBlob] = []
    missing: list[str] = []
    refetched: int = 0
    rebuilt: bool = False
    schema: int = 1


class WarmResult(Message):
    """What a warm job made warm. ``bytes_resident`` is what was really found in memory; ``locked``
    says that the kernel cannot take it back. ``expires`` is None for until it is stopped.
    """

    repo: str
    commit: str
    variant: str | None
    device: str
    mode: Literal["attach", "resident"]
    bytes: int
    bytes_resident: int
    locked: bool
    expires: float | None
    schema: int = 1


class FileProgress(Message):
    """One file on its way. ``source`` names whoever sends most of it now."""

    path: str
    size: int
    done: int
    source: str = ""


class Job(Message):
    """A job as it is shown. ``note`` says what it waits for, when it waits."""

    id: str
    kind: JobKind
    repo: str
    state: JobState
    revision: str | None = None
    uid: int = -1
    created: float = 0.0
    updated: float = 0.0
    bytes_done: int = 0
    bytes_total: int = 0
    rate: float = 0.0
    files: list[FileProgress] = []
    note: str = ""
    error: ErrorInfo | None = None
    result: PrefetchResult | None = None
    verify: VerifyResult | None = None
    warm: WarmResult | None = None
    joined: bool = False
    schema: int = 1


class Jobs(Message):
    """``GET /v1/jobs``."""

    jobs: list[Job]
    schema: int = 1


class LogLine(Message):
    """One line of the daemon's log."""

    time: float
    level: str
    event: str
    job: str = ""
    fields: dict[str, Any] = {}
    schema: int = 1


# --- snapshots ----------------------------------------------------------------------------------


class SnapshotFile(Message):
    """One file of a snapshot; ``blob`` is the absolute path of its bytes."""

    path: str
    size: int
    sha256: str
    blob: str
    trust: Trust = "first-use"


class Snapshot(Message):
    """A repository at a commit, as held here."""

    repo: str
    commit: str
    path: str
    revisions: list[str]
    bytes: int
    files_count: int
    trust: Trust
    source: str = ""
    created: float = 0.0
    pinned: bool = False
    complete: bool = True
    variants: dict[str, VariantResult] = {}
    schema: int = 1


class SnapshotDetail(Snapshot):
    """A snapshot with its files: ``show``.

    Of a variant ``commit`` is the one that it was made of, ``path``, ``bytes`` and ``files`` are
    its own, and ``parts`` are its converted components.
    """

    files: list[SnapshotFile] = []
    variant: str | None = None
    parts: dict[str, VariantPart] = {}


class Snapshots(Message):
    """``ls``."""

    snapshots: list[Snapshot]
    schema: int = 1


class Removed(Message):
    """What ``rm`` let go; the bytes are freed by the next ``gc``. ``variants`` by name.

    What is ``followed`` comes back at the next look.
    """

    repo: str
    commits: list[str]
    bytes_released: int
    variants: list[str] = []
    followed: bool = False
    schema: int = 1


class RepoUse(Message):
    """One repository's share of the disk, its variants included; ``bytes_own`` is what only it
    uses.
    """

    repo: str
    bytes: int
    bytes_own: int
    snapshots: int
    variants: list[VariantUse] = []


class Space(Message):
    """``du``: space by repository and in all."""

    repos: list[RepoUse]
    bytes_blobs: int
    bytes_partial: int
    bytes_released: int
    bytes_reserved: int
    bytes_free: int
    quota: int
    min_free: int
    schema: int = 1


class GcItem(Message):
    """One thing a collection looked at, or ``count`` of them, and why it stays or goes.

    ``why`` is ``reason`` for readers of other languages.
    """

    kind: Literal["blob", "ingest", "quarantine"]
    name: str
    bytes: int
    reason: str
    used_by: list[str] = []
    count: int = 1
    why: list[Phrase] = []


class GcRequest(Message):
    """``POST /v1/gc``."""

    dry_run: bool = False


class GcReport(Message):
    """What a collection freed and kept. ``kept`` is grouped: one item for each reason."""

    removed: list[GcItem]
    kept: list[GcItem]
    bytes_freed: int
    dry_run: bool
    schema: int = 1


class VerifyRequest(Message):
    """``POST /v1/verify``; without a repository everything is read."""

    repo: str | None = None


# --- sources, leases ----------------------------------------------------------------------------


class SourceInfo(Message):
    """One source's health. ``rate`` is measured bytes per second, ``None`` before the first.

    ``reasons`` say why it stands where it does, what decided first; ``reason`` is all of them in
    English. ``latency`` is seconds until an answer begins, ``limited_until`` seconds since the
    epoch.
    """

    name: str
    kind: SourceKind
    endpoint: str
    state: SourceState
    rate: float | None = None
    error: ErrorInfo | None = None
    bytes: int = 0
    rank: int = 0
    reason: str = ""
    reasons: list[Phrase] = []
    planes: list[PlaneInfo] = []
    latency: float | None = None
    limited_until: float | None = None


class Sources(Message):
    """``sources``."""

    sources: list[SourceInfo]
    schema: int = 1


class LeaseRequest(Message):
    """``POST /v1/leases``: the answer's connection is the lease; closing it ends the lease.

    ``device`` is where the weights are wanted: ``cpu``, or a GPU's UUID, whose arenas are then
    asked for over the handover socket.
    """

    repo: str
    revision: str | None = None
    variant: str | None = None
    device: str = "cpu"


class Lease(Message):
    """A promise that what stands at ``path`` stays until the lease ends.

    ``host`` says how weights reach the CPU: by mapping the files at ``path``, or as arenas over the
    handover socket, where the store lies on a disk that is slow to map.
    """

    id: str
    repo: str
    commit: str
    path: str
    bytes: int
    variant: str | None = None
    host: Literal["files", "arenas"] = "files"
    schema: int = 1


class Device(Message):
    """What a device's name means on this machine: ``cpu`` or a GPU's UUID, and its memory now."""

    device: str
    bytes: int
    bytes_free: int
    schema: int = 1


class Resident(Message):
    """One leased or warm model. The role ``prompts``: it reads Chinese prompts for others.

    ``note`` says why a worker that should be there is not, or which devices make an image together:
    ``bytes`` are then of each of them, ``device`` is the first.
    """

    repo: str
    variant: str | None
    device: str
    bytes: int
    leases: int
    uid: int
    expires: float | None
    mode: Literal["attach", "resident"] = "attach"
    commit: str = ""
    bytes_resident: int | None = None
    locked: bool = False
    pid: int | None = None
    running: int = 0
    queued: int = 0
    role: Literal["pipeline", "prompts"] = "pipeline"
    note: str = ""


class Residents(Message):
    """``ps``."""

    resident: list[Resident]
    schema: int = 1


class ImportFile(Message):
    """One file whose descriptor follows. ``sha256`` is what its cache calls it, if it does."""

    path: str
    size: int
    sha256: str = ""


class ImportRequest(Message):
    """Head of an import on the handover socket. Descriptors follow in the order of ``files``.

    ``link`` says that nobody writes the files in place (a content-addressed cache), so that a
    hard link may stand in for a copy.

    With ``op`` ``checkpoint`` the only file is a whole model, which becomes a pipeline. ``like``
    names the repository whose configurations, tokenizers and scheduler it gets; None leaves that to
    its kind. ``replace`` lets an earlier one of the same user's under that name give way.

    ``lock`` is what the files must be; ``pinned`` says that the user has it from elsewhere than the
    files.
    """

    repo: str
    commit: str | None
    revision: str | None
    files: list[ImportFile]
    link: bool = False
    like: str | None = None
    replace: bool = False
    lock: LockedRepo | None = None
    pinned: bool = False
    op: Literal["import", "checkpoint"] = "import"
    protocol: int = 1
