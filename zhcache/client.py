"""The typed door to the daemon: one method for each thing that can be asked of it.

Importing this costs neither httpx nor torch; the first call does. Every method raises the errors
of ``zhcache.errors`` and nothing else.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal
from urllib.parse import quote

import msgspec

from zhcache import paths, resources
from zhcache.channel import Channel, check_version, dial
from zhcache.errors import Busy, DaemonUnreachable, NotFound
from zhcache.export import Exported, check_target, export
from zhcache.follows import FollowCalls
from zhcache.lease import Lease
from zhcache.planning import PlacementCalls
from zhcache.prompting import PromptCalls
from zhcache.protocol import messages, probe, residency
from zhcache.protocol.names import parse_repo
from zhcache.protocol.variants import Quality, QualityRequest
from zhcache.results import TERMINAL, checked_path, result_of
from zhcache.serving import GatewayCalls
from zhcache.watched import WatchCalls

_RECONNECT_S = 10.0
_READ_S = 2.0
_BARREN_STREAMS = 20
_LONG_S = 600.0
"""For what reads a whole store or asks every source before it answers."""

OnProgress = Callable[[messages.Job], object]


class Client(GatewayCalls, WatchCalls, FollowCalls, PromptCalls, PlacementCalls):
    """A connection to the daemon, made at the first call. Thread-safe.

    Args:
        socket: The API socket; None looks where ``CONTRACT`` says: ``ZHCACHE_SOCKET``, the
            system's, the user's.
        spawn: Whether a per-user daemon may be started when nobody answers. Only ever done where
            no socket was named, by argument or environment, and the system's service has none.
    """

    def __init__(self, socket: str | Path | None = None, *, spawn: bool = True) -> None:
        named = socket is not None or bool(os.environ.get("ZHCACHE_SOCKET"))
        self.socket = Path(socket).absolute() if socket is not None else paths.socket_path()
        self.home = paths.store_root()
        self._may_spawn = spawn and not named and self.socket != paths.SERVICE_SOCKET
        self._channel = Channel(self.socket)
        self._version: messages.Version | None = None

    def close(self) -> None:
        """Closes the connections; leases taken through this client end."""
        self._channel.close()
        self._version = None

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # --- the daemon ---------------------------------------------------------------------------

    def connect(self) -> messages.Version:
        """Returns who answers, having started a daemon if that is allowed and needed.

        Raises:
            DaemonUnreachable: Nobody answers.
            VersionMismatch: Client and daemon do not understand each other.
            NotPermitted: A stranger's socket.
        """
        if self._version is None:
            try:
                dial(self.socket).close()
            except DaemonUnreachable:
                if not self._may_spawn:
                    raise
                from zhcache.spawn import start_daemon

                start_daemon(self.home, self.socket)
            version = self._channel.call("GET", "/v1/version", messages.Version, timeout_s=30.0)
            check_version(version)
            self._version = version
        return self._version

    def version(self) -> messages.Version:
        """Returns the daemon's version as it answers now."""
        self._version = None
        return self.connect()

    def doctor(self) -> messages.Checks:
        """Returns the daemon's checks of itself, its store and its machine."""
        return self._line().call("GET", "/v1/doctor", messages.Checks, timeout_s=_LONG_S)

    def stop(self) -> None:
        """Asks the daemon to stop; returns when it has agreed, not when it is gone."""
        self._line().send("POST", "/v1/stop")
        self._version = None

    # --- jobs -----------------------------------------------------------------------------------

    def submit(self, request: messages.PrefetchRequest) -> messages.Job:
        """Starts a prefetch, or joins the running one for the same thing."""
        resources.check(request.repo, request.revision)
        return self._line().call(
            "POST", "/v1/prefetch", messages.Job, body=request, timeout_s=_LONG_S
        )

    def dry_run(self, request: messages.PrefetchRequest) -> messages.PrefetchPlan:
        """Returns what that prefetch would bring and from where; fetches nothing."""
        resources.check(request.repo, request.revision)
        body = msgspec.structs.replace(request, dry_run=True)
        return self._line().call(
            "POST", "/v1/prefetch", messages.PrefetchPlan, body=body, timeout_s=_LONG_S
        )

    def prefetch(
        self,
        repo: str,
        *,
        revision: str | None = None,
        variants: Sequence[str] = (),
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        source: str | None = None,
        lock: messages.LockedRepo | None = None,
        only_pipeline: bool = False,
        allow_pickle: bool = False,
        on_progress: OnProgress | None = None,
        timeout_s: float | None = None,
    ) -> messages.PrefetchResult:
        """Fetches a repository into the store and returns what came.

        Args:
            repo: ``OWNER/NAME``.
            revision: Branch, tag or commit; None is the default branch.
            variants: Variants to make.
            include: Only files that match one of these globs.
            exclude: No file that matches one of these.
            source: Ask this source alone.
            lock: Refuse anything but this commit with these hashes.
            only_pipeline: Leave out what ``from_pretrained`` would not read.
            allow_pickle: Convert weights that exist only as pickle, in a sandbox; only safetensors
                are kept.
            on_progress: Called with the job at each change, in the calling thread.
            timeout_s: How long to wait in all; the job goes on when it is over.

        Raises:
            ZhcacheError: What the daemon reported; ``Busy`` when ``timeout_s`` is over.
        """
        request = messages.PrefetchRequest(
            repo=repo,
            revision=revision,
            variants=_several(variants),
            include=_several(include),
            exclude=_several(exclude),
            source=source,
            lock=lock,
            only_pipeline=only_pipeline,
            allow_pickle=allow_pickle,
        )
        job = self.submit(request)
        return result_of(self.wait(job.id, on_progress=on_progress, timeout_s=timeout_s))

    def job(self, job_id: str) -> messages.Job:
        """Returns one job."""
        return self._line().call("GET", f"/v1/jobs/{quote(job_id, safe='')}", messages.Job)

    def jobs(self, *, past: bool = False) -> list[messages.Job]:
        """Returns the jobs in progress, and those that are over as well if ``past``."""
        query = {"all": "1"} if past else None
        return self._line().call("GET", "/v1/jobs", messages.Jobs, query=query).jobs

    def events(self, job_id: str, *, timeout_s: float | None = None) -> Iterator[messages.Job]:
        """Yields the job at each change until it is over; steps may be skipped, the last never.

        Args:
            job_id: Which job.
            timeout_s: Longest silence; None waits for ever.
        """
        channel = self._line()
        path = f"/v1/jobs/{quote(job_id, safe='')}/events"
        with channel.open("GET", path, timeout_s=timeout_s) as answer:
            yield from channel.lines(answer, messages.Job)

    def wait(
        self,
        job_id: str,
        *,
        on_progress: OnProgress | None = None,
        timeout_s: float | None = None,
    ) -> messages.Job:
        """Returns the job once it is over, however it ended; ``result_of`` judges it.

        A daemon that is restarted meanwhile takes its jobs up again, so a lost connection is
        tried anew for a while before it counts.

        Raises:
            Busy: ``timeout_s`` is over first. The job goes on.
            DaemonUnreachable: The daemon went away and did not come back.
        """
        until = None if timeout_s is None else time.monotonic() + timeout_s
        barren = 0
        while True:
            seen: list[messages.Job] = []
            try:
                for job in self._follow(job_id, until):
                    seen[:] = [job]
                    if on_progress is not None:
                        on_progress(job)
            except DaemonUnreachable:
                barren = 0 if seen else barren + 1
                if barren > _BARREN_STREAMS:
                    raise
                self._await_return()
            if seen and seen[0].state in TERMINAL:
                return seen[0]
            if until is not None and time.monotonic() >= until:
                raise _late(job_id, timeout_s)

    def cancel(self, job_id: str) -> messages.Job:
        """Cancels a job; what it fetched stays for a later one to take up."""
        return self._line().call("POST", f"/v1/jobs/{quote(job_id, safe='')}/cancel", messages.Job)

    def logs(
        self, job_id: str | None = None, *, lines: int = 200, follow: bool = False
    ) -> Iterator[messages.LogLine]:
        """Yields lines of the daemon's log, of one job or of all; for ever if ``follow``."""
        query = {"lines": str(lines)}
        if job_id:
            query["job"] = job_id
        if follow:
            query["follow"] = "1"
        channel = self._line()
        with channel.open("GET", "/v1/logs", query=query) as answer:
            yield from channel.lines(answer, messages.LogLine)

    # --- snapshots ------------------------------------------------------------------------------

    def snapshots(self) -> list[messages.Snapshot]:
        """Returns every snapshot in the store."""
        return self._line().call("GET", "/v1/snapshots", messages.Snapshots).snapshots

    def show(
        self, repo: str, *, variant: str | None = None, revision: str | None = None
    ) -> messages.SnapshotDetail:
        """Returns one snapshot, or a variant of it, with its files.

        Raises:
            NotFound: Not held.
        """
        query = resources.query(revision=revision, variant=variant)
        where = resources.at("snapshots", repo)
        return self._line().call("GET", where, messages.SnapshotDetail, query=query)

    def settled(self, repo: str, revision: str | None) -> str | None:
        """Returns the commit that a revision means in the store, which no hub need be asked for.

        ``revision`` itself where that is not in the store.

        Raises:
            ZhcacheError: What the daemon reported.
        """
        try:
            return self.show(repo, revision=revision).commit
        except NotFound:
            return revision

    def path(self, repo: str, *, variant: str | None = None, revision: str | None = None) -> Path:
        """Returns the folder of a snapshot, checked to hold what ``from_pretrained`` reads.

        Raises:
            NotFound: Not held, or not all of it, or no such variant.
            IntegrityError: A file of it is gone from the disk or has another size.
        """
        return checked_path(self.show(repo, variant=variant, revision=revision), variant)

    def remove(
        self, repo: str, *, revision: str | None = None, variant: str | None = None
    ) -> messages.Removed:
        """Lets a repository go, one revision of it, or a variant alone; ``gc`` frees the bytes.

        Raises:
            Busy: Leased; names the holders.
        """
        query = resources.query(revision=revision, variant=variant)
        # By a name of its own: a daemon that knows of no variants must not remove the whole.
        where = resources.at("snapshots" if variant is None else "variants", repo)
        return self._line().call("DELETE", where, messages.Removed, query=query, timeout_s=_LONG_S)

    def keep_quality(self, repo: str, commit: str, variant: str, quality: Quality) -> Quality:
        """Has the store keep what was measured of a variant; returns it as it is kept.

        Raises:
            NotFound: The variant is not held.
            NotPermitted: Another user brought the model here.
        """
        body = QualityRequest(repo=repo, commit=commit, variant=variant, quality=quality)
        return self._line().call("POST", "/v1/quality", Quality, body=body)

    def pin(self, repo: str) -> None:
        """Protects a repository from being removed."""
        self._line().send("PUT", resources.at("pins", repo))

    def unpin(self, repo: str) -> None:
        """Takes that protection back."""
        self._line().send("DELETE", resources.at("pins", repo))

    def lock(self, repos: Sequence[str]) -> messages.LockFile:
        """Returns the commits and hashes of what is held of ``repos``."""
        for repo in repos:
            parse_repo(repo)
        body = messages.LockRequest(repos=list(repos))
        return self._line().call(
            "POST", "/v1/locks", messages.LockFile, body=body, timeout_s=_LONG_S
        )

    def lease(self, repo: str, *, variant: str | None = None, revision: str | None = None) -> Lease:
        """Returns a lease on a snapshot that is held: it stays while the lease lives.

        Raises:
            NotFound: Not held.
        """
        resources.check(repo, revision)
        request = messages.LeaseRequest(repo=repo, revision=revision, variant=variant)
        return Lease(self._line(), request)

    def import_folder(self, request: messages.ImportRequest, files: Sequence[Path]) -> messages.Job:
        """Hands over open files as a snapshot and returns the job that takes them in.

        Args:
            request: What they are.
            files: Where each of ``request.files`` is now, in the same order.
        """
        from zhcache.handover import hand_over

        resources.check(request.repo, request.revision)
        self.connect()
        return hand_over(self.socket, request, files)

    def import_checkpoint(
        self,
        file: Path,
        *,
        repo: str | None = None,
        like: str | None = None,
        revision: str | None = None,
    ) -> messages.Job:
        """Hands over a whole model in one safetensors file; returns the job that takes it in.

        Args:
            file: Stays where it is.
            repo: What it is to be called; ``local/`` and its name if nothing is said.
            like: Whose configurations, tokenizers and scheduler it gets; told by its kind else.
            revision: The branch that points at it, else ``main``.
        """
        from zhcache.handover import checkpoint, hand_over

        request, real = checkpoint(file, repo, like, revision)
        self.connect()
        return hand_over(self.socket, request, [real])

    # --- space, sources, residents --------------------------------------------------------------

    def space(self) -> messages.Space:
        """Returns where the disk went."""
        return self._line().call("GET", "/v1/space", messages.Space, timeout_s=_LONG_S)

    def gc(self, *, dry_run: bool = False) -> messages.GcReport:
        """Frees what nobody needs and says why the rest stays."""
        body = messages.GcRequest(dry_run=dry_run)
        return self._line().call("POST", "/v1/gc", messages.GcReport, body=body, timeout_s=None)

    def verify(self, repo: str | None = None) -> messages.Job:
        """Starts to read and hash again what is held, of one repository or of all."""
        if repo is not None:
            parse_repo(repo)
        body = messages.VerifyRequest(repo=repo)
        return self._line().call("POST", "/v1/verify", messages.Job, body=body)

    def repair(self) -> messages.Job:
        """Starts to rebuild the index from the disk and to fetch again what is damaged."""
        return self._line().call("POST", "/v1/repair", messages.Job)

    def sources(self) -> list[messages.SourceInfo]:
        """Returns each source's health."""
        return self._line().call("GET", "/v1/sources", messages.Sources).sources

    def test_sources(self, name: str | None = None) -> list[probe.SourceTested]:
        """Has one source, or all, asked how they are now; takes some seconds.

        Raises:
            UsageError: There is no source of that name.
            Busy: A test is under way.
        """
        return (
            self._line()
            .call("POST", "/v1/sources/test", probe.SourcesTested, body=probe.SourceTest(name=name))
            .sources
        )

    def resident(self) -> list[messages.Resident]:
        """Returns what is leased or warm."""
        return self._line().call("GET", "/v1/resident", messages.Residents).resident

    def device(self, name: str) -> messages.Device:
        """Returns the device that ``name`` means to the daemon.

        Args:
            name: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or a GPU's UUID.

        Raises:
            UsageError: There is no such device; the hint names those there are.
        """
        return self._line().call("GET", f"/v1/devices/{quote(name, safe='')}", messages.Device)

    def warm(
        self,
        repo: str,
        *,
        revision: str | None = None,
        variant: str | None = None,
        device: str = "auto",
        mode: Literal["attach", "resident"] = "attach",
        keep_s: float | None = None,
    ) -> messages.Job:
        """Starts to make a held snapshot warm; ``wait`` follows the job.

        Args:
            repo: ``OWNER/NAME``.
            revision: Branch, tag or commit; None is the default branch.
            variant: Which variant.
            device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or a GPU's UUID.
            mode: ``resident`` is a pipeline in a worker, ``attach`` its weights alone.
            keep_s: How long in seconds; None as configured, 0 until it is stopped.
        """
        resources.check(repo, revision)
        request = residency.WarmRequest(
            repo=repo, revision=revision, variant=variant, device=device, mode=mode, keep=keep_s
        )
        return self._line().call("POST", "/v1/warm", messages.Job, body=request)

    def unload(
        self,
        repo: str,
        *,
        variant: str | None = None,
        device: str | None = None,
        force: bool = False,
    ) -> residency.Stopped:
        """Lets go what is warm of a repository and not in use, or all of it if ``force``.

        Raises:
            Busy: Some of it is in use; names the holders.
            NotFound: Nothing of it is warm.
        """
        parse_repo(repo)
        request = residency.StopRequest(repo=repo, variant=variant, device=device, force=force)
        return self._line().call(
            "POST", "/v1/unload", residency.Stopped, body=request, timeout_s=_LONG_S
        )

    # --------------------------------------------------------------------------------------------

    def export(self, repo: str, folder: str | Path, *, revision: str | None = None) -> Exported:
        """Copies a snapshot to a new plain folder, under a lease.

        Raises:
            NotFound: No such snapshot.
            UsageError: The folder is not empty.
            ZhcacheError: The disk failed.
        """
        target = Path(folder).expanduser().absolute()
        check_target(target)
        with self.lease(repo, revision=revision) as lease:
            held = self.show(repo, revision=lease.granted.commit)
            done = export(lease.path, held.files, target)
        done.commit = held.commit
        return done

    # The same by the names of the commands.
    pull = prefetch
    ls = snapshots
    du = space
    rm = remove
    ps = resident
    import_ = import_folder

    def _line(self) -> Channel:
        self.connect()
        return self._channel

    def _follow(self, job_id: str, until: float | None) -> Iterator[messages.Job]:
        """Yields the job's steps up to its last, or to ``until``."""
        # A silence is cut into short reads, since a read's time-out starts anew at each event.
        left = None if until is None else min(max(until - time.monotonic(), 0.001), _READ_S)
        for job in self.events(job_id, timeout_s=left):
            yield job
            if job.state in TERMINAL or (until is not None and time.monotonic() >= until):
                return
        raise DaemonUnreachable("the daemon ended the stream of job {job} early", job=job_id)

    def _await_return(self) -> None:
        """Returns once the daemon answers again."""
        until = time.monotonic() + _RECONNECT_S
        while time.monotonic() < until:
            try:
                self.version()
            except DaemonUnreachable:
                time.sleep(0.1)
            else:
                return
        self.version()


def _several(values: str | Sequence[str]) -> list[str]:
    # A string is a sequence too, of its letters, and ``*`` among them would match everything.
    return [values] if isinstance(values, str) else list(values)


def _late(job_id: str, timeout_s: float | None) -> Busy:
    return Busy(
        "job {job} is not done after {seconds} s",
        hint="it goes on; `zhcache wait {job}`",
        job=job_id,
        seconds=round(timeout_s or 0.0, 1),
    )
