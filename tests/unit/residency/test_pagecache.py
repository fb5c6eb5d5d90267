import os
import subprocess
import sys

import pytest

from harness.daemon import until
from harness.memory import can_drop, drop, in_memory, lock_limited
from zhcached.residency.pages import pagecache

SIZE = 3 * 2**20 + 17


@pytest.fixture
def file(tmp_path):
    if not can_drop(tmp_path):
        pytest.skip("files here never leave memory")
    path = tmp_path / "file"
    path.write_bytes(os.urandom(SIZE))
    drop(path)
    return path


@pytest.fixture
def fd(file):
    opened = os.open(file, os.O_RDONLY)
    yield opened
    os.close(opened)


def test_cached_counts_what_is_in_memory(file, fd):
    assert pagecache.cached(fd, SIZE) == 0
    file.read_bytes()
    assert pagecache.cached(fd, SIZE) == SIZE


def test_cached_counts_a_part(fd):
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    os.pread(fd, 4096, 2**20)
    assert 0 < pagecache.cached(fd, SIZE) < SIZE
    assert pagecache.cached(fd, 4096, 2**20) == 4096
    assert pagecache.cached(fd, 4096, 2 * 2**20) == 0


def test_cached_of_an_old_kernel_is_the_same(file, fd, monkeypatch):
    monkeypatch.setattr(pagecache, "_NR_CACHESTAT", 1_000_000)
    assert pagecache.cached(fd, SIZE) == 0
    file.read_bytes()
    assert pagecache.cached(fd, SIZE) == SIZE


def test_cached_of_a_file_that_is_gone_is_nothing(tmp_path):
    assert pagecache.cached_path(tmp_path / "none", 5) == 0


def test_read_in_reads_what_is_missing_and_counts_all(fd):
    def read_in() -> bool:
        steps = []
        pagecache.read_in(fd, SIZE, steps.append)
        assert sum(steps) == SIZE
        return pagecache.cached(fd, SIZE) == SIZE

    # A kernel may take single pages back at any time.
    until(read_in, "all of it is in memory")


def test_read_in_ends_where_its_listener_raises(fd, monkeypatch):
    monkeypatch.setattr(pagecache, "STEP", 2**20)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)

    def stop(_):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        pagecache.read_in(fd, SIZE, stop)
    assert pagecache.cached(fd, SIZE) < SIZE


def test_read_in_tells_a_file_that_was_cut_short(fd):
    with pytest.raises(EOFError):
        pagecache.read_in(fd, SIZE + 2**20, lambda _: None)


def test_locked_pages_stay_until_the_mapping_is_closed(file, fd):
    mapping = pagecache.Mapping(fd, SIZE)
    try:
        mapping.lock()
    except OSError as error:
        pytest.skip(f"no memory may be locked here: {error}")
    drop(file)
    assert in_memory(file) == mapping.cached() == SIZE
    mapping.close()
    mapping.close()
    drop(file)
    assert in_memory(file) == 0


@pytest.mark.parametrize("allowed", [0, 2**17])
def test_lock_without_the_right_is_an_error_and_locks_nothing(file, allowed):
    script = (
        "import os, sys; from zhcached.residency.pages import pagecache\n"
        "from zhcached.residency.pages.pagecache import Mapping; pagecache._CALL_STEP = 2**16\n"
        "fd = os.open(sys.argv[1], os.O_RDONLY); m = Mapping(fd, os.fstat(fd).st_size)\n"
        "try: m.lock()\n"
        "except OSError as e: print('refused', e)\n"
        "print(open('/proc/self/status').read())"
    )
    done = subprocess.run(
        [*lock_limited(allowed), sys.executable, "-c", script, str(file)],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("refused")
    assert "VmLck:\t       0 kB" in done.stdout
