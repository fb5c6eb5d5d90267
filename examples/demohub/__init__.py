"""A hub for demonstrations and tests: a real HTTP server that speaks both hub protocols.

It serves repositories from memory or from disk as Hugging Face and ModelScope do, at one origin,
and misbehaves on request in named, repeatable ways. It needs nothing but the standard library
and knows nothing of zhcache: whatever works against it works by the wire alone.
"""

from demohub.exchange import Request
from demohub.faults import KINDS, Fault
from demohub.hub import Hub
from demohub.repos import Repo, StoredFile

__all__ = ["KINDS", "Fault", "Hub", "Repo", "Request", "StoredFile"]
