"""A socket server that plays scripts: for answers no sound HTTP server would give."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

RESET = "reset"
HOLD = "hold"
CLOSE = "close"

Step = bytes | float | str


@dataclass(frozen=True)
class Asked:
    """One request as it came."""

    number: int
    method: str
    path: str
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes = b""

    @property
    def range(self) -> tuple[int, int]:
        """The asked range, half open."""
        first, _, last = self.headers["range"].removeprefix("bytes=").partition("-")
        return int(first), int(last) + 1


def plain(body: bytes, status: str = "200 OK", **headers: str) -> bytes:
    """A whole answer with its length."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def part(
    content: bytes, asked: Asked, status: str = "206 Partial Content", **headers: str
) -> bytes:
    """A sound answer to a range."""
    start, end = asked.range
    return plain(
        content[start:end],
        status,
        Content_Range=f"bytes {start}-{end - 1}/{len(content)}",
        **headers,
    )


class Scripted:
    """Answers each request with the steps ``script`` returns.

    A step is bytes to send, seconds to pause, ``RESET``, ``CLOSE``, or ``HOLD`` until stopped.
    """

    def __init__(
        self, script: Callable[[Asked], Iterable[Step]], *, tls: ssl.SSLContext | None = None
    ) -> None:
        self._tls = tls
        self.asked: list[Asked] = []
        self.connections = 0
        self._script = script
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def __enter__(self) -> Scripted:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)
        with self._lock:
            for sock in self._open:
                sock.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
                self._open.append(sock)
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        early = b""
        with contextlib.suppress(OSError):
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_side=True)
                with self._lock:
                    self._open.append(sock)
            while True:
                while b"\r\n\r\n" not in early:
                    piece = sock.recv(65536)
                    if not piece:
                        return
                    early += piece
                head, _, early = early.partition(b"\r\n\r\n")
                for step in self._script(self._note(head)):
                    if not self._play(sock, step):
                        sock.close()
                        return

    def _note(self, head: bytes) -> Asked:
        first, *lines = head.decode().split("\r\n")
        method, path, _ = first.split(" ")
        headers = {n.lower(): v.strip() for n, _, v in (line.partition(":") for line in lines)}
        with self._lock:
            asked = Asked(len(self.asked), method, path, headers, head)
            self.asked.append(asked)
        return asked

    def _play(self, sock: socket.socket, step: Step) -> bool:
        if isinstance(step, bytes):
            sock.sendall(step)
        elif isinstance(step, float):
            self._stopped.wait(step)
        elif step == HOLD:
            self._stopped.wait()
        elif step == RESET:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return step not in (RESET, CLOSE, HOLD)
