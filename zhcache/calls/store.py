"""What a client can ask about the store as a whole, and the sources that fill it."""

from __future__ import annotations

from zhcache.calls.calls import Calls
from zhcache.channel import LONG_S
from zhcache.protocol import messages, probe
from zhcache.protocol.names import parse_repo


class StoreCalls(Calls):
    """The part of ``Client`` that the store is."""

    def space(self) -> messages.Space:
        """Returns where the disk went."""
        return self._line().call("GET", "/v1/space", messages.Space, timeout_s=LONG_S)

    def gc(self, *, dry_run: bool = False) -> messages.GcReport:
        """Frees what nobody needs and says why the rest stays."""
        body = messages.GcRequest(dry_run=dry_run)
        return self._line().call("POST", "/v1/gc", messages.GcReport, body=body, timeout_s=None)

    def verify(self, repo: str | None = None) -> messages.Job:
        """Starts to read and hash again what is held, of one repository or of all."""
        if repo is not None:
            parse_repo(repo)
        body = messages.VerifyRequest(repo=repo)
        return self._line().call("POST", "/v1/verify", messages.Job, body=body)

    def repair(self) -> messages.Job:
        """Starts to rebuild the index from the disk and to fetch again what is damaged."""
        return self._line().call("POST", "/v1/repair", messages.Job)

    def sources(self) -> list[messages.SourceInfo]:
        """Returns each source's health."""
        return self._line().call("GET", "/v1/sources", messages.Sources).sources

    def test_sources(self, name: str | None = None) -> list[probe.SourceTested]:
        """Has one source, or all, asked how they are now; takes some seconds.

        Raises:
            UsageError: There is no source of that name.
            Busy: A test is under way.
        """
        return (
            self._line()
            .call("POST", "/v1/sources/test", probe.SourcesTested, body=probe.SourceTest(name=name))
            .sources
        )
