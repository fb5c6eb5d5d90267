"""Who uses what, in one listing: what is kept warm, what has it open, what is merely leased. Pure.

The store knows all leases and not what for. Arenas and workers know theirs; what is left are
processes that map the files themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from zhcache.protocol.messages import Resident


def merged(
    pages: Iterable[Resident],
    others: Iterable[Resident],
    mapping: Mapping[tuple[str, str, int], int],
    sizes: Mapping[tuple[str, str], int],
) -> list[Resident]:
    """Returns one row for each model, user, device and mode.

    Args:
        pages: What is kept in the page cache; its leases are counted here.
        others: What arenas and workers hold.
        mapping: How many leases each repository, commit and uid has on the files themselves.
        sizes: Bytes of each repository and commit.
    """
    left = dict(mapping)
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
    ]
    rows += others
    return sorted(rows, key=lambda row: (row.repo, row.commit, row.device, row.mode, row.uid))
