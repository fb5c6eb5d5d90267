"""Which node is a model's home. Pure, and the same wherever it is asked.

Rendezvous hashing: each pair of model and node has a score, and a model goes to the node that
gives it the highest. A hash alone need not deal evenly, so no node takes more than its share,
``ceil(models / nodes)``; pairs are served by their score.

Source: Thaler and Ravishankar, "Using name-based mappings to increase hit rates" (1998); the bound
as in Mirrokni, Thorup and Zadimoghaddam, "Consistent hashing with bounded loads" (2018).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable


def homes(models: Iterable[str], nodes: Collection[str]) -> dict[str, str]:
    """Returns the home of each model; nothing where there is no node."""
    wanted = sorted(set(models))
    if not nodes:
        return {}
    share = -(-len(wanted) // len(nodes))
    pairs = [(score(model, node), model, node) for model in wanted for node in nodes]
    dealt: dict[str, str] = {}
    taken: Counter[str] = Counter()
    for _, model, node in sorted(pairs, reverse=True):
        if model not in dealt and taken[node] < share:
            dealt[model] = node
            taken[node] += 1
    return dealt


def home(model: str, nodes: Collection[str]) -> str | None:
    """Returns the home of a model that was not among those that were dealt."""
    return max(sorted(nodes), key=lambda node: score(model, node), default=None)


def score(model: str, node: str) -> int:
    """Returns how well a node suits a model: as good as random, and the same in every process."""
    # Neither name can hold a line's end, so that no two pairs are the same bytes.
    return int.from_bytes(hashlib.sha256(f"{model}\n{node}".encode()).digest()[:8])
