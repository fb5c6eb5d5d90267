"""Seconds of an image on the GPU by each way, compiled and not; a list by one worker and by two.

Plain diffusers first: what zhcache hands over must not draw more slowly. Each way is a process of
its own, which draws until nothing is compiled any more and then three times. Two workers on one GPU
share its time, so that the list is hardly faster; what is to be seen is that the weights are there
once.
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

WAYS = ("stock", "attach", "resident")
_IMAGES = 16
_PROGRAM = """
import json, statistics, sys, time
told = json.loads(sys.argv[1])
device, way = told["device"], told["way"]
call = {"num_inference_steps": told["steps"], "height": told["size"], "width": told["size"]}
if way == "stock":
    import torch
    from diffusers import StableDiffusionPipeline
    pipe = StableDiffusionPipeline.from_pretrained(told["folder"], dtype=torch.float16).to(device)
    if told["compile"]:
        pipe.unet.compile_repeated_blocks()
else:
    import zhcache
    pipe = zhcache.load_pipeline(told["repo"], device=device, mode=way, compile=told["compile"])
def make():
    began = time.monotonic()
    if way == "resident":
        pipe("ab cd", seed=0, **call)
    else:
        pipe("ab cd", generator=torch.Generator("cpu").manual_seed(0), **call)
    return time.monotonic() - began
if way != "resident":
    import torch
    pipe.set_progress_bar_config(disable=True)
first = make()
make()
print(json.dumps({"first": first, "seconds": statistics.median(make() for _ in range(3))}))
"""
_LISTED = """
import hashlib, json, sys, time
import zhcache
told = json.loads(sys.argv[1])
pipe = zhcache.load_pipeline(told["repo"], device=told["devices"], placement="replicate")
call = {"num_inference_steps": told["steps"], "height": told["size"], "width": told["size"]}
def make():
    began = time.monotonic()
    prompts = [f"ab cd {number}" for number in range(told["images"])]
    images = pipe(prompts, seed=list(range(told["images"])), **call).images
    seconds = time.monotonic() - began
    return seconds, hashlib.sha256(b"".join(image.tobytes() for image in images)).hexdigest()
make()
seconds, digest = make()
print(json.dumps({"seconds": seconds / told["images"], "digest": digest}), flush=True)
sys.stdin.readline()
"""


def main() -> None:
    """Measures and reports."""
    common.main(__doc__ or "", _measure, repeat=(int, 3), steps=(int, 20), size=(int, 512))


def _measure(options: Any, folder: Path) -> None:
    plain = {"device": options.device, "steps": options.steps, "size": options.size}
    plain |= {"repo": common.REPO, "folder": str(options.model)}
    daemon = common.serve(folder / "daemon", options.model)
    try:
        drawn = _drawn(plain, daemon, options)
        daemon.cli("stop", common.REPO, check=False)
        listed = {count: _listed(plain, count, daemon, options) for count in (1, 2)}
    finally:
        daemon.stop()
    _tell(drawn, listed, options)
    print(f"Load after: {machine.load()}.")
    report.write_json(options.json, {"drawn": drawn, "listed": listed})


def _drawn(
    plain: Mapping[str, Any], daemon: Daemon, options: Any
) -> dict[str, dict[str, list[float]]]:
    """Returns the seconds of the first image and of one after, by way."""
    ways = {
        f"{way}, compiled" if compiled else way: {"way": way, "compile": compiled}
        for way in WAYS
        for compiled in (False, True)
    }
    found: dict[str, dict[str, list[float]]] = {way: {"first": [], "seconds": []} for way in ways}
    order = random.Random(options.seed)
    for number in range(options.repeat):
        report.say(f"round {number + 1} of {options.repeat}")
        for way in order.sample(list(ways), len(ways)):
            done = subprocess.run(
                [sys.executable, "-c", _PROGRAM, json.dumps({**plain, **ways[way]})],
                capture_output=True,
                text=True,
                env=daemon.environ,
                check=False,
            )
            if done.returncode:
                sys.exit(f"{way}\n{done.stderr}\n{daemon.tail()}")
            for name, value in json.loads(done.stdout.splitlines()[-1]).items():
                found[way][name].append(value)
    return found


def _listed(plain: Mapping[str, Any], count: int, daemon: Daemon, options: Any) -> dict[str, Any]:
    """Returns the seconds of an image of a list, all images' digest, and MiB of the card."""
    report.say(f"a list by {count} on one device")
    on_gpu = options.device != "cpu"
    device = "cuda:0" if on_gpu else "cpu"
    told = {**plain, "devices": [device] * count, "images": _IMAGES}
    before = common.used_mib() if on_gpu else 0
    with subprocess.Popen(
        [sys.executable, "-c", _LISTED, json.dumps(told)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=daemon.environ,
    ) as script:
        assert script.stdout is not None
        line = script.stdout.readline()
        if not line:
            sys.exit(f"a list by {count}\n{daemon.tail()}")
        found = json.loads(line) | {"used": common.used_mib() - before if on_gpu else 0}
    daemon.cli("stop", common.REPO, check=False)
    return found


def _tell(
    drawn: Mapping[str, Mapping[str, list[float]]], listed: Mapping[int, Any], options: Any
) -> None:
    rows: list[tuple[str, ...]] = []
    for way, values in drawn.items():
        beside = drawn["stock, compiled" if way.endswith("compiled") else "stock"]["seconds"]
        ratios = [a / b for a, b in zip(values["seconds"], beside, strict=True)]
        first, later = (report.spread(values[name], ".2f") for name in ("first", "seconds"))
        rows.append((way, first, later, report.spread(ratios, ".2f")))
    report.table(("way", "first image, s", "s an image", "of stock's"), rows)
    report.table(
        ("workers on one GPU", "s an image", "MiB of the card"),
        [(str(n), f"{one['seconds']:.3f}", str(one["used"])) for n, one in listed.items()],
    )
    one, two = listed[1], listed[2]
    weights = sum(file.stat().st_size for file in options.model.rglob("*.safetensors")) >> 20
    verdicts = [
        common.verdict("both lists are equal", one["digest"] == two["digest"], two["digest"][:12])
    ]
    if options.device != "cpu":
        more = two["used"] - one["used"]
        verdicts.append(
            common.verdict(
                "a second worker takes less than the weights",
                more < weights,
                f"{more} MiB more, weights {weights} MiB",
            )
        )
    report.table(("to be shown", "measured", ""), verdicts)


if __name__ == "__main__":
    main()
