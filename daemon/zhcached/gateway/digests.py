"""The sha256 of files whose hub names them by another digest.

A Hugging Face hub tells git's digest of small files. ModelScope's client wants a sha256, without
which it takes whatever it has of the same size for the file. Nobody knows one before the bytes are
here. So these files, which whoever lists will fetch next, are fetched first, within bounds.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from zhcache.errors import ZhcacheError
from zhcached.gateway.sending import available
from zhcached.jobs.pull import Coming

if TYPE_CHECKING:
    from zhcached.gateway.context import Context
    from zhcached.jobs.pull import Listed
    from zhcached.sources.base import RemoteFile

MAX_FILES = 256
MAX_FILE_BYTES = 2 * 2**20
MAX_BYTES = 32 * 2**20
AT_ONCE = 8
PATIENCE_S = 15.0
"""The client waits longer; files of which the digest is not known then go without."""


async def known_digests(
    context: Context, listed: Listed, files: Iterable[RemoteFile]
) -> dict[str, str]:
    """Returns the sha256 of files by path, of those of which it can be known in time."""
    known: dict[str, str] = {}
    unknown: list[RemoteFile] = []
    budget = MAX_BYTES
    for file in files:
        if file.sha256 is not None:
            known[file.path] = file.sha256
        elif file.size <= min(MAX_FILE_BYTES, budget) and len(unknown) < MAX_FILES:
            unknown.append(file)
            budget -= file.size
    if not unknown:
        return known
    turn = asyncio.Semaphore(AT_ONCE)

    async def learn(file: RemoteFile) -> None:
        async with turn:
            try:
                digest = await _digest(context, listed, file)
            except ZhcacheError:
                # The listing is right without it; who fetches the file will hear why.
                return
        if digest is not None:
            known[file.path] = digest

    tasks = [asyncio.create_task(learn(file)) for file in unknown]
    _, late = await asyncio.wait(tasks, timeout=PATIENCE_S)
    for task in late:
        task.cancel()
    return dict(known)


async def _digest(context: Context, listed: Listed, file: RemoteFile) -> str | None:
    if file.size == 0:
        return hashlib.sha256().hexdigest()
    found = await context.call(context.pulls.find, listed, file.path)
    if isinstance(found, Coming):
        reader = await context.call(found.read)
        try:
            at = 0
            while at < file.size:
                at = await available(reader, at)
        finally:
            reader.close()
        found = await context.call(context.pulls.find, listed, file.path)
    return found.sha256
