"""The ModelScope protocol.

One listing carries size and sha256 of every file. ModelScope has no commit of a repository, so one
is derived: equal listings, and only they, have equal commits. The listing is cut without a word
at 3000 entries and knows no pages; a larger one is walked folder by folder.

A listing is asked for without the token first: nothing else tells whether a repository is private.

Source: ``LegacyApi.list_repo_files``, ``_walk_repo_files`` and ``get_download_url`` of
modelscope-hub 0.5.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable
from typing import NoReturn
from urllib.parse import quote_plus

import msgspec

from zhcache.errors import ZhcacheError
from zhcache.protocol.messages import SourceKind
from zhcache.protocol.names import RepoId, RepoPath, Revision, is_commit
from zhcached.clock import Clock, SystemClock
from zhcached.errors import RemoteInvalid, RepoUnavailable, StatusError
from zhcached.sources import refusals
from zhcached.sources.base import RemoteFile, Resolution
from zhcached.sources.listing import MAX_FILES, MAX_PAGES, Listing, decode
from zhcached.sources.metadata import Answer, Conversation
from zhcached.sources.tokens import TokenSource
from zhcached.transport.address import Origin
from zhcached.transport.http import Credential, Target, Transport

CUT_AT = 3000
"""Entries after which the hub stops listing."""
DEFAULT_BRANCH = "master"
_RETRIES_OF_403 = 2
_NOT_THERE = {10010205001, 10010200001}
"""Its own numbers for a model, and for a revision, that does not exist."""
_COMMIT_DOMAIN = b"zhcache modelscope listing 1\n"


class _Entry(msgspec.Struct):
    Path: str
    Type: str = "blob"
    Size: int = 0
    Sha256: str | None = None


class _Files(msgspec.Struct):
    # The hub writes null for an empty list.
    Files: list[_Entry] | None = None


class _Envelope(msgspec.Struct):
    Code: int = 200
    Success: bool = True
    Message: str | None = None
    Data: _Files | None = None


def derived_commit(files: Iterable[RemoteFile]) -> str:
    """Returns 40 hex digits that stand for a listing.

    The first 40 digits of the sha256 over a domain line and, for each file by path, the path, a
    NUL, the size in decimal, a NUL, the sha256 and a newline.
    """
    digest = hashlib.sha256(_COMMIT_DOMAIN)
    for file in sorted(files, key=lambda file: file.path):
        digest.update(f"{file.path}\0{file.size}\0{file.sha256 or ''}\n".encode())
    return digest.hexdigest()[:40]


class ModelScopeSource:
    """One hub of kind ``modelscope``; see ``base.Source``."""

    kind: SourceKind = "modelscope"

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
        self.origin = Origin.parse(endpoint)
        self._endpoint = endpoint.rstrip("/")
        self._transport = transport
        self._tokens = tokens
        self._clock: Clock = clock or SystemClock()

    def resolve(self, repo: RepoId, revision: Revision | None, deadline_s: float) -> Resolution:
        """Returns what ``repo`` is at ``revision``; ``main`` means ``master`` here.

        A commit is one that was derived before: it resolves as long as the default branch still
        shows that listing, for the hub keeps no older ones under that name.
        """
        talk = Conversation(self._transport, self.name, deadline_s, self._clock)
        by_commit = revision is not None and is_commit(revision)
        branch = DEFAULT_BRANCH if revision in (None, "main") or by_commit else str(revision)
        walk = _Walk(self, talk, str(repo), branch)
        files, was_refused = walk.list_all()
        commit = derived_commit(files)
        if by_commit and commit != revision:
            raise refusals.revision_missing(self.name, str(repo), str(revision))
        return Resolution(
            source=self.name,
            kind=self.kind,
            repo=str(repo),
            revision=branch,
            commit=commit,
            files=files,
            origin=walk.origin,
            private=was_refused,
        )

    def locate(self, resolution: Resolution, path: RepoPath) -> Target:
        """Returns the address of ``path``; the token goes with it to this hub's origin alone."""
        return Target(
            f"{self._endpoint}/api/v1/models/{resolution.repo}/repo"
            f"?Revision={quote_plus(resolution.revision)}&FilePath={quote_plus(path)}",
            credential=self._tokens.credential(),
        )

    def listing_url(self, repo: str, branch: str, root: str, *, recursive: bool) -> str:
        """Returns the address of the listing of ``root``, a folder's path or empty."""
        url = (
            f"{self._endpoint}/api/v1/models/{repo}/repo/files"
            f"?Revision={quote_plus(branch)}&Recursive={recursive}"
        )
        return f"{url}&Root={quote_plus(root)}" if root else url

    def credential(self) -> Credential | None:
        """Returns the token, if this source has one."""
        return self._tokens.credential()

    def refusal(
        self, status: int, repo: str, branch: str, *, with_token: bool
    ) -> RepoUnavailable | None:
        """Returns what ``status`` says about the repository, or None where it says nothing."""
        if status in (404, 410):
            if branch != DEFAULT_BRANCH:
                return refusals.revision_missing(self.name, repo, branch)
            return refusals.missing_or_private(self.name, repo)
        if status == 401:
            if with_token:
                return refusals.bad_token(self.name, self._tokens.variable)
            return refusals.missing_or_private(self.name, repo)
        if status == 451:
            return refusals.taken_down(self.name, repo)
        return refusals.forbidden(self.name, repo) if status == 403 else None

    def explain(self, resolution: Resolution, error: StatusError) -> ZhcacheError | None:
        """Returns what a status met while fetching bytes means for the user, or None."""
        try:
            msgspec.json.decode(error.body, type=_Spoken)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        with_token = self.credential() is not None
        refusal = self.refusal(
            error.status, resolution.repo, resolution.revision, with_token=with_token
        )
        return refusal.error if refusal else None


class _Spoken(msgspec.Struct):
    """The body of the hub's own refusals; its data plane answers in XML."""

    Code: int


class _Walk:
    """The listing of one repository, in one request or folder by folder."""

    def __init__(
        self, source: ModelScopeSource, talk: Conversation, repo: str, branch: str
    ) -> None:
        self._source = source
        self._talk = talk
        self._repo = repo
        self._branch = branch
        self._listing = Listing(source.name)
        self._requests = 0
        self._credential: Credential | None = None
        self.origin = source.origin

    def list_all(self) -> tuple[tuple[RemoteFile, ...], bool]:
        """Returns all files, and whether the hub refused to list them without the token."""
        try:
            entries = self._page("", recursive=True)
        except RepoUnavailable:
            self._credential = self._source.credential()
            if self._credential is None:
                raise
            entries = self._page("", recursive=True)
        if len(entries) < CUT_AT:
            self._take(entries)
        else:
            self._descend()
        return self._listing.finish(), self._credential is not None

    def _descend(self) -> None:
        roots = deque([""])
        seen = {""}
        while roots:
            root = roots.popleft()
            if root:
                whole = self._page(root, recursive=True)
                if len(whole) < CUT_AT:
                    self._take(whole)
                    continue
            level = self._page(root, recursive=False)
            if len(level) >= CUT_AT:
                self._refuse(f"one folder has {CUT_AT} entries or more, which the hub cannot list")
            self._take(level)
            for entry in level:
                if entry.Type == "tree" and entry.Path not in seen:
                    seen.add(entry.Path)
                    roots.append(entry.Path)
            if len(seen) > MAX_FILES:
                self._refuse(f"the listing has more than {MAX_FILES} folders")

    def _take(self, entries: list[_Entry]) -> None:
        for entry in entries:
            if entry.Type != "tree":
                digest = (entry.Sha256 or "").lower() or None
                self._listing.add(entry.Path, entry.Size, sha256=digest, git_sha1=None)

    def _page(self, root: str, *, recursive: bool) -> list[_Entry]:
        url = self._source.listing_url(self._repo, self._branch, root, recursive=recursive)
        for _ in range(_RETRIES_OF_403):
            # Readable repositories answer 403 now and then; the official client asks again too.
            try:
                return self._ask(url)
            except StatusError as error:
                if error.status != 403:
                    self._judge(error)
        try:
            return self._ask(url)
        except StatusError as error:
            self._judge(error)
            raise

    def _judge(self, error: StatusError) -> None:
        refusal = self._source.refusal(
            error.status, self._repo, self._branch, with_token=self._credential is not None
        )
        raise refusal or error from error

    def _ask(self, url: str) -> list[_Entry]:
        self._requests += 1
        if self._requests > MAX_PAGES:
            self._refuse(f"the listing needs more than {MAX_PAGES} requests")
        return self._talk.read(url, self._credential, self._meaning)

    def _meaning(self, answer: Answer) -> list[_Entry]:
        self.origin = answer.origin
        name = self._source.name
        envelope = decode(answer.body, _Envelope, source=name, what="the listing")
        is_missing = not envelope.Success and envelope.Code in _NOT_THERE
        status = 404 if is_missing else envelope.Code
        if 400 <= status < 600:
            raise StatusError(
                f"{name} answered {envelope.Code} in a successful answer",
                status=status,
                source=name,
            )
        if not envelope.Success or envelope.Code != 200 or envelope.Data is None:
            self._refuse(f"the listing reports failure {envelope.Code} and no files")
        return envelope.Data.Files or []

    def _refuse(self, reason: str) -> NoReturn:
        raise RemoteInvalid(reason, source=self._source.name)
