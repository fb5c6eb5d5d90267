"""From process start to a pipeline, and to its first image: stock loading, attached, resident.

A full-size Stable Diffusion 1.5 of random float16 weights on the CPU, all of its files in the page
cache. Each load is a process of its own; the ways take turns, so that the machine's noise strikes
all of them. The image is small and of one step: what is measured is the way to it.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import machine, models, report
from harness.daemon import Daemon

REPO = "bench/stable-diffusion-v1-5"
_CALL = "num_inference_steps=1, height=64, width=64"
_TELL = "print(json.dumps(marks), flush=True)"
_HEAD = "import json, time; marks = {'python': time.monotonic()}\n"
_IMPORTS = """
import torch
from diffusers import StableDiffusionPipeline
from transformers import CLIPTextModel, CLIPTokenizer
"""
_MARK = "marks[{!r}] = time.monotonic()\n"
_STEPS = ("imports", "pipeline", "image", "second image")
_IMAGE = f"""
pipe.set_progress_bar_config(disable=True)
make = lambda: pipe('ab cd', {_CALL}, generator=torch.Generator('cpu').manual_seed(0)).images[0]
"""


def main() -> None:
    """Measures and reports."""
    parser = report.options(__doc__ or "")
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="zhcache-load-", dir=options.folder) as temporary:
        _measure(options, Path(temporary))


def _measure(options: Any, folder: Path) -> None:
    report.title("Loading")
    about = machine.describe(["torch", "diffusers", "transformers"])
    report.facts(about | {"repeated": options.repeat, "load before": machine.load()})
    report.say("building the pipeline")
    model = models.build_sd15(folder / "sd15")
    mapped = Daemon(_made(folder / "files"))
    arenas = Daemon(
        _made(folder / "arenas"),
        '[store]\nmin_free = "0"\n[residency]\nhost = "arenas"\nkeep_alive = "1h"\n',
    )
    try:
        for daemon in (mapped, arenas):
            daemon.start()
            daemon.cli("import", str(model), "--repo", REPO, timeout=600)
        ways = {
            "stock": (_stock(model), mapped),
            "attach, mapped files": (_attach(), mapped),
            "attach, arenas": (_attach(), arenas),
            "resident": (_resident(), mapped),
        }
        found = _rounds(ways, options)
    finally:
        for daemon in (mapped, arenas):
            daemon.stop()
    _tell(found)
    print(f"Load after: {machine.load()}.")
    report.write_json(options.json, {"machine": about, "seconds": found})


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def _stock(model: Path) -> str:
    return _program(
        _IMPORTS,
        f"pipe = StableDiffusionPipeline.from_pretrained({str(model)!r}, dtype=torch.float16)\n",
        _IMAGE,
    )


def _attach() -> str:
    return _program(
        _IMPORTS + "import zhcache\n",
        f"pipe = zhcache.load_pipeline({REPO!r}, device='cpu')\n",
        _IMAGE,
    )


def _resident() -> str:
    return _program(
        "import zhcache\n",
        f"pipe = zhcache.load_pipeline({REPO!r}, mode='resident', device='cpu')\n",
        f"make = lambda: pipe('ab cd', {_CALL}, seed=0).images[0]\n",
    )


def _program(imports: str, load: str, define: str) -> str:
    make = "make()\n"
    parts = zip((imports, load, define + make, make), _STEPS, strict=True)
    return _HEAD + "".join(part + _MARK.format(step) for part, step in parts) + _TELL


def _rounds(
    ways: Mapping[str, tuple[str, Daemon]], options: Any
) -> dict[str, dict[str, list[float]]]:
    found: dict[str, dict[str, list[float]]] = {way: {step: [] for step in _STEPS} for way in ways}
    order = list(ways)
    shuffle = random.Random(options.seed)
    for number in range(-1, options.repeat):
        report.say(f"round {number + 1} of {options.repeat}" if number >= 0 else "warming up")
        shuffle.shuffle(order)
        for way in order:
            marks = _run(*ways[way])
            if number < 0:
                continue
            for step, seconds in marks.items():
                found[way][step].append(seconds)
    return found


def _run(code: str, daemon: Daemon) -> dict[str, float]:
    """Returns the seconds from the process's start to each step."""
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=daemon.environ | {"OMP_NUM_THREADS": str(len(os.sched_getaffinity(0)))},
        check=False,
    )
    if done.returncode:
        sys.exit(f"{code}\n{done.stderr}\n{daemon.tail()}")
    marks = json.loads(done.stdout.splitlines()[-1])
    return {step: marks[step] - start for step in _STEPS}


def _tell(found: Mapping[str, Mapping[str, list[float]]]) -> None:
    def taken(way: str, step: str) -> list[float]:
        before = _STEPS[_STEPS.index(step) - 1]
        return [b - a for a, b in zip(found[way][before], found[way][step], strict=True)]

    report.table(
        ("seconds", "imports", "then: pipeline", "start to pipeline", "start to first image",
         "one more image"),
        [
            (
                way,
                report.spread(steps["imports"], ".2f"),
                report.spread(taken(way, "pipeline"), ".2f"),
                report.spread(steps["pipeline"], ".2f"),
                report.spread(steps["image"], ".2f"),
                report.spread(taken(way, "second image"), ".2f"),
            )
            for way, steps in found.items()
        ],
    )  # fmt: skip
    stock = taken("stock", "pipeline")
    rows = []
    for way in ("attach, mapped files", "attach, arenas"):
        ratios = [a / b for a, b in zip(taken(way, "pipeline"), stock, strict=True)]
        met = statistics.median(ratios) <= 0.5
        rows.append(report.goal(f"{way}: after imports, of stock's time", "0.5", ratios, met))
    accepted = found["resident"]["pipeline"]
    rows.append(
        report.goal(
            "resident: process start to a pipeline that takes calls, s",
            "0.3",
            accepted,
            statistics.median(accepted) <= 0.3,
        )
    )
    report.table(("goal", "at most", "measured", ""), rows)


if __name__ == "__main__":
    main()
