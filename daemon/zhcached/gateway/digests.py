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

import structlog

from zhcache.errors import ZhcacheError
from zhcached.gateway.sending import waking
from zhcached.jobs.pulling.pull import Here

if TYPE_CHECKING:
    from zhcached.gateway.context import Context
    from zhcached.jobs.pulling.pull import Listed
    from zhcached.sources.base import RemoteFile

MAX_FILES = 256
MAX_FILE_BYTES = 2 * 2**20
MAX_BYTES = 32 * 2**20
AT_ONCE = 8
PATIENCE_S = 15.0
"""The client waits longer; files of which the digest is not known then go without."""

log = structlog.get_logger()


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
                known[file.path] = await _digest(context, listed, file)
            except ZhcacheError as error:
                # The listing is right without it; who fetches the file will hear why.
                log.info("gateway.digest_unknown", path=file.path, error=str(error))

    tasks = [asyncio.create_task(learn(file)) for file in unknown]
    try:
        done, _ = await asyncio.wait(tasks, timeout=PATIENCE_S)
        for task in done:
            task.result()
    finally:
        # Those that are late, or all if the client is gone.
        for task in tasks:
            task.cancel()
    return dict(known)


async def _digest(context: Context, listed: Listed, file: RemoteFile) -> str:
    if file.size == 0:
        return hashlib.sha256().hexdigest()
    found = await context.call(context.pulls.find, listed, file.path)
    if isinstance(found, Here):
        return found.sha256
    with found.read() as reader:
        while True:
            news = asyncio.Event()
            reader.once(waking(news))
            # All bytes may be there before the file has a name, so they are not what counts.
            found = await context.call(context.pulls.find, listed, file.path)
            if isinstance(found, Here):
                return found.sha256
            reader.available(0)
            await news.wait()
