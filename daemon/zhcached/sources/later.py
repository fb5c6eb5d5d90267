"""Kinds of source that the configuration may name and that this release cannot ask yet.

Such a source is shown as what it is, failing with its reason at every request; it does not keep
the daemon from starting, since the others still work.
"""

from __future__ import annotations

from typing import NoReturn

from zhcache.errors import ZhcacheError
from zhcache.protocol.messages import SourceKind
from zhcache.protocol.names import RepoId, RepoPath, Revision
from zhcached.config import SourceConfig
from zhcached.errors import StatusError, TransportError
from zhcached.sources.base import Resolution
from zhcached.transport.address import Origin
from zhcached.transport.http import Target

_NOWHERE = Origin("https", "invalid", 443)


class LaterSource:
    """A source of kind ``peer`` or ``folder``."""

    def __init__(self, config: SourceConfig) -> None:
        self.name: str = config.name
        self.kind: SourceKind = config.kind
        self.origin = _NOWHERE

    def resolve(self, repo: RepoId, revision: Revision | None, deadline_s: float) -> Resolution:
        """Raises TransportError: nothing can be asked here."""
        self._refuse()

    def locate(self, resolution: Resolution, path: RepoPath) -> Target:
        """Raises TransportError: nothing can be asked here."""
        self._refuse()

    def explain(self, resolution: Resolution, error: StatusError) -> ZhcacheError | None:
        """Returns None: nothing was asked."""
        return None

    def _refuse(self) -> NoReturn:
        raise TransportError(
            f"sources of kind {self.kind} are not in this release; take folders in with "
            "`zhcache import`",
            source=self.name,
        )
