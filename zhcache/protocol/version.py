"""The version handshake of the socket API.

The daemon lives in an environment of its own and will differ from its clients' versions, so
each request carries the protocol number its client speaks and each answer the range the daemon
understands. A number is raised only when an old peer would misread a message; a new optional
field raises nothing.
"""

from __future__ import annotations

from zhcache.errors import VersionMismatch

PROTOCOL = 1
PROTOCOL_MIN = 1
HEADER = "Zhcache-Protocol"


def check(spoken: str | None, *, lowest: int = PROTOCOL_MIN, highest: int = PROTOCOL) -> int:
    """Returns the client's protocol number if this daemon understands it.

    A request without the header is taken as the newest: that is a person with curl.

    Raises:
        VersionMismatch: The number is outside ``lowest``..``highest`` or is none.
    """
    if spoken is None:
        return highest
    if not (spoken.isascii() and spoken.isdigit() and len(spoken) < 6):
        raise VersionMismatch(
            "the client's protocol number {spoken} is not a number",
            hint="upgrade zhcache in the environment that made this call",
            spoken=spoken[:20],
        )
    number = int(spoken)
    if lowest <= number <= highest:
        return number
    raise VersionMismatch(
        "the client speaks protocol {spoken}, this daemon {lowest} to {highest}",
        hint="upgrade zhcache in the client's environment"
        if number < lowest
        else "upgrade the daemon and restart it: zhcache daemon stop; zhcache daemon start",
        spoken=number,
        lowest=lowest,
        highest=highest,
    )
