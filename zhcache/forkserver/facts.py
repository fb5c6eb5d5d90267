"""What must be equal between the user's process and the one it is forked from.

Everything that the kernel or the interpreter settles at a process's start, or that no process may
change in itself later. Its digest is a server's key: whoever differs in any of it gets a server of
their own. What a child can take over (folder, environment, descriptors, soft limits, signals) is
in ``become``; which variables imports have read is known to the server and compared there.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
import sys
from collections.abc import Mapping
from pathlib import Path

from zhcache import __version__

AT_START = ("PYTHON", "LD_", "LC_", "LANG", "MALLOC_", "GLIBC_TUNABLES", "_RLD")
"""Beginnings of variables that the loader, libc and the interpreter read at their start."""

AT_IMPORT = (
    *("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "GOTO_", "BLIS_", "VECLIB_", "NUMEXPR_"),
    *("NPY_", "NUMPY_", "ONEDNN_", "DNNL_", "TORCH", "PYTORCH_", "C10_", "ATEN_", "TQDM_"),
    *("COLAB_", "FSSPEC"),
)
"""Beginnings of variables that native libraries read when they are loaded, unseen by Python, and
of those that are looked for among all names."""

OURS = "PYTORCH_NVML_BASED_CUDA_CHECK"
"""Set for the server alone: with it importing torch does not initialise CUDA, without it CUDA is
refused in every child. Source: torch.cuda.is_available's documentation."""

_STATUS = re.compile(
    r"^(?:Cap\w+|NoNewPrivs|Seccomp\w*|Mems_allowed_list|Speculation\w+):.*$", re.MULTILINE
)
_SESSION_SCOPE = re.compile(r"/session-[^/]+\.scope$", re.MULTILINE)
_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts", "time")
_PACKAGES = ("site-packages", "dist-packages")


def key_of(environ: Mapping[str, str], names: set[str]) -> str:
    """Returns the key of the server that serves this process.

    Args:
        environ: The environment that imports will see.
        names: Further variables that count, learnt from a server that differed in them.
    """
    counted = {
        name: value
        for name, value in environ.items()
        if name in names or name.startswith((*AT_START, *AT_IMPORT))
    }
    # A name of the list without a value is another case than a name that is not on it.
    facts = [
        *(_interpreter(), _process(), _packages(), start_folder(environ)),
        *(sorted(counted.items()), sorted(names)),
    ]
    text = json.dumps(facts, default=str, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def start_folder(environ: Mapping[str, str]) -> str:
    """Returns the folder a server starts in: relative entries of PYTHONPATH are taken from it."""
    entries = environ.get("PYTHONPATH", "/").split(os.pathsep)
    return "/" if all(entry.startswith("/") for entry in entries) else str(Path.cwd())


def _interpreter() -> list[object]:
    return [
        *(__version__, sys.version, sys.executable, sys.prefix, sys.base_prefix),
        *(list(sys.flags), sorted(sys._xoptions.items()), sys.warnoptions),
    ]


def _process() -> list[object]:
    hard = {number: resource.getrlimit(number)[1] for number in limits()}
    root = Path("/").stat()
    return [
        *(os.getresuid(), os.getresgid(), sorted(os.getgroups())),
        *(hard, resource.getrlimit(resource.RLIMIT_STACK)),
        *(os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0)),
        *(sorted(os.sched_getaffinity(0)), (root.st_dev, root.st_ino)),
        _STATUS.findall(_proc("status")),
        # One user's login sessions are equal but for their number; logind sets no limit on them.
        _SESSION_SCOPE.sub("/session", _proc("cgroup")),
        *(
            _proc(name)
            for name in ("attr/current", "personality", "oom_score_adj", "timerslack_ns")
        ),
        [_link(f"/proc/self/ns/{name}") for name in _NAMESPACES],
    ]


def limits() -> list[int]:
    """Returns the number of every resource that has a limit."""
    names = [name for name in dir(resource) if name.startswith("RLIMIT_")]
    return sorted({getattr(resource, name) for name in names})


def _packages() -> list[object]:
    """Returns what changes whenever a package is installed, upgraded or removed."""
    found: list[object] = []
    for entry in sys.path:
        if Path(entry).name in _PACKAGES:
            try:
                status = Path(entry).stat()
            except OSError:
                continue
            found.append([entry, status.st_dev, status.st_ino, status.st_mtime_ns])
    return found


def _proc(name: str) -> str:
    # What a kernel does not have is equal everywhere on it.
    try:
        return Path(f"/proc/self/{name}").read_text("utf-8", "replace")
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return os.readlink(path)  # noqa: PTH115 - a magic link, no path
    except OSError:
        return ""
