"""``python -m harness.gpu_use``: two looks at who uses the GPUs, from a process with the stand-in.

With an argument, as in a container, where process ids are not the driver's.
"""

import dataclasses
import json
import sys

import msgspec

from zhcache.monitoring.gpus import Gpus

if __name__ == "__main__":
    gpus = Gpus(names_processes=len(sys.argv) == 1)
    for _ in range(2):
        found = gpus.look()
        print(
            json.dumps(
                {
                    "devices": msgspec.to_builtins(found.devices),
                    "shares": {p: dataclasses.asdict(s) for p, s in found.by_process.items()},
                }
            )
        )
    gpus.close()
    assert gpus.look().devices == []
