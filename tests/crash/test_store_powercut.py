"""Power cut: whatever was not fsynced is gone. A real ext4 on a loop device, shut down by ioctl.

The ioctl with NOLOGFLUSH drops the file system's unwritten journal and pages, as a power cut does.
Source: linux/fs/ext4/ext4.h, EXT4_IOC_SHUTDOWN.
"""

import fcntl
import os
import struct
import subprocess
import tempfile
from pathlib import Path

import pytest

from harness.storecrash import check_end, check_survivor, run_and_kill
from zhcached.store.failpoints import NAMES

pytestmark = pytest.mark.crash
_SHUTDOWN, _NOLOGFLUSH = 0x8004587D, 2

# Met with a variant, once what it is made of is published.
MADE_HERE = tuple(name for name in NAMES if name.startswith(("commit.", "publish.", "remove.")))
GO_ON = ("journal.after_line", "commit.after_rename", "publish.after_manifest", "remove.after_view")


class Disk:
    """A small ext4 in a file, mounted, whose power can be cut."""

    def __init__(self, folder):
        self.image = folder / "disk.img"
        self.mount = folder / "mnt"
        self.mount.mkdir()
        with self.image.open("wb") as file:
            file.truncate(96 << 20)
        run = {"check": True, "capture_output": True}
        subprocess.run(["mkfs.ext4", "-q", "-O", "^metadata_csum_seed", self.image], **run)
        self.up()

    def up(self):
        subprocess.run(["mount", "-o", "loop", self.image, self.mount], check=True)

    def down(self):
        subprocess.run(["umount", self.mount], check=True)

    def cut_power(self):
        fd = os.open(self.mount, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, _SHUTDOWN, struct.pack("I", _NOLOGFLUSH))
        finally:
            os.close(fd)
        self.down()
        self.up()


@pytest.fixture
def disk():
    if os.geteuid() != 0:
        pytest.skip("mounting a loop device needs root")
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="zhcache-disk-", dir=base) as folder:
        try:
            mounted = Disk(Path(folder))
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no loop-mounted ext4 here: {error}")
        yield mounted
        # Lazily: a check that failed half way may have left a descriptor open.
        subprocess.run(["umount", "-l", mounted.mount], check=True)


@pytest.mark.parametrize(
    ("since", "point"),
    [("opened", point) for point in NAMES] + [("published", point) for point in MADE_HERE],
)
def test_store_after_a_power_cut_at_a_point_loses_nothing_and_goes_on(disk, since, point):
    root = disk.mount / "store"
    said, code = run_and_kill(root, point, since=since)
    assert code == -9, f"{point} was never reached: {said}"
    disk.cut_power()
    check_survivor(root, said)
    if point in GO_ON:
        said, code = run_and_kill(root)
        assert code == 0
        disk.cut_power()
        check_end(root)


def without(name):
    """Returns what makes the child's ``os.<name>`` do nothing, as a store without it would."""

    def disarm():
        setattr(os, name, lambda fd: None)

    return disarm


@pytest.mark.parametrize(
    "name, point", [("fsync", "commit.after_record"), ("fdatasync", "commit.before_digest")]
)
def test_power_cut_does_find_a_missing_sync(disk, name, point):
    """The test of the test: with one kind of sync taken out, something said to be safe is lost."""
    root = disk.mount / "store"
    said, code = run_and_kill(root, "publish.after_view", before=without(name))
    assert code == -9
    disk.cut_power()
    with pytest.raises(Exception):  # noqa: B017 - any loss will do
        check_survivor(root, ["published", "half", *said])
