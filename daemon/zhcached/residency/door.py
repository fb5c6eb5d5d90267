"""The door of residency: one place to make warm, to stop, to list and to let expire.

Three tiers stand behind it: files in the page cache, arenas, and resident pipelines. A tier that is
absent, as in tests of the rest, is as one that has no device.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import structlog

from zhcache.errors import Busy, NotFound, NotPermitted, UsageError, ZhcacheError
from zhcache.protocol.messages import Resident, WarmResult
from zhcache.protocol.names import RepoId, parse_repo, parse_revision
from zhcache.protocol.residency import Stopped, StopRequest, WarmRequest
from zhcached.clock import Clock
from zhcached.config import ResidencyConfig
from zhcached.residency.devices import CPU, Devices
from zhcached.residency.pages import Pages
from zhcached.residency.reader import Report
from zhcached.residency.uses import merged
from zhcached.store.snapshots import Manifest
from zhcached.store.store import Store

if TYPE_CHECKING:
    from zhcached.residency.arenas import Arenas
    from zhcached.residency.residents import Residents

log = structlog.get_logger()


class Residency:
    """All that is warm. Thread-safe; ``warm`` blocks for long.

    Args:
        store: Where the snapshots are.
        config: Limits.
        clock: The time.
        devices: What devices there are.
        pages: The page cache.
        host: How weights reach the CPU: by the page cache, or in arenas.
        arenas: Weights in memory that is shared by descriptor.
        residents: Pipelines held by workers.
    """

    def __init__(
        self,
        *,
        store: Store,
        config: ResidencyConfig,
        clock: Clock,
        devices: Devices,
        pages: Pages,
        host: Literal["files", "arenas"] = "files",
        arenas: Arenas | None = None,
        residents: Residents | None = None,
    ) -> None:
        self._store = store
        self._config = config
        self._clock = clock
        self._devices = devices
        self._pages = pages
        self._host = host
        self._arenas = arenas
        self._residents = residents

    def warm(
        self, request: WarmRequest, uid: int, report: Report, cancelled: threading.Event
    ) -> WarmResult:
        """Makes a held snapshot warm and returns what is warm then.

        Args:
            request: What and how long.
            uid: Who asks.
            report: Told how far it is; may raise.
            cancelled: Set when nobody waits for it any more.

        Raises:
            NotFound: The snapshot is not in the store.
            UsageError: The request cannot be meant, or there is no such device.
            NoSpace: It does not fit.
            Busy: It would fit once others end.
            Cancelled: Nobody waits for it any more.
            ZhcacheError: Store or worker failed.
        """
        check(request)
        revision = parse_revision(request.revision) if request.revision else None
        manifest = self._store.resolve(parse_repo(request.repo), revision)
        keep_s = self._config.keep_alive if request.keep is None else request.keep or None
        device = self._devices.resolve(request.device)
        if request.mode == "resident":
            raise UsageError("this daemon has no resident pipelines")
        if device != CPU or self._host == "arenas":
            raise UsageError("this daemon keeps no arenas on {device}", device=device)
        shown = self._pages.keep(manifest, uid, keep_s, report)
        return _result(request, manifest, shown)

    def listing(self) -> list[Resident]:
        """Returns what is in use or warm, one row for each model, user, device and mode.

        Raises:
            StoreDamaged: The index is damaged.
        """
        self._store.leases.prune_dead()
        sizes = {(s.repo, s.commit): s.bytes for s in self._store.snapshots()}
        return merged(self._pages.listing(), [], self._store.leases.counts(), sizes)

    def stop(self, request: StopRequest, uid: int, *, may_all: bool) -> Stopped:
        """Lets go what is warm of a repository and not in use.

        Args:
            request: What; ``force`` lets go what is in use as well, whose users keep what they
                have mapped.
            uid: Who asks.
            may_all: May stop what others keep warm too.

        Raises:
            NotFound: Nothing of it is warm.
            NotPermitted: Only others keep it warm.
            Busy: It is in use; the message names by whom. What was not is gone.
            UsageError: The request cannot be meant, or there is no such device.
        """
        repo = parse_repo(request.repo)
        device = None if request.device is None else self._devices.resolve(request.device)
        self._store.leases.prune_dead()
        holders = [] if request.force else self._store.leases.holders(repo)
        freed: dict[str, int] = {}
        if device in (None, CPU) and not holders:
            freed = self._stop_pages(repo, None if may_all else uid)
        if holders:
            raise Busy(
                "{repo} is in use by {holders}",
                hint="wait for them, or let it go all the same with `zhcache stop --force {repo}`",
                repo=repo,
                holders=", ".join(holders),
            )
        if not freed:
            raise self._nothing(repo, uid, may_all=may_all)
        return Stopped(repo=str(repo), bytes=sum(freed.values()), devices=sorted(freed))

    def _stop_pages(self, repo: RepoId, uid: int | None) -> dict[str, int]:
        is_there = any(
            row.repo == str(repo) and uid in (None, row.uid) for row in self._pages.listing()
        )
        return {CPU: self._pages.stop(repo, uid)} if is_there else {}

    def _nothing(self, repo: RepoId, uid: int, *, may_all: bool) -> ZhcacheError:
        owners = {row.uid for row in self._pages.listing() if row.repo == str(repo)}
        if owners and not may_all:
            return NotPermitted(
                "{repo} is kept warm by other users",
                hint="ask uid {owners} or an administrator to stop it",
                repo=repo,
                owners=", ".join(str(owner) for owner in sorted(owners)),
            )
        return NotFound("nothing of {repo} is warm", hint="zhcache ps lists what is", repo=repo)

    # --- by itself ---------------------------------------------------------------------------

    def restore(self) -> None:
        """Takes up what an earlier daemon kept warm. Blocks for long."""
        self._pages.restore()

    def expire(self) -> None:
        """Lets go whose time is over. What goes wrong is told in the log."""
        _tell("expire", self._pages.expire)

    def refresh(self) -> None:
        """Reads again what the system took and may have back. Blocks for long."""
        _tell("refresh", self._pages.refresh)

    def close(self) -> None:
        """Ends what runs here, at the daemon's end."""
        self._pages.close()


def check(request: WarmRequest) -> None:
    """Checks what can be known of a request before a job is made of it.

    Raises:
        UsageError: It cannot be meant.
    """
    parse_repo(request.repo)
    if request.revision is not None:
        parse_revision(request.revision)
    if request.variant is not None:
        raise UsageError("this release makes no variants yet: {name}", name=request.variant)
    if request.keep is not None and not 0 <= request.keep < float("inf"):
        raise UsageError("a model is kept warm for a time of at least 0 seconds")


def _result(request: WarmRequest, manifest: Manifest, shown: Resident) -> WarmResult:
    return WarmResult(
        repo=manifest.repo,
        commit=manifest.commit,
        variant=request.variant,
        device=shown.device,
        mode=shown.mode,
        bytes=shown.bytes,
        bytes_resident=shown.bytes if shown.bytes_resident is None else shown.bytes_resident,
        locked=shown.locked,
        expires=shown.expires,
    )


def _tell(what: str, do: Callable[[], None]) -> None:
    try:
        do()
    except (ZhcacheError, OSError) as error:
        log.warning("residency.failed", step=what, error=str(error))
