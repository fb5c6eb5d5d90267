"""An S3 store as a source of blobs, asked through signed addresses; the simulator checks them."""

import os
import socket
import sys
import time

import msgspec
import pytest

from simulators.s3 import KEY, S3, SECRET
from zhcache.errors import UsageError
from zhcached.config import SourceConfig
from zhcached.errors import (
    AddressRefused,
    KeyRefused,
    LimitedError,
    StatusError,
    TransportError,
    UnreachableError,
)
from zhcached.sources import registry
from zhcached.sources.s3 import NOWHERE
from zhcached.transport.address import AddressPolicy
from zhcached.transport.http import Target, Transport

BLOB = os.urandom(70_000)
ENVIRON = {"S3_KEY": KEY, "S3_SECRET": SECRET}


@pytest.fixture
def s3():
    with S3() as started:
        yield started


@pytest.fixture
def tier():
    """Makes a tier of a store, as the daemon does."""
    made = []

    def make(s3, environ=None, **more):
        options = {"bucket": "models", "key_env": "S3_KEY", "secret_env": "S3_SECRET", **more}
        config = SourceConfig("store", "s3", options.pop("endpoint", s3.url), **options)
        policy = AddressPolicy(registry.configured_origins([config]))
        transport = Transport(policy, connect_timeout_s=2)
        made.append(transport)
        (one,) = registry.tiers([config], transport, ENVIRON if environ is None else environ)
        one.transport = transport
        return one

    yield make
    for transport in made:
        transport.close()


def read(tier, sha256, start, end):
    asked = {"Range": f"bytes={start}-{end - 1}"}
    with tier.transport.open(tier.locate_blob(sha256), headers=asked) as response:
        assert response.status == 206
        return response.read_limited(2**20)


def test_says_what_of_a_list_is_in_the_bucket(s3, tier):
    held = {s3.put(bytes([n]) * 10, "zoo/models") for n in range(40)}
    found = tier(s3, prefix="zoo/models").holding(held | {NOWHERE}, 5.0)
    assert found == held
    assert s3.methods() == ["GET"] * 41
    assert all(asked.sent <= 1 for asked in s3.asked if asked.status == 206)


def test_an_empty_blob_is_there_too(s3, tier):
    empty = s3.put(b"")
    assert tier(s3).holding([empty], 5.0) == {empty}


def test_ranges_come_from_a_signed_address(s3, tier):
    sha256 = s3.put(BLOB)
    assert read(tier(s3), sha256, 1000, 1500) == BLOB[1000:1500]


def test_address_without_its_signature_opens_nothing(s3, tier):
    one = tier(s3)
    sha256 = s3.put(BLOB)
    bare = one.locate_blob(sha256).url.partition("?")[0]
    with one.transport.open(Target(bare)) as response:
        assert response.status == 403
    signed = one.locate_blob(sha256).url
    forged = signed[:-1] + ("1" if signed[-1] == "0" else "0")
    with one.transport.open(Target(forged)) as response:
        assert response.status == 403


def test_bucket_for_everybody_is_read_without_a_key(tier):
    with S3(anonymous=True) as s3:
        sha256 = s3.put(BLOB)
        one = tier(s3, {}, key_env=None, secret_env=None)
        assert one.holding([sha256], 5.0) == {sha256}
        assert read(one, sha256, 0, 10) == BLOB[:10]
        assert "?" not in one.locate_blob(sha256).url


def test_bucket_may_stand_before_the_host(s3, tier):
    one = tier(s3, endpoint=f"http://localhost:{s3.port}", style="host")
    assert str(one.origin) == f"http://models.localhost:{s3.port}"
    one.transport._resolver = lambda host, port: ["127.0.0.1"]
    sha256 = s3.put(BLOB)
    assert one.holding([sha256], 5.0) == {sha256}


def test_nothing_of_the_environment_gets_into_a_signature(s3, tier, monkeypatch):
    # Of each kind one: a session beside our key, another address, no signature, another machine's
    # credentials; and proxies, which our transport does not take.
    for name, value in {
        "AWS_SESSION_TOKEN": "token",
        "AWS_ACCESS_KEY_ID": "AKIAOTHER",
        "AWS_SECRET_ACCESS_KEY": "other",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1",
        "AWS_REGION": "eu-west-1",
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_SKIP_SIGNATURE": "true",
        "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "true",
        "AWS_S3_EXPRESS": "true",
        "AWS_REQUEST_PAYER": "true",
        "HTTP_PROXY": "http://127.0.0.1:1",
        "http_proxy": "http://127.0.0.1:1",
    }.items():
        monkeypatch.setenv(name, value)
    sha256 = s3.put(BLOB)
    assert tier(s3).holding([sha256], 5.0) == {sha256}
    assert {name for asked in s3.asked for name in asked.query} == {
        "X-Amz-Algorithm",
        "X-Amz-Credential",
        "X-Amz-Date",
        "X-Amz-Expires",
        "X-Amz-SignedHeaders",
        "X-Amz-Signature",
    }


@pytest.mark.parametrize(
    ("environ", "reason"),
    [
        ({}, "S3_KEY is not set"),
        ({"S3_KEY": KEY}, "S3_SECRET is not set"),
        ({"S3_KEY": "a key", "S3_SECRET": SECRET}, "S3_KEY holds no key"),
        ({"S3_KEY": KEY, "S3_SECRET": "two\nlines"}, "S3_SECRET holds no key"),
        ({"S3_KEY": KEY, "S3_SECRET": " \n"}, "S3_SECRET is not set"),
        ({"S3_KEY": "AKIAOTHER", "S3_SECRET": SECRET}, "InvalidAccessKeyId: the key in S3_KEY"),
        ({"S3_KEY": KEY, "S3_SECRET": "other"}, "SignatureDoesNotMatch"),
    ],
)
def test_key_that_does_not_work_says_why_and_never_itself(s3, tier, environ, reason):
    one = tier(s3, environ)
    for ask in (lambda: one.holding([s3.put(BLOB)], 5.0), lambda: one.probe(5.0)):
        with pytest.raises(KeyRefused, match=reason) as caught:
            ask()
        assert caught.value.source == "store"
        assert SECRET not in str(caught.value)


def test_clock_that_is_wrong_is_told_in_place_of_the_key(s3, tier, monkeypatch):
    s3.faults = lambda _: (403, "RequestTimeTooSkewed")
    one = tier(s3)
    monkeypatch.setattr(one._clock, "wall", lambda: time.time() + 1800)
    with pytest.raises(KeyRefused, match="TooSkewed: its clock and this machine's are 30 minutes"):
        one.probe(5.0)


def test_key_shows_neither_half_of_itself(s3, tier):
    assert KEY not in repr(tier(s3).bucket.key())
    assert SECRET not in repr(tier(s3).bucket.key())


def test_one_refusal_ends_the_asking(s3, tier):
    with pytest.raises(KeyRefused):
        tier(s3, {**ENVIRON, "S3_KEY": "AKIAOTHER"}).holding([f"{n:064x}" for n in range(200)], 5.0)
    assert len(s3.asked) <= 32


def test_key_that_may_not_list_is_told_so_where_nothing_is_found(s3, tier):
    s3.lists = False
    with pytest.raises(KeyRefused, match="AccessDenied"):
        tier(s3).holding([NOWHERE], 5.0)


def test_bucket_that_is_not_there_is_no_missing_blob(s3, tier):
    with pytest.raises(StatusError, match="NoSuchBucket"):
        tier(s3, bucket="others").holding([NOWHERE], 5.0)


def test_probe_of_a_sound_store_asks_for_one_byte_of_nothing(s3, tier):
    tier(s3).probe(5.0)
    assert [asked.status for asked in s3.asked] == [404]


def test_store_that_is_away_is_unreachable(tier):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with S3() as s3, pytest.raises(UnreachableError):
        tier(s3, endpoint=url).holding([NOWHERE], 2.0)


def test_store_that_answers_late_costs_the_deadline_and_gives_what_it_told(s3, tier):
    told, late = s3.put(b"told"), s3.put(b"late")
    s3.held.clear()
    s3.faults = lambda asked: s3.held.set() if asked.key == s3.name(told) else None
    one = tier(s3)
    assert one.holding([told], 5.0) == {told}
    s3.held.clear()
    s3.faults = lambda asked: None
    with pytest.raises(TransportError, match="in time"):
        one.holding([late], 0.3)


def test_store_that_wants_to_be_left_alone_is_told_with_its_time(s3, tier):
    s3.faults = lambda asked: (503, "SlowDown")
    with pytest.raises(StatusError, match="SlowDown") as caught:
        tier(s3).holding([NOWHERE], 5.0)
    assert not isinstance(caught.value, LimitedError)


def test_private_address_is_reached_only_as_the_configured_endpoint(s3, tier):
    one = tier(s3)
    one.transport.policy = AddressPolicy()
    with pytest.raises(AddressRefused):
        one.holding([NOWHERE], 5.0)


def test_store_with_a_key_needs_obstore(s3, tier, monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(UsageError) as caught:
        tier(s3)
    assert "zhcache[s3]" in caught.value.hint


def test_tiers_are_no_sources_that_list(s3):
    config = SourceConfig("store", "s3", s3.url, bucket="models")
    hub = msgspec.structs.replace(config, name="hub", kind="huggingface", bucket="")
    transport = Transport(AddressPolicy())
    assert [one.name for one in registry.build([config, hub], transport, {})] == ["hub"]
    assert [one.name for one in registry.tiers([config, hub], transport, {})] == ["store"]
    transport.close()


def test_address_that_was_signed_for_another_place_is_not_asked(s3, tier, monkeypatch):
    elsewhere = "https://elsewhere.example/models/x?X-Amz-Signature=0"
    monkeypatch.setattr("obstore.sign", lambda *_: elsewhere)
    with pytest.raises(AddressRefused):
        tier(s3).holding([NOWHERE], 5.0)
    assert s3.asked == []
