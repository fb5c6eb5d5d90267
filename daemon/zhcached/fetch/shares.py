"""How much of a file goes to whom: numbers only. Pure.

Every piece is to take about the same short time, whoever sends it, so that all sources come to the
end of the file together and none holds a stretch for long that others could bring.
"""

from __future__ import annotations

from typing import Final

MIN_PIECE: Final = 2**20
MAX_PIECE: Final = 64 * 2**20
# Of a source that nothing is known about.
FIRST_PIECE: Final = 4 * 2**20
# Long enough that a request's way there and back hardly counts.
PIECE_S: Final = 4.0
# At the end pieces become smaller, so that all end together; stealing does what is left of that.
LEAST_PIECE_S: Final = 0.5
# Below this a request costs more than it brings.
MIN_STEAL: Final = 256 * 2**10
# A stretch is left where it is unless the other would bring all of it this many times sooner.
FAR_SOONER: Final = 4.0


def piece_bytes(rate: float | None, missing: int, connections: int) -> int:
    """Returns how long a stretch one connection is given.

    Args:
        rate: Bytes per second expected of it; None if nothing is known.
        missing: Bytes that nobody has been given yet.
        connections: That share in them, this one included.
    """
    if connections > 1:
        missing //= 2 * connections
    if rate is None:
        return max(MIN_PIECE, min(FIRST_PIECE, missing))
    wished = min(rate * PIECE_S, max(missing, rate * LEAST_PIECE_S))
    return max(MIN_PIECE, min(MAX_PIECE, int(wished)))


def stolen_bytes(left: int, own_rate: float, rate: float, latency_s: float) -> int:
    """Returns how much of a running stretch's end an idle connection takes; 0 for none.

    Both end together if the thief takes ``x`` with
    ``latency_s + x / rate == (left - x) / own_rate``.
    Where the running one is hopeless beside the thief, it loses all it has not sent.

    Args:
        left: Bytes the running stretch still lacks.
        own_rate: Bytes per second of the connection that runs it; 0 for a stalled one.
        rate: Bytes per second the thief may expect.
        latency_s: Seconds from the thief's request to its first byte.
    """
    if left <= 0 or rate <= 0:
        return 0
    if left > FAR_SOONER * own_rate * (latency_s + left / rate):
        return left
    share = (left - latency_s * own_rate) * rate / (rate + own_rate)
    return int(share) if share >= MIN_STEAL else 0
