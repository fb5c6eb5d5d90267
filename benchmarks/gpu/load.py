"""From process start to a pipeline on the GPU, and to its first image: stock, attached, resident.

A full-size Stable Diffusion 1.5 of random float16 weights, its files in the page cache. Each load
is a process of its own; the ways take turns. Imports and the process's CUDA context are told apart
from what follows: every way but the resident one pays for both, whoever loads.
"""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import machine, report
from benchmarks.gpu import common
from harness.daemon import Daemon

STEPS = ("imports", "context", "pipeline", "image", "second image")
_HEAD = "import json, time; marks = {'python': time.monotonic()}\n"
_IMPORTS = """
import torch
from diffusers import StableDiffusionPipeline
from transformers import CLIPTextModel, CLIPTokenizer
sync = torch.cuda.synchronize if DEVICE != 'cpu' else (lambda: None)
"""
_CONTEXT = "torch.zeros(1, device=DEVICE); sync()\n"
_STOCK = "pipe = StableDiffusionPipeline.from_pretrained({model!r}, dtype=torch.float16)"
_DRAW = """
pipe.set_progress_bar_config(disable=True)
make = lambda: pipe('ab cd', {call}, generator=torch.Generator('cpu').manual_seed(0)).images[0]
make()
"""
_MARK = "{}marks[{!r}] = time.monotonic()\n"


def main() -> None:
    """Measures and reports."""
    common.main(
        __doc__ or "", _measure, repeat=(int, 5), steps=(int, 20), size=(int, 512)
    )  # fmt: skip


def _measure(options: Any, folder: Path) -> None:
    daemon = common.serve(folder / "daemon", options.model)
    try:
        found = _rounds(_ways(options), daemon, options)
    finally:
        daemon.stop()
    _tell(found, options)
    print(f"Load after: {machine.load()}.")
    report.write_json(options.json, {"seconds": found})


def _ways(options: Any) -> dict[str, str]:
    call = f"num_inference_steps={options.steps}, height={options.size}, width={options.size}"
    draw, again = _DRAW.format(call=call), "make()\n"
    stock = _STOCK.format(model=str(options.model))
    repo, device = common.REPO, options.device
    attach = f"pipe = zhcache.load_pipeline({repo!r}, device=DEVICE)\n"
    resident = f"pipe = zhcache.load_pipeline({repo!r}, mode='resident', device=DEVICE)\n"
    ways = {
        "stock, .to(device)": (_IMPORTS, _CONTEXT, f"{stock}.to(DEVICE)\n", draw, again),
        "attach": (_IMPORTS + "import zhcache\n", _CONTEXT, attach, draw, again),
        "resident": (
            "import zhcache\nsync = lambda: None\n",
            "",
            resident,
            f"make = lambda: pipe('ab cd', {call}, seed=0).images[0]\nmake()\n",
            again,
        ),
    }
    if device != "cpu":
        mapped = stock.replace("dtype=", "device_map='cuda', dtype=") + "\n"
        ways["stock, device_map"] = (_IMPORTS, _CONTEXT, mapped, draw, again)
    return {way: f"DEVICE = {device!r}\n" + _program(parts) for way, parts in ways.items()}


def _program(parts: tuple[str, ...]) -> str:
    # To wait for the GPU after the imports would make the context there.
    waits = ("", *("sync(); " for _ in STEPS[1:]))
    steps = zip(parts, waits, STEPS, strict=True)
    marked = "".join(part + _MARK.format(wait, step) for part, wait, step in steps)
    return _HEAD + marked + "print(json.dumps(marks), flush=True)"


def _rounds(
    ways: Mapping[str, str], daemon: Daemon, options: Any
) -> dict[str, dict[str, list[float]]]:
    found: dict[str, dict[str, list[float]]] = {way: {step: [] for step in STEPS} for way in ways}
    order = list(ways)
    shuffle = random.Random(options.seed)
    for number in range(-1, options.repeat):
        report.say(f"round {number + 1} of {options.repeat}" if number >= 0 else "warming up")
        shuffle.shuffle(order)
        for way in order:
            start = time.monotonic()
            done = subprocess.run(
                [sys.executable, "-c", ways[way]],
                capture_output=True,
                text=True,
                env=daemon.environ,
                check=False,
            )
            if done.returncode:
                sys.exit(f"{way}\n{ways[way]}\n{done.stderr}\n{daemon.tail()}")
            marks = json.loads(done.stdout.splitlines()[-1])
            for step in STEPS if number >= 0 else ():
                found[way][step].append(marks[step] - start)
    return found


def _tell(found: Mapping[str, Mapping[str, list[float]]], options: Any) -> None:
    def taken(way: str, step: str) -> list[float]:
        before = STEPS[STEPS.index(step) - 1]
        return [b - a for a, b in zip(found[way][before], found[way][step], strict=True)]

    report.table(
        ("seconds", "imports", "then: context", "then: pipeline", "then: first image",
         "one more image", "start to pipeline", "start to first image"),
        [
            (
                way,
                report.spread(steps["imports"], ".2f"),
                *(report.spread(taken(way, step), ".3f") for step in STEPS[1:]),
                report.spread(steps["pipeline"], ".2f"),
                report.spread(steps["image"], ".2f"),
            )
            for way, steps in found.items()
        ],
    )  # fmt: skip
    stocks = [way for way in found if way.startswith("stock")]
    best = min(stocks, key=lambda way: statistics.median(taken(way, "pipeline")))
    attach, stock = taken("attach", "pipeline"), statistics.median(taken(best, "pipeline"))
    ratios = [seconds / stock for seconds in attach]
    # What a resident call costs beyond generating: the second call of the same process is warm.
    beyond = [
        first - again
        for first, again in zip(
            found["resident"]["image"], taken("resident", "second image"), strict=True
        )
    ]
    goals = (
        ("attach, after imports and context, s", 0.15, attach),
        (f"attach, of the quicker stock's time ({best})", 0.1, ratios),
        ("resident: process start to image beyond the generation itself, s", 0.5, beyond),
    )
    report.table(
        ("goal", "at most", "measured", ""),
        [
            report.goal(meaning, str(bound), values, statistics.median(values) <= bound)
            for meaning, bound, values in goals
        ],
    )
    print(f"Images of {options.size} pixels, {options.steps} steps.")


if __name__ == "__main__":
    main()
