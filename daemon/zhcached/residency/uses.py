"""Who uses what, in one listing: what is kept warm, what has it open, what is merely leased. Pure.

Each tier lists what it holds with the leases it knows of. The store knows all leases and not what
for; those that no tier claims are of processes that mapped the files themselves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec

from zhcache.protocol.messages import Resident


def merged(
    pages: Iterable[Resident],
    others: Iterable[Resident],
    leases: Mapping[tuple[str, str, int], int],
    sizes: Mapping[tuple[str, str], int],
) -> list[Resident]:
    """Returns one row for each model, user, device and mode.

    Args:
        pages: What is kept in the page cache; its leases are counted here.
        others: What arenas and workers hold.
        leases: How many leases each repository, commit and uid has, for whatever.
        sizes: Bytes of each repository and commit.
    """
    held = list(others)
    left = _unclaimed(leases, held)
    rows = [
        msgspec.structs.replace(row, leases=left.pop((row.repo, row.commit, row.uid), 0))
        for row in pages
    ]
    rows += [
        Resident(
            repo=repo,
            commit=commit,
            variant=None,
            device="cpu",
            bytes=sizes.get((repo, commit), 0),
            leases=count,
            uid=uid,
            expires=None,
        )
        for (repo, commit, uid), count in left.items()
        if count > 0
    ]
    return sorted(rows + held, key=lambda row: (row.repo, row.commit, row.device, row.uid))


def _unclaimed(
    leases: Mapping[tuple[str, str, int], int], held: Iterable[Resident]
) -> Counter[tuple[str, str, int]]:
    left = Counter(leases)
    for row in held:
        claimed = row.leases
        # Who a worker is listed under is who asked first; others may have it open as well.
        same = [key for key in left if key[:2] == (row.repo, row.commit)]
        for key in sorted(same, key=lambda key: key[2] != row.uid):
            taken = min(claimed, left[key])
            left[key] -= taken
            claimed -= taken
    return left
