"""Blobs put into a bucket by the process that does it; real obstore, a store that checks it."""

import hashlib
import os
import random
import threading

import pytest

from simulators.s3 import KEY, S3, SECRET
from zhcached.config import SourceConfig
from zhcached.errors import KeyRefused, TransportError
from zhcached.sources import s3_upload
from zhcached.sources.s3_bucket import Bucket
from zhcached.sources.s3_put import SpoiltHereError, Uploads, environment
from zhcached.sources.s3_upload import PART_BYTES

SMALL = b"a small blob"
LARGE = random.Random(2).randbytes(PART_BYTES + 5 * 2**20)
ENVIRON = {"S3_KEY": KEY, "S3_SECRET": SECRET}
HOSTILE = {
    "AWS_SESSION_TOKEN": "token",
    "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
    "AWS_SERVER_SIDE_ENCRYPTION": "aws:kms",
    "AWS_CHECKSUM_ALGORITHM": "sha256",
    "AWS_SKIP_SIGNATURE": "true",
    "HTTP_PROXY": "http://127.0.0.1:1",
    "http_proxy": "http://127.0.0.1:1",
}


@pytest.fixture
def s3():
    with S3() as started:
        yield started


@pytest.fixture
def uploads(s3):
    started = []

    def start(environ=None, **more):
        options = {"bucket": "models", "key_env": "S3_KEY", "secret_env": "S3_SECRET", **more}
        config = SourceConfig("store", "s3", s3.url, write=True, prefix="zoo", **options)
        one = Uploads(Bucket(config, {**ENVIRON, **(environ or {})}), {**os.environ, **HOSTILE})
        started.append(one)
        return one

    yield start
    for one in started:
        one.close()


@pytest.fixture
def blob(tmp_path):
    def make(content):
        path = tmp_path / hashlib.sha256(content).hexdigest()
        path.write_bytes(content)
        return path.name, path, len(content)

    return make


def test_small_and_large_blobs_are_there_under_their_digests(s3, uploads, blob):
    one = uploads()
    for content in (SMALL, LARGE, b""):
        one.put(*blob(content))
    contents = (SMALL, LARGE, b"")
    assert s3.objects == {s3.name(blob(c)[0], "zoo"): c for c in contents}
    assert s3.uploads == {}


def test_nothing_of_the_daemons_environment_reaches_the_store(s3, uploads, blob):
    uploads().put(*blob(SMALL))
    (asked,) = s3.asked
    known = {name for name in asked.headers if name.startswith("x-amz-")}
    assert known == {"x-amz-date", "x-amz-content-sha256"}


def test_process_is_told_no_secret_by_its_environment():
    assert set(environment({**HOSTILE, **ENVIRON, "PATH": "/bin", "HOME": "/root"})) == {"PATH"}


def test_process_that_may_not_give_way_to_others_runs_all_the_same(monkeypatch):
    def forbidden(_):
        raise PermissionError(1, "the service's unit")

    monkeypatch.setattr(os, "nice", forbidden)
    s3_upload.give_way()


def test_process_shows_no_key_to_others(uploads):
    pid = uploads()._process.pid
    for place in ("cmdline", "environ"):
        with open(f"/proc/{pid}/{place}", "rb") as file:
            text = file.read()
        assert KEY.encode() not in text
        assert SECRET.encode() not in text


@pytest.mark.parametrize("content", [SMALL, LARGE])
def test_blob_that_was_spoilt_on_this_disk_is_not_put(s3, uploads, blob, content):
    sha256, path, size = blob(content)
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    one = uploads()
    with pytest.raises(SpoiltHereError, match="no longer what its name says"):
        one.put(sha256, path, size)
    assert (s3.objects, s3.uploads) == ({}, {})
    path.unlink()
    with pytest.raises(SpoiltHereError):
        one.put(sha256, path, size)
    one.put(*blob(b"another"))
    assert len(s3.objects) == 1


@pytest.mark.slow
@pytest.mark.parametrize("content", [SMALL, LARGE])
def test_key_that_may_only_read_is_told_so(s3, uploads, blob, content):
    s3.readers = True
    with pytest.raises(KeyRefused, match="AccessDenied"):
        uploads().put(*blob(content))
    assert s3.objects == {}


def test_key_that_is_not_set_starts_nothing(uploads):
    with pytest.raises(KeyRefused, match="S3_KEY is not set"):
        uploads({"S3_KEY": ""})


@pytest.mark.slow
def test_bucket_that_is_not_there_is_told(uploads, blob):
    with pytest.raises(TransportError, match="NoSuchBucket"):
        uploads(bucket="others").put(*blob(SMALL))


def stopped_in_the_middle(s3, one, blob, end):
    """Puts a large blob, and calls ``end`` while its second part is on the way."""
    under_way, go_on = threading.Event(), threading.Event()

    def hold(asked):
        if asked.query.get("partNumber") == "1":
            under_way.set()
            go_on.wait(10)

    s3.faults = hold
    errors = []

    def put():
        try:
            one.put(*blob(LARGE))
        except TransportError as error:
            errors.append(error)

    thread = threading.Thread(target=put)
    thread.start()
    assert under_way.wait(20)
    end()
    go_on.set()
    thread.join(20)
    assert not thread.is_alive()
    return errors


@pytest.mark.slow
def test_upload_that_is_abandoned_leaves_no_object(s3, uploads, blob):
    one = uploads()
    assert stopped_in_the_middle(s3, one, blob, one.close)
    assert s3.objects == {}
    assert one._process.returncode is not None


def test_upload_whose_process_is_killed_leaves_no_object_and_is_told(s3, uploads, blob):
    one = uploads()
    assert stopped_in_the_middle(s3, one, blob, one._process.kill)
    assert s3.objects == {}
    again = uploads()
    again.put(*blob(LARGE))
    assert s3.objects == {s3.name(blob(LARGE)[0], "zoo"): LARGE}
