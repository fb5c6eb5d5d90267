"""By which name clients know the content of a file: entity tags, and what git would call it. Pure.

The hub's own rule, which caches of clients are keyed by: a file that is kept in git is known by its
git blob id (40 hex digits), one in large-file storage by its sha256 (64). Where only a sha256 is
known, as of ModelScope, the file is shown as one in large-file storage.
"""

from __future__ import annotations

import hashlib

from zhcached.sources.base import RemoteFile


def digest(file: RemoteFile) -> str:
    """Returns the digest that names the content, in hex; empty where no source promises one."""
    return file.git_sha1 or file.sha256 or ""


def is_large(file: RemoteFile) -> bool:
    """Tells whether the file is shown as one in large-file storage."""
    return file.git_sha1 is None and file.sha256 is not None


def entity_tag(file: RemoteFile) -> str:
    """Returns the strong entity tag, quoted."""
    return f'"{digest(file)}"'


def pointer(file: RemoteFile) -> bytes:
    """Returns the pointer that git holds in place of a file in large-file storage.

    Source: the Git LFS specification, "The Pointer".
    """
    lines = ("version https://git-lfs.github.com/spec/v1", f"oid sha256:{file.sha256}")
    return "\n".join((*lines, f"size {file.size}", "")).encode()


def blob_id(file: RemoteFile) -> str:
    """Returns the id of what git holds: the file, or its pointer."""
    if file.git_sha1 is not None:
        return file.git_sha1
    content = pointer(file)
    return hashlib.sha1(b"blob %d\0%s" % (len(content), content), usedforsecurity=False).hexdigest()
