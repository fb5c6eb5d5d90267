"""Ranks meet on a loopback of their own, and reach nothing else."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from zhcached.workers import seccomp

ROOT = Path(__file__).resolve().parents[3]

POSSIBLE = """
from zhcached.workers.parallel import namespace
namespace.enter()
"""

pytestmark = pytest.mark.skipif(
    subprocess.run([sys.executable, "-c", POSSIBLE], capture_output=True, check=False).returncode
    != 0,
    reason="this kernel lets nobody make a network of his own here",
)

MAY = ["meet on loopback", "read the interfaces"]
UNREACHABLE = ["call abroad", "send abroad"]
REFUSED = [
    "make a socket of IPv6",
    "make a raw socket",
    "make a Unix socket",
    "ask the kernel's firewall",
    "make a namespace",
]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    scratch = tmp_path_factory.mktemp("rankroom")
    path = str(scratch / "sock")
    with socket.create_server(("127.0.0.1", 0)) as host, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(path)
        unix.listen()
        done = subprocess.run(
            [sys.executable, "-m", "harness.rankroom", scratch, str(host.getsockname()[1]), path],
            env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(told) == 2, done.stderr
    return told


@pytest.mark.parametrize("what", MAY)
def test_ranks_may(ranks, what):
    assert [one[what] for one in ranks] == ["done", "done"]


def test_ranks_have_loopback_and_nothing_else(ranks):
    assert [one["interfaces"] for one in ranks] == [["lo"], ["lo"]]


@pytest.mark.parametrize("what", UNREACHABLE)
def test_nothing_outside_can_be_reached(ranks, what):
    assert [one[what] for one in ranks] == ["OSError", "OSError"]


def test_machines_own_loopback_is_another(ranks):
    assert [one["call the machine's loopback"] for one in ranks] == ["ConnectionRefusedError"] * 2


@pytest.mark.skipif(not seccomp.is_known(), reason="no filter is known for this machine")
@pytest.mark.parametrize("what", REFUSED)
def test_ranks_are_kept_from_calls(ranks, what):
    assert [one[what] for one in ranks] == ["PermissionError", "PermissionError"]


@pytest.mark.parametrize("what", ["call a Unix socket by another", "make an interface", "go back"])
def test_there_is_no_way_round(ranks, what):
    assert "done" not in [one[what] for one in ranks]


def test_further_rank_keeps_nothing_of_the_first_ones_open(ranks):
    # Words, the line to rank 0, the folder of its own threads, the listing itself.
    assert len(ranks[1]["open"]) == 3 + 1 + 1 + 1


UNPRIVILEGED = """
import ctypes, encodings.idna, os, socket
from zhcached.workers.parallel import namespace
if os.geteuid() == 0:
    os.setgroups([])
    # Not 65534, which is also who nobody knows.
    os.setresgid(54321, 54321, 54321)
    os.setresuid(54321, 54321, 54321)
    # Who changes his uid is nobody to himself in /proc, until he says so: PR_SET_DUMPABLE.
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
was = os.geteuid(), os.getegid()
namespace.enter()
with socket.create_server(("127.0.0.1", 0)) as here:
    socket.create_connection(here.getsockname(), timeout=5).close()
assert namespace.has_only_loopback()
assert was == (os.geteuid(), os.getegid())
"""

WITHOUT = """
import os
from zhcache.errors import ZhcacheError
from zhcached.workers.parallel import namespace

def refuse(flags):
    raise PermissionError(1, "Operation not permitted")

namespace._unshare = refuse
try:
    namespace.enter()
except ZhcacheError as error:
    print(error.hint)
"""


LIMITED = """
from pathlib import Path
from zhcached.workers.parallel import namespace
# Of a user's own namespace, in which alone it holds.
namespace._unshare(0x10000000)
Path("/proc/sys/user/max_net_namespaces").write_text("0")
try:
    namespace.enter()
except Exception as error:
    print(error)
"""


def run(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_user_without_rights_gets_a_network_of_his_own_and_stays_who_he_is():
    run(UNPRIVILEGED)


def test_kernel_that_refuses_is_told_of_with_a_next_step_and_the_hosts_network_is_not_used():
    assert "sysctl user.max_user_namespaces" in run(WITHOUT)


def test_limit_of_namespaces_is_called_so():
    told = run(LIMITED)
    assert "the limit of namespaces is reached" in told
    assert "user.max_net_namespaces" in told


def test_network_with_nothing_but_loopback_will_do():
    assert run(POSSIBLE + WITHOUT) == ""
