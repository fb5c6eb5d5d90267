"""What ``zhcache exec`` saves: the same scripts run by ``python`` and by ``zhcache exec``.

Both run in turn, in fresh processes, with the page cache warm; the server's one start is told
apart. Times are of the whole process, from its start to its end, and from its start to the line
after the script's imports.
"""

from __future__ import annotations

import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine, report
from benchmarks.cost import memory_kib
from demohub import pipeline
from harness.sidebyside import Pair, clean_environ

_SCRIPTS = {
    "no import": "",
    "import torch": "import torch",
    "import torch, diffusers": "import torch, diffusers",
    "StableDiffusionPipeline": "import torch\nfrom diffusers import StableDiffusionPipeline",
    "one image, tiny pipeline": "import torch\nfrom diffusers import StableDiffusionPipeline",
}
_IMAGE = """
pipe = StableDiffusionPipeline.from_pretrained(sys.argv[1], safety_checker=None)
pipe.set_progress_bar_config(disable=True)
pipe("a lake", num_inference_steps=1, height=64, width=64)
"""
_TOLD = "import time, sys\nprint(time.time(), file=sys.__stdout__)\n"
_BOTH = {"python": "python script.py", "zhcache": "zhcache exec script.py"}


def main() -> None:
    """Measures and reports."""
    parser = report.options(__doc__ or "")
    parser.add_argument("--repeat", type=int, default=9)
    options = parser.parse_args()
    report.title("zhcache exec beside python")
    about = machine.describe(["torch", "diffusers", "transformers"])
    report.facts(about | {"repeated": options.repeat, "load before": machine.load()})
    with tempfile.TemporaryDirectory(prefix="zhx-") as temporary:
        folder = Path(temporary)
        (folder / "run").mkdir(mode=0o700)
        pair = Pair(folder, clean_environ(folder / "run"))
        model = pipeline.build(pipeline.shared_folder(Path(tempfile.gettempdir())))
        first_s = _server(pair)
        found = {name: _script(pair, name, model, options.repeat) for name in _SCRIPTS}
        kept = _memory(pair)
    _print(found, first_s, kept)
    print(f"Load after: {machine.load()}.")
    report.write_json(
        options.json, {"machine": about, "first_s": first_s, "scripts": found, "memory_kib": kept}
    )


def _server(pair: Pair) -> float:
    report.say("the server's start")
    began = time.perf_counter()
    _run(pair.zhcache, pair, ["-c", "pass"])
    return time.perf_counter() - began


def _script(pair: Pair, name: str, model: Path, repeat: int) -> dict[str, list[dict[str, float]]]:
    report.say(name)
    script = pair.script(
        f"{_SCRIPTS[name]}\n{_TOLD}{_IMAGE if name.startswith('one image') else ''}"
    )
    found: dict[str, list[dict[str, float]]] = {way: [] for way in _BOTH}
    for number in range(repeat + 1):
        for way in _BOTH:
            began, started = time.time(), time.perf_counter()
            told = _run(getattr(pair, way), pair, [script, str(model)])
            taken = {"whole_s": time.perf_counter() - started, "imported_s": float(told) - began}
            # The first of each reads files that the others find in memory.
            if number:
                found[way].append(taken)
    return found


def _run(way: Sequence[str], pair: Pair, arguments: list[str]) -> str:
    done = pair.run(way, arguments)
    if done.returncode:
        raise RuntimeError(done.stderr.decode(errors="replace")[-2000:])
    return done.stdout.decode().strip()


def _memory(pair: Pair) -> dict[str, dict[str, int]]:
    """Returns what the server holds, and a script that has imported all and waits, on its own."""
    code = "import torch, diffusers, os; print(os.getppid(), flush=True); input()"
    with subprocess.Popen(
        [*pair.zhcache, "-c", code],
        env=pair.environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        keeper = int(process.stdout.readline())
        (script,) = Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()
        server = Path(f"/proc/{keeper}/stat").read_text().rpartition(")")[2].split()[1]
        found = {"server": memory_kib(int(server)), "script": memory_kib(int(script))}
        found["keeper"] = memory_kib(keeper)
        process.communicate("\n")
    return found


def _print(found: dict[str, Any], first_s: float, kept: dict[str, dict[str, int]]) -> None:
    rows = []
    for name, ways in found.items():
        medians = {}
        for field in ("imported_s", "whole_s"):
            for way in _BOTH:
                values = [one[field] for one in ways[way]]
                medians[field, way] = statistics.median(values)
        rows.append(
            (
                name,
                *(f"{medians['imported_s', way]:.2f}" for way in _BOTH),
                *(report.spread([o["whole_s"] for o in ways[way]], ".2f") for way in _BOTH),
                f"{medians['whole_s', 'zhcache'] / medians['whole_s', 'python']:.2f}",
            )
        )
    report.table(
        (
            "script",
            "python: imports done, s",
            "exec: imports done, s",
            "python: whole, s",
            "exec: whole, s",
            "ratio of the whole",
        ),
        rows,
    )
    own = {name: (kib["Private_Clean"] + kib["Private_Dirty"]) / 1024 for name, kib in kept.items()}
    report.table(
        ("what", "value"),
        [
            ("first run of an environment, imports included", f"{first_s:.1f} s"),
            ("server, RSS", f"{kept['server']['Rss'] / 1024:.0f} MiB"),
            (
                "a script that imported torch and diffusers, its own pages",
                f"{own['script']:.0f} MiB",
            ),
            ("its keeper, its own pages", f"{own['keeper']:.0f} MiB"),
        ],
    )


if __name__ == "__main__":
    main()
