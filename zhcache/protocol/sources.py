"""Messages about a source's health: its planes, and phrases that say why it stands there."""

from __future__ import annotations

from zhcache.protocol.base import Message

MEASURED = "{rate} MiB/s"
"""The phrase that says no more than the rate, which tables show already."""


class Phrase(Message):
    """A short text that is put into the reader's language: ``template`` with ``{name}`` fields."""

    template: str
    values: dict[str, str] = {}


class PlaneInfo(Message):
    """One plane of a source: the one that answers questions, or one host that sends bytes.

    Attributes:
        plane: ``metadata`` or ``data``.
        host: Who answers there, with a port where it is not the usual one.
        state: ``ok``, ``unknown``, ``limited`` or ``down``, for this plane alone.
        rate: Measured bytes per second.
        latency: Seconds until an answer begins.
        bytes: Received in all.
        faults: How often it failed lately, by kind; the count fades.
        error: What it said or did last that was wrong; empty if nothing.
    """

    plane: str
    host: str
    state: str
    rate: float | None = None
    latency: float | None = None
    bytes: int = 0
    faults: dict[str, int] = {}
    error: str = ""
    limited_until: float | None = None
