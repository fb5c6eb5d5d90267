"""Files that stand for what a hub has, and blobs that nobody wants any more."""

import msgspec
import pytest

from harness.storekit import COMMIT, REPO, manifest_of, open_store, publish, put, sha256
from zhcache.errors import IntegrityError
from zhcached.store.snapshots import Original, check, merge

SAFE, PICKLE = "unet/model.safetensors", "unet/pytorch_model.bin"
PICKLED = b"a pickle"
CONVERTED = {PICKLE: "converted to safetensors"}


@pytest.fixture
def store(tmp_path):
    opened = open_store(tmp_path / "store")
    yield opened
    opened.close()


def standing_in(manifest):
    """The manifest with its safetensors said to be made of a pickle."""
    original = Original(PICKLE, len(PICKLED), sha256(PICKLED))
    return msgspec.structs.replace(
        manifest,
        files=tuple(
            msgspec.structs.replace(f, converted_from=original) if f.path == SAFE else f
            for f in manifest.files
        ),
    )


def held(paths, *, complete=False, left_out=CONVERTED):
    contents = {path: path.encode() for path in paths}
    return standing_in(manifest_of(contents, complete=complete, left_out=left_out))


@pytest.mark.parametrize(
    ("old", "new", "complete"),
    [
        # Another prefetch, that was not told to convert, brings the rest of the listing.
        (held([SAFE]), held(["a"], complete=True), True),
        (held([SAFE], left_out={**CONVERTED, "a": "not asked for"}), held(["a"]), True),
        (held([SAFE, "a"], complete=True), held(["a"], complete=True), True),
        (held([SAFE, "a"], complete=True), held(["a", "b"], left_out={}), False),
        (held([SAFE]), held(["a"], left_out={**CONVERTED, "b": "not asked for"}), False),
    ],
)
def test_snapshot_is_complete_without_the_pickle(old, new, complete):
    whole = merge(old, new)
    assert whole.complete is complete
    assert [f.path for f in whole.files if f.converted_from] == [SAFE]


def test_lock_file_names_the_pickle(store):
    for content in (b"{}", b"tensors"):
        put(store, content)
    store.publish(standing_in(manifest_of({"a": b"{}", SAFE: b"tensors"})), "main")
    (locked,) = store.lock_file([str(REPO)]).repos
    files = {file.path: (file.size, file.sha256) for file in locked.files}
    assert files == {"a": (2, sha256(b"{}")), PICKLE: (len(PICKLED), sha256(PICKLED))}
    assert store.resolve(REPO, COMMIT).files[1].converted_from.path == PICKLE


def test_hostile_original_is_refused():
    manifest = held([SAFE])
    for original in (
        Original("../up", 1, "a" * 64),
        Original(PICKLE, 1, "../x"),
        Original(PICKLE, -1, "a" * 64),
    ):
        file = msgspec.structs.replace(manifest.files[0], converted_from=original)
        with pytest.raises(IntegrityError):
            check(msgspec.structs.replace(manifest, files=(file,)))


def test_released_blobs_go_at_once_but_for_those_that_are_needed(store):
    publish(store, {"config.json": b"published"})
    put(store, b"nobody's")
    put(store, b"young")
    put(store, b"of a job", job="job", keep_hold=True)
    store.release(sha256(each) for each in (b"published", b"nobody's", b"of a job"))
    gone = store.gc()
    assert [item.name for item in gone.removed] == [sha256(b"nobody's")]
    store.leases.release_holds("job")
    assert [item.name for item in store.gc().removed] == [sha256(b"of a job")]
    assert store.resolve(REPO, None).files[0].sha256 == sha256(b"published")
