"""Sixteen images by one worker and by two, each on the CPU: two devices simulated by two cores.

Once with one thread for each worker, which is what a device of its own is, and once with as many as
there are cores, which two workers then share. One and two take turns within a round, with the same
prompts and seeds; the images are compared byte for byte.
"""

from __future__ import annotations

import hashlib
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

_IMAGES = 16
_GOAL = 0.6
_REPO = "bench/tiny"
_ONE, _TWO = ["cpu"], ["cpu", "cpu"]


def main() -> None:
    """Measures and reports."""
    parser = report.options(__doc__ or "")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", type=int, default=256, help="of an image, in pixels")
    parser.add_argument("--steps", type=int, default=4)
    options = parser.parse_args()
    report.title("Two workers beside one")
    about = machine.describe(["torch", "diffusers", "transformers"])
    report.facts(
        about
        | {
            "images": f"{_IMAGES} of {options.side}x{options.side}, {options.steps} steps, the tiny"
            " pipeline of the demo hub",
            "rounds": options.rounds,
            "load before": machine.load(),
        }
    )
    found = {
        "1": _measured({"OMP_NUM_THREADS": "1"}, options),
        f"{len(os.sched_getaffinity(0))}, the cores shared": _measured({}, options),
    }
    _print(found)
    print(f"Load after: {machine.load()}.")
    report.write_json(options.json, {"machine": about, "threads": found})


def _measured(environ: dict[str, str], options: Any) -> dict[str, Any]:
    """Returns the seconds of each round, and whether all images were equal."""
    report.say(f"workers with {environ or 'threads as they come'}")
    model = pipeline.build(pipeline.shared_folder(Path(tempfile.gettempdir())))
    with tempfile.TemporaryDirectory(prefix="zhr-") as folder, Hub() as hub:
        files = {str(p.relative_to(model)): p for p in model.rglob("*") if p.is_file()}
        hub.add(_REPO, files)
        daemon = Daemon(Path(folder), source(hub), environ).start()
        os.environ["ZHCACHE_SOCKET"] = str(daemon.socket)
        try:
            one, two = (
                cast(Any, zhcache.load_pipeline(_REPO, device=devices, placement="replicate"))
                for devices in (_ONE, _TWO)
            )
            with one, two:
                return _rounds(one, two, options)
        finally:
            daemon.stop()


def _rounds(one: Any, two: Any, options: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "prompt": [f"a red house by a lake, number {number}" for number in range(_IMAGES)],
        "seed": list(range(_IMAGES)),
        "num_inference_steps": options.steps,
        "width": options.side,
        "height": options.side,
    }
    taken: dict[str, list[float]] = {"one": [], "two": []}
    sums: set[str] = set()
    for number in range(options.rounds + 1):
        for name, pipe in (("one", one), ("two", two)):
            began = time.perf_counter()
            images = pipe(**given).images
            seconds = time.perf_counter() - began
            digest = hashlib.sha256(b"".join(image.tobytes() for image in images))
            sums.add(digest.hexdigest())
            # In the first of each, workers start and touch their memory.
            if number:
                taken[name].append(seconds)
        report.say(f"round {number}")
    return {**taken, "is_equal": len(sums) == 1}


def _print(found: dict[str, Any]) -> None:
    rows: list[tuple[str, ...]] = []
    goals: list[tuple[str, ...]] = []
    for threads, one in found.items():
        ratios = [two / alone for alone, two in zip(one["one"], one["two"], strict=True)]
        rows.append(
            (
                threads,
                report.spread(one["one"], ".2f"),
                report.spread(one["two"], ".2f"),
                report.spread(ratios, ".2f"),
                "yes" if one["is_equal"] else "**no**",
            )
        )
        if threads == "1":
            # Only then each has a device's worth: one worker of several threads has all cores too.
            is_met = statistics.median(ratios) <= _GOAL and one["is_equal"]
            goals.append(report.goal("two workers, a core each", f"<= {_GOAL}", ratios, is_met))
    report.table(
        ("threads of a worker", "one worker, s", "two workers, s", "ratio", "equal bytes"), rows
    )
    report.table(("goal", "bound", "ratio", ""), goals)


if __name__ == "__main__":
    main()
