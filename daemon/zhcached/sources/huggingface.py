"""The Hugging Face protocol: the hub itself, its mirrors, and whatever speaks like it.

One resolution is the revision request, which gives the commit, and the pages of the tree at that
commit. The tree carries sizes and digests of all files, so no request per file is made. Xet is
declined by never looking at its headers: plain HTTP serves every file.

Source: ``HfApi.model_info``, ``HfApi.list_repo_tree``, ``hf_hub_url`` and
``hf_raise_for_status`` of huggingface_hub 2.4.
"""

from __future__ import annotations

import re
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec

from zhcache.errors import UsageError, ZhcacheError
from zhcache.protocol.messages import SourceKind
from zhcache.protocol.names import RepoId, RepoPath, Revision, is_commit, parse_repo, printable
from zhcached.clock import Clock, SystemClock
from zhcached.errors import RemoteInvalid, RepoUnavailable, StatusError
from zhcached.sources import refusals
from zhcached.sources.base import RemoteFile, Resolution
from zhcached.sources.listing import MAX_PAGES, Listing, decode
from zhcached.sources.metadata import Answer, Conversation, expect_same_origin
from zhcached.sources.tokens import TokenSource
from zhcached.sources.trust import is_document
from zhcached.transport.address import Origin
from zhcached.transport.http import Credential, Target, Transport

_NEXT = re.compile(r"<([^<>]*)>\s*;[^<]*?rel=\"?next\"?", re.IGNORECASE)
_DEFAULT_BRANCHES = ("main", "master")
T = TypeVar("T")


class _Info(msgspec.Struct):
    id: str
    sha: str
    private: bool = False
    gated: bool | str | None = False
    disabled: bool | None = False


class _Lfs(msgspec.Struct):
    oid: str
    size: int


class _Entry(msgspec.Struct):
    type: str
    path: str
    oid: str | None = None
    size: int = 0
    lfs: _Lfs | None = None


class HuggingFaceSource:
    """One hub or mirror of kind ``huggingface``; see ``base.Source``."""

    kind: SourceKind = "huggingface"

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
        """Returns what ``repo`` is at ``revision``; ``main`` and ``master`` are one branch here."""
        credential = self._tokens.credential()
        talk = Conversation(self._transport, self.name, deadline_s, self._clock)
        branch = "main" if revision in (None, *_DEFAULT_BRANCHES) else revision
        url = f"{self._endpoint}/api/models/{repo}/revision/{quote(branch, safe='')}"
        what = "the description of the model"
        info, _ = self._ask(talk, url, credential, str(repo), branch, (_Info, what))
        name = self._checked(info, repo, branch)
        files, origin = self._tree(talk, name, info.sha, credential)
        if info.gated:
            self._require_access(talk, name, info.sha, files, credential)
        renamed = name.casefold() != str(repo).casefold()
        return Resolution(
            source=self.name,
            kind=self.kind,
            repo=name,
            revision=branch,
            commit=info.sha,
            files=files,
            origin=origin,
            private=info.private or bool(info.gated),
            warnings=(f"{repo} is now called {name} at {self.name}",) if renamed else (),
        )

    def locate(self, resolution: Resolution, path: RepoPath) -> Target:
        """Returns the address of ``path``; the token goes with it to this hub's origin alone."""
        return Target(
            self._resolve_url(resolution.repo, resolution.commit, path),
            credential=self._tokens.credential(),
        )

    def _resolve_url(self, repo: str, commit: str, path: RepoPath) -> str:
        return f"{self._endpoint}/{repo}/resolve/{commit}/{quote(path)}"

    def _checked(self, info: _Info, repo: RepoId, branch: str) -> str:
        """Returns the repository's canonical name, after the answer is judged."""
        if info.disabled:
            raise refusals.taken_down(self.name, str(repo))
        if not is_commit(info.sha) or (is_commit(branch) and info.sha != branch):
            raise RemoteInvalid(
                f"asked for {branch} it answered with commit {printable(info.sha)}",
                source=self.name,
            )
        try:
            return str(parse_repo(info.id))
        except UsageError as error:
            raise RemoteInvalid(
                f"it calls the model {printable(info.id)}", source=self.name
            ) from error

    def _tree(
        self, talk: Conversation, repo: str, commit: str, credential: Credential | None
    ) -> tuple[tuple[RemoteFile, ...], Origin]:
        listing = Listing(self.name)
        url = f"{self._endpoint}/api/models/{repo}/tree/{commit}?recursive=true&expand=false"
        for _ in range(MAX_PAGES):
            page = (list[_Entry], "a page of the listing")
            entries, answer = self._ask(talk, url, credential, repo, commit, page)
            for entry in entries:
                # Folders need no entry of their own, and a submodule's files are not here.
                if entry.type == "file":
                    self._add(listing, entry)
            following = _NEXT.search(answer.headers.get("link", ""))
            if following is None:
                return listing.finish(), answer.origin
            here = (self.origin, answer.origin)
            url = expect_same_origin(url, following[1], here, source=self.name)
        raise RemoteInvalid(f"the listing has more than {MAX_PAGES} pages", source=self.name)

    def _add(self, listing: Listing, entry: _Entry) -> None:
        if entry.lfs is None:
            listing.add(entry.path, entry.size, sha256=None, git_sha1=entry.oid)
            return
        if entry.lfs.size != entry.size:
            raise RemoteInvalid(
                f"the listing gives {printable(entry.path)} two sizes, "
                f"{entry.size} and {entry.lfs.size}",
                source=self.name,
            )
        # The oid of an LFS entry names the pointer file, not the content.
        listing.add(entry.path, entry.size, sha256=entry.lfs.oid, git_sha1=None)

    def _require_access(
        self,
        talk: Conversation,
        repo: str,
        commit: str,
        files: tuple[RemoteFile, ...],
        credential: Credential | None,
    ) -> None:
        """Asks for a byte of one file: a gated listing is open to all, its files are not."""
        guarded = [file for file in files if file.size and not is_document(file.path)]
        if not guarded:
            return
        # A git file is answered by the hub itself; a large one costs a trip to its data plane.
        easiest = min(guarded, key=lambda file: (file.sha256 is not None, file.size))
        url = self._resolve_url(repo, commit, easiest.path)
        try:
            talk.probe(url, credential)
        except StatusError as error:
            raise self._refusal(error, repo, commit) or error from error

    def _ask(
        self,
        talk: Conversation,
        url: str,
        credential: Credential | None,
        repo: str,
        revision: str,
        shape: tuple[type[T], str],
    ) -> tuple[T, Answer]:
        def meaning(answer: Answer) -> tuple[T, Answer]:
            return decode(answer.body, shape[0], source=self.name, what=shape[1]), answer

        try:
            return talk.read(url, credential, meaning)
        except StatusError as error:
            raise self._refusal(error, repo, revision) or error from error

    def _refusal(self, error: StatusError, repo: str, revision: str) -> RepoUnavailable | None:
        code = error.headers.get("X-Error-Code", "")
        message = error.headers.get("X-Error-Message", "") or _body_message(error.body)
        if code == "GatedRepo":
            return refusals.gated(self.name, repo, self._endpoint)
        if "Access to this resource is disabled" in message or error.status == 451:
            return refusals.taken_down(self.name, repo)
        if "Invalid credentials" in message or "Invalid username or password" in message:
            return self._credentials_refused(repo)
        if code in ("RevisionNotFound", "EntryNotFound"):
            return refusals.revision_missing(self.name, repo, revision)
        if code == "RepoNotFound" or error.status in (401, 404, 410):
            return refusals.missing_or_private(self.name, repo)
        return refusals.forbidden(self.name, repo) if error.status == 403 else None

    def explain(self, resolution: Resolution, error: StatusError) -> ZhcacheError | None:
        """Returns what a status met while fetching bytes means for the user, or None."""
        if "X-Error-Code" not in error.headers:
            return None
        if error.headers["X-Error-Code"] == "EntryNotFound":
            return refusals.file_missing(self.name, resolution.repo).error
        refusal = self._refusal(error, resolution.repo, resolution.revision)
        return refusal.error if refusal else None

    def _credentials_refused(self, repo: str) -> RepoUnavailable:
        # Without a token the same words mean that the repository wants one, or is not there.
        if self._tokens.credential() is None:
            return refusals.missing_or_private(self.name, repo)
        return refusals.bad_token(self.name, self._tokens.variable)


def _body_message(body: bytes) -> str:
    try:
        document = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    return str(document.get("error", ""))
