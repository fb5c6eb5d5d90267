"""The handover socket of a daemon with one real resident worker behind it, all in this process.

What the front does with uids, queues and crashes is tested elsewhere; here one client at a time
talks to the worker's own code.
"""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress
from pathlib import Path

import msgspec

from zhcache.errors import NotFound, ZhcacheError
from zhcache.protocol import frames
from zhcache.protocol import residency as r
from zhcache.protocol.failure import to_info

COMMIT = "c" * 40


class Front:
    """Serves ``handover.sock`` in ``folder`` for the pipeline in ``snapshot``.

    Attributes:
        requests: Each request of a client.
        calls: Each call as it came.
        cancelled: Set when a call was cancelled or its client went away in the middle.
        refusal: What opening ends with, while set.
        artifacts: What the worker compiled, key and bytes.
    """

    def __init__(self, folder: Path, snapshot: Path) -> None:
        self.folder = folder
        self.socket = folder / "api.sock"
        self.snapshot = snapshot
        self.requests: list[r.ResidentRequest] = []
        self.calls: list[r.Call] = []
        self.cancelled = threading.Event()
        self.refusal: ZhcacheError | None = None
        self.artifacts: list[tuple[str, int]] = []
        self.clients: list[socket.socket] = []
        self._workers: dict[bytes, _Worker] = {}
        self._listener = socket.socket(socket.AF_UNIX)
        where = os.open(folder, os.O_PATH)
        self._listener.bind(f"/proc/self/fd/{where}/handover.sock")
        os.close(where)
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.hang_up()
        for worker in self._workers.values():
            worker.line.close()
            worker.thread.join(20)

    def hang_up(self) -> None:
        """Ends every conversation, as a daemon that is restarted does."""
        for client in self.clients:
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        self.clients.clear()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.clients.append(client)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError, EOFError):
            request, _ = frames.receive(client, r.ResidentRequest)
            self.requests.append(request)
            try:
                if self.refusal is not None:
                    raise self.refusal
                worker = self._worker(request, client)
            except ZhcacheError as error:
                frames.send(client, r.Failed(error=to_info(error)))
                return
            loaded = worker.loaded
            opened = r.Opened(
                lease="x", repo=request.repo, commit=COMMIT, device="cpu",
                class_name=loaded.class_name, parameters=loaded.parameters, bytes=loaded.bytes,
            )  # fmt: skip
            frames.send(client, opened)
            while True:
                call, fds = frames.receive(client, r.Call | r.Cancel)
                if isinstance(call, r.Call):
                    self.calls.append(call)
                    self._relay(client, worker, call, fds)

    def _worker(self, request: r.ResidentRequest, client: socket.socket) -> _Worker:
        if request.repo != "org/pipe":
            raise NotFound("{repo} was not found", repo=request.repo)
        key = msgspec.json.encode([request.options, request.attention, request.compile])
        if key not in self._workers:
            self._workers[key] = _Worker(request, self.snapshot, client)
        return self._workers[key]

    def _relay(self, client, worker: _Worker, call: r.Call, fds: list[int]) -> None:
        with worker.lock:
            worker.number += 1
            number = worker.number
            frames.send(worker.line, msgspec.structs.replace(call, id=number), fds)
            frames.close_all(fds)
            over = threading.Event()
            watch = threading.Thread(target=self._watch, args=(client, worker, number, over))
            watch.start()
            try:
                while True:
                    event, beside = frames.receive(worker.line, r.FromResidentWorker)
                    if isinstance(event, r.Taken):
                        continue
                    if isinstance(event, r.Artifacts):
                        self.artifacts.append((event.key, os.fstat(beside[0]).st_size))
                        frames.close_all(beside)
                        continue
                    if not isinstance(event, (r.Progress, r.Loaded)):
                        event = msgspec.structs.replace(event, id=call.id)
                    with suppress(OSError):
                        frames.send(client, event, beside)
                    frames.close_all(beside)
                    if isinstance(event, (r.Returned, r.Failed)):
                        return
            finally:
                over.set()
                watch.join()

    def _watch(self, client, worker: _Worker, number: int, over: threading.Event) -> None:
        import select

        poller = select.poll()
        poller.register(client, select.POLLIN | select.POLLHUP)
        while not over.is_set():
            if poller.poll(10):
                begun = client.recv(64, socket.MSG_PEEK)
                if begun and b'"event":"cancel"' not in begun:
                    # The next call, which waits its turn, or the head of a frame.
                    over.wait(0.01)
                    continue
                frames.send(worker.line, r.Cancel(id=number))
                self.cancelled.set()
                return


class _Worker:
    def __init__(self, request: r.ResidentRequest, snapshot: Path, client: socket.socket) -> None:
        from zhcached.workers import resident

        self.lock = threading.Lock()
        self.number = 0
        self.line, theirs = socket.socketpair()
        load = r.Load(
            folder=str(snapshot),
            device="cpu",
            options=request.options,
            attention=request.attention,
            compile=request.compile,
        )

        def work() -> None:
            with theirs, suppress(OSError):
                resident.run(theirs, load)

        self.thread = threading.Thread(target=work, daemon=True)
        self.thread.start()
        while True:
            event, _ = frames.receive(self.line, r.FromResidentWorker)
            if isinstance(event, r.Loaded):
                self.loaded = event
                return
            if isinstance(event, r.Failed):
                from zhcache.protocol.failure import to_error

                raise to_error(event.error)
            frames.send(client, event)
