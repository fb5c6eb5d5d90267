"""The conversation of ``op: resident`` on the handover socket: a pipeline opened, called, closed.

The connection is the lease. Its end, however it comes, cancels what the client had running and
gives its session up.
"""

from __future__ import annotations

import socket
from typing import Any

import msgspec
import structlog

from zhcache.errors import UsageError, ZhcacheError
from zhcache.protocol import frames, residency
from zhcache.protocol.failure import to_info
from zhcached.api.outbox import Outbox
from zhcached.api.peer import Peer
from zhcached.api.services import Services
from zhcached.residency.resident.sessions import Session

log = structlog.get_logger()
_decoder = msgspec.json.Decoder[Any](residency.FromClient)


def serve(
    channel: socket.socket, request: residency.ResidentRequest, peer: Peer, services: Services
) -> None:
    """Serves one client until it or the daemon ends; blocking, in a thread of its own.

    Args:
        channel: The client's connection; stays the caller's, shut down at the end.
        request: Its first frame.
        peer: Who it is.
        services: The daemon's parts.
    """
    channel.settimeout(None)
    residents = services.residents
    with Outbox(channel) as outbox:
        try:
            if residents is None:
                raise UsageError("this daemon holds no resident pipelines")
            session = residents.open(request, peer.uid, peer.pid, outbox)
        except ZhcacheError as error:
            outbox.tell(residency.Failed(error=to_info(error)), is_last=True)
            return
        try:
            while _next(channel, session):
                pass
        except ZhcacheError as error:
            outbox.tell(residency.Failed(error=to_info(error)), is_last=True)
        except OSError as error:
            log.info("resident.dropped", uid=peer.uid, error=str(error))
        finally:
            session.leave()


def _next(channel: socket.socket, session: Session) -> bool:
    """Takes the client's next frame; False at the end.

    Raises:
        UsageError: It cannot be meant, so that nothing after it can be trusted to be.
        OSError: The connection failed.
    """
    try:
        body, fds = frames.receive_raw(channel)
    except EOFError:
        return False
    except frames.FrameError as error:
        raise _malformed(error) from error
    try:
        message = _decoder.decode(body)
    except (msgspec.MsgspecError, RecursionError) as error:
        frames.close_all(fds)
        raise _malformed(error) from error
    if isinstance(message, residency.Call):
        session.call(message, fds, len(body))
        return True
    frames.close_all(fds)
    session.cancel(message.id)
    return True


def _malformed(error: Exception) -> UsageError:
    return UsageError(
        "a frame of the client is malformed: {reason}",
        hint="bring zhcache in the client's environment and the daemon to one version",
        reason=error,
    )
