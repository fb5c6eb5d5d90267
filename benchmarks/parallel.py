"""One image by one process and by two that split its guidance, on the CPU: devices are cores.

Against one process with one thread, which is what a device of its own is, and against one with a
thread for every core, which has the same cores as the two. They take turns within a round, with the
same prompt and seed; the images are compared. Processes that wait for each other at every step lose
most where others want the cores too: the CPU seconds of the busiest process are told as well, which
are what a call takes at least where each has a core of its own.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, cast

import zhcache
from benchmarks import machine, report
from demohub import Hub, pipeline
from harness.daemon import Daemon, source

_GOAL = 1.0
_REPO = "bench/unet"
_WIDTHS = (96, 192, 384)
_CLOSE = 1


def main() -> None:
    """Measures and reports."""
    parser = report.options(__doc__ or "")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", type=int, default=256, help="of the image, in pixels")
    parser.add_argument("--steps", type=int, default=8)
    options = parser.parse_args()
    report.title("One image over two devices")
    about = machine.describe(["torch", "diffusers", "transformers"])
    report.facts(
        about
        | {
            "image": f"{options.side}x{options.side}, {options.steps} guided steps, a random U-Net"
            f" {_WIDTHS} wide",
            "rounds": options.rounds,
            "load before": machine.load(),
        }
    )
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="zhp-") as folder:
        model = _built(Path(folder) / "model")
        for threads, environ in (("1", {"OMP_NUM_THREADS": "1"}), ("as many as cores", {})):
            home = Path(folder) / f"of-{len(found)}"
            home.mkdir()
            found[threads] = _measured(model, home, environ, options)
    _print(found)
    print(f"Load after: {machine.load()}.")
    report.write_json(options.json, {"machine": about, "threads": found})


def _built(target: Path) -> Path:
    """Returns a pipeline whose U-Net takes all of the time: the tiny one's, with another U-Net."""
    import torch
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    tiny = pipeline.build(pipeline.shared_folder(Path(tempfile.gettempdir())))
    made: Any = DiffusionPipeline.from_pretrained(tiny, local_files_only=True)
    torch.manual_seed(5)
    made.unet = UNet2DConditionModel(
        sample_size=32,
        block_out_channels=_WIDTHS,
        layers_per_block=2,
        norm_num_groups=32,
        attention_head_dim=8,
        cross_attention_dim=made.text_encoder.config.hidden_size,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    )
    made.save_pretrained(target)
    return target


def _measured(model: Path, home: Path, environ: dict[str, str], options: Any) -> dict[str, Any]:
    report.say(f"workers with {environ or 'threads as they come'}")
    with Hub() as hub:
        files = {str(p.relative_to(model)): p for p in model.rglob("*") if p.is_file()}
        hub.add(_REPO, files)
        daemon = Daemon(home, source(hub), environ).start()
        os.environ["ZHCACHE_SOCKET"] = str(daemon.socket)
        try:
            one = cast(Any, zhcache.load_pipeline(_REPO, mode="resident", device="cpu"))
            two = cast(
                Any, zhcache.load_pipeline(_REPO, device=["cpu", "cpu"], placement="parallel")
            )
            report.say(two.memory_report)
            with one, two:
                return _rounds(one, two, options)
        finally:
            daemon.stop()


def _processes() -> dict[str, list[int]]:
    """Returns the processes of the worker that is one, and of the one that is two."""
    with zhcache.Client() as client:
        found = {
            "two" if line.note else "one": line.pid or 0
            for line in client.resident()
            if line.mode == "resident"
        }
    return {name: [pid, *_children(pid)] for name, pid in found.items()}


def _children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rounds(one: Any, two: Any, options: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "prompt": "a red house by a lake",
        "seed": 7,
        "num_inference_steps": options.steps,
        "width": options.side,
        "height": options.side,
    }
    taken: dict[str, list[float]] = {"one": [], "two": []}
    busiest: dict[str, list[float]] = {"one": [], "two": []}
    apart, processes = 0, _processes()
    for number in range(options.rounds + 1):
        drawn: list[bytes] = []
        for name, pipe in (("one", one), ("two", two)):
            spent = {pid: _cpu(pid) for pid in processes[name]}
            began = time.perf_counter()
            drawn.append(pipe(**given).images[0].tobytes())
            seconds = time.perf_counter() - began
            # In the first of each, workers start and touch their memory.
            if number:
                taken[name].append(seconds)
                busiest[name].append(max(_cpu(pid) - spent[pid] for pid in spent))
        apart = max(apart, *(abs(a - b) for a, b in zip(*drawn, strict=True)))
        report.say(f"round {number}")
    return {**taken, "busiest": busiest, "apart": apart}


def _print(found: dict[str, Any]) -> None:
    rows: list[tuple[str, ...]] = []
    goals: list[tuple[str, ...]] = []
    for threads, one in found.items():
        ratios = _ratios(one)
        of_cpu = _ratios(one["busiest"])
        rows.append(
            (
                threads,
                report.spread(one["one"], ".2f"),
                report.spread(one["two"], ".2f"),
                report.spread(ratios, ".2f"),
                report.spread(of_cpu, ".2f"),
                f"{one['apart']} of 255",
            )
        )
        if threads == "1":
            is_met = statistics.median(ratios) < _GOAL and one["apart"] <= _CLOSE
            goals.append(
                report.goal("faster than one process, as good", f"< {_GOAL}", ratios, is_met)
            )
    report.table(
        (
            "threads of the one",
            "one process, s",
            "two that split it, s",
            "ratio",
            "ratio of CPU",
            "images apart",
        ),
        rows,
    )
    report.table(("goal", "bound", "ratio", ""), goals)


def _ratios(found: dict[str, list[float]]) -> list[float]:
    return [two / one for one, two in zip(found["one"], found["two"], strict=True)]


if __name__ == "__main__":
    main()
