"""``python -m harness.intruder REPO``: a client that maps shared weights for writing, and writes.

A descriptor of GPU memory cannot be made read-only, so nothing stops it. It is what a checksum at
attach is for.
"""

from __future__ import annotations

import os
import sys

import torch

from zhcache import Client, handover
from zhcache.paths import socket_path
from zhcache.pipeline import cuda, vmm
from zhcache.protocol.residency import AttachRequest


def main(repo: str) -> None:
    """Changes one byte of every arena and says how many there were."""
    with Client() as client:
        lease = client.lease(repo)
        request = AttachRequest(lease=lease.granted.id, device=cuda.uuid_of("cuda"))
        arenas = handover.attach(socket_path(), request)
        for arena, fd in arenas:
            ordinal = vmm.ordinal_of(arena.device)
            allocation = vmm.Allocation.receive(fd, arena.bytes, ordinal)
            os.close(fd)
            flat = cuda.as_tensor(allocation.map(writable=True))
            flat[0] ^= 0x40
        torch.cuda.synchronize()
        print(len(arenas))
        lease.end()


if __name__ == "__main__":
    main(sys.argv[1])
