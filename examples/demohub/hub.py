"""The hub: repositories and faults, answered in both protocols."""

from __future__ import annotations

import fnmatch
import hmac
import itertools
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache, reduce
from pathlib import Path
from typing import Any
from urllib.parse import quote

from demohub import huggingface, modelscope
from demohub.exchange import Answer, Request
from demohub.faults import LISTING_FAULTS, Fault, FaultBook, new_fault
from demohub.repos import PROTOCOLS, Commit, LfsRule, Repo, StoredFile, lfs_by_default, new_repo
from demohub.routes import Route, parse_target
from demohub.server import Server
from demohub.serving import BODY_FAULTS, RANGE_FAULTS, bent, file_answer, suits_body

_ANSWER_FAULTS = frozenset({"delay", "status", "redirect", "html", "slow_header"})
_BACKLOG = 1024
_STOP_S = 5.0
_SETTLE_S = 1.0


class Hub(Server):
    """A hub that speaks both protocols at one origin.

    Args:
        host: Address to listen on.
        port: Port, 0 for any free one; kept over ``stop()`` and ``start()``.
        name: Shown in ``repr`` and part of the key that signs URLs.
        page_size: Entries of one page of the Hugging Face tree.
        listing_cap: Entries after which a ModelScope listing is silently cut.
        modelscope_partial_status: 200, as the real hub answers a Range, or 206.
        bare_401: Whether a missing repository is a 401 without X-Error-Code, as the real hub
            answers anonymous clients. They can tell that from other refusals only over https.
        signed_life_s: Life of a signed URL.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        name: str = "hub",
        *,
        page_size: int = 1000,
        listing_cap: int = 3000,
        modelscope_partial_status: int = 200,
        bare_401: bool = False,
        signed_life_s: float = 3600.0,
    ) -> None:
        super().__init__(host, port, name)
        self.page_size, self.listing_cap = page_size, listing_cap
        self.modelscope_partial_status = modelscope_partial_status
        self.bare_401 = bare_401
        self.signed_life_s = signed_life_s
        self.tokens: set[str] = set()
        self.renamed: dict[str, str] = {}
        self._repos: dict[str, Repo] = {}
        self._signed: dict[str, tuple[str, StoredFile]] = {}
        self._uses: dict[str, int] = {}
        self._key = os.urandom(16)
        self._numbers = itertools.count()
        self._faults = FaultBook()

    def __repr__(self) -> str:
        state = self.url if self._listener else "stopped"
        return f"Hub({self.name!r}, {state}, repos={sorted(self._repos)})"

    # What it serves.

    def add(
        self,
        repo: str,
        files: Mapping[str, bytes | Path],
        *,
        lfs: LfsRule = lfs_by_default,
        private: bool = False,
        gated: bool | str = False,
        disabled: bool = False,
        token: str | None = None,
        protocols: Iterable[str] = PROTOCOLS,
        data_hub: Hub | None = None,
        branch: str = "main",
        modelscope_branch: str = "master",
    ) -> Repo:
        """Serves a repository with one commit, in place of any of that name.

        Args:
            repo: ``owner/name``.
            files: Content by path; a Path is read from disk at each request.
            lfs: Which files are kept in large-file storage, given path and size.
            private: Looks missing to whoever does not send ``token``.
            gated: ``True`` refuses the files without ``token``, ``"listing"`` the API as well.
            disabled: Taken down.
            token: The bearer token that may read it.
            protocols: Where it exists.
            data_hub: Sends LFS bytes by signed, expiring URLs to this hub.
            branch: Default branch on Hugging Face.
            modelscope_branch: Default branch on ModelScope.
        """
        added = new_repo(
            repo,
            files,
            lfs=lfs,
            branch=branch,
            modelscope_branch=modelscope_branch,
            protocols=protocols,
        )
        added.is_private, added.gated, added.is_disabled = private, gated, disabled
        added.data_hub = data_hub
        if token is not None:
            added.readers = frozenset({token})
            self.tokens.add(token)
        self._repos[repo] = added
        return added

    def update(self, repo: str, files: Mapping[str, bytes | Path | None]) -> Repo:
        """Adds a commit: the given files replace or join the others; None removes one."""
        self._repos[repo].push(files)
        return self._repos[repo]

    def remove(self, repo: str) -> None:
        """Serves a repository no more."""
        del self._repos[repo]

    def rename(self, old: str, new: str) -> Repo:
        """Gives a repository another name; Hugging Face requests for the old one are redirected."""
        moved = self._repos.pop(old)
        moved.name = new
        self._repos[new] = moved
        self.renamed[old] = new
        return moved

    def repo(self, name: str, protocol: str) -> Repo | None:
        """The repository of that name in one protocol."""
        found = self._repos.get(name)
        return found if found is not None and protocol in found.protocols else None

    # Misbehaviour.

    def fault(self, kind: str, **options: Any) -> Fault:
        """Misbehaves from now on.

        Args:
            kind: One of ``KINDS``.
            **options: ``path`` and ``repo`` (globs), ``plane`` (``"bytes"`` or ``"meta"``),
                ``times``, ``after``, and the kind's own parameters.

        Raises:
            ValueError: The kind or plane does not exist.
            TypeError: A parameter is unknown or missing.
        """
        return self._faults.add(new_fault(kind, **options))

    def heal(self, fault: Fault | None = None) -> None:
        """Ends one fault, or all; what is already being sent goes on as it began."""
        if fault is None:
            self._faults.clear()
        else:
            self._faults.remove(fault)

    def listing_faults(self, repo: str) -> list[Fault]:
        """The listing faults that strike this request."""
        return self._faults.strike(LISTING_FAULTS, repo, "", "meta")

    def seen(self, repo: Repo, commit: Commit) -> Commit:
        """A commit as this hub tells it: lies have other content, with promises that agree."""
        told = dict(commit.files)
        for fault in self._faults.standing(repo.name):
            if fault.kind == "hostile_listing":
                told |= {name: StoredFile.of(name, b"hostile\n") for name in fault["names"]}
                continue
            for path in fnmatch.filter(commit.files, fault.path):
                told[path] = _other(told[path], fault["content"])
        return replace(commit, files=told)

    # How it answers.

    def deliver(
        self,
        request: Request,
        file: StoredFile,
        headers: dict[str, str],
        *,
        partial_status: int = 206,
    ) -> Answer:
        """The answer to a GET or HEAD of a file, faults of range and body included."""
        where = (request.repo, request.file, request.plane)
        for fault in self._faults.strike(frozenset({"change"}), *where):
            file = _other(file, fault["content"])
            headers = headers | {"ETag": f'"{file.etag}"'}
        ranged = self._faults.strike(RANGE_FAULTS, *where, lambda _: request.range is not None)
        answered = file_answer(
            request, file, headers, range_faults=ranged, partial_status=partial_status
        )
        if request.method == "HEAD":
            return answered
        bodily = self._faults.strike(BODY_FAULTS, *where, lambda f: suits_body(f, answered))
        return reduce(lambda bending, fault: bent(bending, fault, file), bodily, answered)

    def signed_url(self, repo: Repo, file: StoredFile) -> str:
        """A URL at the repository's data hub that serves a file for a while."""
        data_hub = repo.data_hub
        assert isinstance(data_hub, Hub)
        struck = self._faults.strike(frozenset({"expire"}), repo.name, file.path, "bytes")
        uses = min((fault["uses"] for fault in struck), default=0)
        return data_hub.sign(repo.name, file, uses)

    def sign(self, repo: str, file: StoredFile, uses: int = 0) -> str:
        """A fresh signed URL for a file, good for ``uses`` requests (0 = any number)."""
        number = str(next(self._numbers))
        self._signed[number] = (repo, file)
        expires = f"{time.monotonic() + self.signed_life_s:.3f}"
        target = f"/signed/{quote(repo, safe='')}/{quote(file.path)}"
        query = f"id={number}&uses={uses}&expires={expires}"
        return f"{self.url}{target}?{query}&signature={self._signature(target, query)}"

    def _signature(self, target: str, query: str) -> str:
        return hmac.new(self._key, f"{target}?{query}".encode(), "sha256").hexdigest()

    def _answer_signed(self, request: Request, route: Route) -> Answer:
        target, _, query = request.path.partition("?")
        signed, _, signature = query.partition("&signature=")
        if not hmac.compare_digest(signature, self._signature(target, signed)):
            return _access_denied("SignatureDoesNotMatch")
        number, allowed = route.query["id"], int(route.query["uses"])
        struck = self._faults.strike(frozenset({"expire"}), route.repo, route.path, "bytes")
        allowed = min(
            [fault["uses"] for fault in struck] + ([allowed] if allowed else []), default=0
        )
        with self._news:
            uses = self._uses[number] = self._uses.get(number, 0) + 1
        if (allowed and uses > allowed) or time.monotonic() > float(route.query["expires"]):
            return _access_denied("AccessDenied: Request has expired")
        _repo, file = self._signed[number]
        # The storage behind a hub has validators of its own, not the hub's digests.
        return self.deliver(request, file, {"ETag": f'"{file.sha256[:32]}-1"'})

    def answer(self, request: Request) -> Answer:
        """Routes a request and applies the faults that strike it."""
        route = parse_target(request.path, self._repos)
        request.repo = self.renamed.get(route.repo, route.repo)
        request.file = route.path if route.verb == "file" else ""
        request.plane = "bytes" if route.verb == "file" and request.method == "GET" else "meta"
        struck = self._faults.strike(_ANSWER_FAULTS, request.repo, request.file, request.plane)
        instead = [fault for fault in struck if fault.kind not in {"delay", "slow_header"}]
        answered = _instead(instead[0], request) if instead else self._routed(request, route)
        for fault in struck:
            if fault.kind == "delay":
                answered.delay_s = fault["seconds"]
            if fault.kind == "slow_header":
                answered.header_interval_s = fault["interval"]
        return answered

    def _routed(self, request: Request, route: Route) -> Answer:
        match route.protocol:
            case "signed":
                return self._answer_signed(request, route)
            case "modelscope":
                return modelscope.answer(self, request, route)
            case _:
                return huggingface.answer(self, request, route)


@lru_cache(maxsize=64)
def _other(file: StoredFile, content: bytes | None) -> StoredFile:
    """The file with other content; kept, since each listing tells the digests of all lies."""
    return file.altered() if content is None else file.with_content(content)


def _access_denied(message: str) -> Answer:
    body = (
        f'<?xml version="1.0"?><Error><Code>AccessDenied</Code><Message>{message}</Message></Error>'
    )
    return Answer.of(403, body.encode(), Content_Type="application/xml")


def _instead(fault: Fault, request: Request) -> Answer:
    match fault.kind:
        case "status":
            answered = Answer.of(fault["status"], fault["body"])
            answered.headers = {"Content-Type": "text/plain"} | fault["headers"]
            return answered
        case "redirect":
            location = fault["to"].replace("{target}", request.path)
            return Answer.of(fault["status"], b"", Location=location)
        case _:
            return Answer.of(200, fault["body"], Content_Type="text/html; charset=utf-8")
