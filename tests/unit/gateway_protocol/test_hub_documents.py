"""What is told of a repository's files, compared with git and the official client's classes."""

import hashlib
import subprocess
from pathlib import Path

import pytest
from huggingface_hub.hf_api import ModelInfo, RepoFile, RepoFolder

from zhcache.protocol.names import parse_path
from zhcached.gateway import documents, identity
from zhcached.jobs.pulling.pull import Listed
from zhcached.sources.base import RemoteFile

IN_GIT = {
    "README.md": b"# a\n",
    "a/config.json": b"{}",
    "a/b/deep.txt": b"deep",
    "a.b": b"",
    "z/y": b"1",
}
LARGE = {"a/model.safetensors": b"w" * 5000}


def in_git(path: str, content: bytes) -> RemoteFile:
    blob = hashlib.sha1(b"blob %d\0%s" % (len(content), content)).hexdigest()
    return RemoteFile(parse_path(path), len(content), git_sha1=blob)


def large(path: str, content: bytes) -> RemoteFile:
    return RemoteFile(parse_path(path), len(content), sha256=hashlib.sha256(content).hexdigest())


def listing() -> Listed:
    files = [in_git(*item) for item in IN_GIT.items()] + [large(*item) for item in LARGE.items()]
    files.sort(key=lambda file: file.path)
    return Listed(
        repo="o/n",
        revision="main",
        commit="c" * 40,
        files=tuple(files),
        left_out={},
        unlisted={},
        private=False,
        current=True,
        source="hub",
    )


def test_ids_are_those_that_git_gives(tmp_path: Path):
    for file in listing().files:
        content = IN_GIT.get(file.path) if file.path in IN_GIT else identity.pointer(file)
        assert content is not None
        (tmp_path / file.path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file.path).write_bytes(content)

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-c", "core.autocrlf=false", *words],
            cwd=tmp_path,
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    git("init", "-q")
    git("add", ".")
    git("write-tree")
    told = {entry["path"]: entry["oid"] for entry in documents.tree(listing(), "", recursive=True)}
    kept = git("ls-tree", "-r", "-t", git("write-tree").strip())
    assert told == {line.partition("\t")[2]: line.split()[2] for line in kept.splitlines()}


def test_tree_is_read_by_the_official_client():
    told = documents.tree(listing(), "", recursive=True)
    files = [RepoFile(**entry) for entry in told if entry["type"] == "file"]
    folders = [RepoFolder(**entry) for entry in told if entry["type"] == "directory"]
    assert {file.path: file.size for file in files} == {
        path: len(content) for path, content in (IN_GIT | LARGE).items()
    }
    weights = next(file for file in files if file.path in LARGE)
    assert weights.lfs is not None
    assert weights.lfs.sha256 == hashlib.sha256(LARGE[weights.path]).hexdigest()
    assert [file.path for file in files if file.lfs] == list(LARGE)
    assert {folder.path for folder in folders} == {"a", "a/b", "z"}


@pytest.mark.parametrize(
    ("folder", "recursive", "paths"),
    [
        ("", False, {"a", "z", "README.md", "a.b"}),
        ("a", False, {"a/b", "a/config.json", "a/model.safetensors"}),
        ("a", True, {"a/b", "a/config.json", "a/model.safetensors", "a/b/deep.txt"}),
        ("none", True, set()),
        ("README.md", True, set()),
    ],
)
def test_tree_of_a_folder(folder: str, recursive: bool, paths: set[str]):
    told = documents.tree(listing(), folder, recursive=recursive)
    assert {entry["path"] for entry in told} == paths


def test_some_paths_are_files_folders_and_no_others():
    told = documents.some(listing(), ["a", "README.md", "none", "README.md"])
    assert [(entry["path"], entry["type"]) for entry in told] == [
        ("a", "directory"),
        ("README.md", "file"),
    ]


def test_info_is_read_by_the_official_client():
    plain = ModelInfo(**documents.info(listing(), blobs=False))
    assert (plain.id, plain.sha, plain.private, plain.gated) == ("o/n", "c" * 40, False, False)
    assert plain.siblings is not None
    assert {sibling.rfilename for sibling in plain.siblings} == IN_GIT.keys() | LARGE.keys()
    full = ModelInfo(**documents.info(listing(), blobs=True))
    weights = next(s for s in full.siblings or [] if s.rfilename in LARGE)
    assert weights.lfs is not None
    assert (weights.size, weights.lfs.size) == (5000, 5000)


def test_refs_of_pull_requests_are_no_branches():
    told = documents.refs({"main": "a" * 40, "refs/pr/1": "b" * 40})
    assert [ref["ref"] for ref in told["branches"]] == ["refs/heads/main"]
    assert [ref["targetCommit"] for ref in told["pullRequests"]] == ["b" * 40]


def test_entity_tag_follows_the_hubs_rule():
    kept = in_git("a", b"x")
    assert identity.entity_tag(kept) == f'"{kept.git_sha1}"'
    assert not identity.is_large(kept)
    stored = large("a", b"x")
    assert identity.entity_tag(stored) == f'"{stored.sha256}"'
    assert identity.is_large(stored)
