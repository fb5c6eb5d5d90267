"""The typed door to the daemon: one method for each thing that can be asked of it (``calls``).

Importing this costs neither httpx nor torch; the first call does. Every method raises the errors
of ``zhcache.errors`` and nothing else.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

from zhcache import paths
from zhcache.calls.follow import FollowCalls
from zhcache.calls.gateway import GatewayCalls
from zhcache.calls.jobs import JobCalls
from zhcache.calls.placement import PlacementCalls
from zhcache.calls.prompts import PromptCalls
from zhcache.calls.residency import ResidencyCalls
from zhcache.calls.snapshots import SnapshotCalls
from zhcache.calls.store import StoreCalls
from zhcache.calls.watch import WatchCalls
from zhcache.channel import LONG_S, Channel, check_version, dial
from zhcache.errors import DaemonUnreachable
from zhcache.protocol import messages
from zhcache.protocol.checks import Checks


class Client(
    JobCalls,
    SnapshotCalls,
    StoreCalls,
    ResidencyCalls,
    GatewayCalls,
    WatchCalls,
    FollowCalls,
    PromptCalls,
    PlacementCalls,
):
    """A connection to the daemon, made at the first call. Thread-safe.

    Args:
        socket: The API socket; None looks where ``CONTRACT`` says: ``ZHCACHE_SOCKET``, the
            system's, the user's.
        spawn: Whether a per-user daemon may be started when nobody answers. Only ever done where
            no socket was named, by argument or environment, and the system's service has none.
    """

    def __init__(self, socket: str | Path | None = None, *, spawn: bool = True) -> None:
        named = socket is not None or bool(os.environ.get("ZHCACHE_SOCKET"))
        self.socket = Path(socket).absolute() if socket is not None else paths.socket_path()
        self.home = paths.store_root()
        self._may_spawn = spawn and not named and self.socket != paths.SERVICE_SOCKET
        self._channel = Channel(self.socket)
        self._version: messages.Version | None = None

    def close(self) -> None:
        """Closes the connections; leases taken through this client end."""
        self._channel.close()
        self._version = None

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def connect(self) -> messages.Version:
        """Returns who answers, having started a daemon if that is allowed and needed.

        Raises:
            DaemonUnreachable: Nobody answers.
            VersionMismatch: Client and daemon do not understand each other.
            NotPermitted: A stranger's socket.
        """
        if self._version is None:
            try:
                dial(self.socket).close()
            except DaemonUnreachable:
                if not self._may_spawn:
                    raise
                from zhcache.spawn import start_daemon

                start_daemon(self.home, self.socket)
            version = self._channel.call("GET", "/v1/version", messages.Version, timeout_s=30.0)
            check_version(version)
            self._version = version
        return self._version

    def version(self) -> messages.Version:
        """Returns the daemon's version as it answers now."""
        self._version = None
        return self.connect()

    def doctor(self) -> Checks:
        """Returns the daemon's checks of itself, its store and its machine."""
        return self._line().call("GET", "/v1/doctor", Checks, timeout_s=LONG_S)

    def stop_daemon(self) -> None:
        """Asks the daemon to stop; returns when it has agreed, not when it is gone."""
        self._line().send("POST", "/v1/stop")
        self._version = None

    # The same by the names of the commands.
    pull = JobCalls.prefetch
    ls = SnapshotCalls.snapshots
    du = StoreCalls.space
    rm = SnapshotCalls.remove
    ps = ResidencyCalls.resident
    stop = ResidencyCalls.unload
    import_ = SnapshotCalls.import_folder

    def _line(self) -> Channel:
        self.connect()
        return self._channel
