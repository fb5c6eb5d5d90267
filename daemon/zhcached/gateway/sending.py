"""The bytes of a file as an answer: from a blob, or from what is still on its way.

The kernel copies from the page cache to the socket (``sendfile``); Python sees no byte, so that a
warm file costs about what a plain web server takes. A client that reads nothing is cut off by the
kernel, see ``server``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Iterator, Mapping

import structlog
from aiohttp import web

from zhcache.errors import Busy
from zhcached.gateway.context import CONTEXT, Context
from zhcached.gateway.spans import NoSuchSpanError, Span, chosen, is_fresh, is_other, may_resume
from zhcached.jobs.pulling.coming import Reader
from zhcached.jobs.pulling.pull import Coming, Here
from zhcached.store.digest import Promise

log = structlog.get_logger()


async def send(
    request: web.Request, found: Here | Coming, headers: Mapping[str, str]
) -> web.StreamResponse:
    """Answers a GET or HEAD of a file, ranges and conditions included.

    Args:
        request: What was asked.
        found: The file. Of one that is not here, a GET starts or joins the fetch.
        headers: Of the answer, ``ETag`` among them.

    Raises:
        ZhcacheError: The file cannot be had, and nothing was sent yet. A failure after the first
            byte cuts the connection.
    """
    etag = headers.get("ETag", "")
    if is_other(request.headers.get("If-Match"), etag):
        return web.Response(status=412, headers={"ETag": etag})
    if is_fresh(request.headers.get("If-None-Match"), etag):
        return web.Response(status=304, headers={"ETag": etag})
    shared = {"Accept-Ranges": "bytes", **headers}
    try:
        span = _span(request, found, etag)
    except NoSuchSpanError:
        unsatisfied = {**shared, "Content-Range": f"bytes */{found.size}"}
        return web.Response(status=416, headers=unsatisfied)
    whole = Span(0, found.size, found.size)
    if request.method == "GET" and found.size == 0 and isinstance(found, Coming):
        # Nobody waits for a file without bytes; its snapshot is to have it all the same.
        found.read().close()
    if request.method == "HEAD" or found.size == 0:
        return web.Response(headers={**shared, "Content-Length": str(found.size)})
    context = request.app[CONTEXT]
    response = web.StreamResponse(status=200 if span is None else 206, headers=shared)
    if span is not None:
        response.headers["Content-Range"] = span.content_range
    response.content_length = (span or whole).end - (span or whole).start
    try:
        if isinstance(found, Here):
            await _send_blob(context, request, response, found, span or whole)
        else:
            await _send_coming(context, request, response, found, span or whole)
    except ConnectionError:
        cut(request)
    except Exception as error:
        # Another answer now would be taken for bytes of the file.
        if not response.prepared:
            raise
        log.info("gateway.cut", path=request.path[:200], reason=str(error))
        cut(request)
    return response


def _span(request: web.Request, found: Here | Coming, etag: str) -> Span | None:
    if request.method == "HEAD" or not may_resume(request.headers.get("If-Range"), etag):
        return None
    span = chosen(request.headers.get("Range"), found.size)
    # Whoever asks for the rest may hold a beginning that was taken back since.
    return None if found.tainted else span


async def _send_blob(
    context: Context, request: web.Request, response: web.StreamResponse, found: Here, span: Span
) -> None:
    try:
        fd = os.open(found.file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        raise Busy("the file was let go this moment", hint="ask again") from None
    try:
        with _ended_if_damaged(context, request, found):
            await response.prepare(request)
            await _copy(context, request, fd, span.start, span.end)
    finally:
        os.close(fd)


@contextlib.contextmanager
def _ended_if_damaged(context: Context, request: web.Request, found: Here) -> Iterator[None]:
    """Ends the answer once the blob turns out to be damaged: whoever has some of it is to know."""
    loop, ingests = asyncio.get_running_loop(), context.store.ingests
    key = Promise(size=found.size, sha256=found.sha256).key
    discards = ingests.discards(key)

    def end() -> None:
        sock = request.transport and request.transport.get_extra_info("socket")
        if sock is not None:
            # Not by the transport: it would close the socket under a sendfile, which then waits for
            # ever. The client sees that the body ends early.
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def look() -> None:
        if ingests.discards(key) != discards:
            log.info("gateway.cut", path=request.path[:200], reason="the blob is damaged")
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(end)

    unwatch = ingests.watch(key, look)
    try:
        yield
    finally:
        unwatch()


async def _send_coming(
    context: Context, request: web.Request, response: web.StreamResponse, found: Coming, span: Span
) -> None:
    reader = found.read()
    try:
        # Before the first byte a failure can still be told in words.
        end = await available(reader, span.start)
        if response.status == 206 and found.tainted:
            # Taken back between the first look and this: what has come is not what went before.
            raise Busy("the file was let go this moment", hint="ask again")
        await response.prepare(request)
        at = span.start
        while at < span.end:
            end = min(await available(reader, at), span.end)
            await _copy(context, request, reader.fd, at, end)
            at = end
    finally:
        reader.close()


async def available(reader: Reader, offset: int) -> int:
    """Returns where the bytes end that may be sent from ``offset`` on, once there are any.

    Raises:
        ZhcacheError: There will be none, or what was sent before is not what the file holds.
    """
    news = asyncio.Event()
    wake = waking(news)
    while (end := reader.available(offset)) <= offset:
        news.clear()
        reader.once(wake)
        # Once more: what came before the callback was in place woke nobody.
        if (end := reader.available(offset)) > offset:
            break
        await news.wait()
    return end


def waking(news: asyncio.Event) -> Callable[[], None]:
    """Returns what sets ``news`` from any thread."""
    loop = asyncio.get_running_loop()

    def wake() -> None:
        # Called by whoever receives the bytes, which a gateway that has ended must not disturb.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(news.set)

    return wake


async def _copy(context: Context, request: web.Request, fd: int, start: int, end: int) -> None:
    """Sends bytes of a file.

    Raises:
        ConnectionError: The client is gone, or has read nothing for too long.
    """
    loop = asyncio.get_running_loop()
    with open(fd, "rb", buffering=0, closefd=False) as file:
        while start < end:
            transport = request.transport
            if transport is None or transport.is_closing():
                raise ConnectionResetError("the client is gone")
            count = await context.pace.take(end - start)
            try:
                sent = await loop.sendfile(transport, file, start, count)
            except OSError as error:
                raise ConnectionResetError(str(error)) from error
            if sent < count:
                raise ConnectionResetError("the file ended early")
            context.traffic.bytes += sent
            start += sent


def cut(request: web.Request) -> None:
    """Ends the connection at once: a client must not take what it got for the whole."""
    if request.transport is not None:
        request.transport.abort()
