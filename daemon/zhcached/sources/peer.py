"""Another zhcached on the line, asked through its gateway: by name for what it has, by digest else.

A peer is as little believed as a mirror, and less is asked of it: it never says what a repository
is where a hub does, and it is no witness, since it has from a hub what it has. Its worth is the
way: one machine of a laboratory brings a model in, the others have it from there.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from urllib.parse import quote

from zhcache.errors import ZhcacheError
from zhcache.protocol.messages import SourceKind
from zhcache.protocol.names import RepoId, RepoPath, Revision, is_commit, printable
from zhcache.protocol.peers import (
    MAX_DIGESTS,
    MAX_NODE,
    PREFIX,
    PeerBlobs,
    PeerModel,
    PeerTorrent,
    PeerTorrents,
)
from zhcached.clock import Clock, SystemClock
from zhcached.errors import RemoteInvalid, StatusError
from zhcached.sources import refusals
from zhcached.sources.base import Resolution
from zhcached.sources.listing import Listing, decode
from zhcached.sources.metadata import Conversation
from zhcached.sources.tokens import TokenSource
from zhcached.transport.address import Origin
from zhcached.transport.http import Target, Transport


class PeerSource:
    """One peer; see ``base.Source`` and ``base.DigestSource``.

    Attributes:
        node: Its name among its peers, as it said last; empty before.
    """

    kind: SourceKind = "peer"

    def __init__(
        self,
        name: str,
        endpoint: str,
        *,
        transport: Transport,
        tokens: TokenSource,
        clock: Clock | None = None,
    ) -> None:
        self.name = name
        self.node = ""
        self.origin = Origin.parse(endpoint)
        self._base = endpoint.rstrip("/") + PREFIX
        self._transport = transport
        self._tokens = tokens
        self._clock: Clock = clock or SystemClock()

    def resolve(self, repo: RepoId, revision: Revision | None, deadline_s: float) -> Resolution:
        """Returns what the peer has of ``repo``; a snapshot with holes counts as none."""
        talk = Conversation(self._transport, self.name, deadline_s, self._clock)
        wanted = revision or "main"
        url = f"{self._base}/models/{repo}?revision={quote(wanted, safe='')}"
        credential = self._tokens.credential()
        try:
            answer = talk.get(url, credential)
        except StatusError as error:
            if error.status == 401 and credential is None:
                raise refusals.token_wanted(self.name) from error
            if error.status == 401:
                raise refusals.bad_token(self.name, self._tokens.variable) from error
            if error.status in (403, 404):
                raise refusals.missing_or_private(self.name, str(repo)) from error
            raise
        model = decode(answer.body, PeerModel, source=self.name, what="the list of files")
        if not model.complete:
            raise refusals.missing_or_private(self.name, str(repo))
        if not is_commit(model.commit):
            raise RemoteInvalid(
                f"{printable(model.commit)} is no commit, as it says", source=self.name
            )
        listing = Listing(self.name)
        for file in model.files:
            listing.add(file.path, file.size, sha256=file.sha256, git_sha1=None)
        return Resolution(
            source=self.name,
            kind=self.kind,
            repo=str(repo),
            revision=wanted,
            commit=model.commit,
            files=listing.finish(),
            origin=answer.origin,
            private=model.private,
        )

    def locate(self, resolution: Resolution, path: RepoPath) -> Target:
        """Returns the address of the file's digest."""
        (sha256,) = (file.sha256 for file in resolution.files if file.path == path)
        return self.locate_blob(sha256 or "")

    def locate_blob(self, sha256: str) -> Target:
        """Returns the address of a digest."""
        return Target(f"{self._base}/blobs/{sha256}", credential=self._tokens.credential())

    def holding(self, digests: Collection[str], deadline_s: float) -> set[str]:
        """Returns those of ``digests`` that the peer would send.

        Raises:
            RemoteError: It could not be asked.
        """
        talk = Conversation(self._transport, self.name, deadline_s, self._clock)
        found: set[str] = set()
        for some in _batches(sorted(digests)):
            found |= self._blobs(talk, some).sizes.keys() & set(some)
        return found

    def showing(self, sha256: str, deadline_s: float) -> bool:
        """Tells whether the peer would send a blob now, be it as it comes.

        Raises:
            RemoteError: It could not be asked.
        """
        talk = Conversation(self._transport, self.name, deadline_s, self._clock)
        said = self._blobs(talk, (sha256,))
        return sha256 in said.sizes or sha256 in said.coming

    def locate_coming(self, sha256: str) -> Target:
        """Returns the address of a digest that the peer may still be bringing."""
        return Target(f"{self._base}/coming/{sha256}", credential=self._tokens.credential())

    def _blobs(self, talk: Conversation, digests: Sequence[str]) -> PeerBlobs:
        url = f"{self._base}/blobs?sha256={','.join(digests)}"
        body = talk.get(url, self._tokens.credential()).body
        said = decode(body, PeerBlobs, source=self.name, what="the list of blobs")
        self.node = said.node[:MAX_NODE]
        return said

    def torrents(self, digests: Collection[str], deadline_s: float) -> PeerTorrents:
        """Returns which torrents of ``digests`` the peer is in.

        Raises:
            RemoteError: It could not be asked; a ``StatusError`` of 404 where it has no such thing.
        """
        talk = Conversation(self._transport, self.name, deadline_s, self._clock)
        port, drawer, found = 0, "", dict[str, PeerTorrent]()
        for some in _batches(sorted(digests)):
            url = f"{self._base}/torrents?sha256={','.join(some)}"
            body = talk.get(url, self._tokens.credential()).body
            said = decode(body, PeerTorrents, source=self.name, what="the list of torrents")
            port, drawer = said.port, said.drawer[:MAX_NODE]
            found |= {sha256: one for sha256, one in said.torrents.items() if sha256 in some}
        return PeerTorrents(port=port, torrents=found, drawer=drawer)

    def piece_hashes(self, sha256: str, max_bytes: int, deadline_s: float) -> bytes:
        """Returns the hashes of a torrent's pieces, as the peer gives them.

        Raises:
            RemoteError: It gives none, or more than ``max_bytes``.
        """
        target = Target(f"{self._base}/torrents/{sha256}", credential=self._tokens.credential())
        _, hashes = self._transport.fetch_document(
            target, max_bytes=max_bytes, deadline_s=deadline_s
        )
        return hashes

    def open_address(self, sha256: str) -> str | None:
        """Returns where the bytes of a digest are for whoever shows no token; None for nobody."""
        target = self.locate_blob(sha256)
        return target.url if target.credential is None else None

    def explain(self, resolution: Resolution, error: StatusError) -> ZhcacheError | None:
        """Returns None: that a peer has a blob no more says nothing about the repository."""
        return None


def _batches(digests: list[str]) -> Iterator[tuple[str, ...]]:
    left = iter(digests)
    while some := tuple(itertools.islice(left, MAX_DIGESTS)):
        yield some
