"""What every worker imports, imported once, in a process that can still be forked.

Measured: 5 s of imports on one machine, 14 s on another; a fork of what has them takes 10 ms.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

from zhcache.errors import ZhcacheError
from zhcache.forkserver.untouched import untouched
from zhcache.i18n import mark
from zhcache.pipeline.quantized import hushed

_NAMES = ("fill", "resident", "convert", "unpickle", "single", "parallel.crew")
_ROLES = tuple(f"zhcached.workers.{role}" for role in _NAMES)
# Their modules bring what nearly every family uses; another family imports its own, once a worker.
_USUAL = ("StableDiffusionPipeline", "StableDiffusionXLPipeline", "FluxPipeline")
_ENVIRONMENT = {
    # Torch asks NVML then, instead of starting CUDA at import, which no fork survives.
    # Source: torch.cuda.is_available; facts of a fork measured on a GPU.
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
    # Threads of NumPy's BLAS would start at import. Torch has threads of its own, later.
    "OPENBLAS_NUM_THREADS": "1",
    # Inductor's pool of processes needs semaphores in /dev/shm, which is everybody's.
    "TORCHINDUCTOR_COMPILE_THREADS": "1",
    # 156 MB, as long to make as they save in six kernels, and made where none is compiled as well.
    "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS": "0",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
    "DO_NOT_TRACK": "1",
}


def prepare(scratch: Path) -> None:
    """Sets what libraries read at import, and takes away what looks like a secret."""
    for name in [name for name in os.environ if is_secret(name)]:
        del os.environ[name]
    os.environ.update(_ENVIRONMENT)
    if not os.environ.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}:
        # Threads that spin while they wait take the cores from those they wait for, where others
        # are at work beside them: measured, 11 times as long. Those that sleep are woken in time.
        os.environ["GOMP_SPINCOUNT"] = "1000"
    # Read at import, hence one for all workers; nothing is there and nothing will be.
    os.environ["HF_HOME"] = str(scratch / "huggingface")


def is_secret(name: str) -> bool:
    """Tells whether an environment variable is not for workers, by its name."""
    return any(part in name.upper() for part in ("TOKEN", "SECRET", "PASSWORD", "CREDENTIAL"))


def fill_up() -> None:
    """Imports all that workers need.

    Raises:
        ZhcacheError: Something is not installed here, or cannot be imported.
    """
    try:
        with hushed(), untouched():
            for role in _ROLES:
                importlib.import_module(role)
            _add_the_usual()
    except Exception as error:
        # Foreign code runs at import and raises what it likes.
        raise ZhcacheError(
            mark("the environment {prefix} cannot run workers: {reason}"),
            hint=mark("pip install 'zhcache[daemon,torch]' there"),
            prefix=sys.prefix,
            reason=f"{type(error).__name__}: {error}"[:500],
        ) from error


def _add_the_usual() -> None:
    diffusers = importlib.import_module("diffusers")
    transformers = importlib.import_module("transformers")
    for name in _USUAL:
        # Made at the first look; a version that has no such pipeline has nothing to import.
        getattr(diffusers, name, None)
    # A worker's bars are drawn for nobody; it tells its progress in frames.
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()


def hindrance() -> str:
    """Returns why this process may not be forked now, or nothing."""
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads != 1:
        return f"it has {threads} threads"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return "its torch has started CUDA"
    return ""
