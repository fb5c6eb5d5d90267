"""The ModelScope view, judged by modelscope's own client."""

import os
from pathlib import Path

import pytest
from modelscope import snapshot_download
from modelscope_hub.errors import CacheNotFound

from harness.storekit import COMMIT, REPO, TINY, publish, publish_tiny
from zhcache.protocol.names import parse_repo

OTHER = "beef" + "0" * 36


@pytest.fixture
def offline(store, monkeypatch):
    """Asks the real client, with every way to the network closed."""
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://127.0.0.1:9")

    def ask(**options):
        cache = str(store.layout.scope)
        return snapshot_download(str(REPO), cache_dir=cache, local_files_only=True, **options)

    return ask


def content_of(folder):
    files = [Path(base) / name for base, _, names in os.walk(folder) for name in names]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


@pytest.mark.parametrize("revision", [None, "master", "main"])
def test_client_finds_the_default_branch_by_any_of_its_names(store, offline, revision):
    publish_tiny(store)
    assert content_of(offline(revision=revision)) == TINY


def test_bytes_are_those_of_the_store(store, offline):
    publish_tiny(store)
    for name, path in ((n, os.path.join(offline(), n)) for n in TINY):
        assert os.path.realpath(path).startswith(str(store.layout.blobs)), name


def test_branch_moves_in_one_step_and_the_client_sees_the_new_one(store, offline):
    publish_tiny(store)
    publish(store, {"a.txt": b"newer"}, commit=OTHER)
    assert content_of(offline()) == {"a.txt": b"newer"}


def test_tag_with_a_slash_is_found(store, offline):
    publish_tiny(store, ref="refs/pr/1")
    assert content_of(offline(revision="refs/pr/1")) == TINY


def test_snapshot_with_holes_is_not_shown_to_a_client_that_takes_any_folder_for_whole(
    store, offline
):
    publish(store, {"a.txt": b"one"}, complete=False)
    with pytest.raises(CacheNotFound):
        offline()
    publish(store, {"a.txt": b"one", "b.txt": b"two"})
    assert content_of(offline()) == {"a.txt": b"one", "b.txt": b"two"}


def test_branch_that_moved_to_what_is_not_whole_is_shown_no_more(store, offline):
    publish_tiny(store)
    publish(store, {"a.txt": b"part"}, commit=OTHER, complete=False)
    with pytest.raises(CacheNotFound):
        offline()


def test_removed_model_is_gone_from_the_view(store, offline):
    publish_tiny(store)
    store.remove(REPO, None)
    with pytest.raises(CacheNotFound):
        offline()
    assert not list(store.layout.scope.glob("models/*/snapshots/*"))


def test_deleted_view_is_made_again(store, offline):
    publish_tiny(store)
    (store.layout.scope / "models" / "lab--tiny").rename(store.layout.root / "aside")
    store.rebuild()
    assert content_of(offline()) == TINY


def test_planted_folder_in_the_place_of_a_link_is_not_followed(store, offline, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    name = f"{REPO.owner}--{REPO.name}"
    (store.layout.scope / "models").mkdir()
    (store.layout.scope / "models" / name).symlink_to(outside)
    publish_tiny(store)
    assert content_of(offline()) == TINY
    assert not list(outside.iterdir())


def test_bare_name_of_the_other_hub_is_no_model_there(store):
    bare = parse_repo("gpt2")
    publish(store, {"a.txt": b"x"}, repo=bare)
    assert not (store.layout.scope / "models").exists()
    assert store.resolve(bare, None).commit == COMMIT
