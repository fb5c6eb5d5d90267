"""Images of many prompts on one machine or a Ray cluster: ``generate``, ``serve``.

Importing this imports neither Ray nor torch. On this machine alone nothing of Ray is needed; a
cluster takes the extra ``cluster``.
"""

from __future__ import annotations

from zhcache.cluster.batch import Made, Unfinished, generate
from zhcache.cluster.deploy import serve
from zhcache.cluster.served import Served, Standing

__all__ = ["Made", "Served", "Standing", "Unfinished", "generate", "serve"]
