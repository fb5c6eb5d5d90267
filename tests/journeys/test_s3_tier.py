"""An S3 store of the site beside a hub: real daemons, a store that checks signatures and lies."""

import hashlib
import random
import socket
import threading
from pathlib import Path

import pytest

from demohub import Hub
from harness.daemon import Daemon, source, until
from simulators.s3 import KEY, S3, SECRET

REPO, WEIGHTS = "org/model", "unet/diffusion_pytorch_model.safetensors"
BYTES = random.Random(5).randbytes(3 * 2**20 + 5)
FILES = {"model_index.json": b'{"_class_name": "T"}', "unet/config.json": b"{}", WEIGHTS: BYTES}
KEYS = {"S3_KEY": KEY, "S3_SECRET": SECRET}


@pytest.fixture(scope="module")
def hub():
    with Hub(name="hub") as started:
        started.add(REPO, FILES)
        yield started


@pytest.fixture
def brought(hub):
    """Returns how many bytes of weights the hub sent since the test began."""
    before = len(hub.requests)
    return lambda: sum(
        r.sent for r in hub.requests[before:] if r.file == WEIGHTS and r.plane == "bytes"
    )


@pytest.fixture
def s3():
    with S3() as started:
        yield started


@pytest.fixture
def machine(tmp_path, hub):
    """Starts a machine that has the hub and the store."""
    started = []

    def start(store, environ=None, more="", **of_hub):
        config = (
            bucket(store.url, more)
            + source(hub, **of_hub)
            + '[download]\nstall = "1s"\nretries = 1\n'
        )
        folder = tmp_path / f"machine{len(started)}"
        folder.mkdir()
        daemon = Daemon(folder, config, KEYS if environ is None else environ)
        started.append(daemon.start())
        return daemon

    yield start
    for daemon in started:
        daemon.stop()


def bucket(url, more=""):
    return (
        f'[[source]]\nname = "store"\nkind = "s3"\nendpoint = "{url}"\nbucket = "models"\n'
        f'prefix = "zhcache"\nkey_env = "S3_KEY"\nsecret_env = "S3_SECRET"\n{more}'
    )


def check_held(daemon):
    path = Path(daemon.json("path", REPO)["path"])
    assert {name: (path / name).read_bytes() for name in FILES} == FILES


def check_no_signature_is_written(daemon):
    for text in (daemon.log.read_text(), (daemon.home / "logs" / "zhcached.jsonl").read_text()):
        assert "X-Amz-" not in text
        assert SECRET not in text


def shown(daemon, name="store"):
    return next(one for one in daemon.json("sources")["sources"] if one["name"] == name)


def test_bytes_come_from_the_store_and_the_word_on_them_from_the_hub(hub, brought, s3, machine):
    sha256 = s3.put(BYTES, "zhcache")
    daemon = machine(s3)
    came = daemon.json("prefetch", REPO)
    check_held(daemon)
    assert (came["trust"], came["sources"]["store"]) == ("first-use", len(BYTES))
    assert (brought(), s3.sent(sha256, "zhcache")) == (0, len(BYTES) + 1)
    assert shown(daemon)["state"] in ("ok", "unknown")
    refused = daemon.json("prefetch", REPO, "--source", "store", code=2)
    assert "bytes alone" in refused["error"]["message"]
    asked = len(s3.asked)
    daemon.json("prefetch", REPO)
    assert len(s3.asked) == asked
    tested = daemon.json("sources", "test", "store")["sources"][0]
    assert (tested["works"], tested["error"]) == (True, None)


@pytest.mark.slow
def test_store_without_the_model_costs_one_question(brought, s3, machine):
    daemon = machine(s3)
    daemon.json("prefetch", REPO)
    check_held(daemon)
    assert brought() == len(BYTES)
    assert [asked.status for asked in s3.asked] == [404]


@pytest.mark.slow
def test_spoilt_bytes_in_the_store_are_found_and_come_from_the_hub(brought, s3, machine):
    sha256 = s3.put(BYTES, "zhcache")
    name = s3.name(sha256, "zhcache")
    s3.objects[name] = BYTES[:1000] + bytes([BYTES[1000] ^ 1]) + BYTES[1001:]
    daemon = machine(s3)
    came = daemon.json("prefetch", REPO)
    check_held(daemon)
    assert brought() == len(BYTES)
    assert came["sources"]["hub"] >= len(BYTES)
    assert shown(daemon)["state"] == "lying"
    check_no_signature_is_written(daemon)


@pytest.mark.parametrize(
    ("environ", "reason"),
    [
        ({}, "S3_KEY is not set"),
        ({**KEYS, "S3_KEY": "AKIAOTHER"}, "InvalidAccessKeyId"),
        ({**KEYS, "S3_SECRET": "other"}, "SignatureDoesNotMatch"),
    ],
)
def test_key_that_does_not_work_stops_nobody_and_is_told(s3, machine, environ, reason):
    s3.put(BYTES, "zhcache")
    daemon = machine(s3, environ)
    daemon.json("prefetch", REPO)
    check_held(daemon)
    told = shown(daemon)
    assert told["state"] == "down"
    assert "its key does not work" in told["reason"]
    assert reason in told["reason"]
    check_no_signature_is_written(daemon)


@pytest.mark.slow
def test_store_that_is_away_stops_nobody(machine):
    class Away:
        pass

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        Away.url = f"http://127.0.0.1:{free.getsockname()[1]}"
    daemon = machine(Away)
    daemon.json("prefetch", REPO)
    check_held(daemon)
    assert "refused" in shown(daemon)["reason"]


@pytest.mark.slow
@pytest.mark.parametrize("fault", [(403, "AccessDenied"), (404, "NoSuchKey"), (500, "Internal")])
def test_blob_that_is_refused_after_it_was_shown_comes_from_the_hub(brought, s3, machine, fault):
    s3.put(BYTES, "zhcache")
    s3.faults = lambda asked: None if asked.range == "bytes=0-0" else fault
    daemon = machine(s3)
    daemon.json("prefetch", REPO)
    check_held(daemon)
    assert brought() == len(BYTES)
    check_no_signature_is_written(daemon)


@pytest.mark.slow
def test_store_that_falls_silent_loses_the_file_to_the_hub(brought, s3, machine):
    sha256 = s3.put(BYTES, "zhcache")
    s3.rate = 200_000

    def stop(asked):
        if asked.range != "bytes=0-0":
            s3.held.clear()

    s3.faults = stop
    daemon = machine(s3)
    daemon.json("prefetch", REPO)
    check_held(daemon)
    assert brought() > 0
    assert s3.sent(sha256, "zhcache") < len(BYTES)


def test_what_one_machine_fetches_the_next_has_from_the_store(hub, brought, s3, machine):
    hub.add("org/secret", {"a.safetensors": BYTES[:999]}, private=True, token="t0ken")
    first = machine(s3, {**KEYS, "HUB_TOKEN": "t0ken"}, "write = true\n", token_env='"HUB_TOKEN"')
    first.json("prefetch", "org/secret")
    first.json("prefetch", REPO)
    name = s3.name(hashlib.sha256(BYTES).hexdigest(), "zhcache")
    until(lambda: name in s3.objects, "the weights are in the store")
    assert s3.objects[name] == BYTES
    assert BYTES[:999] not in s3.objects.values()
    second = machine(s3)
    came = second.json("prefetch", REPO)
    check_held(second)
    assert (came["sources"]["store"], brought()) == (len(BYTES), len(BYTES))


@pytest.mark.slow
def test_daemon_that_stops_while_it_puts_leaves_no_half_object(s3, machine):
    started, go_on = threading.Event(), threading.Event()

    def hold(asked):
        if asked.method == "PUT":
            started.set()
            go_on.wait(30)

    s3.faults = hold
    daemon = machine(s3, more="write = true\n")
    daemon.json("prefetch", REPO)
    assert started.wait(30)
    daemon.kill()
    go_on.set()
    assert all(name.endswith(hashlib.sha256(c).hexdigest()) for name, c in s3.objects.items())
    daemon.start()
    name = s3.name(hashlib.sha256(BYTES).hexdigest(), "zhcache")
    until(lambda: name in s3.objects, "the restarted daemon has put it")
    assert s3.objects[name] == BYTES
