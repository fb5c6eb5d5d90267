"""What all messages are made of."""

from __future__ import annotations

import msgspec


class Message(msgspec.Struct, kw_only=True, omit_defaults=False):
    """Base of all messages: keyword-only, every field written."""
