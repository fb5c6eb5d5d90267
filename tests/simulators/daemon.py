"""A daemon in this process: the real socket API over a Unix socket, its store a few dictionaries.

Answers with the protocol's own structs. What a test wants to happen it sets as attributes before
the call; what has happened it reads from them afterwards.
"""

from __future__ import annotations

import array
import os
import socket
import struct
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingMixIn, UnixStreamServer
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

from simulators.resident import Worker
from zhcache.errors import Busy, NotFound, SourcesFailed, UsageError, ZhcacheError
from zhcache.protocol import messages as m
from zhcache.protocol import placement, residency
from zhcache.protocol import version as protocol
from zhcache.protocol.checks import Check, Checks
from zhcache.protocol.probe import SourcesTested, SourceTest, SourceTested
from zhcache.protocol.sources import Phrase

COMMIT = "c" * 40

LATE = {"seconds": "10.0"}
SENDS_NOTHING = "lists models, but {plane} sends nothing: {error}"
DEAD = {"plane": "cdn-x", "error": "refused"}


class _Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True
    simulator: DaemonSimulator

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away in mid-answer is what some tests are about."""


class DaemonSimulator:
    """Serves ``socket`` and its handover twin from ``__enter__`` to ``__exit__``.

    Attributes:
        snapshots: What is held, by repository.
        variants: What was made of it, by repository and name.
        worker: Holds any pipeline that is asked for and held.
        warm: What was asked to be kept warm and what came of it, by repository.
        error: Raised by the next calls instead of an answer, while set.
        requests: Method and path of each call, in order.
        submitted: Each prefetch asked for.
        steps: What each prefetch shows on its way, before it ends.
        go_on: A prefetch ends only once this is set; it is set unless a test clears it.
        leases: Live leases by id. ``lease_ended`` is set when one ends.
        devices: What a device may be called.
        machine: The GPUs that placements are planned on.
        weights: What weights take, by repository.
        host: How the next leases say that weights reach the CPU.
        protocol_range: What the handshake answers.
    """

    def __init__(self, socket_path: Path, home: Path | None = None) -> None:
        self.socket = socket_path
        self.home = home or socket_path.parent
        self.snapshots: dict[str, m.SnapshotDetail] = {}
        self.variants: dict[tuple[str, str], m.SnapshotDetail] = {}
        self.incoming: dict[str, m.SnapshotDetail] = {}
        self.jobs: dict[str, m.Job] = {}
        self.error: ZhcacheError | None = None
        self.job_error: ZhcacheError | None = None
        self.requests: list[tuple[str, str]] = []
        self.submitted: list[m.PrefetchRequest] = []
        self.steps: list[dict[str, object]] = []
        self.go_on = threading.Event()
        self.go_on.set()
        self.streaming = threading.Event()
        self.leases: dict[str, m.Lease] = {}
        self.host = "files"
        self.devices = ["cpu", "cuda:0", "cuda:1"]
        self.machine = placement.DeviceList(devices=[], links=[], host_total=2**39, host_free=2**38)
        self.weights: dict[str, placement.WeightsList] = {}
        self.lease_ended = threading.Event()
        self.pins: set[str] = set()
        self.imports: list[tuple[m.ImportRequest, list[bytes]]] = []
        self.protocol_range = (protocol.PROTOCOL_MIN, protocol.PROTOCOL)
        self.verify = m.VerifyResult(checked=3, bytes=300)
        self.worker = Worker()
        self.warm: dict[str, tuple[residency.WarmRequest, m.WarmResult]] = {}
        self.resident: list[m.Resident] = []
        self.stopped = threading.Event()
        self._streams: set[socket.socket] = set()
        self._servers: list[_Server] = []

    def __enter__(self) -> DaemonSimulator:
        self.socket.parent.mkdir(parents=True, exist_ok=True)
        handover = self.socket.with_name("handover.sock")
        for path, handler in ((self.socket, _Api), (handover, _Handover)):
            server = _bind(path, handler)
            server.simulator = self
            self._servers.append(server)
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on.set()
        self.worker.go_on.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()
        self._servers.clear()
        self.socket.unlink(missing_ok=True)

    def cut_streams(self) -> None:
        """Breaks every event stream off, as a daemon that is restarted does."""
        for line in list(self._streams):
            line.shutdown(socket.SHUT_RDWR)

    def hold(self, repo: str, folder: Path, **fields: object) -> m.SnapshotDetail:
        """Makes ``folder``'s files a snapshot that is held."""
        self.snapshots[repo] = describe(repo, folder, **fields)
        return self.snapshots[repo]

    def hold_variant(self, repo: str, name: str, folder: Path) -> m.SnapshotDetail:
        """Makes ``folder``'s files a variant of what is held."""
        held = describe(repo, folder, variant=name, revisions=[])
        self.variants[repo, name] = held
        self.snapshots[repo].variants[name] = m.VariantResult(
            path=held.path, bytes=held.bytes, state="ready"
        )
        return held

    def new_job(self, kind: str, repo: str, **fields: object) -> m.Job:
        job = m.Job(id=f"j{len(self.jobs) + 1}", kind=kind, repo=repo, state="queued", **fields)
        self.jobs[job.id] = job
        return job

    def change(self, job: m.Job, **fields: object) -> m.Job:
        self.jobs[job.id] = msgspec.structs.replace(self.jobs[job.id], **fields)
        return self.jobs[job.id]

    def finish(self, job: m.Job) -> m.Job:
        """Ends a job as its kind ends."""
        current = self.jobs[job.id]
        if current.state in ("done", "failed", "cancelled"):
            return current
        if self.job_error is not None:
            return self.change(job, state="failed", error=info(self.job_error))
        if job.kind == "warm":
            return self.change(job, state="done", warm=self.warm[job.repo][1])
        if job.kind in ("verify", "repair"):
            return self.change(job, state="done", verify=self.verify)
        if job.repo in self.incoming:
            self.snapshots[job.repo] = self.incoming.pop(job.repo)
        held = self.snapshots[job.repo]
        return self.change(job, state="done", result=result(held))


def describe(repo: str, folder: Path, **fields: object) -> m.SnapshotDetail:
    """Returns the snapshot that ``folder`` is."""
    files = [
        m.SnapshotFile(
            path=file.relative_to(folder).as_posix(),
            size=file.stat().st_size,
            sha256="a" * 64,
            blob=str(file.resolve()),
        )
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    ]
    known: dict[str, object] = {
        "commit": COMMIT,
        "path": str(folder),
        "revisions": ["main"],
        "bytes": sum(file.size for file in files),
        "files_count": len(files),
        "trust": "quorum",
        "files": files,
    }
    return m.SnapshotDetail(**{**known, **fields, "repo": repo})


def result(held: m.Snapshot) -> m.PrefetchResult:
    """Returns the outcome of a prefetch that brought ``held``."""
    return m.PrefetchResult(
        repo=held.repo,
        revision="main",
        commit=held.commit,
        path=held.path,
        files=held.files_count,
        bytes=held.bytes,
        bytes_fetched=held.bytes,
        bytes_reused=0,
        seconds=0.5,
        sources={"hub": held.bytes},
        trust=held.trust,
    )


def info(error: ZhcacheError) -> m.ErrorInfo:
    """Returns ``error`` as it goes over the wire."""
    return m.ErrorInfo(
        code=error.code,
        message=error.message,
        hint=error.hint,
        template=error.template,
        hint_template=error.hint_template,
        values={key: str(value) for key, value in error.values.items()},
    )


def _bind(path: Path, handler: type[BaseRequestHandler]) -> _Server:
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        # Through the folder's descriptor, so that long paths can be served as well.
        return _Server(f"/proc/self/fd/{folder}/{path.name}", handler)
    finally:
        os.close(folder)


class _Api(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: object) -> None:
        """Keeps the test's output clean."""

    def address_string(self) -> str:
        return "unix"

    def do_GET(self) -> None:
        self._answer()

    do_POST = do_PUT = do_DELETE = do_GET

    def _answer(self) -> None:
        sim = self.server.simulator
        url = urlsplit(self.path)
        self.query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        sim.requests.append((self.command, self.path))
        parts = [unquote(part) for part in url.path.split("/")[2:]]
        try:
            if sim.error is not None and parts != ["version"]:
                raise sim.error
            getattr(self, f"_{parts[0]}_{self.command.lower()}")(sim, *parts[1:])
        except ZhcacheError as error:
            self._json(400 + error.exit_code, m.ErrorReply(error=info(error)))

    # --- answers ---

    def _json(self, status: int, body: msgspec.Struct | None = None) -> None:
        raw = msgspec.json.encode(body) if body is not None else b""
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def _stream(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _line(self, body: msgspec.Struct) -> None:
        raw = msgspec.json.encode(body) + b"\n"
        self.wfile.write(b"%x\r\n%b\r\n" % (len(raw), raw))

    def _end(self) -> None:
        self.wfile.write(b"0\r\n\r\n")

    # --- resources ---

    def _version_get(self, sim: DaemonSimulator) -> None:
        low, high = sim.protocol_range
        self._json(
            200,
            m.Version(
                version="0.1.0",
                protocol=high,
                protocol_min=low,
                home=str(sim.home),
                pid=os.getpid(),
                uid=os.getuid(),
                started=1.0,
            ),
        )

    def _prefetch_post(self, sim: DaemonSimulator) -> None:
        request = msgspec.json.decode(self.body, type=m.PrefetchRequest)
        sim.submitted.append(request)
        if request.repo not in sim.snapshots and request.repo not in sim.incoming:
            raise NotFound(
                "{repo} was not found", hint="check the name of {repo}", repo=request.repo
            )
        if request.dry_run:
            self._json(200, _plan(request, sim))
            return
        self._json(202, sim.new_job("prefetch", request.repo, revision=request.revision))

    def _jobs_get(self, sim: DaemonSimulator, job_id: str = "", what: str = "") -> None:
        if not job_id:
            self._json(200, m.Jobs(jobs=list(sim.jobs.values())))
            return
        job = self._job(sim, job_id)
        if what != "events":
            self._json(200, job)
            return
        self._stream()
        for step in sim.steps:
            self._line(sim.change(job, **step))
        sim._streams.add(self.connection)
        sim.streaming.set()
        sim.go_on.wait(20)
        sim._streams.discard(self.connection)
        self._line(sim.finish(job))
        self._end()

    def _jobs_post(self, sim: DaemonSimulator, job_id: str, _: str) -> None:
        job = sim.change(self._job(sim, job_id), state="cancelled")
        sim.go_on.set()
        self._json(200, job)

    def _job(self, sim: DaemonSimulator, job_id: str) -> m.Job:
        if job_id not in sim.jobs:
            raise NotFound("there is no job {job}", job=job_id)
        return sim.jobs[job_id]

    def _logs_get(self, sim: DaemonSimulator) -> None:
        self._stream()
        for number in range(min(int(self.query["lines"]), 3)):
            # A line separator inside a value must not end the line.
            self._line(
                m.LogLine(
                    time=float(number + 1),
                    level="info",
                    event="fetched\u2028file",
                    job=self.query.get("job", ""),
                    fields={"n": number},
                )
            )
        self._end()

    def _snapshots_get(self, sim: DaemonSimulator, *name: str) -> None:
        if name:
            self._json(200, self._held(sim, "/".join(name)))
            return
        fields = m.Snapshot.__struct_fields__
        held = [m.Snapshot(**{f: getattr(s, f) for f in fields}) for s in sim.snapshots.values()]
        self._json(200, m.Snapshots(snapshots=held))

    def _snapshots_delete(self, sim: DaemonSimulator, *name: str) -> None:
        held = self._held(sim, "/".join(name))
        holders = [lease.id for lease in sim.leases.values() if lease.repo == held.repo]
        if holders:
            raise Busy("{repo} is leased by {holders}", repo=held.repo, holders=holders[0])
        del sim.snapshots[held.repo]
        self._json(200, m.Removed(repo=held.repo, commits=[held.commit], bytes_released=held.bytes))

    def _variants_delete(self, sim: DaemonSimulator, *name: str) -> None:
        held = self._held(sim, "/".join(name))
        variant = held.variant or ""
        del sim.variants[held.repo, variant]
        del sim.snapshots[held.repo].variants[variant]
        self._json(
            200,
            m.Removed(repo=held.repo, commits=[], bytes_released=held.bytes, variants=[variant]),
        )

    def _held(self, sim: DaemonSimulator, repo: str) -> m.SnapshotDetail:
        held = sim.snapshots.get(repo)
        wanted = self.query.get("revision")
        if held is None or (wanted and wanted != held.commit and wanted not in held.revisions):
            raise NotFound("{repo} is not held", hint="zhcache prefetch {repo}", repo=repo)
        name = self.query.get("variant")
        if name is None:
            return held
        if (repo, name) not in sim.variants:
            raise NotFound("{repo} has no variant {variant} here", repo=repo, variant=name)
        return sim.variants[repo, name]

    def _pins_put(self, sim: DaemonSimulator, *name: str) -> None:
        sim.pins.add(self._held(sim, "/".join(name)).repo)
        self._json(204)

    def _pins_delete(self, sim: DaemonSimulator, *name: str) -> None:
        sim.pins.discard("/".join(name))
        self._json(204)

    def _space_get(self, sim: DaemonSimulator) -> None:
        use = [
            m.RepoUse(repo=s.repo, bytes=s.bytes, bytes_own=s.bytes, snapshots=1)
            for s in sim.snapshots.values()
        ]
        self._json(
            200,
            m.Space(
                repos=use,
                bytes_blobs=sum(u.bytes for u in use),
                bytes_partial=0,
                bytes_released=0,
                bytes_reserved=0,
                bytes_free=10**9,
                quota=0,
                min_free=0,
            ),
        )

    def _gc_post(self, sim: DaemonSimulator) -> None:
        request = msgspec.json.decode(self.body, type=m.GcRequest)
        gone = m.GcItem(kind="blob", name="b" * 64, bytes=2048, reason="nothing uses it")
        why = Phrase(template="used by {name}", values={"name": "a/b"})
        kept = m.GcItem(
            kind="blob", name="3 blobs", bytes=1, reason="used by a/b", count=3, why=[why]
        )
        self._json(
            200,
            m.GcReport(removed=[gone], kept=[kept], bytes_freed=2048, dry_run=request.dry_run),
        )

    def _verify_post(self, sim: DaemonSimulator) -> None:
        request = msgspec.json.decode(self.body, type=m.VerifyRequest)
        self._json(202, sim.new_job("verify", request.repo or ""))

    def _repair_post(self, sim: DaemonSimulator) -> None:
        self._json(202, sim.new_job("repair", ""))

    def _sources_get(self, sim: DaemonSimulator) -> None:
        down = info(NotFound("{name} is down", name="two"))
        self._json(
            200,
            m.Sources(
                sources=[
                    m.SourceInfo(
                        name="one",
                        kind="huggingface",
                        endpoint="https://one.example",
                        state="ok",
                        rate=2.0**20,
                        reasons=[Phrase(template="takes {seconds} s to answer", values=LATE)],
                    ),
                    m.SourceInfo(
                        name="two",
                        kind="modelscope",
                        endpoint="https://two.example",
                        state="down",
                        error=down,
                        reasons=[Phrase(template=SENDS_NOTHING, values=DEAD)],
                    ),
                ]
            ),
        )

    def _sources_post(self, sim: DaemonSimulator, _test: str) -> None:
        wanted = msgspec.json.decode(self.body, type=SourceTest).name
        refused = info(SourcesFailed("{name} refuses", name="two"))
        tested = [
            SourceTested(
                name="one",
                kind="huggingface",
                endpoint="https://one.example",
                state="ok",
                works=True,
                latency=0.25,
                plane="cdn.example",
                rate=2.0**20,
            ),
            SourceTested(
                name="two",
                kind="modelscope",
                endpoint="https://two.example",
                state="down",
                works=False,
                error=refused,
            ),
        ]
        chosen = [source for source in tested if wanted in (None, source.name)]
        self._json(200, SourcesTested(sources=chosen))

    def _locks_post(self, sim: DaemonSimulator) -> None:
        request = msgspec.json.decode(self.body, type=m.LockRequest)
        held = [self._held(sim, repo) for repo in request.repos]
        self._json(200, m.LockFile(repos=[lock_of(one) for one in held]))

    def _leases_post(self, sim: DaemonSimulator) -> None:
        request = msgspec.json.decode(self.body, type=m.LeaseRequest)
        self.query = {"revision": request.revision} if request.revision else {}
        held = self._held(sim, request.repo)
        lease = m.Lease(
            id=f"l{len(sim.requests)}",
            repo=held.repo,
            commit=held.commit,
            path=held.path,
            bytes=held.bytes,
            host=sim.host,
        )
        sim.leases[lease.id] = lease
        try:
            self._stream()
            self._line(lease)
            self.connection.recv(1)
        finally:
            del sim.leases[lease.id]
            sim.lease_ended.set()
        self.close_connection = True

    def _resident_get(self, sim: DaemonSimulator) -> None:
        self._json(
            200,
            m.Residents(
                resident=[
                    m.Resident(
                        repo=lease.repo,
                        variant=None,
                        device="cpu",
                        bytes=lease.bytes,
                        leases=1,
                        uid=os.getuid(),
                        expires=None,
                    )
                    for lease in sim.leases.values()
                ]
                + sim.resident
            ),
        )

    def _weights_get(self, sim: DaemonSimulator, *name: str) -> None:
        held = sim.weights.get("/".join(name))
        if held is None:
            raise NotFound("{repo} is not in the store", repo="/".join(name))
        self._json(200, held)

    def _devices_get(self, sim: DaemonSimulator, name: str | None = None) -> None:
        if name is None:
            self._json(200, sim.machine)
            return
        if name not in sim.devices:
            raise UsageError(
                "there is no device {device} here",
                hint="there is: {there}",
                device=name,
                there=", ".join(sim.devices),
            )
        self._json(200, m.Device(device=name, bytes=2**34, bytes_free=2**33))

    def _warm_post(self, sim: DaemonSimulator) -> None:
        request = msgspec.json.decode(self.body, type=residency.WarmRequest)
        self.query = {"revision": request.revision} if request.revision else {}
        held = self._held(sim, request.repo)
        sim.warm[request.repo] = (
            request,
            m.WarmResult(
                repo=held.repo,
                commit=held.commit,
                variant=request.variant,
                device="cpu",
                mode=request.mode,
                bytes=held.bytes,
                bytes_resident=held.bytes,
                locked=False,
                expires=None if request.keep == 0 else 1_800_000_000.0,
            ),
        )
        self._json(202, sim.new_job("warm", request.repo))

    def _unload_post(self, sim: DaemonSimulator) -> None:
        request = msgspec.json.decode(self.body, type=residency.StopRequest)
        holders = [lease.id for lease in sim.leases.values() if lease.repo == request.repo]
        if holders and not request.force:
            raise Busy("{repo} is in use by {holders}", repo=request.repo, holders=holders[0])
        if request.repo not in sim.warm:
            raise NotFound("nothing of {repo} is warm", repo=request.repo)
        _, result = sim.warm.pop(request.repo)
        stopped = residency.Stopped(repo=request.repo, bytes=result.bytes, devices=["cpu"])
        self._json(200, stopped)

    def _doctor_get(self, sim: DaemonSimulator) -> None:
        said = Phrase(template="{endpoint}: slow", values={"endpoint": "http://hub"})
        mend = Phrase(template="check the network and the name server")
        checks = [
            Check(name="store", status="ok", detail="the store is on ext4"),
            Check(
                name="source hub",
                status="warn",
                detail="http://hub: slow",
                fix=mend.template,
                said=[said],
                mend=mend,
            ),
        ]
        self._json(200, Checks(checks=checks))

    def _stop_post(self, sim: DaemonSimulator) -> None:
        self._json(202)
        sim.stopped.set()


def lock_of(held: m.SnapshotDetail) -> m.LockedRepo:
    """Returns what a lock file says of ``held``."""
    return m.LockedRepo(
        repo=held.repo,
        revision="main",
        commit=held.commit,
        files=[m.LockedFile(path=f.path, size=f.size, sha256=f.sha256) for f in held.files],
    )


def _plan(request: m.PrefetchRequest, sim: DaemonSimulator) -> m.PrefetchPlan:
    held = sim.snapshots.get(request.repo) or sim.incoming[request.repo]
    return m.PrefetchPlan(
        repo=request.repo,
        revision="main",
        commit=held.commit,
        trust="quorum",
        files=[
            m.PlannedFile(path=file.path, size=file.size, present=0, sources=["one"])
            for file in held.files
        ],
        bytes=held.bytes,
        bytes_present=0,
        left_out={"old.ckpt": "a pickle beside safetensors"},
    )


class _Handover(BaseRequestHandler):
    server: _Server

    def handle(self) -> None:
        sim, line = self.server.simulator, self.request
        (length,) = struct.unpack(">I", line.recv(4, socket.MSG_WAITALL))
        head = line.recv(length, socket.MSG_WAITALL)
        if msgspec.json.decode(head)["op"] == "resident":
            asked = msgspec.json.decode(head, type=residency.ResidentRequest)
            held = sim.snapshots.get(asked.repo)
            sim.worker.serve(line, asked, held.commit if held else None)
            return
        request = msgspec.json.decode(head, type=m.ImportRequest)
        contents: list[bytes] = []
        while len(contents) < len(request.files):
            size = struct.calcsize("i")
            _, ancillary, _, _ = line.recvmsg(1, socket.CMSG_SPACE(64 * size))
            rights = array.array("i")
            for _, _, raw in ancillary:
                rights.frombytes(raw[: len(raw) - len(raw) % size])
            for descriptor in rights:
                with os.fdopen(descriptor, "rb") as file:
                    contents.append(file.read())
        sim.imports.append((request, contents))
        if sim.error is not None:
            reply: msgspec.Struct = m.ErrorReply(error=info(sim.error))
        else:
            sim.snapshots[request.repo] = m.SnapshotDetail(
                repo=request.repo,
                commit=request.commit or COMMIT,
                path="/store",
                revisions=["main"],
                bytes=sum(len(content) for content in contents),
                files_count=len(contents),
                trust="first-use",
            )
            reply = sim.new_job("import", request.repo)
        raw = msgspec.json.encode(reply)
        line.sendall(struct.pack(">I", len(raw)) + raw)
