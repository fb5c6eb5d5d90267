"""``zhcache_adapter.json``: what is said is what is read, and nonsense is refused."""

import json

import msgspec
import pytest

from harness.adapterkit import about
from zhcache.chinese.adapter import format as described
from zhcache.errors import IntegrityError, NotFound, VersionMismatch


def test_a_description_is_read_as_it_was_written(tmp_path):
    (tmp_path / described.FILE).write_bytes(described.written(about()))
    assert described.read(tmp_path) == about()


def test_a_folder_without_one_has_no_adapter(tmp_path):
    with pytest.raises(NotFound, match="no adapter"):
        described.read(tmp_path)


def changed(**changes):
    content = json.loads(msgspec.json.encode(about()))
    for path, value in changes.items():
        *way, last = path.split("__")
        part = content
        for name in way:
            part = part[name]
        part[last] = value
    return json.dumps(content).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"\xff\xfe",
        b'{"schema": 1}',
        changed(network__width=30, network__heads=4),
        changed(network__width=10**9),
        changed(encoder__where="../../etc/"),
        changed(encoder__class_name="AutoModel"),
        changed(base__commit="main"),
        changed(base__text_encoders=[]),
        changed(arguments={}),
        changed(arguments={"prompt-embeds; drop": {"length": 7, "dim": 3}}),
        changed(arguments__prompt_embeds__length=10**6),
        changed(arguments__prompt_embeds__kind="code"),
        changed(quality__retrieval=3.0),
        b'{"schema": 1, "name": "' + b"x" * described.MAX_BYTES + b'"}',
    ],
)
def test_what_is_no_description_is_refused(content):
    with pytest.raises(IntegrityError):
        described.parse(content)


def test_a_later_format_is_told_from_a_spoilt_one():
    with pytest.raises(VersionMismatch, match="format 2"):
        described.parse(b'{"schema": 2, "anything": []}')


def test_a_short_name_is_one_of_ours():
    assert described.repo_of("landscapes") == "adapters/landscapes"
    assert described.repo_of("someone/landscapes") == "someone/landscapes"
