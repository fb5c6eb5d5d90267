"""Bodies that are not what they say, and a listing that a client waits for when serving ends."""

import gzip
import http.client
import threading

import pytest

from demohub.hub import Hub
from harness.daemon import until
from harness.gatewaykit import CONFIG, FILES, REPO, Front
from harness.storekit import git_sha1
from zhcached.gateway.routes import routes
from zhcached.store.digest import Promise

SMALL = "model_index.json"
JSON = "application/json"
FORM = "application/x-www-form-urlencoded"


@pytest.fixture
def front(tmp_path, monkeypatch):
    monkeypatch.setattr("harness.gatewaykit.routes", routes)
    with Hub(name="hub") as hub:
        hub.add(REPO, FILES)
        with Front(tmp_path / "store", [hub]) as front:
            yield front


def posted(front, kind, body, **headers):
    line = front.connect()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    path = f"/api/models/{REPO}/paths-info/main"
    line.request("POST", path, body=body, headers={"Content-Type": kind, **named})
    answer = line.getresponse()
    told = answer.status, answer.read()
    line.close()
    return told


@pytest.mark.parametrize(
    ("kind", "body", "encoding"),
    [
        (JSON, b"{", "identity"),
        (JSON, b"[" * 200_000, "identity"),
        (JSON, b'{"paths":' + b"[" * 200_000, "identity"),
        (JSON, b'{"other":' + b"[" * 200_000, "identity"),
        (JSON, b'{"paths":["\xff"]}', "identity"),
        (JSON, gzip.compress(b'{"paths":[]}', mtime=0), "gzip"),
        (JSON, b"no gzip", "gzip"),
        (FORM + "; charset=none-such", b"paths=a", "identity"),
        ("multipart/form-data", b"no boundary", "identity"),
        ("multipart/form-data; boundary=x", b"--x\r\n", "identity"),
    ],
)
def test_what_cannot_be_read_is_the_clients_fault(front, caplog, kind, body, encoding):
    status, told = posted(front, kind, body, Content_Encoding=encoding)
    assert (status, b"cannot be read" in told) == (400, True)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_what_can_be_read(front):
    for kind, body in (
        (JSON, b'{"paths":["model_index.json"]}'),
        (FORM, b"paths=model_index.json"),
    ):
        status, told = posted(front, kind, body)
        assert (status, SMALL.encode() in told) == (200, True)


def test_a_listing_that_is_waited_for_when_serving_ends_disturbs_no_fetch(front):
    promise = Promise(size=len(CONFIG), git_sha1=git_sha1(CONFIG))
    with front.fetcher.claims.hold(promise.key, lambda: None):
        line = front.connect()
        asking = threading.Thread(target=ended, args=(line,))
        line.request("GET", f"/api/v1/models/{REPO}/repo/files?Recursive=true")
        asking.start()
        until(lambda: [a for a in front.pulls._arrivals._coming.values() if a._waiting], "it waits")
        front.server.stop()
        front.server.stop = lambda: None
        asking.join()
        ingest = front.store.intake.begin(promise, "job")
        ingest.write(0, CONFIG, "job's source")
        ingest.commit()


def ended(line):
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        line.getresponse()
    line.close()
