# pyright: reportMissingImports=false
"""The way into a cluster: Ray is there, it answers, and it does not let in everybody."""

from __future__ import annotations

import os
from typing import Any

from zhcache.cluster.retry import meant
from zhcache.errors import DaemonUnreachable, NotPermitted, UsageError

_MODE = "RAY_AUTH_MODE"


def ray_of(address: str, *, is_open: bool) -> Any:
    """Returns the module ``ray``, connected to the cluster at ``address``.

    Ray is never started here: a cluster that is begun by accident would listen.

    Raises:
        UsageError: Ray is not installed, or this process is in no cluster's reach.
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
        try:
            ray.init(address, log_to_driver=False, logging_level="warning")
        except ray.exceptions.AuthenticationError as error:
            raise NotPermitted(
                "the cluster at {address} refused the token",
                hint="RAY_AUTH_TOKEN or ~/.ray/auth_token must be the cluster's",
                address=address,
            ) from error
        except (ConnectionError, RuntimeError, TimeoutError, ValueError) as error:
            raise DaemonUnreachable(
                "no cluster of Ray at {address}: {reason}",
                hint="see `ray status` on a node of it",
                address=address,
                reason=meant(error).values["reason"],
            ) from error
    if not is_open and _mode_within(ray) != "token":
        raise _unguarded()
    return ray


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
