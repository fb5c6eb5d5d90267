"""The gateway: how it is started and stopped over the API, and what it tells of itself.

Sizes are bytes, times are seconds since the epoch.
"""

from __future__ import annotations

from zhcache.protocol.base import Message

DEFAULT_LISTEN = "127.0.0.1:8590"


class GatewayRequest(Message):
    """Starts the gateway.

    ``listen`` is ``HOST:PORT``; empty is the default. ``token`` must be shown by clients; without
    one the configuration's counts. ``rate`` is a size per second with its unit, None as configured.
    ``detach`` leaves it on when the connection ends that asked for it, and over restarts.
    """

    listen: str = ""
    token: str | None = None
    rate: str | None = None
    detach: bool = False


class GatewayState(Message):
    """The gateway as it is now.

    ``url`` is what other machines are told, ``listen`` where it really listens. ``problem`` says
    why it does not serve though it should. Counts begin with the daemon.
    """

    serving: bool
    url: str = ""
    listen: str = ""
    detached: bool = False
    token: bool = False
    tls: bool = False
    rate: int = 0
    since: float = 0.0
    clients: int = 0
    requests: int = 0
    refused: int = 0
    bytes_sent: int = 0
    pulls: int = 0
    misses: int = 0
    problem: str = ""
    schema: int = 1
