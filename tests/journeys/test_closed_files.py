"""A user who may speak to the daemon and not open its store loads pipelines all the same."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys

import pytest

from harness import families
from harness.attachkit import House
from harness.daemon import Daemon, source, until
from harness.fillkit import files_of
from harness.otheruser import BECOME, UID, common_folder, let_in
from harness.storekit import open_store, publish
from zhcache.errors import NotFound, NotPermitted
from zhcache.handover import small_files
from zhcached.clock import SystemClock

pytestmark = [
    pytest.mark.journey,
    pytest.mark.skipif("os.geteuid() != 0", reason="needs root to become another user"),
]

LOAD = (
    """
import sys, diffusers, httpx, numpy, torch, zhcache
from pathlib import Path
from harness import families
from zhcache.pipeline import attach, closed, load, mapped, mapping, private, reading, skeleton
dtype = getattr(torch, families.FAMILIES[sys.argv[1]][1])
folder = families.folder(sys.argv[1])
stock = families.draw(diffusers.DiffusionPipeline.from_pretrained(folder, dtype=dtype))
"""
    + BECOME
    + """
def words(held, depth=0):
    if isinstance(held, str):
        yield held
    inner = held if isinstance(held, dict) else getattr(held, "__dict__", {})
    for value in list(inner.values()) if depth < 6 else ():
        yield from words(value, depth + 1)

store, scratch = Path(sys.argv[2]), Path(sys.argv[3])
try:
    list(store.iterdir())
except PermissionError:
    print("the store is closed")
with zhcache.load_pipeline("org/pipe", device="cpu") as pipe:
    drawn = families.draw(pipe)
    maps = Path("/proc/self/maps").read_text()
    assert "memfd:zhcache-arena" in maps and str(store) not in maps
    assert Path(pipe.name_or_path).is_relative_to(store), pipe.name_or_path
    for name, part in {"": pipe, **pipe.components}.items():
        named = [word for word in words(part) if str(scratch) in word]
        assert not named, (name, named)
assert numpy.array_equal(drawn, stock)
assert not list(scratch.iterdir()), list(scratch.iterdir())
print("equal")
"""
)


def script(daemon, text: str, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Runs ``text``, which becomes another user, in a folder of that user's own."""
    own = daemon.folder / "other"
    (own / "run").mkdir(parents=True, exist_ok=True)
    for folder in (own, own / "run"):
        os.chown(folder, UID, UID)
    known = {"HOME": str(own), "XDG_RUNTIME_DIR": str(own / "run")}
    path = os.pathsep.join(sys.path)
    return subprocess.run(
        [sys.executable, "-c", text, *arguments],
        env=daemon.environ | known | {"PYTHONPATH": path} | environ,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def common():
    with common_folder() as folder:
        yield folder


@contextlib.contextmanager
def daemon_of(daemon: Daemon):
    daemon.start()
    try:
        let_in(daemon)
        yield
    finally:
        daemon.stop()


@pytest.mark.parametrize("family", ["sd15", pytest.param("qwen-image", marks=pytest.mark.slow)])
def test_pipeline_of_closed_files_draws_what_stock_draws(hub, common, family):
    folder = families.folder(family)
    hub.add(
        "org/pipe",
        {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file()},
    )
    daemon = Daemon(common / family, source(hub))
    with daemon_of(daemon):
        scratch = daemon.folder / "other" / "run"
        # What is not there yet is fetched first, as for everybody.
        done = script(daemon, LOAD, family, str(daemon.home), str(scratch))
    assert done.stdout.splitlines() == ["the store is closed", "equal"], (
        done.stderr[-3000:] + daemon.tail()
    )


KEEP = (
    """
import sys
from pathlib import Path
from zhcache.channel import Channel
from zhcache.completeness import is_closed
from zhcache.lease import Lease
from zhcache.pipeline import closed
from zhcache.protocol import messages
# What a request needs is imported by one.
Lease(Channel(Path(sys.argv[1])), messages.LeaseRequest(repo=sys.argv[2])).end()
"""
    + BECOME
    + """
api = Path(sys.argv[1])
lease = Lease(Channel(api), messages.LeaseRequest(repo=sys.argv[2]))
assert is_closed(lease.path)
"""
)

COPY = (
    KEEP
    + """
with closed.Readable(api, lease) as there:
    found = {str(p.relative_to(there.folder)): p for p in there.folder.rglob("*") if p.is_file()}
    assert there.folder.stat().st_mode & 0o777 == 0o700
    # Weights that are in the store are not missing; its scheduler the small pipeline never had.
    assert there.gaps() == ["scheduler/"]
    for path, file in sorted(found.items()):
        print(path, file.read_text())
    print(*there.weights)
assert not there.folder.exists()
"""
)

FOREIGN = """
import sys
from pathlib import Path
from zhcache.handover import small_files
""" + (
    BECOME
    + """
try:
    small_files(Path(sys.argv[1]), sys.argv[2], print)
except Exception as error:
    print(type(error).__name__)
"""
)

HELD = KEEP + "there = closed.Readable(api, lease)\nprint(there.folder, flush=True)\ninput()"


@pytest.fixture(scope="module")
def house(common):
    with contextlib.closing(House(common)) as made:
        many = files_of(unet=b"u" * 3000) | {
            f"tokenizer/part-{number:03}.json": f"{number}".encode() for number in range(150)
        }
        index = b'{"_class_name": "F", "unet": ["diffusers", "F"], "tokenizer": ["t", "T"]}'
        with contextlib.closing(open_store(made.daemon.home, SystemClock())) as store:
            others = {"model_index.json": index, "other/config.json": b"[]", "a.safetensors": b"a"}
            publish(store, many | others, repo="lab/many", commit="d" * 40)
            bare = {"a.json": b"1", "deep/b.json": b"2", "lora.safetensors": b"3"}
            publish(store, bare, repo="lab/bare", commit="b" * 40)
        made.daemon.start()
        let_in(made.daemon)
        yield made


def handed(house, lease: str) -> tuple[dict[str, tuple[bytes, int]], list[str]]:
    """Returns what is in each file that comes, and how it is open; and the files of weights."""
    found = {}

    def take(file, fd):
        found[file.path] = os.pread(fd, file.size + 1, 0), fcntl.fcntl(fd, fcntl.F_GETFL)

    weights = small_files(house.daemon.socket, lease, take)
    return found, weights


def test_small_files_come_open_for_reading_and_weights_do_not_come(house):
    with house.lease() as lease:
        found, weights = handed(house, lease.granted.id)
    assert {path: content for path, (content, _) in found.items()} == {
        path: content
        for path, content in files_of(unet=b"u" * 3000, vae=b"v" * 1000).items()
        if not path.endswith(".safetensors")
    }
    assert {flags & os.O_ACCMODE for _, flags in found.values()} == {os.O_RDONLY}
    assert sorted(weights) == [
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ]


def test_more_files_than_fit_a_message_come_and_none_beside_the_pipeline(house):
    before = len(os.listdir(f"/proc/{house.daemon.process.pid}/fd"))
    with house.lease("lab/many") as lease:
        found, weights = handed(house, lease.granted.id)
    assert len(found) == 150 + 2
    assert weights == ["a.safetensors", "unet/diffusion_pytorch_model.safetensors"]
    assert found["tokenizer/part-149.json"][0] == b"149"
    fds = f"/proc/{house.daemon.process.pid}/fd"
    until(lambda: len(os.listdir(fds)) <= before, "the daemon closes what it handed over")


def test_of_what_is_no_pipeline_come_the_files_at_its_root(house):
    with house.lease("lab/bare") as lease:
        found, weights = handed(house, lease.granted.id)
    assert list(found) == ["a.json"]
    assert weights == ["lora.safetensors"]


def test_lease_that_ended_or_never_was_gives_no_files(house):
    with house.lease() as lease:
        ended = lease.granted.id
    with pytest.raises(NotFound):
        until(lambda: handed(house, ended) is None, "the lease ends")
    with pytest.raises(NotFound):
        handed(house, "none")


def test_other_users_lease_gives_no_files(house):
    with house.lease() as lease:
        done = script(house.daemon, FOREIGN, str(house.daemon.socket), lease.granted.id)
    assert done.stdout == f"{NotPermitted.__name__}\n", done.stderr


def test_copies_are_this_users_alone_and_gone_afterwards(house):
    done = script(house.daemon, COPY, str(house.daemon.socket), "lab/pipe")
    assert done.returncode == 0, done.stderr
    wanted = {
        path: content.decode()
        for path, content in files_of(unet=b"u" * 3000, vae=b"v" * 1000).items()
        if not path.endswith(".safetensors")
    }
    *lines, weights = done.stdout.splitlines()
    assert lines == [f"{path} {content}" for path, content in sorted(wanted.items())]
    assert len(weights.split()) == 2


def test_copies_of_a_killed_process_go_with_the_next_and_those_of_a_live_one_stay(house):
    own = house.daemon.folder / "other"
    arguments = [str(house.daemon.socket), "lab/pipe"]
    script(house.daemon, COPY, *arguments)
    keepers = []
    for _ in range(2):
        environ = {"HOME": str(own), "XDG_RUNTIME_DIR": str(own / "run")}
        keepers.append(
            subprocess.Popen(
                [sys.executable, "-c", HELD, *arguments],
                env=house.daemon.environ | environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
    killed, alive = keepers
    left, kept = (keeper.stdout.readline().strip() for keeper in keepers)
    killed.kill()
    killed.communicate()
    assert os.path.isdir(left)
    assert script(house.daemon, COPY, *arguments).returncode == 0
    assert not os.path.exists(left)
    assert os.path.isdir(kept)
    # The end of the process ends them, where it may still do something.
    alive.communicate("\n", timeout=60)
    assert not os.path.exists(kept)
    assert os.listdir(own / "run") == []
