"""What a listing shows: the honest entries, and the ways a hub can make one dangerous."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from demohub.exchange import Answer
from demohub.faults import Fault


def json_answer(value: Any, status: int = 200, **headers: str) -> Answer:
    """A JSON body."""
    body = json.dumps(value, ensure_ascii=False).encode()
    return Answer.of(status, body, Content_Type="application/json; charset=utf-8", **headers)


def folders_of(paths: Iterable[str]) -> list[str]:
    """Every folder above the paths, sorted."""
    found: set[str] = set()
    for path in paths:
        parts = path.split("/")[:-1]
        found |= {"/".join(parts[:depth]) for depth in range(1, len(parts) + 1)}
    return sorted(found - {""})


def swollen(faults: list[Fault]) -> Answer | None:
    """A listing that is too large or too deep to parse, where a fault asks for one."""
    for fault in faults:
        if fault.kind == "huge_listing":
            body = b"[" + b" " * max(0, fault["bytes"] - 2) + b"]"
            return Answer.of(200, body, Content_Type="application/json")
        if fault.kind == "deep_json":
            body = b"[" * fault["depth"] + b"]" * fault["depth"]
            return Answer.of(200, body, Content_Type="application/json")
    return None
