"""kill -9 at every named point of the store, then a second life on what is left."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from harness.storecrash import check_end, check_survivor, run_and_kill
from zhcached.store.failpoints import NAMES

pytestmark = pytest.mark.crash


@pytest.fixture
def root(tmp_path):
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path / "store"
        return
    folder = Path(tempfile.mkdtemp(prefix="zhcache-test-", dir="/dev/shm"))
    yield folder / "store"
    shutil.rmtree(folder)


@pytest.mark.parametrize("point", NAMES)
@pytest.mark.parametrize("since", ["opened", "published"])
def test_store_killed_at_a_point_loses_nothing_and_goes_on(root, point, since):
    """Since ``published`` it is a variant that the points of commit and publish are met with."""
    said, code = run_and_kill(root, point, since=since)
    assert code == -9, f"{point} was never reached: {said}"
    check_survivor(root, said)
    said, code = run_and_kill(root)
    assert code == 0
    check_end(root)


def test_store_lives_through_undisturbed(root):
    said, code = run_and_kill(root)
    assert (said[-1], code) == ("collected", 0)
    check_end(root)


def test_failpoint_is_armed_by_the_environment(root):
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        "ZHCACHE_FAILPOINTS": "commit.after_rename=kill",
    }
    script = "import sys, pathlib; from harness.storecrash import live; "
    script += "live(pathlib.Path(sys.argv[1]), print)"
    done = subprocess.run([sys.executable, "-c", script, str(root)], env=env, check=False)
    assert done.returncode == -9
    check_survivor(root, [])
