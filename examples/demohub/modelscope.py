"""The ModelScope protocol: listing with a sha256 for every file, revisions, and file bytes.

Source: the requests that modelscope-hub 0.5 makes, and the fields it reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from demohub.exchange import Answer, Request
from demohub.listing import folders_of, json_answer, swollen
from demohub.repos import Commit, Repo, StoredFile, sorted_files
from demohub.routes import Route

if TYPE_CHECKING:
    from demohub.hub import Hub

_CREATED_AT = 1_767_225_600


def answer(hub: Hub, request: Request, route: Route) -> Answer:
    """Answers one request of this protocol."""
    if route.verb == "region":
        return _success({"InternalRegionQueryAddress": ""})
    repo = hub.repo(route.repo, "modelscope") if route.verb != "none" else None
    if repo is None:
        return _failure(404, 10010205001, f"{route.repo or request.path} does not exist")
    if denied := _denied(hub, request, route, repo):
        return denied
    commit = repo.find(route.revision or repo.modelscope_branch, "modelscope")
    if commit is None:
        return _failure(404, 10010205009, f"revision {route.revision} does not exist")
    match route.verb:
        case "info":
            return _about(route, repo, commit)
        case "revisions":
            return _success(_revisions(repo))
        case "files":
            return _files(hub, route, repo, hub.seen(repo, commit))
        case _:
            return _file(hub, request, route, repo, hub.seen(repo, commit))


def _success(content: Any) -> Answer:
    return json_answer(
        {"Code": 200, "Data": content, "Message": "success", "RequestId": "0", "Success": True}
    )


def _failure(status: int, code: int, message: str) -> Answer:
    body = {"Code": code, "Message": message, "RequestId": "0", "Success": False}
    return json_answer(body, status)


def _denied(hub: Hub, request: Request, route: Route, repo: Repo) -> Answer | None:
    guarded = repo.gated and (route.verb == "file" or repo.gated == "listing")
    if not (repo.is_private or guarded or repo.is_disabled):
        return None
    token = _token(request)
    if token in repo.readers and not repo.is_disabled:
        return None
    if token and token not in hub.tokens:
        return _failure(401, 10010103002, "invalid token")
    if repo.is_private:
        return _failure(404, 10010205001, f"{repo.name} does not exist")
    return _failure(403, 10010203001, f"no permission to read {repo.name}")


def _token(request: Request) -> str:
    bearer = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
    if bearer:
        return bearer
    for part in request.headers.get("cookie", "").split(";"):
        name, _, value = part.strip().partition("=")
        if name == "m_session_id":
            return value
    return ""


def _about(route: Route, repo: Repo, commit: Commit) -> Answer:
    owner, _, name = repo.name.rpartition("/")
    return json_answer(
        {
            "Code": 200,
            "Success": True,
            "success": True,
            "RequestId": "0",
            "Data": {
                "Path": owner,
                "Name": name,
                "Revision": commit.id,
                "Libraries": ["diffusers"],
            },
            "data": {"id": repo.name, "private": repo.is_private, "gated": bool(repo.gated)},
        }
    )


def _revisions(repo: Repo) -> dict[str, Any]:
    def shown(*, tags: bool) -> list[dict[str, Any]]:
        return [
            {"Revision": name, "CreatedAt": _CREATED_AT, "Id": number}
            for number, name in enumerate(sorted(repo.modelscope_refs))
            if (name in repo.tags) == tags and not name.startswith("refs/")
        ]

    return {"RevisionMap": {"Branches": shown(tags=False), "Tags": shown(tags=True)}}


def _files(hub: Hub, route: Route, repo: Repo, commit: Commit) -> Answer:
    faults = hub.listing_faults(repo.name)
    if answered := swollen(faults):
        return answered
    files = commit.files
    entries = [_tree(path, commit) for path in folders_of(files)]
    entries += [_blob(file, commit) for file in sorted_files(files)]
    below = f"{route.path.strip('/')}/" if route.path.strip("/") else ""
    shown = [entry for entry in entries if entry["Path"].startswith(below)]
    if route.query.get("Recursive", "").lower() not in {"true", "1"}:
        shown = [entry for entry in shown if "/" not in entry["Path"][len(below) :]]
    # The real hub cuts a long listing without a word.
    return _success({"Files": shown[: hub.listing_cap], "IsVisual": 0})


def _blob(file: StoredFile, commit: Commit) -> dict[str, Any]:
    return {
        "Path": file.path,
        "Name": file.path.rpartition("/")[2],
        "Type": "blob",
        "Size": file.size,
        "Sha256": file.sha256,
        "Revision": commit.touched.get(file.path, commit.id),
        "IsLFS": file.is_lfs,
        "Mode": "33188",
        "CommittedDate": _CREATED_AT,
    }


def _tree(path: str, commit: Commit) -> dict[str, Any]:
    return {
        "Path": path,
        "Name": path.rpartition("/")[2],
        "Type": "tree",
        "Size": 0,
        "Sha256": "",
        "Revision": commit.id,
        "IsLFS": False,
        "Mode": "16384",
        "CommittedDate": _CREATED_AT,
    }


def _file(hub: Hub, request: Request, route: Route, repo: Repo, commit: Commit) -> Answer:
    file = commit.files.get(route.path)
    if file is None:
        return _failure(404, 10010205006, f"{route.path} does not exist")
    headers = {"ETag": f'"{file.sha256}"'}
    if file.is_lfs:
        headers["X-Linked-ETag"] = f'"{file.sha256}"'
    if file.is_lfs and repo.data_hub is not None:
        return Answer(302, {**headers, "Location": hub.signed_url(repo, file)})
    return hub.deliver(request, file, headers, partial_status=hub.modelscope_partial_status)
