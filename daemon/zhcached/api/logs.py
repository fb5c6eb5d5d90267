"""The daemon's log, whole or of one job, as it was or as it is written."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from aiohttp import web

from zhcache.protocol.messages import LogLine
from zhcached import log as logfile
from zhcached.api.route import Call, Route, line, stream
from zhcached.jobs.events import ENDED

POLL_S = 0.3
MAX_LINES = 10_000


async def show(call: Call) -> web.StreamResponse:
    """Streams the last lines, then new ones if ``follow`` is on, until a followed job has ended."""
    job = call.request.query.get("job", "")
    if job:
        call.services.jobs.find(job)
    path = call.services.log_file
    tail = path.open(encoding="utf-8", errors="replace")
    try:
        tail.seek(0, 2)
        wanted = call.number("lines", 200, MAX_LINES)
        past = await asyncio.to_thread(logfile.read, path, job=job, lines=wanted)
        response = await stream(call.request)
        for entry in past:
            await response.write(line(entry))
        while call.flag("follow") and not call.services.stopping.is_set():
            ended = bool(job) and call.services.jobs.find(job).state in ENDED
            for entry in logfile.parse_lines(_whole_lines(tail), job=job):
                await response.write(line(entry))
            if ended:
                break
            if _was_rotated(tail, path):
                tail.close()
                tail = path.open(encoding="utf-8", errors="replace")
                continue
            await asyncio.sleep(POLL_S)
    finally:
        tail.close()
    await response.write_eof()
    return response


def _was_rotated(tail: TextIO, path: Path) -> bool:
    try:
        return os.fstat(tail.fileno()).st_ino != path.stat().st_ino
    except FileNotFoundError:
        return False


def _whole_lines(tail: TextIO) -> Iterator[str]:
    """Yields what has been written whole; a line under way is left for the next time."""
    while True:
        start = tail.tell()
        text = tail.readline()
        if not text.endswith("\n"):
            tail.seek(start)
            return
        yield text


ROUTES = (Route("GET", "/v1/logs", show, "The log", gives=LogLine, streams=True),)
