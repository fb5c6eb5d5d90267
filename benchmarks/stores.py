"""Stores of any number of files, made as publishing makes them, only without a download.

Each repository has two commits of 25 files. In a ``shared`` store the second commit has 20 of the
first one's contents, as after a change of weights; in an ``own`` store every file is its own blob.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from zhcached.clock import Clock
from zhcached.config import StoreConfig
from zhcached.store import records
from zhcached.store.blobs import BLOB_MODE
from zhcached.store.leases import boot_id
from zhcached.store.snapshots import Manifest, ManifestFile
from zhcached.store.store import Store

FILES_EACH = 25
CHANGED = 5
CONFIG = StoreConfig(min_free=0)


def grow(root: Path, clock: Clock, have: int, want: int, *, shared: bool) -> int:
    """Adds repositories to the store at ``root`` and returns how many blobs it holds then.

    Args:
        root: The store, made if it is not there; nobody has it open.
        clock: Stamps what is added.
        have: Files that are there: what an earlier call was told to want.
        want: Files afterwards; rounded up to whole repositories.
        shared: Whether the second commit of a repository shares blobs with the first.
    """
    store = Store.open(root, CONFIG, clock)
    try:
        for number in range(_repositories(have), _repositories(want)):
            _add_repository(store, clock, number, shared=shared)
        return int(store.catalog.rows("SELECT COUNT(*) FROM blobs")[0][0])
    finally:
        store.close()


def _repositories(files: int) -> int:
    return -(-files // (2 * FILES_EACH))


def _add_repository(store: Store, clock: Clock, number: int, *, shared: bool) -> None:
    first = [f"{number}/0/{i}".encode() for i in range(FILES_EACH)]
    changed = CHANGED if shared else FILES_EACH
    second = [f"{number}/1/{i}".encode() for i in range(changed)] + first[changed:]
    _add_blobs(store, clock, [*first, *second[:changed]])
    repo = f"lab-{number % 97}/model-{number}"
    for contents, ref in ((first, None), (second, "main")):
        commit = hashlib.sha1(repo.encode() + contents[0], usedforsecurity=False).hexdigest()
        store.publish(_manifest(clock, repo, commit, contents), ref)


def _manifest(clock: Clock, repo: str, commit: str, contents: Sequence[bytes]) -> Manifest:
    files = tuple(
        ManifestFile(f"part-{i % 5}/{i:03}.safetensors", len(content), _sha256(content))
        for i, content in enumerate(contents)
    )
    return Manifest(
        repo=repo,
        commit=commit,
        created=clock.wall(),
        source="bench",
        trust="first-use",
        uid=0,
        files=files,
    )


def _add_blobs(store: Store, clock: Clock, contents: Sequence[bytes]) -> None:
    """Writes blobs and records them in one transaction, where an ingest takes one for each."""
    rows = []
    for content in contents:
        sha256 = _sha256(content)
        path = store.blobs.path(sha256)
        path.write_bytes(content)
        path.chmod(BLOB_MODE)
        identity = store.blobs.identity(sha256)
        assert identity is not None
        now = clock.wall()
        rows.append(records.BlobRow(sha256, identity, now, now, boot_id(), clock.monotonic()))
    with store.catalog.write() as db:
        records.put_blobs(db, rows)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
