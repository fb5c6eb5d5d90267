"""The JSON that the Hugging Face API tells of a repository. Pure.

What this machine does not know, such as downloads, likes or dates, is left out: clients take what
is missing for unknown.

Source: ``ModelInfo``, ``RepoFile``, ``RepoFolder`` and ``GitRefs`` of huggingface_hub 2.4.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from zhcached.gateway import identity
from zhcached.sources.base import RemoteFile

if TYPE_CHECKING:
    from zhcached.jobs.pulling.pull import Listed

Document = dict[str, Any]


def info(listed: Listed, *, blobs: bool) -> Document:
    """Returns the description of a model; with ``blobs`` it has sizes and digests of its files."""
    owner = listed.repo.rpartition("/")[0]
    return {
        "id": listed.repo,
        "modelId": listed.repo,
        **({"author": owner} if owner else {}),
        "sha": listed.commit,
        "private": listed.private,
        "gated": False,
        "disabled": False,
        "tags": [],
        "siblings": [_sibling(file, blobs=blobs) for file in listed.files],
    }


def tree(listed: Listed, folder: str, *, recursive: bool) -> list[Document]:
    """Returns the entries below ``folder``, or only in it; none where there is no such folder."""
    below = f"{folder}/" if folder else ""
    ids = folder_ids(listed.files)
    entries = [_folder(path, ids[path]) for path in sorted(ids)]
    entries += [_entry(file) for file in listed.files]
    shown = [entry for entry in entries if entry["path"].startswith(below)]
    if recursive:
        return shown
    return [entry for entry in shown if "/" not in entry["path"][len(below) :]]


def some(listed: Listed, paths: Iterable[str]) -> list[Document]:
    """Returns the entries of those of ``paths`` that are there, files and folders."""
    files = {str(file.path): file for file in listed.files}
    ids = folder_ids(listed.files)
    found: list[Document] = []
    for path in dict.fromkeys(paths):
        if path in files:
            found.append(_entry(files[path]))
        elif path in ids:
            found.append(_folder(path, ids[path]))
    return found


def refs(branches: Mapping[str, str]) -> Document:
    """Returns the branches that are known here, by name with the commit each points at."""
    pulls = {name: commit for name, commit in branches.items() if name.startswith("refs/")}
    return {
        "branches": [
            {"name": name, "ref": f"refs/heads/{name}", "targetCommit": commit}
            for name, commit in branches.items()
            if name not in pulls
        ],
        "tags": [],
        "converts": [],
        "pullRequests": [
            {"name": name, "ref": name, "targetCommit": commit} for name, commit in pulls.items()
        ],
    }


def folder_ids(files: Iterable[RemoteFile]) -> dict[str, str]:
    """Returns every folder with the id of its git tree, if all files have plain modes.

    Source: git's "Git Internals - Git Objects"; folders sort as if their name ended with a slash.
    """
    inside: dict[str, dict[str, bytes]] = {}
    for file in files:
        folder, _, name = file.path.rpartition("/")
        oid = bytes.fromhex(identity.blob_id(file))
        inside.setdefault(folder, {})[name] = b"100644 %s\0%s" % (name.encode(), oid)
        while folder:
            folder = folder.rpartition("/")[0]
            inside.setdefault(folder, {})
    ids: dict[str, str] = {}
    for folder in sorted(filter(None, inside), key=lambda path: -path.count("/")):
        content = b"".join(inside[folder][name] for name in sorted(inside[folder], key=str.encode))
        tree_id = hashlib.sha1(b"tree %d\0%s" % (len(content), content), usedforsecurity=False)
        ids[folder] = tree_id.hexdigest()
        parent, _, name = folder.rpartition("/")
        inside[parent][f"{name}/"] = b"40000 %s\0%s" % (name.encode(), tree_id.digest())
    return ids


def _sibling(file: RemoteFile, *, blobs: bool) -> Document:
    if not blobs:
        return {"rfilename": file.path}
    large = {"sha256": file.sha256, "size": file.size, "pointerSize": len(identity.pointer(file))}
    return {
        "rfilename": file.path,
        "size": file.size,
        "blobId": identity.blob_id(file),
        **({"lfs": large} if identity.is_large(file) else {}),
    }


def _entry(file: RemoteFile) -> Document:
    large = {"oid": file.sha256, "size": file.size, "pointerSize": len(identity.pointer(file))}
    return {
        "type": "file",
        "oid": identity.blob_id(file),
        "size": file.size,
        "path": file.path,
        **({"lfs": large} if identity.is_large(file) else {}),
    }


def _folder(path: str, tree_id: str) -> Document:
    return {"type": "directory", "oid": tree_id, "size": 0, "path": path}
