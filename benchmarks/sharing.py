"""What several users of one model take in memory: stock loads against attached and resident ones.

Every process makes one small image first, so that all weights have been read, then all are counted
at once: PSS, in which a page that several processes map counts once in all.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks import machine, models, report
from benchmarks.cost import memory_kib
from harness.daemon import Daemon

REPO = "bench/stable-diffusion-v1-5"
_GIB = 2**20
_STOCK = """
import torch
from diffusers import StableDiffusionPipeline
pipe = StableDiffusionPipeline.from_pretrained({folder!r}, dtype=torch.float16)
"""
_ATTACH = "import zhcache\npipe = zhcache.load_pipeline({repo!r}, device='cpu')\n"
_RESIDENT = (
    "import zhcache\npipe = zhcache.load_pipeline({repo!r}, mode='resident', device='cpu')\n"
)
_THEN = """
pipe("ab cd", num_inference_steps=1, height=64, width=64)
print("ready", flush=True)
input()
"""


def main() -> None:
    """Measures and reports."""
    parser = report.options(__doc__ or "")
    parser.add_argument("--users", type=int, default=4)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="zhcache-share-", dir=options.folder) as temporary:
        _measure(options, Path(temporary))


def _measure(options: Any, folder: Path) -> None:
    report.title("Sharing")
    about = machine.describe(["torch", "diffusers", "transformers"])
    report.facts(about | {"users": options.users, "load before": machine.load()})
    report.say("building the pipeline and one copy for each user")
    model = models.build_sd15(folder / "sd15")
    weights = sum(file.stat().st_size for file in model.rglob("*.safetensors")) / 2**30
    copies = [folder / f"copy-{number}" for number in range(options.users)]
    for copy in copies:
        shutil.copytree(model, copy)
    ways: dict[str, tuple[Sequence[str], str]] = {
        "stock, a copy of the files each": ([_STOCK.format(folder=str(c)) for c in copies], ""),
        "attached, mapped files": ([_ATTACH.format(repo=REPO)] * options.users, "files"),
        "attached, arenas": ([_ATTACH.format(repo=REPO)] * options.users, "arenas"),
        "resident": ([_RESIDENT.format(repo=REPO)] * options.users, "files"),
    }
    found = {way: _count(folder, way, codes, host, model) for way, (codes, host) in ways.items()}
    print(f"The weights are {weights:.2f} GiB.\n")
    base = sum(found["stock, a copy of the files each"])
    report.table(
        ("way", "GiB of PSS in all", "of stock", "each user", "daemon and workers"),
        [
            (
                way,
                f"{(users + ours):.2f}",
                f"{(users + ours) / base:.2f}",
                f"{users / options.users:.2f}",
                f"{ours:.2f}",
            )
            for way, (users, ours) in found.items()
        ],
    )
    print(f"Load after: {machine.load()}.")
    report.write_json(options.json, {"machine": about, "gib": found})


def _count(
    folder: Path, way: str, codes: Sequence[str], host: str, model: Path
) -> tuple[float, float]:
    """Returns the PSS of the users and of the daemon's side, in GiB."""
    report.say(way)
    place = folder / way.replace(" ", "-").replace(",", "")
    place.mkdir()
    daemon = Daemon(place, f'[store]\nmin_free = "0"\n[residency]\nhost = "{host or "files"}"\n')
    if host:
        daemon.start()
        daemon.cli("import", str(model), "--repo", REPO, timeout=600)
    users = [_start(code, daemon) for code in codes]
    try:
        ours = 0.0
        theirs = sum(memory_kib(user.pid)["Pss"] for user in users) / _GIB
        if host and daemon.process is not None:
            top = psutil.Process(daemon.process.pid)
            family = [top, *top.children(recursive=True)]
            ours = sum(memory_kib(one.pid)["Pss"] for one in family) / _GIB
        return theirs, ours
    finally:
        for user in users:
            user.kill()
            user.wait()
        if host:
            daemon.stop()


def _start(code: str, daemon: Daemon) -> subprocess.Popen[str]:
    user = subprocess.Popen(
        [sys.executable, "-c", code + _THEN],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=daemon.environ,
    )
    assert user.stdout is not None
    for line in user.stdout:
        if line == "ready\n":
            return user
    sys.exit(f"{code}\nended with {user.wait()}\n{daemon.tail()}")


if __name__ == "__main__":
    main()
