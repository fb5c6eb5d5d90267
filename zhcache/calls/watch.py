"""What a client can ask about watched folders."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from zhcache.calls.calls import Calls
from zhcache.protocol.watch import Watched, WatchedFolder, WatchRequest


class WatchCalls(Calls):
    """The part of ``Client`` that watched folders are."""

    def watched(self) -> list[WatchedFolder]:
        """Returns the watched folders, and how each model in them stands."""
        return self._line().call("GET", "/v1/watched", Watched).folders

    def watch(self, folder: str | Path) -> WatchedFolder:
        """Has a folder taken in as it changes, from now on.

        Raises:
            NotPermitted: Neither root nor the daemon's own user; or the daemon cannot read it.
            NotFound: There is no such folder.
            UsageError: It may not be watched.
        """
        body = WatchRequest(folder=str(Path(folder).expanduser().absolute()))
        return self._line().call("POST", "/v1/watched", WatchedFolder, body=body)

    def unwatch(self, folder: str | Path) -> None:
        """Has a folder taken in no more; what was taken of it stays.

        Raises:
            NotPermitted: Neither root nor the daemon's own user.
            NotFound: It is not watched.
            UsageError: The configuration names it.
        """
        named = quote(str(Path(folder).expanduser().absolute()), safe="")
        self._line().send("DELETE", f"/v1/watched?folder={named}")
