# pyright: reportMissingImports=false
"""The way into a cluster: Ray is there, it answers, and it does not let in everybody."""

from __future__ import annotations

import logging
import os
import socket
from typing import Any

from zhcache.cluster.retry import meant
from zhcache.errors import DaemonUnreachable, NotPermitted, UsageError

_MODE = "RAY_AUTH_MODE"
_CONNECT_S = 5.0


def ray_of(address: str, *, is_open: bool) -> Any:
    """Returns the module ``ray``, connected to the cluster at ``address``.

    Ray is never started here: a cluster that is begun by accident would listen.

    Raises:
        UsageError: Ray is not installed, or ``address`` is none of a cluster.
        DaemonUnreachable: Nobody answers there.
        NotPermitted: The cluster has no token authentication and not ``is_open``; or this token
            is not its own.
    """
    try:
        import ray
    except ImportError as error:
        raise UsageError(
            "{library} is not installed in this environment",
            hint="pip install 'zhcache[cluster]'",
            library="ray[serve]",
        ) from error
    if not is_open and os.environ.get(_MODE) != "token":
        raise _unguarded()
    if not ray.is_initialized():
        _check_reached(ray, address)
        try:
            ray.init(address, log_to_driver=False, logging_level="warning")
        except ray.exceptions.AuthenticationError as error:
            raise _refused(address) from error
        except (AssertionError, ConnectionError, RuntimeError, TimeoutError, ValueError) as error:
            # A thread of Serve's that outlived the last connection may have made one meanwhile.
            if not ray.is_initialized():
                raise _silent(address, error) from error
    _quieten()
    if not is_open and _mode_within(ray) != "token":
        raise _unguarded()
    return ray


def _quieten() -> None:
    """Keeps Serve from a line for each call that waits or is cancelled, unless told otherwise."""
    import ray.serve

    log = logging.getLogger(ray.serve.__name__)
    if log.level == logging.INFO:
        log.setLevel(logging.ERROR)


def _check_reached(ray: Any, address: str) -> None:
    """Refuses what ``ray.init`` would start, wait for by minutes, or tell of as if it were silent.

    Raises:
        ZhcacheError: As ``ray_of``.
    """
    named = os.environ.get("RAY_ADDRESS") or address if address == "auto" else address
    if named in ("", "local"):
        raise UsageError(
            "address={address} would start Ray, which zhcache never does",
            hint="None is this machine alone; 'auto' or HOST:PORT a cluster that is there",
            address=repr(named),
        )
    if "://" in named:
        return
    from ray._private.services import canonicalize_bootstrap_address_or_die
    from ray._raylet import GcsClient

    try:
        found: str = canonicalize_bootstrap_address_or_die(named)
        host, _, port = found.rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()
        GcsClient(address=found)
    except ray.exceptions.AuthenticationError as error:
        raise _refused(address) from error
    except (OSError, ValueError, ray.exceptions.RayError) as error:
        raise _silent(address, error) from error


def _refused(address: str) -> NotPermitted:
    return NotPermitted(
        "the cluster at {address} refused the token",
        hint="RAY_AUTH_TOKEN or ~/.ray/auth_token must be the cluster's",
        address=address,
    )


def _silent(address: str, error: Exception) -> DaemonUnreachable:
    return DaemonUnreachable(
        "no cluster of Ray at {address}: {reason}",
        hint="see `ray status` on a node of it",
        address=address,
        reason=meant(error).values["reason"],
    )


def _mode_within(ray: Any) -> str | None:
    """Returns how the cluster's processes authenticate: one without tokens ignores ours."""

    def mode() -> str | None:
        return os.environ.get(_MODE)

    return ray.get(ray.remote(num_cpus=0)(mode).remote())


def _unguarded() -> NotPermitted:
    return NotPermitted(
        "this cluster of Ray has no token authentication: whoever reaches it runs what they like",
        hint="set RAY_AUTH_MODE=token where Ray is started and here, on all nodes; or is_open=True",
    )
