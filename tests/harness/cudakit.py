"""The CUDA driver of a test: the real one, or a stand-in built from ``simulators/cuda`` with cc."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
SOURCES = TESTS / "simulators" / "cuda"
TIMEOUT_S = 120.0


def lacking() -> str | None:
    """Returns why there can be no stand-in here, or None."""
    if sys.platform != "linux":
        return "CUDA memory is handed over on Linux alone"
    if shutil.which("cc") is None:
        return "no C compiler (cc) to build the stand-in libcuda with"
    return None


def has_gpu() -> bool:
    """Whether torch sees a CUDA device in this process."""
    import torch

    return torch.cuda.is_available()


def build() -> Path:
    """Returns a folder with stand-ins for libcuda and libnvidia-ml; built once for each source."""
    sources = sorted(SOURCES.glob("*.c"))
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"zhcache-stand-ins-{os.getuid()}" / digest
    if folder.exists():
        return folder
    folder.parent.mkdir(mode=0o700, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent))
    for source in sources:
        name = f"{source.stem}.so.1"
        options = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC"]
        command = ["cc", *options, f"-Wl,-soname,{name}", "-o", scratch / name, source]
        subprocess.run(command, check=True, timeout=60)
    try:
        scratch.rename(folder)
    except OSError:
        # Another worker was faster; its libraries are the same.
        shutil.rmtree(scratch)
    return folder


def environ(libraries: Path | None, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Returns the environment of a process that meets the stand-ins, or with None the driver."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("STAND_IN_", "ZHCACHE_"))}
    if libraries is not None:
        kept.pop("CUDA_VISIBLE_DEVICES", None)
        before = kept.get("LD_LIBRARY_PATH")
        kept["LD_LIBRARY_PATH"] = os.pathsep.join([str(libraries), *([before] if before else [])])
    paths = [str(ROOT), str(ROOT / "daemon"), str(TESTS)]
    return kept | {"PYTHONPATH": os.pathsep.join(paths)} | dict(more or {})


def run(libraries: Path | None, module: str, *arguments: str, **more: str) -> str:
    """Runs ``python -m module`` there and returns its output; fails with what it said.

    A process for each run: a driver reads its environment once, and a context that died stays so.
    """
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env=environ(libraries, more),
        check=False,
    )
    said = f"{module} {' '.join(arguments)} {more}\n{done.stdout}{done.stderr}"
    assert done.returncode == 0, said
    return done.stdout
