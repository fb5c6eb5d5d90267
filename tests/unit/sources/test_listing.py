import pytest

from corpora.hostile_names import HARMLESS_NAMES, HOSTILE_NAMES
from zhcached.errors import RemoteInvalid
from zhcached.sources import listing
from zhcached.sources.listing import Listing, decode

SHA256 = "a" * 64
GIT = "b" * 40


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
