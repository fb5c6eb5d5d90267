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

from aiohttp import web

from zhcached.gateway.connections import SERVER, Connections
from zhcached.gateway.context import CONTEXT, Context
from zhcached.gateway.door import Door

T = TypeVar("T")

HEADER_DEADLINE_S = 10.0
MAX_BODY = 2**20
SHUTDOWN_S = 2.0


class Server:
    """Serves at one listener until it is stopped.

    Args:
        context: What the handlers stand on.
        listener: Bound and listening; closed by ``stop``.
        routes: Makes the routes.
        door: Who is let in.
        tls: For https.
        header_s: How long a header may take, and a connection rest.
    """

    def __init__(
        self,
        context: Context,
        listener: socket.socket,
        routes: Callable[[Context], Sequence[web.RouteDef]],
        door: Door,
        *,
        tls: ssl.SSLContext | None = None,
        header_s: float = HEADER_DEADLINE_S,
    ) -> None:
        self._context = context
        self._listener = listener
        self._address: tuple[str, int] = listener.getsockname()[:2]
        self._tls = tls
        self._header_s = header_s
        self._app = web.Application(middlewares=[door.middleware()], client_max_size=MAX_BODY)
        self._app[CONTEXT] = context
        self._app.router.add_routes(routes(context))
        self._app.on_response_prepare.append(_sign)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="gateway", daemon=True)
        self._runner: web.AppRunner | None = None
        self._listening: asyncio.Server | None = None
        self._connections: Connections | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return self._address

    @property
    def clients(self) -> int:
        """How many connections are open."""
        return self._connections.open if self._connections is not None else 0

    def start(self) -> None:
        """Begins to serve; returns once it does."""
        self._thread.start()
        try:
            self.ask(self._begin()).result()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Refuses new connections, cuts the open ones after a moment, and ends the thread."""
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
            self._app, handle_signals=False, handler_cancellation=True, shutdown_timeout=SHUTDOWN_S
        )
        await self._runner.setup()
        assert self._runner.server is not None
        self._connections = Connections(
            self._runner.server,
            self._context.config.clients,
            self._header_s,
            access_log=None,
            # What a client packs may be a thousand times as much unpacked; none needs to.
            auto_decompress=False,
            # Also how long aiohttp waits for the header of a connection's first request.
            keepalive_timeout=self._header_s,
        )
        self._listening = await self._loop.create_server(
            self._connections,
            sock=self._listener,
            ssl=self._tls,
            ssl_handshake_timeout=self._header_s if self._tls else None,
        )

    async def _end(self) -> None:
        if self._listening is not None:
            self._listening.close()
        if self._runner is not None:
            await self._runner.cleanup()


async def _sign(_request: web.Request, response: web.StreamResponse) -> None:
    # In place of the versions of Python and of the library.
    response.headers["Server"] = SERVER
