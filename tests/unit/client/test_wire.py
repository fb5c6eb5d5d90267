"""Messages as released peers write them; whatever changes here, these must be read for ever."""

import json
from pathlib import Path

import msgspec
import pytest

from zhcache.protocol import (
    checks,
    conversion,
    follow,
    messages,
    peers,
    placement,
    probe,
    prompts,
    residency,
    sources,
    variants,
)

KEPT = Path(__file__).parents[2] / "wire"
KINDS = {
    name: kind
    for module in (
        messages,
        checks,
        residency,
        conversion,
        variants,
        sources,
        probe,
        follow,
        peers,
        placement,
        prompts,
    )
    for name, kind in vars(module).items()
    if isinstance(kind, type) and issubclass(kind, messages.Message)
}
LINES = [
    (file.stem, json.loads(line))
    for file in sorted(KEPT.glob("protocol-*.jsonl"))
    for line in file.read_text("utf-8").splitlines()
]


def kept_of(read, kept):
    """Returns ``read`` without the fields that were added since, at any depth."""
    if isinstance(kept, dict):
        return {key: kept_of(read[key], kept[key]) for key in kept}
    if isinstance(kept, list) and len(read) == len(kept):
        return [kept_of(*pair) for pair in zip(read, kept, strict=True)]
    return read


@pytest.mark.parametrize(
    ("protocol", "kept"), LINES, ids=lambda v: v if isinstance(v, str) else v["type"]
)
def test_message_of_a_released_protocol_is_read_whole(protocol, kept):
    kind = KINDS[kept["type"]]
    read = msgspec.to_builtins(msgspec.convert(kept["message"], kind))
    assert kept_of(read, kept["message"]) == kept["message"]


def test_message_of_a_newer_peer_is_read_without_what_is_unknown():
    for _, kept in LINES:
        kind = KINDS[kept["type"]]
        msgspec.convert({**kept["message"], "from_the_future": 1}, kind)


def test_every_message_is_kept_for_the_newest_protocol():
    newest = max(protocol for protocol, _ in LINES)
    assert set(KINDS) - {"Message", "Event"} == {
        kept["type"] for name, kept in LINES if name == newest
    }
