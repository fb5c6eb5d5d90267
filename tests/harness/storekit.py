"""What the store's tests share: a clock that only they move, small stores, small snapshots."""

import hashlib
import os
from pathlib import Path

from zhcache.protocol.names import parse_repo
from zhcached.config import StoreConfig
from zhcached.store.digest import Promise
from zhcached.store.snapshots import DERIVED, Derived, Manifest, ManifestFile
from zhcached.store.store import Store

COMMIT = "c0ffee" + "0" * 34
MADE = "deadbeef" + "0" * 32
REPO = parse_repo("lab/tiny")
GRACE = 100.0


class Clock:
    """A clock that stands still until told."""

    def __init__(self, wall=1_700_000_000.0, monotonic=5000.0):
        self.now = wall
        self.mono = monotonic

    def wall(self):
        return self.now

    def monotonic(self):
        return self.mono

    def pass_s(self, seconds):
        self.now += seconds
        self.mono += seconds


def open_store(root, clock=None, **config):
    settings = {"min_free": 0, "grace": GRACE, **config}
    return Store.open(root, StoreConfig(**settings), clock or Clock())


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def git_sha1(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def promise_of(content, *, git=False):
    return Promise(
        len(content), None if git else sha256(content), git_sha1(content) if git else None
    )


def put(store, content, *, git=False, job="job", keep_hold=False):
    ingest = store.intake.begin(promise_of(content, git=git), job)
    ingest.write(0, content, "hub")
    came = ingest.commit()
    if not keep_hold:
        store.leases.release_holds(job)
    return came


def manifest_of(contents, *, repo=REPO, commit=COMMIT, git=(), **fields):
    files = tuple(
        ManifestFile(path, len(c), sha256(c), git_sha1(c) if path in git else None)
        for path, c in contents.items()
    )
    settings = {"created": 1.0, "source": "hub", "trust": "first-use", "uid": os.getuid(), **fields}
    return Manifest(repo=str(repo), commit=commit, files=files, **settings)


def publish(store, contents, *, ref="main", git=(), **fields):
    for path, content in contents.items():
        if store.presence.find(promise_of(content)) is None:
            put(store, content, git=path in git)
    return store.publish(manifest_of(contents, git=git, **fields), ref)


TINY = {
    "model_index.json": b'{"_class_name": "Tiny"}',
    "unet/model.safetensors": bytes(range(256)) * 300,
    "unet/config.json": b'{"channels": 4}',
    "vae/deep/er/empty.txt": b"",
}
TINY_GIT = ("model_index.json", "unet/config.json")


def publish_tiny(store, **fields):
    return publish(store, TINY, git=TINY_GIT, **fields)


HALF = {"unet/model.safetensors": bytes(range(256)) * 150, "zhcache-variant.json": b"{}"}
"""What the variant ``fp16`` of ``TINY`` has of its own; the rest are the same blobs."""


def draft(store, content, *, job="job", step=10_000):
    """Makes a blob of ``content`` in steps and returns what came."""
    with store.intake.draft(len(content), job) as file:
        for start in range(0, len(content), step):
            file.write(memoryview(content)[start : start + step])
        return file.commit()


def variant_of(own=HALF, *, name="fp16", commit=MADE, of=COMMIT, source=TINY, **fields):
    """Returns the manifest of a variant with these files in place of the source's."""
    derived = Derived(of, name, hashlib.sha256(name.encode()).hexdigest())
    contents = {**source, **own}
    settings = {"source": DERIVED, "derived": derived, **fields}
    return manifest_of(contents, git=TINY_GIT, commit=commit, **settings)


def publish_variant(store, own=HALF, *, job="convert", **fields):
    """Makes a variant's own files and publishes it; the source's are here."""
    for content in own.values():
        draft(store, content, job=job)
    folder = store.publish(variant_of(own, **fields), None)
    store.leases.release_holds(job)
    return folder


def tree_of(path):
    """Every file and link under ``path`` with its content or target."""
    found = {}
    for folder, _, names in os.walk(path):
        for name in names:
            full = os.path.join(folder, name)
            key = os.path.relpath(full, path)
            found[key] = os.readlink(full) if os.path.islink(full) else Path(full).read_bytes()
    return found
