"""What is said of the arenas on the shelf, and letting them go by name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from zhcache.errors import Busy, NotPermitted
from zhcache.protocol.messages import Resident
from zhcached.clock import Clock
from zhcached.residency.arena.held import FOREVER, Held, Use
from zhcached.residency.arena.shelf import Shelf


def listing(shelf: Shelf, clock: Clock) -> list[Resident]:
    """Returns a line for each snapshot, device and user who has it.

    What nobody has is listed for who had it filled. An arena that several snapshots share counts
    in the bytes of each.
    """
    lines: dict[tuple[Use, str], list[Held]] = defaultdict(list)
    for held in shelf:
        uses = set(held.leases.values())
        used = {(use.repo, use.commit) for use in uses}
        uses |= {Use(held.uid, *snapshot) for snapshot in held.snapshots - used}
        for use in uses:
            lines[use, held.arena.device].append(held)
    passed = clock.wall() - clock.monotonic()
    return [
        _line(use, device, arenas, max(shelf.ends(held) for held in arenas), passed)
        for (use, device), arenas in sorted(lines.items(), key=lambda line: line[0])
    ]


def _line(use: Use, device: str, arenas: list[Held], ends: float, passed: float) -> Resident:
    leases = {lease for held in arenas for lease, its in held.leases.items() if its == use}
    size = sum(held.arena.bytes for held in arenas)
    return Resident(
        repo=use.repo,
        variant=None,
        device=device,
        bytes=size,
        leases=len(leases),
        uid=use.uid,
        expires=None if ends >= FOREVER else ends + passed,
        commit=use.commit,
        bytes_resident=size,
    )


def stop(
    shelf: Shelf,
    repo: str,
    device: str | None,
    uid_may: Callable[[int], bool],
    *,
    force: bool,
    has: Callable[[str], bool],
) -> tuple[int, list[str]]:
    """Lets the arenas of the snapshots that are meant go; returns bytes and devices.

    One that another snapshot uses too stays for that one.

    Raises:
        Busy: Somebody has some of them; the others are gone.
        NotPermitted: Some are another user's; nothing of his went.
    """

    def is_meant(name: str, commit: str) -> bool:
        return name == repo and has(commit)

    meant = [
        held
        for held in shelf
        if device in (None, held.arena.device) and any(is_meant(*one) for one in held.snapshots)
    ]
    freed, devices, owners, holders = 0, set[str](), set[int](), set[str]()
    for held in meant:
        uses = [use for use in held.leases.values() if is_meant(use.repo, use.commit)]
        users = {use.uid for use in uses} or {held.uid}
        if not all(uid_may(uid) for uid in users):
            owners |= users
        elif uses and not force:
            holders.update(shelf.holders(held))
        else:
            freed += _let_go(shelf, held, is_meant)
            devices.add(held.arena.device)
    if owners:
        raise NotPermitted(
            "{repo} is kept warm by uid {owners}",
            hint="ask them, or an administrator, to stop it",
            repo=repo,
            owners=", ".join(str(uid) for uid in sorted(owners)),
        )
    if holders:
        raise Busy(
            "{repo} is in use by {holders}",
            hint="it goes when they end; --force lets nobody else have it from now on",
            repo=repo,
            holders="; ".join(sorted(holders)),
        )
    return freed, sorted(devices)


def _let_go(shelf: Shelf, held: Held, is_meant: Callable[[str, str], bool]) -> int:
    others = {snapshot for snapshot in held.snapshots if not is_meant(*snapshot)}
    if others:
        held.snapshots = others
        return 0
    shelf.withdraw(held.arena.key)
    return held.arena.bytes
