"""``python -m harness.nvml_listing``: the GPUs as JSON, from a process that meets the stand-in."""

import dataclasses
import json

from zhcached.residency import nvml

if __name__ == "__main__":
    # Twice: whoever asks again must not meet a library that was shut down.
    nvml.gpus()
    print(json.dumps([dataclasses.asdict(gpu) for gpu in nvml.gpus()]))
