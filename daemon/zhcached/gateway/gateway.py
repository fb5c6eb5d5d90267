"""The gateway as a whole: started, stopped, and left on over restarts of the daemon."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import socket
import ssl
import threading
from collections.abc import Mapping

import msgspec
import structlog

from zhcache.errors import Busy, UsageError, ZhcacheError
from zhcache.protocol.gateway import DEFAULT_LISTEN, GatewayRequest, GatewayState
from zhcached.clock import Clock
from zhcached.config import ServeConfig
from zhcached.gateway.connections import bind, parse_listen
from zhcached.gateway.context import Context
from zhcached.gateway.door import Door, digest_of, own_names
from zhcached.gateway.pace import Pace
from zhcached.gateway.routes import routes
from zhcached.gateway.server import Server
from zhcached.gateway.share import Share
from zhcached.jobs.pulling.pull import Pulls
from zhcached.store import files
from zhcached.store.store import Store
from zhcached.swarm.own import OwnTorrents
from zhcached.units import parse_size

STALL_S = 60.0
"""A client that reads nothing for so long is cut."""

AGAIN_S = 5.0
"""Between two tries to begin what the configuration, or an earlier daemon, has on."""

log = structlog.get_logger()


class _Kept(msgspec.Struct, frozen=True):
    """What is left on: ``token`` is only the digest of one."""

    listen: str
    token: str | None
    rate: int


class Serving:
    """One serving, from its start to its end."""

    def __init__(self, server: Server, context: Context, kept: _Kept, *, detached: bool) -> None:
        self.server = server
        self.context = context
        self.kept = kept
        self.detached = detached
        self.since = context.clock.wall()


class Gateway:
    """Serves at one address at a time. Thread-safe and synchronous.

    Args:
        pulls: What is served.
        store: Where it lies.
        config: ``[serve]``.
        clock: The time.
        environ: Where the token of the configuration is.
        torrents: Those that this machine is in, or only tells of.
    """

    def __init__(
        self,
        pulls: Pulls,
        store: Store,
        config: ServeConfig,
        clock: Clock,
        environ: Mapping[str, str] = os.environ,
        *,
        torrents: OwnTorrents | None = None,
    ) -> None:
        self.pulls = pulls
        self._store = store
        self._config = config
        self._clock = clock
        self._environ = environ
        self._torrents = torrents
        self._file = store.layout.root / "gateway.json"
        self._lock = threading.Lock()
        self._serving: Serving | None = None
        self._problem = ""
        self._is_due = False

    def start(self, request: GatewayRequest) -> Serving:
        """Begins to serve.

        Raises:
            Busy: It serves already, or another program has the port.
            UsageError: The address, the rate, the token or the certificate cannot be used.
            NotPermitted: The port takes privileges.
        """
        token = request.token if request.token is not None else self._configured_token()
        if token is not None and not token.isascii():
            raise UsageError("a token consists of ASCII characters")
        rate = self._config.rate if request.rate is None else _rate(request.rate)
        listen = request.listen or self._config.listen or DEFAULT_LISTEN
        kept = _Kept(listen, digest_of(token) if token else None, rate)
        with self._lock:
            serving = self._begin(kept, detached=request.detach)
            if request.detach:
                files.write_durably(self._file, msgspec.json.encode(kept), 0o600)
            return serving

    def restore(self) -> None:
        """Serves again what was left on, or what the configuration says; a failure is told."""
        with self._lock:
            self._is_due = True
        self._try()

    async def run(self) -> None:
        """Tries again what could not be restored, until it is on or not wanted any more.

        Another program may have the port for a moment, the last daemon for one; and the address may
        be there only after the network.
        """
        while self._is_due:
            await asyncio.sleep(AGAIN_S)
            await asyncio.to_thread(self._try)

    def _try(self) -> None:
        with self._lock:
            if not self._is_due:
                return
            try:
                kept = self._left_on() or self._configured()
                if kept is not None:
                    self._begin(kept, detached=True)
            except (ZhcacheError, OSError) as error:
                if str(error) != self._problem:
                    log.warning("gateway.not_started", error=str(error))
                self._problem = str(error)
            else:
                self._is_due = False

    def _configured(self) -> _Kept | None:
        if not self._config.listen:
            return None
        token = self._configured_token()
        return _Kept(self._config.listen, digest_of(token) if token else None, self._config.rate)

    def stop(self, serving: Serving | None = None) -> None:
        """Ends ``serving``, or whatever there is; it is not left on any more."""
        with self._lock:
            if serving is not None and self._serving is not serving:
                return
            if self._serving is None or self._serving.detached:
                self._file.unlink(missing_ok=True)
            self._end()
            self._problem, self._is_due = "", False

    def close(self) -> None:
        """Ends serving with the daemon; what was left on begins again with the next."""
        with self._lock:
            self._end()
            self._is_due = False

    def is_on(self, serving: Serving) -> bool:
        """Tells whether this is what is being served."""
        return self._serving is serving

    def state(self) -> GatewayState:
        """Returns what there is to tell."""
        serving = self._serving
        if serving is None:
            return GatewayState(serving=False, problem=self._problem)
        traffic = serving.context.traffic
        host, port = serving.server.address
        scheme = "https" if self._config.certificate else "http"
        return GatewayState(
            serving=True,
            url=f"{scheme}://{_joined(_reachable(host), port)}",
            listen=_joined(host, port),
            detached=serving.detached,
            token=serving.kept.token is not None,
            tls=bool(self._config.certificate),
            rate=serving.kept.rate,
            since=serving.since,
            clients=serving.server.clients,
            requests=traffic.requests,
            refused=traffic.refused,
            bytes_sent=traffic.bytes,
            pulls=self.pulls.running,
            misses=self.pulls.misses,
        )

    def _begin(self, kept: _Kept, *, detached: bool) -> Serving:
        if self._serving is not None:
            raise Busy(
                "the gateway serves at {listen} already",
                hint="`zhcache serve --status` shows it; `zhcache serve --stop` ends it",
                listen=_joined(*self._serving.server.address),
            )
        host, port = parse_listen(kept.listen)
        tls = _tls(self._config)
        listener = bind(host, port, STALL_S)
        try:
            serving = self._serve(kept, listener, tls, detached=detached)
        except BaseException:
            listener.close()
            raise
        self._serving, self._problem, self._is_due = serving, "", False
        log.info("gateway.started", listen=_joined(host, port), detached=detached)
        return serving

    def _serve(
        self, kept: _Kept, listener: socket.socket, tls: ssl.SSLContext | None, *, detached: bool
    ) -> Serving:
        context = Context(
            self.pulls,
            self._store,
            self._config,
            self._clock,
            Pace(kept.rate, self._clock),
            torrents=self._torrents,
        )
        is_local = ipaddress.ip_address(listener.getsockname()[0]).is_loopback
        share = Share(self._config.requests, self._clock)
        door = Door(kept.token, share, own_names() if is_local else None)
        server = Server(context, listener, routes, door, tls=tls)
        server.start()
        return Serving(server, context, kept, detached=detached)

    def _end(self) -> None:
        serving, self._serving = self._serving, None
        if serving is not None:
            serving.server.stop()
            log.info("gateway.stopped", bytes=serving.context.traffic.bytes)

    def _configured_token(self) -> str | None:
        name = self._config.token_env
        if not name:
            return None
        if not self._environ.get(name):
            raise UsageError(
                "the token of the gateway is to be in {name}, which the daemon does not have",
                hint="set it for the daemon, or give `zhcache serve` a --token-file",
                name=name,
            )
        return self._environ[name]

    def _left_on(self) -> _Kept | None:
        with contextlib.suppress(FileNotFoundError):
            try:
                return msgspec.json.decode(self._file.read_bytes(), type=_Kept)
            except msgspec.DecodeError as error:
                raise ZhcacheError(
                    "{path} cannot be read: {reason}",
                    hint="start the gateway anew: zhcache serve --detach",
                    path=self._file,
                    reason=error,
                ) from error
        return None


def _rate(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise UsageError("{reason}", reason=error) from error


def _tls(config: ServeConfig) -> ssl.SSLContext | None:
    if not config.certificate:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(config.certificate, config.key)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            "the certificate {path} cannot be used: {reason}",
            hint="[serve] certificate and key name PEM files that the daemon can read",
            path=config.certificate,
            reason=error,
        ) from error
    return context


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _reachable(host: str) -> str:
    """Returns an address that other machines can use, where it listens on all of them."""
    if not ipaddress.ip_address(host).is_unspecified:
        return host
    # Nothing is sent: the kernel only says from which address it would be.
    probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        probe.connect(("192.0.2.1", 9))
        return probe.getsockname()[0]
    except OSError:
        return socket.gethostname()
    finally:
        probe.close()
