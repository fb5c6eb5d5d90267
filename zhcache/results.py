"""What came of a request: the judgement of a finished job, the check of a snapshot's folder."""

from __future__ import annotations

from pathlib import Path

from zhcache.completeness import check_open
from zhcache.errors import Cancelled, IntegrityError, NotFound, ZhcacheError
from zhcache.protocol import messages
from zhcache.protocol.failure import to_error

TERMINAL = frozenset({"done", "failed", "cancelled"})
"""States after which a job never changes."""


def result_of(job: messages.Job) -> messages.PrefetchResult:
    """Returns what a finished prefetch or import brought.

    Raises:
        ZhcacheError: It failed, with the job's own error; ``Cancelled`` if it was cancelled.
    """
    raise_failure(job)
    if job.result is None:
        raise ZhcacheError(
            "job {job} is a {kind} and brought no snapshot", job=job.id, kind=job.kind
        )
    return job.result


def warmed(job: messages.Job) -> messages.WarmResult:
    """Returns what a finished warm job made warm.

    Raises:
        ZhcacheError: It failed, with the job's own error; ``Cancelled`` if it was cancelled.
    """
    raise_failure(job)
    if job.warm is None:
        raise ZhcacheError("job {job} is a {kind} and made nothing warm", job=job.id, kind=job.kind)
    return job.warm


def raise_failure(job: messages.Job) -> None:
    """Raises what went wrong in a job that is over, if something did.

    Raises:
        ZhcacheError: The job's own error.
        Cancelled: It was cancelled.
    """
    if job.error is not None:
        raise to_error(job.error)
    if job.state == "cancelled":
        raise Cancelled(
            "job {job} was cancelled",
            hint="what it fetched is kept; the same command takes it up again",
            job=job.id,
        )
    if job.state == "failed":
        raise ZhcacheError("job {job} failed", hint="see `zhcache logs {job}`", job=job.id)


def checked_path(snapshot: messages.SnapshotDetail, variant: str | None) -> Path:
    """Returns the folder of ``snapshot``, once its files are seen to be there.

    Sizes are compared, content is not: that is what ``verify`` is for. A snapshot that was fetched
    with ``--include`` is what its user asked for, and its folder is given.

    Args:
        snapshot: What the daemon showed.
        variant: What it was asked to show.

    Raises:
        NotFound: No such variant.
        IntegrityError: A file is gone or has another size.
        NotPermitted: This user may not read it.
    """
    if snapshot.variant != variant:  # a daemon of an earlier release does not know of any
        raise NotFound(
            "{repo} has no variant {variant} here",
            hint="make it with `zhcache prefetch {repo} --variant {variant}`",
            repo=snapshot.repo,
            variant=variant,
        )
    check_open(Path(snapshot.path))
    for file in snapshot.files:
        try:
            size = (Path(snapshot.path) / file.path).stat().st_size
        except OSError:
            size = -1
        if size < 0 and Path(file.blob).exists():
            raise IntegrityError(
                "{repo}: the link to {file} was removed from the folder",
                hint="run `zhcache repair`",
                repo=snapshot.repo,
                file=file.path,
            )
        if size != file.size:
            raise IntegrityError(
                "{repo}: {file} is damaged in the store",
                hint="run `zhcache repair`",
                repo=snapshot.repo,
                file=file.path,
            )
    return Path(snapshot.path)
