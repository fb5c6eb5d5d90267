"""``python -m harness.nvml_links``: what joins the GPUs, as JSON, from a process with stand-ins."""

import msgspec

from zhcached.residency import topology

if __name__ == "__main__":
    print(msgspec.json.encode(topology.machine()).decode())
