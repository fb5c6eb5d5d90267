"""A user's script on a Ray cluster of two nodes of this machine, each with a zhcached of its own.

Run in a process of its own: Ray takes signals, environment and threads for itself.
"""

from __future__ import annotations

import ctypes
import faulthandler
import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = "127.0.0.1"
STUCK_S = 300.0
"""After which it says where it is and ends."""

_NEWUSER, _NEWNET = 0x10000000, 0x40000000
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 0x1


def loopback_alone() -> None:
    """Leaves this process a network of loopback alone: else Ray takes the machine's own address.

    Where that is filtered its driver would hang; and so nothing of it can be reached from outside.

    Raises:
        OSError: This user may make no namespace.
    """
    uid, gid = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEWNET if uid == 0 else _NEWUSER | _NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    if uid != 0:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    with socket.socket() as channel:
        fcntl.ioctl(channel, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))


@contextmanager
def cluster(*sockets: str, has_token: bool = True) -> Iterator[tuple[Any, list[Any]]]:
    """Starts a node for each daemon; the first is the head. Yields the cluster and its nodes."""
    with tempfile.TemporaryDirectory(prefix="zh-ray-") as folder:
        token = Path(folder) / "token"
        token.write_text("0123456789abcdef" * 4)
        mode = "token" if has_token else "disabled"
        os.environ.update(
            RAY_AUTH_MODE=mode,
            RAY_AUTH_TOKEN_PATH=str(token),
            RAY_TMPDIR=folder,
            RAY_USAGE_STATS_ENABLED="0",
            RAY_ENABLE_UV_RUN_RUNTIME_ENV="0",
        )
        from ray.cluster_utils import Cluster

        started = Cluster()
        try:
            yield (
                started,
                [
                    started.add_node(
                        num_cpus=1,
                        node_ip_address=HERE,
                        include_dashboard=False,
                        object_store_memory=80 * 2**20,
                        env_vars={"ZHCACHE_SOCKET": socket},
                    )
                    for socket in sockets
                ],
            )
        finally:
            import ray

            ray.shutdown()
            started.shutdown()


def lose(first: str, second: str, out: str) -> None:
    """Makes a batch; kills the second node once some images are there."""
    from zhcache import cluster as clustered

    with cluster(first, second) as (started, nodes):
        address = started.address
        say(started=address)
        served = clustered.serve(REPOS, address=address, device="cpu", depth=8)
        from ray import serve

        again = clustered.serve(REPOS, address=address, device="cpu", depth=8)
        say(apps=[served.name, again.name], proxies=len(serve.status().proxies))
        seen: list[clustered.Made] = []
        lost: list[int] = []

        def on_made(_: int, made: clustered.Made) -> None:
            seen.append(made)
            if len(seen) == LOSE_AFTER:
                lost.append(len(seen))
                started.remove_node(nodes[1], allow_graceful=False)

        made = clustered.generate(
            *batch(), out=out, address=address, device="cpu", on_made=on_made, **ARGUMENTS
        )
        say(made=len(made), lost=lost, nodes=sorted({one.node for one in made}))


def open_to_all(socket_path: str) -> None:
    """Uses a cluster without a token: refused, then told that it will do, then as if it had one."""
    from zhcache import cluster as clustered

    with cluster(socket_path, has_token=False) as (started, _):
        address = started.address
        asked = {"address": address, "is_open": True, **ARGUMENTS}
        refused(lambda: clustered.serve(REPOS, address=address))
        served = clustered.serve(
            REPOS[0], address=address, nodes=(1, 2), depth=2, queue=2, device="cpu", is_open=True
        )
        refused(lambda: clustered.generate(REPOS[0], ["x"], device="cuda:7", **asked))
        made = clustered.generate(REPOS[0], ["x"] * 12, **asked)
        say(made=[one.seed for one in made])
        refused(lambda: clustered.generate("org/none", ["x"], **asked))
        served.stop()
        refused(lambda: clustered.serve(REPOS, address=address))
        # In a process of its own: what Ray took from the environment before it keeps.
        _said_by([_script("call", address, REPOS[0], RAY_AUTH_MODE="token")])


def share(first: str, second: str) -> None:
    """Two scripts begin at once where nothing is served; then what is served is replaced midway."""
    from zhcache import cluster as clustered

    with cluster(first, second) as (started, _):
        address = started.address
        wrong = {"RAY_AUTH_TOKEN_PATH": "", "RAY_AUTH_TOKEN": "f" * 64}
        _said_by([_script("call", address, REPOS[0], **wrong)])
        _said_by([_script("call", address, repo) for repo in REPOS])
        refused(lambda: clustered.serve(REPOS, address=address, nodes=3))
        served = clustered.serve(REPOS, address=address, device="cpu")
        seen: list[str] = []

        def on_made(_: int, made: clustered.Made) -> None:
            seen.append(made.node)
            if len(seen) == LOSE_AFTER:
                again = clustered.serve(REPOS, address=address, device="cpu", depth=4)
                from ray import serve

                say(was=served.name, now=again.name, there=sorted(serve.status().applications))

        made = clustered.generate(*batch(), address=address, on_made=on_made, **ARGUMENTS)
        say(made=len(made))


def call(address: str, repo: str) -> None:
    """A script that makes a few images of one model."""
    from zhcache import cluster as clustered

    def made() -> None:
        prompts = [f"a red house, number {number}" for number in range(6)]
        images = clustered.generate(repo, prompts, address=address, device="cpu", **ARGUMENTS)
        say(repo=repo, made=len(images))

    refused(made)


def _script(*arguments: str, **environ: str) -> subprocess.Popen[bytes]:
    return begun("harness.raycluster", *arguments, **environ)


def begun(*arguments: str, **environ: str) -> subprocess.Popen[bytes]:
    """Starts a module as another script on the same machine; its lines can be read."""
    return subprocess.Popen(
        [sys.executable, "-m", *arguments],
        env=os.environ | environ,
        stdout=subprocess.PIPE,
    )


def _said_by(begun: list[subprocess.Popen[bytes]]) -> None:
    for one in begun:
        said, _ = one.communicate(timeout=STUCK_S)
        for line in said.splitlines():
            if line.startswith(b"{"):
                say(**json.loads(line))


def refused(call: Callable[[], object]) -> None:
    """Says with what a call is refused."""
    from zhcache.errors import ZhcacheError

    try:
        call()
    except ZhcacheError as error:
        say(refused=error.code, exit=error.exit_code, message=error.message, hint=error.hint)


REPOS = ["org/one", "org/two"]
LOSE_AFTER = 30
ARGUMENTS = {"num_inference_steps": 2, "width": 32, "height": 32}


def batch(count: int = 100) -> tuple[list[str], list[str]]:
    """Returns the models and prompts of a batch, mixed."""
    repos = [REPOS[(number * number // 3) % 2] for number in range(count)]
    return repos, [f"a red house, number {number}" for number in range(count)]


def say(**what: Any) -> None:
    """Prints a line for whoever started this."""
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    faulthandler.dump_traceback_later(STUCK_S, exit=True)
    if sys.argv[1] != "call":
        loopback_alone()
    asked = {"lose": lose, "open": open_to_all, "share": share, "call": call}[sys.argv[1]]
    asked(*sys.argv[2:])
