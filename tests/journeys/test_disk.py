"""A disk for machines without a line: written here, verified there, over a daemon on each side."""

import hashlib
import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from demohub import Hub
from harness.daemon import Daemon, source
from harness.watchkit import pipeline

MODELS = {"org/one": pipeline(1), "org/two": pipeline(20)}
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@dataclass
class Disk:
    """``lock`` is what the maker's store says of the models, brought another way."""

    folder: Path
    lock: Path

    def file(self, repo: str) -> Path:
        [folder] = (self.folder / "models" / repo).iterdir()
        return folder / WEIGHTS

    def alter(self, repo: str) -> tuple[bytes, bytes]:
        before = self.file(repo).read_bytes()
        after = before[:-1] + bytes([before[-1] ^ 1])
        self.file(repo).write_bytes(after)
        return before, after


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A disk with both models, whose maker's hub and daemon are gone."""
    folder = tmp_path_factory.mktemp("disk")
    with Hub() as hub:
        for repo, files in MODELS.items():
            hub.add(repo, files)
        here = Daemon(folder / "here", source(hub)).start()
        for repo in MODELS:
            here.json("prefetch", repo)
        done = here.cli("export", "--disk", *MODELS, str(folder / "disk"), "--json")
        assert [json.loads(line)["repo"] for line in done.stdout.splitlines()] == list(MODELS)
        (folder / "lock.json").write_text(here.cli("lock", *MODELS).stdout)
        here.stop()
    return Disk(folder / "disk", folder / "lock.json")


@pytest.fixture
def disk(made, tmp_path):
    return Disk(shutil.copytree(made.folder, tmp_path / "disk"), made.lock)


@pytest.fixture
def far(make_daemon):
    """The daemon of a machine without a line."""
    nowhere = '[[source]]\nname = "gone"\nkind = "huggingface"\nendpoint = "http://127.0.0.1:9"\n'
    return make_daemon(nowhere, name="far").start()


def check_held(daemon, trust, repos=tuple(MODELS)):
    assert sorted(one["repo"] for one in daemon.json("ls")["snapshots"]) == list(repos)
    for repo in repos:
        shown = daemon.json("show", repo)
        assert (shown["complete"], shown["trust"], shown["revisions"]) == (True, trust, ["main"])
        path = Path(shown["path"])
        assert {name: (path / name).read_bytes() for name in MODELS[repo]} == MODELS[repo]


@pytest.mark.slow
def test_models_of_a_disk_are_verified_and_whole_where_there_is_no_line(disk, far):
    far.cli("import", str(disk.folder))
    check_held(far, "first-use")


def test_disk_is_read_without_zhcache_too(disk):
    ran = subprocess.run(["sha256sum", "-c", "SHA256SUMS", "--quiet"], cwd=disk.folder, check=False)
    assert ran.returncode == 0
    for repo, files in MODELS.items():
        folder = disk.file(repo).parents[1]
        assert {name: (folder / name).read_bytes() for name in files} == files


def test_what_was_altered_is_refused_by_the_disks_own_lock_or_one_that_came_another_way(disk, far):
    before, after = disk.alter("org/one")
    ran = far.cli("import", str(disk.folder), check=False)
    assert (ran.returncode, "org/one" in ran.stderr) == (3, True)
    check_held(far, "first-use", ["org/two"])

    # Whoever alters the lock as well is caught by the one that did not travel with the disk.
    own = disk.folder / "zhcache-lock.json"
    old, new = (hashlib.sha256(content).hexdigest() for content in (before, after))
    own.write_text(own.read_text().replace(old, new))
    asked = ("import", str(disk.folder), "--lock", str(disk.lock))
    failed = far.json(*asked, "--repo", "org/one", code=9)
    assert WEIGHTS in failed["error"]["message"]

    disk.file("org/one").unlink()
    far.cli("rm", "org/two")
    ran = far.cli("import", str(disk.folder), check=False)
    assert (ran.returncode, f"{WEIGHTS} of org/one is not on the disk" in ran.stderr) == (3, True)
    check_held(far, "first-use", ["org/two"])

    disk.file("org/one").write_bytes(before)
    own.write_text(own.read_text().replace(new, old))
    far.cli(*asked)
    check_held(far, "pinned")


@pytest.mark.parametrize("option", [(), ("--disk",)])
def test_nothing_is_exported_into_the_store(far, tmp_path, option):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "config.json").write_text("{}")
    far.cli("import", str(tmp_path / "own"), "--repo", "me/own")
    (tmp_path / "link").symlink_to(far.home)
    for target in (far.home / "blobs" / "x", tmp_path / "link" / "hub"):
        error = far.json("export", *option, "me/own", str(target), code=2)["error"]
        assert error["code"] == "usage"
    assert not (far.home / "blobs" / "x").exists()
