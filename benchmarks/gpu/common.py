"""What the GPU benchmarks share: the GPU or why there is none, its memory, and the model."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import machine, models, report
from harness.daemon import Daemon
from zhcached.residency import nvml

REPO = "bench/stable-diffusion-v1-5"
PACKAGES = ("torch", "diffusers", "transformers", "nvidia-ml-py")


def lacking(device: str = "cuda") -> str | None:
    """Returns why this benchmark cannot run on ``device`` here, or None."""
    if device == "cpu":
        return None
    import torch

    if not torch.cuda.is_available():
        return f"torch {torch.__version__} sees no CUDA device"
    from zhcache.errors import ZhcacheError
    from zhcache.pipeline import vmm

    try:
        vmm.count()
    except ZhcacheError as error:
        return str(error)
    return None if nvml.gpus() else "NVML lists no GPU: install nvidia-ml-py"


def main(description: str, measure: Callable[[Any, Path], None], **more: tuple[type, Any]) -> None:
    """Runs a benchmark in a folder of its own, or says why it does not and ends with 0.

    Args:
        description: Its docstring.
        measure: Takes the options and the folder.
        **more: Further options: their type and what they are unless said.
    """
    parser = report.options(description)
    parser.add_argument("--device", default="cuda", help="cpu runs the script without a GPU")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--model", type=Path, help="a pipeline's folder; else one is built")
    for name, (kind, value) in more.items():
        parser.add_argument(f"--{name}", type=kind, default=value)
    options = parser.parse_args()
    if reason := lacking(options.device):
        print(f"skipped: {reason}")
        return
    # A model of 2 GiB is built once and kept: device time is dear.
    if options.model is None:
        options.model = models.build_sd15(options.folder / f"zhcache-sd15-{os.getuid()}")
    with tempfile.TemporaryDirectory(prefix="zhcache-gpu-", dir=options.folder) as temporary:
        report.title(description.splitlines()[0].rstrip("."))
        report.facts(about(options.device) | {"load before": machine.load()})
        measure(options, Path(temporary))


def about(device: str) -> dict[str, object]:
    """Returns what a reader needs to judge a number."""
    told: dict[str, object] = dict(machine.describe(PACKAGES))
    if device != "cpu":
        told["GPUs"] = ", ".join(f"{gpu.name} {gpu.total >> 30} GiB" for gpu in nvml.gpus())
        told["driver"] = _driver()
    return told


def used_mib() -> int:
    """Returns the MiB in use on the first GPU, by whomever."""
    first = nvml.gpus()[0]
    return (first.total - first.free) >> 20


def serve(folder: Path, model: Path, config: str = "") -> Daemon:
    """Returns a running daemon that has the model and keeps arenas on every device."""
    folder.mkdir(parents=True, exist_ok=True)
    residency = f'[residency]\nhost = "arenas"\nkeep_alive = "1h"\n{config}'
    daemon = Daemon(folder, f'[store]\nmin_free = "0"\n{residency}')
    daemon.start()
    daemon.cli("import", str(model), "--repo", REPO, timeout=600)
    return daemon


def verdict(name: str, is_met: bool, measured: str) -> tuple[str, str, str]:
    """Returns a row: what was to be shown, what was found, and whether that shows it."""
    return name, measured, "met" if is_met else "**missed**"


def _driver() -> str:
    try:
        return Path("/proc/driver/nvidia/version").read_text().splitlines()[0]
    except OSError:
        return "unknown"


if __name__ == "__main__":
    sys.exit("not a benchmark: see benchmarks/gpu/README.md")
