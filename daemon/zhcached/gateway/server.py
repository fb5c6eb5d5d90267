"""The gateway's server: a thread with an event loop of its own, so that TCP clients never hold up
the API.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

import structlog
from aiohttp import web

from zhcached.gateway.context import CONTEXT, Context

T = TypeVar("T")

HEADER_DEADLINE_S = 10.0
SHUTDOWN_S = 2.0

log = structlog.get_logger()


class Server:
    """Serves at one listener until it is stopped.

    Args:
        context: What the handlers stand on.
        listener: Bound and listening; closed by ``stop``.
        routes: Makes the routes.
        tls: For https.
    """

    def __init__(
        self,
        context: Context,
        listener: socket.socket,
        routes: Callable[[Context], Sequence[web.RouteDef]],
        *,
        middlewares: Sequence[Any] = (),
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._context = context
        self._listener = listener
        self._tls = tls
        self._app = web.Application(middlewares=middlewares, client_max_size=2**20)
        self._app[CONTEXT] = context
        self._app.router.add_routes(routes(context))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="gateway", daemon=True)
        self._runner: web.AppRunner | None = None

    def start(self) -> None:
        """Begins to serve; returns once it does."""
        self._thread.start()
        self.ask(self._begin()).result()

    def stop(self) -> None:
        """Refuses new connections, cuts the open ones after a moment, and ends the thread."""
        if self._thread.is_alive():
            self.ask(self._end()).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._context.threads.shutdown(wait=False, cancel_futures=True)

    def ask(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Runs something on the gateway's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    async def _begin(self) -> None:
        self._runner = web.AppRunner(
            self._app,
            handle_signals=False,
            access_log=None,
            keepalive_timeout=HEADER_DEADLINE_S,
            handler_cancellation=True,
            shutdown_timeout=SHUTDOWN_S,
        )
        await self._runner.setup()
        await web.SockSite(self._runner, self._listener, ssl_context=self._tls).start()

    async def _end(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
