"""The Hugging Face protocol: API, listing, and the resolve route of files.

Source: the requests that huggingface_hub 1.x and 2.x make, and the headers they read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote

from demohub.exchange import Answer, Request
from demohub.listing import folders_of, json_answer, swollen
from demohub.repos import Commit, Repo, StoredFile, sorted_files
from demohub.routes import Route

if TYPE_CHECKING:
    from demohub.hub import Hub

_WHEN = "2026-01-01T00:00:00.000Z"


def answer(hub: Hub, request: Request, route: Route) -> Answer:
    """Answers one request of this protocol."""
    if route.verb == "none" or request.method not in {"GET", "HEAD", "POST"}:
        return refusal(404, "", "Sorry, we can't find the page you are looking for.")
    if route.repo in hub.renamed:
        return _moved(hub, request, route)
    repo = hub.repo(route.repo, "huggingface")
    if denied := _denied(hub, request, route, repo):
        return denied
    assert repo is not None
    commit = repo.find(route.revision or repo.branch, "huggingface")
    if commit is None:
        return refusal(404, "RevisionNotFound", f"Invalid rev id: {route.revision}")
    if route.verb == "file":
        return _file(hub, request, route, repo, hub.seen(repo, commit))
    return _listing(hub, request, route, repo, hub.seen(repo, commit))


def refusal(status: int, code: str, message: str, **headers: str) -> Answer:
    """An error as this hub words it; an empty code sends no X-Error-Code."""
    named = {"X_Error_Message": message} | headers
    if code:
        named["X_Error_Code"] = code
    return json_answer({"error": message}, status, **named)


def _moved(hub: Hub, request: Request, route: Route) -> Answer:
    new = hub.renamed[route.repo]
    location = request.path.replace(f"/{route.repo}", f"/{new}", 1)
    return Answer.of(307, f"Temporary Redirect to {location}".encode(), Location=location)


def _denied(hub: Hub, request: Request, route: Route, repo: Repo | None) -> Answer | None:
    token = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
    if repo is not None:
        guarded = repo.gated and (route.verb == "file" or repo.gated == "listing")
        if not (repo.is_private or guarded or repo.is_disabled):
            return None
        if repo.is_disabled:
            return refusal(403, "", "Access to this resource is disabled.")
        if token in repo.readers:
            return None
        if token and token not in hub.tokens:
            return refusal(401, "", "Invalid credentials in Authorization header")
        if not repo.is_private:
            return _gate(repo, token)
    if not token:
        code = "" if hub.bare_401 else "RepoNotFound"
        return refusal(401, code, "Invalid username or password.")
    return refusal(404, "RepoNotFound", "Repository not found")


def _gate(repo: Repo, token: str) -> Answer:
    message = f"Access to model {repo.name} is restricted. You must have access to it."
    return refusal(403 if token else 401, "GatedRepo", message)


def _listing(hub: Hub, request: Request, route: Route, repo: Repo, commit: Commit) -> Answer:
    faults = hub.listing_faults(repo.name)
    if answered := swollen(faults):
        return answered
    files = dict(commit.files)
    match route.verb:
        case "info":
            return json_answer(_info(route, repo, commit, files))
        case "refs":
            return json_answer(_refs(repo))
        case "paths":
            return json_answer(_some(request, files))
        case _:
            is_endless = any(fault.kind == "endless_pages" for fault in faults)
            return _tree(hub, request, route, files, is_endless=is_endless)


def _info(route: Route, repo: Repo, commit: Commit, files: dict[str, StoredFile]) -> dict[str, Any]:
    siblings: list[dict[str, Any]] = []
    for file in sorted_files(files):
        sibling: dict[str, Any] = {"rfilename": file.path}
        if route.query.get("blobs", "").lower() == "true":
            sibling |= {"size": file.size, "blobId": file.git_sha1}
            if file.is_lfs:
                sibling["lfs"] = {
                    "sha256": file.sha256,
                    "size": file.size,
                    "pointerSize": file.pointer_size,
                }
        siblings.append(sibling)
    return {
        "_id": commit.id[:24],
        "id": repo.name,
        "modelId": repo.name,
        "author": repo.name.partition("/")[0],
        "sha": commit.id,
        "private": repo.is_private,
        "gated": "auto" if repo.gated else False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": ["diffusers"],
        "library_name": "diffusers",
        "createdAt": _WHEN,
        "lastModified": _WHEN,
        "siblings": siblings,
    }


def _refs(repo: Repo) -> dict[str, Any]:
    def shown(prefix: str, names: list[str]) -> list[dict[str, str]]:
        return [{"name": n, "ref": prefix + n, "targetCommit": repo.refs[n]} for n in sorted(names)]

    pulls = [name for name in repo.refs if name.startswith("refs/")]
    branches = [name for name in repo.refs if name not in repo.tags and name not in pulls]
    return {
        "branches": shown("refs/heads/", branches),
        "tags": shown("refs/tags/", list(repo.tags)),
        "converts": [],
        "pullRequests": shown("", pulls),
    }


def _entry(file: StoredFile) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "type": "file",
        "oid": file.git_sha1,
        "size": file.size,
        "path": file.path,
    }
    if file.is_lfs:
        entry["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": file.pointer_size}
    return entry


def _folder(path: str) -> dict[str, Any]:
    return {"type": "directory", "oid": "0" * 40, "size": 0, "path": path}


def _some(request: Request, files: dict[str, StoredFile]) -> list[dict[str, Any]]:
    asked = [value for name, value in parse_qsl(request.body.decode()) if name == "paths"]
    folders = set(folders_of(files))
    return [_entry(files[path]) for path in asked if path in files] + [
        _folder(path) for path in asked if path in folders
    ]


def _tree(
    hub: Hub, request: Request, route: Route, files: dict[str, StoredFile], *, is_endless: bool
) -> Answer:
    first, size = _number(route.query.get("cursor"), 0), hub.page_size
    size = min(size, _number(route.query.get("limit"), size))
    entries = _tree_entries(route, files)
    if is_endless:
        page = [_entry(StoredFile.of(f"more/{first + n}.txt", b"")) for n in range(size)]
    elif route.path and not entries:
        return refusal(404, "EntryNotFound", f"{route.path} does not exist")
    else:
        page = entries[first : first + size]
    if not is_endless and first + size >= len(entries):
        return json_answer(page)
    target = request.path.partition("?")[0]
    kept = {name: value for name, value in route.query.items() if name != "cursor"}
    query = "&".join(f"{name}={quote(value)}" for name, value in kept.items())
    host = request.headers.get("host", hub.address)
    url = f"http://{host}{target}?{query}&cursor={first + size}"
    return json_answer(page, Link=f'<{url}>; rel="next"')


def _number(text: str | None, default: int) -> int:
    return int(text) if text and text.isdigit() else default


def _tree_entries(route: Route, files: dict[str, StoredFile]) -> list[dict[str, Any]]:
    below = f"{route.path}/" if route.path else ""
    entries = [_folder(path) for path in folders_of(files)] + [
        _entry(file) for file in sorted_files(files)
    ]
    shown = [entry for entry in entries if entry["path"].startswith(below)]
    if route.query.get("recursive", "").lower() in {"true", "1"}:
        return shown
    return [entry for entry in shown if "/" not in entry["path"][len(below) :]]


def _file(hub: Hub, request: Request, route: Route, repo: Repo, commit: Commit) -> Answer:
    file = commit.files.get(route.path)
    if file is None:
        return refusal(404, "EntryNotFound", "Entry not found", X_Repo_Commit=commit.id)
    headers = {"X-Repo-Commit": commit.id, "ETag": f'"{file.etag}"'}
    if file.is_lfs and repo.data_hub is not None:
        location = hub.signed_url(repo, file)
        headers = {"X-Repo-Commit": commit.id, "Location": location}
        headers |= {"X-Linked-Size": str(file.size), "X-Linked-Etag": f'"{file.sha256}"'}
        body = f"Found. Redirecting to {location}".encode()
        return Answer(302, headers, body, 0, len(body))
    return hub.deliver(request, file, headers)
