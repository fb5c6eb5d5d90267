"""Each variant on the GPU: bytes in VRAM, time of an image, and what it does to the image.

A full-size Stable Diffusion 1.5 of random weights, so that the distances say how far the numbers
are from the source's, not how a picture looks. Each load is a process of its own; the variants take
turns. Beside them stock's own load in bfloat16. ``memory="low"`` is the least that the card needs.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import machine, report
from benchmarks.gpu import common
from harness.daemon import Daemon

VARIANTS = ("bf16", "fp16", "fp8", "int8", "int4")
STOCK = "stock, bfloat16"
LOW = "bf16, memory=low"
_PROGRAM = """
import json, statistics, sys, time
import torch
told = json.loads(sys.argv[1])
device = told["device"]
sync = torch.cuda.synchronize if device != "cpu" else (lambda: None)
if told["folder"]:
    from diffusers import StableDiffusionPipeline
    pipe = StableDiffusionPipeline.from_pretrained(told["folder"], dtype=torch.bfloat16).to(device)
else:
    import zhcache
    pipe = zhcache.load_pipeline(told["repo"], device=device, **told["options"])
pipe.set_progress_bar_config(disable=True)
def make():
    generator = torch.Generator("cpu").manual_seed(0)
    began = time.monotonic()
    pipe("ab cd", num_inference_steps=told["steps"], height=told["size"], width=told["size"],
         generator=generator)
    sync()
    return time.monotonic() - began
make()
seconds = statistics.median(make() for _ in range(3))
import pynvml
used = 0
if device != "cpu":
    pynvml.nvmlInit()
    used = pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(0)).used >> 20
own = torch.cuda.max_memory_allocated() >> 20 if device != "cpu" else 0
print(json.dumps({"seconds": seconds, "used": used, "own": own}))
"""


def main() -> None:
    """Measures and reports."""
    common.main(__doc__ or "", _measure, repeat=(int, 3), steps=(int, 20), size=(int, 512))


def _measure(options: Any, folder: Path) -> None:
    daemon = common.serve(folder / "daemon", options.model)
    try:
        (snapshot,) = daemon.json("ls")["snapshots"]
        wanted = [part for name in VARIANTS for part in ("--variant", name)]
        report.say("making the variants")
        commit = snapshot["commit"]
        daemon.cli("prefetch", common.REPO, "--revision", commit, *wanted, timeout=1200)
        made = daemon.json("show", common.REPO)["variants"]
        found = _rounds(daemon, options)
        judged = _judged(daemon, options)
    finally:
        daemon.stop()
    _tell(found, made, judged)
    print(f"Load after: {machine.load()}.")
    report.write_json(options.json, {"found": found, "quality": judged})


def _rounds(daemon: Daemon, options: Any) -> dict[str, dict[str, list[float]]]:
    plain = {"device": options.device, "steps": options.steps, "size": options.size}
    ways: dict[str, dict[str, Any]] = {STOCK: {"folder": str(options.model)}}
    ways |= {name: {"folder": "", "options": {"variant": name}} for name in VARIANTS}
    ways[LOW] = {"folder": "", "options": {"variant": "bf16", "memory": "low"}}
    found = {way: {"seconds": [], "used": [], "own": []} for way in ways}
    order = random.Random(options.seed)
    for number in range(options.repeat):
        report.say(f"round {number + 1} of {options.repeat}")
        for way in order.sample(list(ways), len(ways)):
            told = {"repo": common.REPO, **plain, **ways[way]}
            # Arenas of the variant before would be counted with this one.
            daemon.cli("stop", common.REPO, check=False)
            before = common.used_mib() if options.device != "cpu" else 0
            done = subprocess.run(
                [sys.executable, "-c", _PROGRAM, json.dumps(told)],
                capture_output=True,
                text=True,
                env=daemon.environ,
                check=False,
            )
            if done.returncode:
                sys.exit(f"{way}\n{done.stderr}\n{daemon.tail()}")
            values = json.loads(done.stdout.splitlines()[-1])
            values["used"] -= before
            for name, value in values.items():
                found[way][name].append(value)
    return found


def _judged(daemon: Daemon, options: Any) -> dict[str, Any]:
    size = f"{options.size}x{options.size}"
    bench = ("bench", "variants", common.REPO, "--seeds", "2", "--steps", str(options.steps))
    done = daemon.cli(*bench, "--size", size, "--device", options.device, "--json", timeout=1200)
    return {name: each["quality"] for name, each in json.loads(done.stdout)["variants"].items()}


def _tell(
    found: Mapping[str, Mapping[str, list[float]]],
    made: Mapping[str, Any],
    judged: Mapping[str, Any],
) -> None:
    base = found["bf16"]["seconds"]
    rows: list[tuple[str, ...]] = []
    for way, values in found.items():
        ratios = [a / b for a, b in zip(values["seconds"], base, strict=True)]
        quality = judged.get(way, {})
        rows.append(
            (
                way,
                f"{made[way]['bytes'] / 2**30:.2f}" if way in made else "",
                report.spread(values["used"]),
                report.spread(values["own"]),
                report.spread(values["seconds"], ".2f"),
                report.spread(ratios, ".2f"),
                *(_shown(quality.get(name)) for name in ("psnr", "ssim", "latent_cosine")),
            )
        )
    report.table(
        ("way", "GiB of files", "MiB of the card", "torch's peak, MiB", "s an image", "of bf16",
         "PSNR dB", "SSIM", "latents"),
        rows,
    )  # fmt: skip


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


if __name__ == "__main__":
    main()
