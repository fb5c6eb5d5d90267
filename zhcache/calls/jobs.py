"""What a client can ask about jobs: a prefetch begun, any job followed to its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from urllib.parse import quote

import msgspec

from zhcache import resources
from zhcache.calls.calls import Calls
from zhcache.channel import LONG_S
from zhcache.errors import Busy, DaemonUnreachable
from zhcache.protocol import messages
from zhcache.results import TERMINAL, result_of

_RECONNECT_S = 10.0
_READ_S = 2.0
_BARREN_STREAMS = 20

OnProgress = Callable[[messages.Job], object]


class JobCalls(Calls):
    """The part of ``Client`` that jobs are."""

    def submit(self, request: messages.PrefetchRequest) -> messages.Job:
        """Starts a prefetch, or joins the running one for the same thing."""
        resources.check(request.repo, request.revision)
        return self._line().call(
            "POST", "/v1/prefetch", messages.Job, body=request, timeout_s=LONG_S
        )

    def dry_run(self, request: messages.PrefetchRequest) -> messages.PrefetchPlan:
        """Returns what that prefetch would bring and from where; fetches nothing."""
        resources.check(request.repo, request.revision)
        body = msgspec.structs.replace(request, dry_run=True)
        return self._line().call(
            "POST", "/v1/prefetch", messages.PrefetchPlan, body=body, timeout_s=LONG_S
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
