"""The Hugging Face view, judged by the real huggingface_hub."""

import json
import os
from pathlib import Path

import pytest
from huggingface_hub import (
    get_cached_repo_tree,
    hf_hub_download,
    scan_cache_dir,
    snapshot_download,
)
from huggingface_hub.errors import IncompleteSnapshotError

from harness.storekit import (
    COMMIT,
    REPO,
    TINY,
    TINY_GIT,
    git_sha1,
    manifest_of,
    publish,
    publish_tiny,
    put,
    sha256,
    tree_of,
)
from zhcache.errors import IntegrityError

OTHER = "beef" + "0" * 36


@pytest.fixture(autouse=True)
def forget_cached_trees():
    from huggingface_hub import _tree_cache

    _tree_cache._IN_MEMORY_TREE_CACHE.clear()


def offline(store, **kwargs):
    return snapshot_download(str(REPO), cache_dir=store.layout.hub, local_files_only=True, **kwargs)


def test_view_is_scanned_by_huggingface_hub_without_warnings(store):
    publish_tiny(store)
    found = scan_cache_dir(store.layout.hub)
    assert found.warnings == []
    [repo] = found.repos
    [revision] = repo.revisions
    assert (repo.repo_id, revision.commit_hash, revision.refs) == (
        str(REPO),
        COMMIT,
        frozenset({"main"}),
    )
    assert repo.size_on_disk == sum(len(content) for content in TINY.values())


def test_view_serves_snapshot_download_offline_by_branch_and_by_commit(store):
    folder = publish_tiny(store)
    assert offline(store) == str(folder)
    assert offline(store, revision=COMMIT) == str(folder)
    for path, content in TINY.items():
        got = hf_hub_download(str(REPO), path, cache_dir=store.layout.hub, local_files_only=True)
        assert Path(got).read_bytes() == content


def test_view_lists_its_files_to_huggingface_hub_with_the_hubs_names_of_them(store):
    publish_tiny(store)
    listing = {f.path: f for f in get_cached_repo_tree(str(REPO), cache_dir=store.layout.hub)}
    assert {path: f.size for path, f in listing.items()} == {p: len(c) for p, c in TINY.items()}
    for path in TINY_GIT:
        assert listing[path].blob_id == git_sha1(TINY[path])
    tree = json.loads((store.layout.hub / REPO.folder / "trees" / f"{COMMIT}.json").read_bytes())
    weights = tree["files"]["unet/model.safetensors"]
    content = TINY["unet/model.safetensors"]
    pointer = (
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256(content)}\n"
        f"size {len(content)}\n"
    )
    assert weights == {
        "size": len(content),
        "blob_id": git_sha1(pointer.encode()),
        "lfs_sha256": sha256(content),
        "lfs_size": len(content),
    }


def test_view_names_blobs_by_etag_and_links_relatively(store, root):
    publish_tiny(store)
    names = set(os.listdir(store.layout.hub / REPO.folder / "blobs"))
    assert names == {git_sha1(c) if path in TINY_GIT else sha256(c) for path, c in TINY.items()}
    moved = root.parent / "moved"
    store.layout.root.rename(moved)
    assert (moved / "hub" / REPO.folder / "snapshots" / COMMIT / "unet/config.json").read_bytes()
    moved.rename(store.layout.root)


def test_view_with_a_hole_is_called_incomplete_by_huggingface_hub(store):
    folder = publish_tiny(store)
    (folder / "unet/config.json").unlink()
    with pytest.raises(IncompleteSnapshotError):
        offline(store)
    publish_tiny(store)
    assert offline(store) == str(folder)


def test_view_of_a_part_of_a_listing_is_whole_to_huggingface_hub(store):
    part = {"unet/config.json": TINY["unet/config.json"]}
    folder = publish(store, part, complete=False, left_out={"big.bin": "excluded"})
    assert offline(store) == str(folder)
    assert store.snapshots()[0].complete is False


def test_view_grows_with_a_later_prefetch_of_the_same_commit(store):
    part = {"unet/config.json": TINY["unet/config.json"]}
    publish(store, part, complete=False, left_out=dict.fromkeys(set(TINY) - set(part), "excluded"))
    folder = publish_tiny(store)
    assert {k: (folder / k).read_bytes() for k in TINY} == TINY
    assert store.resolve(REPO, None).complete is True
    assert offline(store) == str(folder)


def test_publish_twice_changes_nothing(store):
    publish_tiny(store)
    before = tree_of(store.layout.hub)
    publish_tiny(store)
    assert tree_of(store.layout.hub) == before


def test_publish_refuses_other_content_under_a_known_commit(store):
    publish_tiny(store)
    with pytest.raises(IntegrityError, match=r"unet/config\.json"):
        publish(store, {"unet/config.json": b"{}"})
    assert store.resolve(REPO, None).files == store.resolve(REPO, COMMIT).files
    assert len(store.resolve(REPO, None).files) == len(TINY)


def test_publish_refuses_a_manifest_whose_bytes_are_not_here(store):
    put(store, b"here")
    with pytest.raises(IntegrityError, match=r"b\.bin"):
        store.publish(manifest_of({"a.bin": b"here", "b.bin": b"elsewhere"}), "main")
    assert store.snapshots() == []
    assert os.listdir(store.layout.repos) == []


def test_view_has_refs_with_slashes_as_folders(store):
    publish_tiny(store, ref="refs/pr/1")
    assert offline(store, revision="refs/pr/1")
    store.remove(REPO, None)
    assert os.listdir(store.layout.hub) == ["CACHEDIR.TAG"]


def test_remove_of_one_snapshot_leaves_the_other_whole(store):
    publish_tiny(store)
    folder = publish(store, {**TINY, "new.bin": b"new"}, git=TINY_GIT, commit=OTHER, ref="next")
    removed = store.remove(REPO, "main")
    assert (removed.commits, removed.bytes_released) == ([COMMIT], 0)
    found = scan_cache_dir(store.layout.hub)
    assert found.warnings == []
    assert [r.commit_hash for repo in found.repos for r in repo.revisions] == [OTHER]
    assert (folder / "unet/model.safetensors").read_bytes() == TINY["unet/model.safetensors"]
    assert store.resolve(REPO, None).commit == OTHER
    removed = store.remove(REPO, OTHER[:7])
    assert removed.bytes_released == sum(len(c) for c in TINY.values()) + 3
    assert os.listdir(store.layout.repos) == []


def test_link_that_someone_bent_is_put_right_by_rebuild(store, tmp_path):
    folder = publish_tiny(store)
    before = tree_of(store.layout.hub)
    (tmp_path / "evil").write_text("evil")
    for spot in (folder / "unet/config.json", store.layout.hub / REPO.folder / "refs/main"):
        spot.unlink()
        spot.symlink_to(tmp_path / "evil")
    (folder / "model_index.json").unlink()
    (folder / "model_index.json").mkdir()
    store.rebuild()
    assert tree_of(store.layout.hub) == before
    assert (tmp_path / "evil").read_text() == "evil"
