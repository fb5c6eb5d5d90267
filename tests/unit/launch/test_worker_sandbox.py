"""What a worker can and cannot do, tried by one that was forked as the spawner forks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from zhcached.workers import landlock, sandbox, seccomp

ROOT = Path(__file__).resolve().parents[3]
DONE, REFUSED = "done", "PermissionError"

SECRETS = {"HF_TOKEN": "hf_x", "MODELSCOPE_API_TOKEN": "ms-x", "AWS_SECRET_ACCESS": "x"}
MAY = [
    "read the weights",
    "list the weights",
    "write its own folder",
    "make a temporary file",
    "name its own thread",
    "write to /dev/null",
    "run a program",
    "run a compiler",
    "make a memory file",
    "make a socket pair",
]
FILES = [
    "write to the weights",
    "add to the weights",
    "replace the weights",
    "read a secret",
    "follow a link to a secret",
    "write to /tmp",
    "write to /dev/shm",
    "name the spawner's thread",
    "see the spawner's environment",
    "see the spawner's memory",
]
CALLS = [
    "reach TCP",
    "reach UDP",
    "ask the kernel's tables",
    "call a Unix socket",
    "make a namespace",
    "look into a process",
]


def run(folder: Path, **environ: str) -> dict:
    for name in ("weights", "scratch"):
        (folder / name).mkdir()
    readable = folder / "weights" / "model.safetensors"
    readable.write_bytes(b"weights")
    secret = folder / "token"
    secret.write_bytes(b"hf_secret")
    done = subprocess.run(
        [sys.executable, "-m", "harness.sandboxed", folder / "scratch", readable, secret],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "tests")]), **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.strip(), done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def worker(tmp_path_factory) -> dict:
    return run(tmp_path_factory.mktemp("sandbox"), **SECRETS)


@pytest.mark.parametrize("what", MAY)
def test_worker_may(worker, what):
    assert worker["tried"][what] == DONE


@pytest.mark.skipif(landlock.version() == 0, reason="this kernel has no Landlock")
@pytest.mark.parametrize("what", FILES)
def test_worker_is_kept_from_files(worker, what):
    assert worker["tried"][what] == REFUSED


@pytest.mark.skipif(landlock.version() < 6, reason="this kernel's Landlock knows no signals")
def test_worker_is_kept_from_other_processes(worker):
    assert worker["tried"]["signal the spawner"] == REFUSED


@pytest.mark.skipif(not seccomp.is_known(), reason="no filter is known for this machine")
@pytest.mark.parametrize("what", CALLS)
def test_worker_is_kept_from_calls(worker, what):
    assert worker["tried"][what] == REFUSED


def test_worker_has_no_token_no_capability_and_nothing_of_the_spawners_open(worker):
    assert not SECRETS.keys() & set(worker["environment"])
    assert int(worker["status"]["CapEff"], 16) == 0
    # 4 is the folder of its own threads, 5 the listing itself.
    assert worker["open"] == [0, 1, 2, 3, 4, 5]


def test_worker_goes_first_when_memory_runs_out_and_has_a_name(worker):
    assert worker["oom"] >= sandbox.OOM_SCORE
    assert worker["status"]["Name"] == "zhcache-fill"
    assert worker["status"]["NoNewPrivs"] == "1"


def test_sandbox_that_is_switched_off_is_off(tmp_path):
    """The test of the test: what is refused above is refused by the sandbox and by nothing else."""
    tried = run(tmp_path, **{sandbox.SWITCH: "off"})["tried"]
    assert {tried[what] for what in ("read a secret", "reach UDP", "add to the weights")} == {DONE}


def test_outermost_drops_what_would_open_the_root():
    given = [Path("/"), Path("/usr/lib"), Path("/usr"), Path("/opt/x")]
    assert sandbox._outermost(given) == [Path("/usr"), Path("/opt/x")]


@pytest.mark.skipif(not seccomp.is_known(), reason="no filter is known for this machine")
def test_worker_without_capabilities_lives_under_a_services_filter(tmp_path):
    # systemd's ~@privileged, which the workers' unit has, refuses capset.
    done = subprocess.run(
        [sys.executable, "-c", FILTERED, tmp_path], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


FILTERED = """
import ctypes, os, platform, sys
from pathlib import Path
from zhcached.workers import sandbox, seccomp
if os.geteuid() == 0:
    os.chown(sys.argv[1], 65534, 65534)
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
sandbox._prctl(38, 1)
machine = platform.machine()
seccomp._REFUSED[machine] = {"capset": {"x86_64": 126, "aarch64": 91}[machine]}
seccomp.refuse(may_connect=True)
if ctypes.CDLL(None).capset(b"", b"") == 0 or ctypes.get_errno() == 22:
    sys.exit("the filter refuses nothing")
os.chdir("/")
sandbox._drop_capabilities()
"""
