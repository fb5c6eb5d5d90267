"""The door of residency: one place to make warm, to list, to stop and to let expire.

Three tiers stand behind it: files in the page cache, arenas, and pipelines that workers hold.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Literal

import msgspec
import psutil
import structlog

from zhcache.errors import UsageError, ZhcacheError
from zhcache.protocol.messages import Device, Resident, WarmResult
from zhcache.protocol.names import parse_repo, parse_revision, parse_variant
from zhcache.protocol.residency import (
    Progress,
    ResidentRequest,
    Stopped,
    StopRequest,
    WarmRequest,
)
from zhcached.clock import Clock
from zhcached.config import ResidencyConfig
from zhcached.residency.arena.arenas import Arenas
from zhcached.residency.devices import CPU, Devices
from zhcached.residency.pages.pages import Pages
from zhcached.residency.pages.reader import Report
from zhcached.residency.prompts.known import reads_prompts
from zhcached.residency.resident.prompted import meaningless
from zhcached.residency.resident.residents import Residents
from zhcached.residency.stopping import Stopping
from zhcached.residency.uses import merged
from zhcached.store.meant import known_as, meant, told
from zhcached.store.snapshots import Manifest
from zhcached.store.store import Store

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
        arenas: Arenas,
        residents: Residents,
        host: Literal["files", "arenas"] = "files",
    ) -> None:
        self._store = store
        self._config = config
        self._clock = clock
        self._devices = devices
        self._pages = pages
        self._arenas = arenas
        self._residents = residents
        self._host = host

    def device(self, name: str) -> Device:
        """Returns the device that a client's ``name`` for it means.

        Raises:
            UsageError: It is no name of a device, or there is no such device.
        """
        found = self._devices.resolve(name)
        total, free = self._devices.memory(found)
        return Device(device=found, bytes=total, bytes_free=free)

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
        manifest = meant(self._store, request.repo, request.revision or None, request.variant)
        keep_s = self._config.keep_alive if request.keep is None else request.keep or None
        until = None if keep_s is None else self._clock.wall() + keep_s

        is_reader = request.variant is None and reads_prompts(self._store, manifest)
        if is_reader and request.device not in ("auto", CPU):
            raise meaningless("device")

        def tell(progress: Progress) -> None:
            report(progress.bytes_done, progress.bytes_total, progress.note)

        if request.mode == "resident":
            commit, variant = told(manifest)
            wanted = ResidentRequest(
                repo=manifest.repo,
                revision=commit,
                variant=variant,
                device=request.device,
                role="prompts" if is_reader else "pipeline",
            )
            shown = self._residents.warm(
                wanted, uid, until=until, on_progress=tell, cancelled=cancelled
            )
            return _result(manifest, shown, until, is_locked=False)
        device = CPU if is_reader else self._devices.resolve(request.device)
        # Its workers map the files: of what reads prompts there are no arenas.
        if device == CPU and (is_reader or self._host == "files"):
            kept = self._pages.keep(manifest, uid, keep_s, report)
            return _result(manifest, kept, kept.expires, is_locked=kept.locked)
        size = self._arenas.keep(
            manifest.repo,
            manifest.commit,
            device,
            uid,
            until,
            on_progress=tell,
            cancelled=cancelled,
        )
        held = Resident(
            repo=manifest.repo, variant=None, device=device, bytes=size, leases=0, uid=uid,
            expires=until,
        )  # fmt: skip
        # Nothing takes GPU memory back; memory on the CPU can be swapped out where there is swap.
        is_locked = device != CPU or psutil.swap_memory().total == 0
        return _result(manifest, held, until, is_locked=is_locked)

    def listing(self) -> list[Resident]:
        """Returns what is in use or warm, one row for each model, user, device and mode.

        Raises:
            StoreDamaged: The index is damaged.
        """
        self._store.leases.prune_dead()
        sizes = self._store.sizes()
        others = self._arenas.listing() + self._residents.listing()
        return [
            self._known(row)
            for row in merged(self._pages.listing(), others, self._mapping(), sizes)
        ]

    def _known(self, row: Resident) -> Resident:
        commit, variant = known_as(self._store, row.repo, row.commit)
        return msgspec.structs.replace(row, commit=commit, variant=variant)

    def stop(self, request: StopRequest, uid: int, *, may_all: bool) -> Stopped:
        """Lets go what is warm of a repository and not in use.

        Args:
            request: What; ``force`` lets go what is in use as well. Who has mapped it keeps it,
                calls of resident pipelines end.
            uid: Who asks.
            may_all: May stop what others keep warm too.

        Raises:
            NotFound: Nothing of it is warm.
            NotPermitted: Only others keep it warm.
            Busy: It is in use; the message names by whom. What was not is gone.
            UsageError: The request cannot be meant, or there is no such device.
        """
        repo = parse_repo(request.repo)
        variant = None if request.variant is None else parse_variant(request.variant)
        device = None if request.device is None else self._devices.resolve(request.device)
        self._store.leases.prune_dead()

        def has(commit: str) -> bool:
            return variant is None or known_as(self._store, str(repo), commit)[1] == variant

        stopping = Stopping(
            repo, device, uid, may_all=may_all, force=request.force, variant=variant, has=has
        )
        stopping.residents(self._residents)
        stopping.arenas(self._arenas)
        mapped = {commit for name, commit, _ in self._mapping() if name == str(repo)}
        found = (self._store.leases.holders(repo, one) for one in sorted(mapped) if has(one))
        stopping.pages(self._pages, [holder for holders in found for holder in holders])
        return stopping.outcome()

    def _mapping(self) -> Counter[tuple[str, str, int]]:
        """Returns the leases of those who map the files themselves."""
        elsewhere = self._arenas.leases() + self._residents.leases()
        return Counter(self._store.leases.counts()) - elsewhere

    # --- by itself ---------------------------------------------------------------------------

    def restore(self) -> None:
        """Takes up what an earlier daemon kept warm. Blocks for long."""
        _tell("restore", self._pages.restore)

    def expire(self) -> None:
        """Lets go whose time is over. What goes wrong is told in the log."""
        for tier in (self._pages, self._arenas, self._residents):
            _tell("expire", tier.expire)

    def refresh(self) -> None:
        """Reads again what the system took and may have back. Blocks for long."""
        _tell("refresh", self._pages.refresh)

    def close(self) -> None:
        """Ends what runs in the page cache's tier, at the daemon's end."""
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
        parse_variant(request.variant)
    if request.keep is not None and not 0 <= request.keep < float("inf"):
        raise UsageError("a model is kept warm for a time of at least 0 seconds")


def _result(
    manifest: Manifest, shown: Resident, until: float | None, *, is_locked: bool
) -> WarmResult:
    commit, variant = told(manifest)
    return WarmResult(
        repo=manifest.repo,
        commit=commit,
        variant=variant,
        device=shown.device,
        mode=shown.mode,
        bytes=shown.bytes,
        bytes_resident=shown.bytes if shown.bytes_resident is None else shown.bytes_resident,
        locked=is_locked,
        expires=until,
    )


def _tell(what: str, do: Callable[[], None]) -> None:
    try:
        do()
    except (ZhcacheError, OSError) as error:
        log.warning("residency.failed", step=what, error=str(error))
