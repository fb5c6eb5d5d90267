"""What monitoring itself takes: CPU time of a process that sleeps, with and without a monitor.

Each way runs in a fresh process, for the same time, at 0.5 s: nothing, ``zhcache.monitor()`` with
no other process and with fifty that wait beside it, writing a log, and the loop that tutorials
show: a thread that asks ``psutil.cpu_percent(interval=0.1)`` and the machine's memory. That loop
sees neither processes nor peaks.
"""

from __future__ import annotations

import statistics
import subprocess
import sys

from benchmarks import machine, report

_GOAL = 1.0
_RUN = """
import subprocess, sys, tempfile, threading, time
way, seconds, beside = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
import psutil, zhcache
zhcache.monitor
children = [subprocess.Popen(["sleep", "100000"]) for _ in range(beside)]

def usual(stop):
    highest = {"cpu": 0, "memory": 0}
    while not stop.is_set():
        highest["cpu"] = max(highest["cpu"], psutil.cpu_percent(interval=0.1))
        highest["memory"] = max(highest["memory"], psutil.virtual_memory().percent)
        psutil.disk_usage("/")
        stop.wait(0.5)

try:
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        if way == "monitor":
            with zhcache.monitor(log=f"{folder}/log"):
                time.sleep(seconds)
        elif way == "usual":
            stop = threading.Event()
            thread = threading.Thread(target=usual, args=(stop,))
            thread.start()
            time.sleep(seconds)
            stop.set()
            thread.join()
        else:
            time.sleep(seconds)
        print(time.process_time() - began)
finally:
    for one in children:
        one.kill()
"""
_WAYS = {
    "nothing": ("nothing", 0),
    "zhcache.monitor, one process": ("monitor", 0),
    "zhcache.monitor, one and fifty": ("monitor", 50),
    "the usual loop": ("usual", 0),
}


def main() -> None:
    """Measures and reports."""
    parser = report.options(__doc__ or "")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each run")
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    report.title("What monitoring takes")
    about = machine.describe(["psutil", "nvidia-ml-py"])
    report.facts(
        about
        | {
            "seconds of each run": options.seconds,
            "repeated": options.repeat,
            "load before": machine.load(),
        }
    )
    found: dict[str, list[float]] = {name: [] for name in _WAYS}
    for number in range(options.repeat):
        for name, (way, beside) in _WAYS.items():
            report.say(f"{number + 1}: {name}")
            command = [sys.executable, "-c", _RUN, way, str(options.seconds), str(beside)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[name].append(100 * float(done.stdout) / options.seconds)
    report.table(
        ("what", "percent of a core", "goal", ""),
        [
            (
                name,
                report.spread(values, ".2f"),
                f"under {_GOAL:g}" if name.startswith("zhcache") else "",
                _verdict(values) if name.startswith("zhcache") else "",
            )
            for name, values in found.items()
        ],
    )
    print("CPU time of the whole process, of all its threads, log included; median [least..most].")
    print("No GPU here: what NVML's answers take is not in these numbers.\n")
    print(f"Load after: {machine.load()}.")
    report.write_json(options.json, {"machine": about, "percent": found})


def _verdict(values: list[float]) -> str:
    return "met" if statistics.median(values) < _GOAL else "**missed**"


if __name__ == "__main__":
    main()
