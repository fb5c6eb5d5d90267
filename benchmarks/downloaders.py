"""The tools that are compared: each downloads the hub's one file into a fresh folder.

All run as their users run them, in processes of their own, progress bars off; what starting an
interpreter costs is part of each. The daemon is there before the clock starts, as on a machine
where it is installed, and its CPU time counts from the request to the answer.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from benchmarks import FILE, REPO
from benchmarks.cost import Cost, cpu_s, run
from benchmarks.hubs import HubProcess
from harness.daemon import BIN, Daemon, source

_HASHLIB = """
import hashlib, sys
digest, buffer = hashlib.sha256(), memoryview(bytearray(1 << 20))
with open(sys.argv[1], "wb", buffering=0) as file:
    while count := sys.stdin.buffer.raw.readinto(buffer):
        file.write(buffer[:count])
        digest.update(buffer[:count])
print(digest.hexdigest())
"""


@dataclass(frozen=True, slots=True)
class Tool:
    """One way to download the file.

    Attributes:
        proves: What it checks of the bytes while it downloads.
        needs: A program, or a Python package, without which it is left out.
        fetch: Downloads from the hub into an empty folder.
    """

    name: str
    proves: str
    needs: str
    fetch: Callable[[HubProcess, Path], Cost]

    def is_there(self) -> bool:
        """Tells whether what it needs is installed."""
        return bool(shutil.which(self.needs) or find_spec(self.needs))


def _environ(folder: Path, **more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    return kept | {"HOME": str(folder)} | more


def _zhcached(hub: HubProcess, folder: Path) -> Cost:
    daemon = Daemon(folder, source(hub)).start()
    try:
        assert daemon.process is not None
        before = cpu_s(daemon.process.pid)
        client = run([BIN / "zhcache", "prefetch", REPO, "--json"], daemon.environ)
        return Cost(client.wall_s, client.cpu_s + cpu_s(daemon.process.pid) - before)
    finally:
        daemon.stop()


def _huggingface_hub(hub: HubProcess, folder: Path) -> Cost:
    script = f"from huggingface_hub import hf_hub_download as f; f({REPO!r}, {FILE!r})"
    environ = _environ(
        folder,
        HF_ENDPOINT=hub.url,
        HF_HOME=str(folder / "hf"),
        HF_HUB_DISABLE_XET="1",
        HF_HUB_DISABLE_TELEMETRY="1",
        HF_HUB_DISABLE_PROGRESS_BARS="1",
    )
    return run([sys.executable, "-c", script], environ)


def _modelscope(hub: HubProcess, folder: Path) -> Cost:
    script = (
        "from modelscope_hub.compat.file_download import model_file_download as f;"
        f"f({REPO!r}, {FILE!r}, endpoint={hub.url!r}, cache_dir={str(folder)!r}, token='')"
    )
    return run([sys.executable, "-c", script], _environ(folder, MODELSCOPE_CACHE=str(folder)))


def _curl(hub: HubProcess, folder: Path) -> Cost:
    return run(["curl", "-sSf", "-o", folder / FILE, hub.file_url])


def _curl_to_nowhere(hub: HubProcess, folder: Path) -> Cost:
    return run(["curl", "-sSf", "-o", "/dev/null", hub.file_url])


def _curl_and_hashlib(hub: HubProcess, folder: Path) -> Cost:
    reader = shlex.join([sys.executable, "-S", "-c", _HASHLIB, str(folder / FILE)])
    return run(["sh", "-c", f"curl -sSf {shlex.quote(hub.file_url)} | {reader}"])


def _curl_and_openssl(hub: HubProcess, folder: Path) -> Cost:
    target = shlex.quote(str(folder / FILE))
    command = f"curl -sSf {shlex.quote(hub.file_url)} | tee {target} | openssl dgst -sha256"
    return run(["sh", "-c", command])


def _aria2c(hub: HubProcess, folder: Path) -> Cost:
    options = ["-q", "-x8", "-s8", "--file-allocation=falloc", "--no-conf"]
    return run(["aria2c", *options, "-d", folder, "-o", FILE, hub.file_url], _environ(folder))


ZHCACHED = Tool("zhcached", "sha256, durable", "zhcache", _zhcached)
HUGGINGFACE = Tool("huggingface_hub", "size", "huggingface_hub", _huggingface_hub)
FLOOR = Tool("curl -o /dev/null", "nothing", "curl", _curl_to_nowhere)
HASHLIB = Tool("curl + hashlib inline", "sha256", "curl", _curl_and_hashlib)
OPENSSL = Tool("curl + tee + openssl", "sha256", "openssl", _curl_and_openssl)

TOOLS = (
    ZHCACHED,
    HUGGINGFACE,
    Tool("modelscope", "sha256", "modelscope_hub", _modelscope),
    Tool("curl", "nothing", "curl", _curl),
    HASHLIB,
    OPENSSL,
    Tool("aria2c -x8", "nothing", "aria2c", _aria2c),
    FLOOR,
)
