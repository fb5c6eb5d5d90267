"""A copy is whole or absent, and the caller's own."""

from pathlib import Path

import pytest

from simulators.daemon import describe
from zhcache.errors import IntegrityError, UsageError
from zhcache.export import export


def test_export_copies_links_as_files_of_the_callers(tmp_path: Path, snapshot: Path) -> None:
    blob = tmp_path / "blob"
    blob.write_bytes(b"content")
    blob.chmod(0o440)
    (snapshot / "linked.txt").symlink_to(blob)
    held = describe("a/b", snapshot)

    done = export(snapshot, held.files, tmp_path / "new" / "copy")

    copy = tmp_path / "new" / "copy" / "linked.txt"
    assert copy.read_bytes() == b"content"
    assert not copy.is_symlink()
    assert copy.stat().st_nlink == 1
    assert copy.stat().st_ino != blob.stat().st_ino
    assert copy.stat().st_mode & 0o200
    assert (done.files, done.bytes) == (4, held.bytes)


def test_export_takes_an_empty_folder_and_refuses_a_full_one(
    tmp_path: Path, snapshot: Path
) -> None:
    held = describe("a/b", snapshot)
    target = tmp_path / "copy"
    target.mkdir()
    export(snapshot, held.files, target)
    before = sorted(target.rglob("*"))
    with pytest.raises(UsageError, match="not empty"):
        export(snapshot, held.files, target)
    assert sorted(target.rglob("*")) == before


@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_export_leaves_nothing_behind_when_a_file_is_damaged(
    tmp_path: Path, snapshot: Path, damage: str
) -> None:
    held = describe("a/b", snapshot)
    file = snapshot / "unet" / "config.json"
    file.unlink() if damage == "gone" else file.write_text("")
    target = tmp_path / "out" / "copy"
    with pytest.raises(IntegrityError, match=r"unet/config.json"):
        export(snapshot, held.files, target)
    assert list(target.parent.iterdir()) == []
