"""Which cores a worker keeps to, where several share a machine's."""

from __future__ import annotations

import os
from collections.abc import Collection

import torch


def share(cores: Collection[int], part: int, parts: int) -> set[int]:
    """Returns the cores of worker ``part`` of ``parts``: neighbours, as even as can be.

    Where there are more workers than cores, some have the same one.
    """
    every = sorted(cores)
    if parts >= len(every):
        return {every[part % len(every)]}
    first, after = (len(every) * number // parts for number in (part, part + 1))
    return set(every[first:after])


def keep_to_share(part: int, parts: int) -> None:
    """Keeps this thread, and those that come from it, to their share of the cores.

    Torch goes on with as many threads as it had: their number decides where sums are cut, and so
    the last bits of an image, which must not depend on how many workers there are.
    """
    if parts < 2:
        return
    threads = torch.get_num_threads()
    os.sched_setaffinity(0, share(os.sched_getaffinity(0), part, parts))
    # Set, or its libraries would count the cores again when they first compute.
    torch.set_num_threads(threads)
