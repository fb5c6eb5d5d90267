import unicodedata

import pytest

from zhcached.errors import RemoteInvalid
from zhcached.sources import listing
from zhcached.sources.listing import Listing, decode

SHA256 = "a" * 64
GIT = "b" * 40

HOSTILE_NAMES = {
    "empty": "",
    "absolute": "/etc/passwd",
    "absolute_windows": "C:\\Windows\\system.ini",
    "network_share": "\\\\server\\share",
    "double_slash_start": "//etc/passwd",
    "dot": ".",
    "dot_dot": "..",
    "parent": "../x",
    "parent_twice": "../../x",
    "parent_inside": "unet/../../x",
    "parent_at_end": "unet/..",
    "dot_inside": "unet/./x",
    "dot_start": "./x",
    "empty_segment": "unet//x",
    "slash_end": "unet/",
    "only_slash": "/",
    "backslash": "unet\\x",
    "backslash_parent": "..\\x",
    "mixed_parent": "unet/..\\..\\x",
    "nul": "x\0.safetensors",
    "nul_alone": "\0",
    "newline": "x\ny",
    "carriage_return": "x\ry",
    "tab": "x\ty",
    "escape": "\x1b[2Jx",
    "bell": "x\x07",
    "backspace": "safe\x08\x08\x08\x08evil",
    "delete": "x\x7f",
    "c1_control": "x\x9by",
    "bidi_override": "x\u202egnp.exe",
    "bidi_embedding": "x\u202by",
    "bidi_isolate": "x\u2066y\u2069",
    "right_to_left_mark": "x\u200fy",
    "zero_width_space": "mo\u200bdel.safetensors",
    "zero_width_joiner": "mo\u200ddel.safetensors",
    "word_joiner": "mo\u2060del",
    "byte_order_mark": "\ufeffmodel_index.json",
    "soft_hyphen": "mo\u00addel",
    "tag_character": "x\U000e0041",
    "lone_surrogate": "x\ud800",
    "private_use": "x\ue000",
    "unassigned": "x\u0378",
    "noncharacter": "x\uffff",
    "not_nfc": unicodedata.normalize("NFD", "modèle.json"),
    "not_nfc_hangul": unicodedata.normalize("NFD", "한.json"),
    "ohm_sign": "10\u2126.json",
    "leading_space": " x",
    "trailing_space": "x ",
    "space_segment": "unet/ /x",
    "trailing_nbsp": "x\u00a0",
    "long_segment": "x" * 256,
    "long_segment_utf8": "模" * 86,
    "long_path": "/".join(["x" * 200] * 6),
    "too_deep": "/".join(["d"] * 33),
    "git_folder": ".git/config",
    "git_hook": ".git/hooks/post-checkout",
    "git_alone": ".git",
    "percent_is_not_decoded_but_parent_is": "%2e%2e/../x",
    "home_is_literal_but_parent_is_not": "~/../x",
    "proc": "/proc/self/environ",
    "line_separator": "a\u2028b",
    "paragraph_separator": "a\u2029b",
}

HARMLESS_NAMES = [
    "model_index.json",
    "unet/diffusion_pytorch_model.fp16-00001-of-00002.safetensors",
    "中文 提示词/说明.txt",
    "a b.json",
    "a%2Fb.json",
    "~x",
    "...",
    ".gitattributes",
    "-rf",
    "x" * 255,
    "é.json",
]


def added(name, **changes):
    found = Listing("hub")
    fields = {"size": 1, "sha256": SHA256, "git_sha1": None} | changes
    found.add(name, fields.pop("size"), **fields)
    return found


@pytest.mark.parametrize("name", HOSTILE_NAMES.values(), ids=HOSTILE_NAMES.keys())
def test_listing_refuses_hostile_name(name):
    with pytest.raises(RemoteInvalid) as caught:
        added(name)
    assert caught.value.source == "hub"
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", HARMLESS_NAMES)
def test_listing_keeps_odd_but_harmless_name(name):
    assert added(name).finish()[0].path == name


@pytest.mark.parametrize(
    "fields",
    [
        {"size": -1},
        {"size": listing.MAX_FILE_BYTES + 1},
        {"size": 10**30},
        {"sha256": "a" * 63},
        {"sha256": "A" * 64},
        {"sha256": "g" * 64},
        {"sha256": "a" * 64 + "\n"},
        {"sha256": ""},
        {"sha256": None, "git_sha1": "b" * 39},
        {"sha256": None, "git_sha1": "b" * 40 + "\n"},
        {"sha256": None, "git_sha1": "../../../../../../../../../../../../../x"},
    ],
)
def test_listing_refuses_impossible_size_or_digest(fields):
    with pytest.raises(RemoteInvalid):
        added("x", **fields)


def test_listing_refuses_name_that_stands_twice():
    found = added("x")
    with pytest.raises(RemoteInvalid, match="twice"):
        found.add("x", 1, sha256=SHA256, git_sha1=None)


def test_listing_refuses_name_that_is_file_and_folder():
    found = added("unet/x")
    found.add("unet", 1, sha256=SHA256, git_sha1=None)
    with pytest.raises(RemoteInvalid, match="as a file and as a folder"):
        found.finish()


def test_listing_refuses_more_files_than_the_limit():
    found = Listing("hub")
    for number in range(listing.MAX_FILES):
        found.add(f"{number}.json", 1, sha256=None, git_sha1=GIT)
    with pytest.raises(RemoteInvalid, match="more than 10000"):
        found.add("last.json", 1, sha256=None, git_sha1=GIT)
    assert len(found.finish()) == listing.MAX_FILES


def test_listing_refuses_to_be_empty():
    with pytest.raises(RemoteInvalid, match="empty"):
        Listing("hub").finish()


def test_listing_is_sorted_by_path():
    found = added("b")
    found.add("a", 2, sha256=None, git_sha1=GIT)
    assert [file.path for file in found.finish()] == ["a", "b"]


def test_file_without_digest_promises_nothing():
    assert added("x", sha256=None).finish()[0].promise is None


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b'{"size":1.0}',
        b'{"size":true}',
        b'{"size":"1"}',
        b'{"size":1e3}',
        b'{"size":NaN}',
        b'{"size":1',
        b"",
        b"null",
        b"\xff\xfe",
        b'{"\xff":1}',
        b'"size"',
    ],
    ids=lambda body: repr(body[:24]),
)
def test_decode_refuses_what_is_not_the_document(body):
    with pytest.raises(RemoteInvalid) as caught:
        decode(body, dict[str, int], source="hub", what="the listing")
    assert caught.value.source == "hub"


def test_decode_refuses_deep_nesting_inside_ignored_fields():
    import msgspec

    class Entry(msgspec.Struct):
        size: int

    body = b'{"size":1,"other":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    with pytest.raises(RemoteInvalid):
        decode(body, Entry, source="hub", what="the listing")


@pytest.mark.parametrize("body", [b"<!DOCTYPE html><html>", b" \n<html>", b"<?xml version='1.0'?>"])
def test_decode_says_when_a_web_page_came(body):
    with pytest.raises(RemoteInvalid, match="web page"):
        decode(body, list[int], source="hub", what="the listing")
