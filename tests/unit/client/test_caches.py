"""What other tools left on the disk is recognised."""

from pathlib import Path

import pytest

from zhcache.caches.find import find
from zhcache.caches.found import Found
from zhcache.errors import NotFound, UsageError

COMMIT = "a" * 40
OTHER = "b" * 40


def write(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def hub_cache(root: Path, name: str = "models--org--name") -> Path:
    repo = root / name
    (repo / "blobs").mkdir(parents=True)
    for digest, commit, path in (
        ("d1", COMMIT, "config.json"),
        ("d2", COMMIT, "unet/w.safetensors"),
        ("d1", OTHER, "config.json"),
    ):
        (repo / "blobs" / digest).write_text(digest)
        link = repo / "snapshots" / commit / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(repo / "blobs" / digest)
    for ref, commit in (("main", COMMIT), ("a-tag", COMMIT)):
        (repo / "refs").mkdir(exist_ok=True)
        (repo / "refs" / ref).write_text(commit)
    return root


def paths(found: Found) -> list[str]:
    return [path for path, _, _ in found.files]


@pytest.mark.parametrize("below", ["", "hub", "models--org--name"])
def test_hub_cache_gives_each_commit_with_its_ref(tmp_path: Path, below: str) -> None:
    hub_cache(tmp_path / "hub" if below == "hub" else tmp_path)
    start = tmp_path / below if below.startswith("models") else tmp_path
    found = find(start)
    assert [(str(f.repo), f.commit, f.revision) for f in found] == [
        ("org/name", COMMIT, "main"),
        ("org/name", OTHER, None),
    ]
    assert paths(found[0]) == ["config.json", "unet/w.safetensors"]
    assert all(real.parent.name == "blobs" for _, real, _ in found[0].files)
    assert found[0].is_linkable


def test_hub_cache_is_not_linkable_when_a_file_is_no_blob(tmp_path: Path) -> None:
    hub_cache(tmp_path)
    write(tmp_path / "models--org--name" / "snapshots" / OTHER, **{"plain.txt": "x"})
    assert [f.is_linkable for f in find(tmp_path)] == [True, False]


def test_hub_cache_names_dangling_links_as_skipped(tmp_path: Path) -> None:
    hub_cache(tmp_path)
    (tmp_path / "models--org--name" / "blobs" / "d2").unlink()
    assert find(tmp_path)[0].skipped == ["unet/w.safetensors"]


def test_hub_cache_gives_the_named_repository_alone(tmp_path: Path) -> None:
    hub_cache(tmp_path)
    hub_cache(tmp_path, "models--org--second")
    assert {str(f.repo) for f in find(tmp_path, repo="org/second")} == {"org/second"}
    with pytest.raises(NotFound):
        find(tmp_path, repo="org/third")


def test_modelscope_cache_gives_branches(tmp_path: Path) -> None:
    branch = tmp_path / "models" / "org--name" / "snapshots" / "master"
    write(branch, **{"config.json": "{}", ".msc": "x", "._____temp/part": "x"})
    (found,) = find(tmp_path)
    assert (str(found.repo), found.commit, found.revision) == ("org/name", None, "master")
    assert paths(found) == ["config.json"]
    assert not found.is_linkable


@pytest.mark.parametrize("below", ["models", "hub/models", "hub", "."])
def test_modelscope_legacy_folders_have_their_dots_back(tmp_path: Path, below: str) -> None:
    folder = tmp_path / below / "org" / "sd-v1___5"
    write(folder, **{"config.json": "{}", ".msc": "x", ".mdl": "x"})
    (folder.parent / "sd-v1.5").symlink_to(folder)
    (found,) = find(tmp_path)
    assert (str(found.repo), found.revision) == ("org/sd-v1.5", "master")
    assert paths(found) == ["config.json"]


def test_plain_folder_needs_a_name(tmp_path: Path) -> None:
    write(tmp_path, **{"model_index.json": "{}", "unet/config.json": "{}"})
    with pytest.raises(UsageError, match="neither") as caught:
        find(tmp_path)
    assert "--repo" in caught.value.hint


def test_plain_folder_leaves_out_what_is_no_model(tmp_path: Path) -> None:
    names = ["config.json", ".gitattributes", ".git/HEAD", "x.incomplete", ".cache/y"]
    write(tmp_path, **dict.fromkeys(names, "x"))
    (tmp_path / "pipe").symlink_to(tmp_path / "nowhere")
    (found,) = find(tmp_path, repo="org/name", revision="v1")
    assert paths(found) == [".gitattributes", "config.json"]
    assert found.skipped == ["pipe"]
    assert (found.commit, found.revision) == (None, "v1")


def test_plain_folder_of_a_local_download_knows_its_commit(tmp_path: Path) -> None:
    note = ".cache/huggingface/download/config.json.metadata"
    write(tmp_path, **{"config.json": "{}", note: f"{COMMIT}\netag\n1.0\n"})
    (found,) = find(tmp_path, repo="org/name")
    assert found.commit == COMMIT


def test_nothing_to_import_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        find(tmp_path, repo="org/name")
    with pytest.raises(NotFound):
        find(tmp_path / "absent")
