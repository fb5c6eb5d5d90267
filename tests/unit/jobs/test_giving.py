"""What goes from a store into an S3 store of the site, once, and what never does."""

import msgspec
import pytest

from harness.storekit import (
    COMMIT,
    TINY,
    Clock,
    open_store,
    publish,
    publish_tiny,
    publish_variant,
    sha256,
)
from simulators.s3 import KEY, S3, SECRET
from zhcache.protocol.names import parse_repo
from zhcached.config import SourceConfig
from zhcached.jobs.asking.health import Health
from zhcached.jobs.giving import FIRST_REST_S, Giving
from zhcached.sources import registry
from zhcached.store.snapshots import IMPORTED, Original
from zhcached.transport.address import AddressPolicy
from zhcached.transport.http import Transport

FILES = {"unet/model.safetensors": bytes(range(256)) * 300, "model_index.json": b"{}", "empty": b""}
ENVIRON = {"S3_KEY": KEY, "S3_SECRET": SECRET}


class Machine:
    """A store, and what it gives to a bucket."""

    def __init__(self, root, s3, closed=(), **more):
        self.clock = Clock()
        self.store = open_store(root / "store", self.clock)
        self.config = SourceConfig(
            "store", "s3", s3.url, bucket="models", key_env="S3_KEY", secret_env="S3_SECRET",
            **{"write": True, **more},
        )  # fmt: skip
        self.transport = Transport(AddressPolicy.of([s3.url]))
        self.health = Health(self.store.catalog, [self.config], self.clock)
        self.closed = set(closed)
        self.giving = self.again()

    def again(self):
        """Returns what a daemon that starts anew has."""
        return Giving(
            self.store,
            registry.tiers([self.config], self.transport, ENVIRON),
            lambda manifest: manifest.is_public and manifest.repo not in self.closed,
            self.health,
            self.clock,
            {},
        )

    def told(self):
        (info,) = self.health.report()
        return info.reason

    def close(self):
        self.giving.stop()
        self.transport.close()
        self.store.close()


@pytest.fixture
def s3():
    with S3() as started:
        yield started


@pytest.fixture
def machine(tmp_path, s3):
    made = []

    def make(**more):
        made.append(Machine(tmp_path, s3, **more))
        return made[-1]

    yield make
    for one in made:
        one.close()


def names(s3, contents):
    return {s3.name(sha256(content)): content for content in contents}


def test_public_snapshot_is_given_once(s3, machine):
    one = machine()
    publish(one.store, FILES)
    assert one.giving.once() == 3
    assert s3.objects == names(s3, FILES.values())
    asked = len(s3.asked)
    assert one.giving.once() == 0
    assert len(s3.asked) == asked
    assert one.again().once() == 0
    assert s3.methods().count("PUT") == 3


@pytest.mark.slow
def test_what_the_store_has_is_not_sent_again(s3, machine):
    one = machine()
    s3.put(FILES["unet/model.safetensors"])
    publish(one.store, FILES)
    assert one.giving.once() == 2


@pytest.mark.slow
def test_snapshot_that_grows_is_given_as_it_grows(s3, machine):
    one = machine()
    publish(one.store, {"a": b"first"}, complete=False)
    one.giving.once()
    publish(one.store, {"a": b"first", "b": b"second"})
    assert one.giving.once() == 1
    assert s3.objects == names(s3, [b"first", b"second"])


@pytest.mark.parametrize(
    "fields", [{"private": True}, {"source": IMPORTED}], ids=["private", "imported"]
)
def test_what_is_not_known_to_be_public_stays_here(s3, machine, fields):
    one = machine()
    publish(one.store, FILES, **fields)
    assert one.giving.once() == 0
    assert s3.asked == []


def test_repository_that_was_closed_since_stays_here(s3, machine):
    one = machine(closed=["lab/tiny"])
    publish(one.store, FILES)
    assert one.giving.once() == 0
    assert s3.objects == {}


def test_private_repository_goes_there_by_the_sources_own_word_alone(s3, machine):
    one = machine(entitled=("lab/gated",))
    publish(one.store, {"a": b"gated"}, repo=parse_repo("lab/gated"), private=True)
    publish(one.store, {"a": b"private"}, private=True, commit="d" * 40)
    one.giving.once()
    assert s3.objects == names(s3, [b"gated"])


@pytest.mark.slow
def test_blob_of_a_private_and_a_public_snapshot_is_public(s3, machine):
    one = machine()
    publish(one.store, {"a": b"shared", "b": b"own"}, private=True)
    publish(one.store, {"a": b"shared"}, repo=parse_repo("lab/open"), commit="d" * 40)
    one.giving.once()
    assert s3.objects == names(s3, [b"shared"])


def test_what_was_made_here_stays_here(s3, machine):
    one = machine()
    publish_tiny(one.store)
    publish_variant(one.store)
    manifest = one.store.manifests.read(parse_repo("lab/tiny"), COMMIT)
    made = msgspec.structs.replace(
        manifest.files[0], converted_from=Original("unet/model.bin", 1, "a" * 64)
    )
    changed = msgspec.structs.replace(manifest, files=(made, *manifest.files[1:]))
    one.store.publish(changed, "main")
    one.giving.once()
    assert s3.objects == names(s3, [TINY[file.path] for file in manifest.files[1:]])


def test_store_that_is_only_read_is_given_nothing(s3, machine):
    one = machine(write=False)
    publish(one.store, FILES)
    assert one.giving.once() == 0
    assert s3.asked == []


@pytest.mark.slow
def test_blob_that_was_spoilt_or_lost_here_is_left_out(s3, machine):
    one = machine()
    publish(one.store, FILES)
    weights = one.store.blobs.path(sha256(FILES["unet/model.safetensors"]))
    weights.chmod(0o640)
    weights.write_bytes(b"x" * len(FILES["unet/model.safetensors"]))
    one.store.blobs.path(sha256(b"{}")).unlink()
    assert one.giving.once() == 1
    assert s3.objects == names(s3, [b""])


def test_blob_that_the_store_has_spoilt_is_put_anew(s3, machine):
    one = machine()
    weights = FILES["unet/model.safetensors"]
    digest = s3.put(weights)
    s3.objects[s3.name(digest)] = b"x" * len(weights)
    publish(one.store, FILES)
    one.giving.once()
    assert s3.objects[s3.name(digest)] != weights
    one.giving.replace("another", digest)
    assert one.giving.once() == 0
    one.giving.replace("store", digest)
    assert one.giving.once() == 1
    assert s3.objects[s3.name(digest)] == weights
    assert one.giving.once() == 0


def test_store_that_may_not_be_written_to_is_told_and_tried_again_later(s3, machine):
    one = machine()
    s3.readers = True
    publish(one.store, FILES)
    assert one.giving.once() == 0
    assert "cannot be written to: the store answered 403: AccessDenied" in one.told()
    asked = len(s3.asked)
    one.giving.once()
    assert len(s3.asked) == asked
    s3.readers = False
    one.clock.pass_s(FIRST_REST_S)
    assert one.giving.once() == 3
    assert "cannot be written to" not in one.told()


@pytest.mark.slow
def test_store_that_is_away_for_writing_says_nothing_against_reading(s3, machine):
    one = machine()
    publish(one.store, FILES)
    s3.faults = lambda asked: (503, "SlowDown") if asked.method == "PUT" else None
    one.giving.once()
    (info,) = one.health.report()
    assert info.state == "unknown"
    assert "cannot be written to" in info.reason


def test_giving_that_is_stopped_sends_nothing_more(s3, machine):
    one = machine()
    publish(one.store, FILES)
    one.giving.stop()
    assert one.giving.once() == 0
    assert s3.objects == {}
