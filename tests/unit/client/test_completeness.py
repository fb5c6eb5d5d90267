"""What a folder lacks, and whether this user may look."""

import os

import pytest

from zhcache.completeness import check_open, gaps
from zhcache.errors import NotPermitted

NOBODY = 65534


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "snapshot"
    made.mkdir()
    (made / "model_index.json").write_text("{}")
    return made


def refused(folder) -> bool:
    """Returns whether a user without rights of his own is refused; root has all of them."""
    if os.geteuid() != 0:
        return _refuses(folder)
    for parent in folder.parents:
        if parent.stat().st_mode & 0o011 != 0o011:
            parent.chmod(parent.stat().st_mode | 0o011)
    pid = os.fork()
    if pid == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        os._exit(_refuses(folder))
    return bool(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def _refuses(folder) -> bool:
    try:
        check_open(folder)
    except NotPermitted:
        return True
    return False


def test_folder_that_is_open_is_no_matter(folder):
    folder.chmod(0o755)
    (folder / "model_index.json").chmod(0o444)
    assert not refused(folder)
    assert gaps(folder) == []


def test_folder_that_is_closed_is_told(folder):
    folder.chmod(0o000)
    assert refused(folder)


def test_files_that_are_closed_are_told(folder):
    folder.chmod(0o755)
    (folder / "model_index.json").chmod(0o000)
    assert refused(folder)


def test_file_that_is_nowhere_is_told_by_who_misses_it(folder):
    (folder / "config.json").symlink_to(folder / "gone")
    check_open(folder)
