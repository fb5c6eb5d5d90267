"""Chinese prompts before a model sees them: what they leave open is added, new ones are made."""

from __future__ import annotations

from zhcache.prompts.generator import generate
from zhcache.prompts.optimizer import Optimized, optimize

__all__ = ["Optimized", "generate", "optimize"]
