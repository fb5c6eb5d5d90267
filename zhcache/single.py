"""``zhcache.prefetch``, ``path`` and ``plan``: single questions, each with a client of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zhcache.calls.jobs import OnProgress
from zhcache.client import Client
from zhcache.protocol import messages

if TYPE_CHECKING:
    from zhcache.protocol.placement import Placed


def prefetch(
    repo: str,
    variants: Sequence[str] = (),
    *,
    revision: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    source: str | None = None,
    allow_pickle: bool = False,
    on_progress: OnProgress | None = None,
    timeout: float | None = None,
) -> messages.Snapshot:
    """Fetches a repository through the daemon and returns it as it is held now.

    Args:
        repo: ``OWNER/NAME``.
        variants: Variants to make.
        revision: Branch, tag or commit.
        include: Only files that match one of these globs.
        exclude: No file that matches one of these.
        source: Ask this source alone.
        allow_pickle: Convert weights that exist only as pickle, in a sandbox.
        on_progress: Called with the job at each change.
        timeout: Seconds to wait in all; None waits as long as it takes.

    Raises:
        ZhcacheError: What went wrong.
    """
    with Client() as client:
        result = client.prefetch(
            repo,
            revision=revision,
            variants=variants,
            include=include,
            exclude=exclude,
            source=source,
            allow_pickle=allow_pickle,
            on_progress=on_progress,
            timeout_s=timeout,
        )
        return client.show(result.repo, revision=result.commit)


def path(repo: str, variant: str | None = None, revision: str | None = None) -> Path:
    """Returns a folder in the Hugging Face snapshot layout that ``from_pretrained`` reads offline.

    Raises:
        NotFound: Not held, or not all of it.
        IntegrityError: Damaged.
    """
    with Client() as client:
        return client.path(repo, variant=variant, revision=revision)


def plan(
    repo: str,
    variant: str | None = None,
    revision: str | None = None,
    *,
    devices: str | Sequence[str] | None = None,
    size: tuple[int, int] | None = None,
    batch: int = 1,
    placement: str = "auto",
    seen: Mapping[tuple[int, int], int] | None = None,
    host_memory: str | int | None = None,
) -> Placed:
    """Returns where a held pipeline would be placed, and why; as ``Client.plan``.

    Raises:
        NotFound: Not held.
        UsageError: An argument cannot be meant, or a placement not be had of this pipeline.
        NoSpace: It does not fit.
    """
    with Client() as client:
        return client.plan(
            repo,
            variant=variant,
            revision=revision,
            devices=devices,
            size=size,
            batch=batch,
            placement=placement,
            seen=seen,
            host_memory=host_memory,
        )
