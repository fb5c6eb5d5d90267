"""What the hub serves: repositories, their commits, files and promised digests. No network."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

PROTOCOLS = frozenset({"huggingface", "modelscope"})
LFS_SIZE_BYTES = 10 << 20
LFS_SUFFIXES = (".safetensors", ".bin")
_READ_BYTES = 1 << 20

LfsRule = Callable[[str, int], bool]

_known_digests: dict[tuple[int, int, int, int], str] = {}
"""sha256 by (device, inode, size, mtime_ns): one large file may be served by several hubs."""


def lfs_by_default(path: str, size: int) -> bool:
    """Whether the real hubs would keep this file in large-file storage."""
    return size >= LFS_SIZE_BYTES or path.endswith(LFS_SUFFIXES)


def git_sha1(content: bytes) -> str:
    """The name git gives these bytes as a blob."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file: where its bytes are and what the hub promises of them.

    ``git_sha1`` is of the content for a git file and of the pointer for an LFS file, which is
    what a tree listing shows as ``oid``.
    """

    path: str
    content: bytes | Path
    size: int
    sha256: str
    git_sha1: str
    is_lfs: bool

    @classmethod
    def of(cls, path: str, content: bytes | Path, lfs: LfsRule = lfs_by_default) -> StoredFile:
        """Takes a file in and computes its digests, once per content on disk."""
        if isinstance(content, bytes):
            size, sha256 = len(content), hashlib.sha256(content).hexdigest()
        else:
            size, sha256 = content.stat().st_size, _sha256_of(content)
        is_lfs = lfs(path, size)
        if is_lfs:
            named = _pointer(sha256, size)
        else:
            named = content if isinstance(content, bytes) else content.read_bytes()
        return cls(path, content, size, sha256, git_sha1(named), is_lfs)

    @property
    def etag(self) -> str:
        """The unquoted ETag: sha256 of an LFS file, git's name of any other."""
        return self.sha256 if self.is_lfs else self.git_sha1

    @property
    def pointer_size(self) -> int:
        """Length of the LFS pointer git keeps in place of the content."""
        return len(_pointer(self.sha256, self.size))

    def bytes(self) -> bytes:
        """The whole content in memory."""
        return self.content if isinstance(self.content, bytes) else self.content.read_bytes()

    def with_content(self, content: bytes) -> StoredFile:
        """The same file as if it held other bytes, its promises computed from them."""
        return StoredFile.of(self.path, content, lambda _path, _size: self.is_lfs)

    def altered(self) -> StoredFile:
        """The same file with its first byte inverted; an empty one gains a byte."""
        honest = self.bytes()
        return self.with_content(bytes([honest[0] ^ 0xFF]) + honest[1:] if honest else b"\xff")


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        stat = os.fstat(file.fileno())
        identity = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
        if identity not in _known_digests:
            digest = hashlib.sha256()
            while chunk := file.read(_READ_BYTES):
                digest.update(chunk)
            _known_digests[identity] = digest.hexdigest()
        return _known_digests[identity]


def _pointer(sha256: str, size: int) -> bytes:
    return b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n" % (
        sha256.encode(),
        size,
    )


@dataclass(frozen=True, slots=True)
class Commit:
    """A repository's files at one commit; ``touched`` names the commit that last changed each."""

    id: str
    files: Mapping[str, StoredFile]
    touched: Mapping[str, str]

    @classmethod
    def after(cls, parent: Commit | None, name: str, files: Mapping[str, StoredFile]) -> Commit:
        """The commit that holds ``files``; equal histories give equal ids."""
        promises = [(f.path, f.size, f.sha256) for f in sorted_files(files)]
        history = [name, parent.id if parent else None, promises]
        sha1 = hashlib.sha1(json.dumps(history).encode(), usedforsecurity=False).hexdigest()
        kept = {
            path: parent.touched[path]
            for path, file in files.items()
            if parent and parent.files.get(path) == file
        }
        return cls(sha1, dict(files), {path: kept.get(path, sha1) for path in files})


def sorted_files(files: Mapping[str, StoredFile]) -> list[StoredFile]:
    """Files in the order both hubs list them in."""
    return [files[path] for path in sorted(files)]


@dataclass(slots=True)
class Repo:
    """A repository: its history, the names that point into it, and who may read it.

    Attributes:
        refs: Branches, tags and ``refs/pr/N`` of the Hugging Face protocol.
        modelscope_refs: The same for ModelScope, whose default branch has another name.
        gated: ``True`` guards the files only, as the real hub does; ``"listing"`` the API as well.
        data_hub: Another hub that LFS bytes are redirected to.
    """

    name: str
    head: Commit
    commits: dict[str, Commit]
    branch: str = "main"
    modelscope_branch: str = "master"
    refs: dict[str, str] = field(default_factory=dict)
    modelscope_refs: dict[str, str] = field(default_factory=dict)
    tags: set[str] = field(default_factory=set)
    protocols: frozenset[str] = PROTOCOLS
    lfs: LfsRule = lfs_by_default
    is_private: bool = False
    gated: bool | str = False
    is_disabled: bool = False
    readers: frozenset[str] = frozenset()
    data_hub: object | None = None

    @property
    def commit(self) -> str:
        """Id of the default branch's newest commit."""
        return self.head.id

    @property
    def files(self) -> Mapping[str, StoredFile]:
        """The files of the default branch."""
        return self.head.files

    @property
    def size(self) -> int:
        """Bytes of all files of the default branch."""
        return sum(file.size for file in self.head.files.values())

    def point(self, ref: str, commit: str | None = None, *, tag: bool = False) -> None:
        """Makes a branch, tag or ``refs/pr/N`` name a commit (default: the newest)."""
        target = self.commits[commit or self.commit].id
        self.refs[ref] = self.modelscope_refs[ref] = target
        if tag:
            self.tags.add(ref)

    def push(self, files: Mapping[str, bytes | Path | None]) -> Commit:
        """Adds a commit to the default branch: given files replace or, if None, are removed."""
        merged = dict(self.head.files)
        for path, content in files.items():
            if content is None:
                merged.pop(path, None)
            else:
                merged[path] = StoredFile.of(path, content, self.lfs)
        self.head = Commit.after(self.head, self.name, merged)
        self.commits[self.head.id] = self.head
        self.refs[self.branch] = self.modelscope_refs[self.modelscope_branch] = self.head.id
        return self.head

    def find(self, revision: str, protocol: str) -> Commit | None:
        """The commit a revision names in one protocol, or None."""
        refs = self.refs if protocol == "huggingface" else self.modelscope_refs
        return self.commits.get(refs.get(revision, revision))


def new_repo(
    name: str,
    files: Mapping[str, bytes | Path],
    *,
    lfs: LfsRule = lfs_by_default,
    branch: str = "main",
    modelscope_branch: str = "master",
    protocols: Iterable[str] = PROTOCOLS,
) -> Repo:
    """A repository with one commit, open to everybody.

    Raises:
        ValueError: A protocol is not one of ``PROTOCOLS``.
    """
    spoken = frozenset(protocols)
    if not spoken <= PROTOCOLS:
        raise ValueError(f"no such protocol: {sorted(spoken - PROTOCOLS)}")
    stored = {path: StoredFile.of(path, content, lfs) for path, content in files.items()}
    head = Commit.after(None, name, stored)
    repo = Repo(name, head, {head.id: head}, branch, modelscope_branch, lfs=lfs, protocols=spoken)
    repo.refs[branch] = repo.modelscope_refs[modelscope_branch] = head.id
    return repo


def folder_files(folder: Path) -> dict[str, Path]:
    """All regular files below a folder, by their relative POSIX path."""
    return {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
