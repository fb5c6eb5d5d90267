"""A threaded HTTP server that logs exactly and stops promptly. Knows no repository.

One thread per connection, all of them daemons. The lock is held for look-ups only, never over I/O.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import Self

from demohub.exchange import Answer, BadRequest, Request
from demohub.wire import ClientGone, Connection

_BACKLOG = 1024
_STOP_S = 5.0
_SETTLE_S = 1.0


class Server:
    """Listens, reads requests, logs them and sends what ``answer`` returns.

    Args:
        host: Address to listen on.
        port: Port, 0 for any free one; kept over ``stop()`` and ``start()``.
        name: Shown in thread names.
    """

    def __init__(self, host: str, port: int, name: str) -> None:
        self.host, self.port, self.name = host, port, name
        self._log: list[Request] = []
        self._news = threading.Condition()
        self._listener: socket.socket | None = None
        self._open: dict[socket.socket, threading.Thread] = {}
        self._acceptor: threading.Thread | None = None

    def answer(self, request: Request) -> Answer:
        """What to send back; called on the connection's thread.

        Raises:
            NotImplementedError: This class answers nothing.
        """
        raise NotImplementedError

    @property
    def address(self) -> str:
        """``host:port``, once started."""
        return f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """The origin, without a trailing slash."""
        return f"http://{self.address}"

    def start(self) -> Self:
        """Listens and answers from now on.

        Raises:
            RuntimeError: It runs already.
            OSError: The port is taken.
        """
        if self._listener is not None:
            raise RuntimeError(f"{self!r} runs already")
        self._listener = socket.create_server(
            (self.host, self.port), backlog=_BACKLOG, reuse_port=False
        )
        self.port = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(
            target=self._accept, args=(self._listener,), name=f"{self.name}-accept"
        )
        self._acceptor.daemon = True
        self._acceptor.start()
        return self

    def stop(self) -> None:
        """Refuses new connections, breaks the open ones and waits for their threads."""
        if self._listener is None or self._acceptor is None:
            return
        listener, self._listener = self._listener, None
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join(_STOP_S)
        listener.close()
        with self._news:
            left = list(self._open.items())
        for sock, _thread in left:
            # Wakes a thread wherever it is: receiving, sending, or waiting for a fault's time.
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        deadline = time.monotonic() + _STOP_S
        for _sock, thread in left:
            thread.join(max(0.0, deadline - time.monotonic()))

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    @property
    def requests(self) -> list[Request]:
        """All requests so far, in order of arrival. An entry's ``sent`` grows while it is sent."""
        with self._news:
            return list(self._log)

    def clear_log(self) -> None:
        """Forgets the requests so far."""
        with self._news:
            self._log.clear()

    def sent(self, path: str = "*", repo: str = "*") -> int:
        """Body bytes sent of files whose path matches a glob.

        A client may have read an answer before its bytes are counted, so this waits a moment for
        answers on their way; those held by a fault are counted as they stand.
        """

        def matching() -> list[Request]:
            return [
                request
                for request in self._log
                if request.plane == "bytes"
                and fnmatchcase(request.file, path)
                and fnmatchcase(request.repo, repo)
            ]

        with self._news:
            self._news.wait_for(lambda: all(r.is_settled for r in matching()), _SETTLE_S)
            return sum(request.sent for request in matching() if request.status in {200, 206})

    def wait_for(self, predicate: Callable[[list[Request]], bool], timeout: float = 10.0) -> bool:
        """Waits until a predicate over the log holds; it is asked at each event.

        Returns:
            Whether it held in time.
        """
        deadline = time.monotonic() + timeout
        with self._news:
            while not predicate(list(self._log)):
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                # Byte counts move without an event of their own.
                self._news.wait(min(left, 0.05))
        return True

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _peer = listener.accept()
            except OSError:
                return
            thread = threading.Thread(
                target=self._serve, args=(sock,), name=f"{self.name}-connection", daemon=True
            )
            with self._news:
                self._open[sock] = thread
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        connection = Connection(sock)
        try:
            while (request := connection.read_request()) is not None:
                if not self._exchange(connection, request):
                    break
        except (OSError, ClientGone):
            # Clients of a test hub die in all ways; the log tells what they were sent.
            pass
        except BadRequest as error:
            with suppress(OSError, ClientGone):
                refused = Answer.of(400, str(error).encode())
                connection.send(Request("GET", "", {}), refused, keep_alive=False)
        finally:
            with self._news:
                del self._open[sock]
            connection.close()

    def _exchange(self, connection: Connection, request: Request) -> bool:
        with self._news:
            self._log.append(request)
            self._news.notify_all()
        try:
            answered = self.answer(request)
            return connection.send(request, answered, keep_alive=not request.wants_close)
        finally:
            with self._news:
                request.is_settled = True
                self._news.notify_all()
