"""What several users of one model take on the GPU and in RAM: stock, attached, resident.

Users come one after the other; each makes an image, and what the device has in use is read before
the next one comes. A process's CUDA context costs half a gigabyte whoever owns the weights, and
so does working memory: what is to be seen is that weights come once. All of PSS is read at the end.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil

from benchmarks import machine, report
from benchmarks.cost import memory_kib
from benchmarks.gpu import common
from harness.daemon import Daemon
from harness.painter import Painter

OWN_MAX_MIB = 16
"""What an attached process may have allocated by torch before its first image: buffers alone."""


def main() -> None:
    """Measures and reports."""
    common.main(__doc__ or "", _measure, users=(int, 4))


def _measure(options: Any, folder: Path) -> None:
    weights = sum(file.stat().st_size for file in options.model.rglob("*.safetensors")) >> 20
    found = {way: _count(way, options, folder / way) for way in ("stock", "attach", "resident")}
    print(f"The weights are {weights} MiB; {options.users} users.\n")
    report.table(
        ("way", "MiB on the GPU after each user", "for each later user", "torch's own after load",
         "GiB of PSS, users", "GiB of PSS, daemon and workers"),
        [
            (
                way,
                " ".join(map(str, one["device"])) or "-",
                str(_later(one)),
                " ".join(map(str, one["own"])) or "-",
                f"{one['users'] / 2**20:.2f}",
                f"{one['ours'] / 2**20:.2f}",
            )
            for way, one in found.items()
        ],
    )  # fmt: skip
    rows = [
        common.verdict(
            f"attached: torch itself holds at most {OWN_MAX_MIB} MiB after loading",
            max(found["attach"]["own"], default=0) <= OWN_MAX_MIB,
            f"{max(found['attach']['own'], default=0)} MiB",
        )
    ]
    if options.device != "cpu":
        saved = _later(found["stock"]) - _later(found["attach"])
        rows += [
            common.verdict(
                "a later attached user takes less than a later stock user, by all of the weights",
                saved >= 0.95 * weights,
                f"{saved} MiB less, weights {weights} MiB",
            ),
            common.verdict(
                "all attached users against all stock users, on the GPU",
                found["attach"]["device"][-1] < found["stock"]["device"][-1],
                f"{found['attach']['device'][-1]} against {found['stock']['device'][-1]} MiB",
            ),
        ]
    report.table(("to be shown", "measured", ""), rows)
    print(f"Load after: {machine.load()}.")
    report.write_json(options.json, {"weights_mib": weights, "mib": found})


def _count(way: str, options: Any, folder: Path) -> dict[str, Any]:
    report.say(way)
    daemon = common.serve(folder, options.model)
    what = str(options.model) if way == "stock" else common.REPO
    found: dict[str, Any] = {"device": [], "own": [], "users": 0, "ours": 0}
    users: list[Painter] = []
    on_gpu = options.device != "cpu"
    before = common.used_mib() if on_gpu else 0
    try:
        for _ in range(options.users):
            user = Painter(way, options.device, what, daemon.environ)
            users.append(user)
            if way == "attach":
                found["own"].append(user.ask("memory")["own"] >> 20)
            user.ask("draw")
            if on_gpu:
                found["device"].append(common.used_mib() - before)
        found["users"] = sum(memory_kib(user.process.pid)["Pss"] for user in users)
        found["ours"] = _family(daemon)
    finally:
        for user in users:
            user.end()
        daemon.stop()
    return found


def _family(daemon: Daemon) -> int:
    assert daemon.process is not None
    top = psutil.Process(daemon.process.pid)
    return sum(memory_kib(one.pid)["Pss"] for one in (top, *top.children(recursive=True)))


def _later(found: dict[str, Any]) -> int:
    """Returns what each user after the first added on the device, on average, in MiB."""
    used = found["device"]
    return (used[-1] - used[0]) // (len(used) - 1) if len(used) > 1 else 0


if __name__ == "__main__":
    main()
