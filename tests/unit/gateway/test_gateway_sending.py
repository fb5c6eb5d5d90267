"""Ranges, conditions, clients that stall, and an API that goes on meanwhile."""

import shutil
import socket
import ssl
import subprocess
import threading
import urllib.request

import pytest

from demohub.hub import Hub
from harness.daemon import until
from harness.gatewaykit import FILES, REPO, WEIGHTS, Front
from harness.storekit import put, sha256
from zhcached.gateway.spans import NoSuchSpanError, Span, chosen, is_fresh, is_other, may_resume
from zhcached.jobs.pulling.coming import Reader

LARGE = "unet/model.safetensors"
SIZE = len(WEIGHTS)


@pytest.fixture(scope="module")
def hub():
    with Hub(name="hub") as hub:
        hub.add(REPO, FILES | {"empty.txt": b""})
        yield hub


@pytest.fixture(scope="module")
def front(tmp_path_factory, hub):
    with Front(tmp_path_factory.mktemp("sending"), [hub], stall_s=0.5) as front:
        assert front.get(LARGE).body == WEIGHTS
        yield front


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("bytes=0-", (0, 100)),
        ("bytes=10-19", (10, 20)),
        ("bytes = 10-19", (10, 20)),
        ("bytes=90-200", (90, 100)),
        ("bytes=-10", (90, 100)),
        ("bytes=-1000", (0, 100)),
        ("bytes=99-", (99, 100)),
        ("bytes=20-10", None),
        ("bytes=0-1,5-6", None),
        ("lines=0-1", None),
        ("bytes=a-b", None),
        ("bytes=-", None),
        ("bytes=" + "9" * 30 + "-", None),
        ("bytes=٣-٤", None),
    ],
)
def test_which_bytes_a_range_means(header, expected):
    assert chosen(header, 100) == (None if expected is None else Span(*expected, 100))


@pytest.mark.parametrize(
    ("header", "size"), [("bytes=100-", 100), ("bytes=-0", 9), ("bytes=-1", 0)]
)
def test_ranges_of_which_there_is_nothing(header, size):
    with pytest.raises(NoSuchSpanError):
        chosen(header, size)


def test_conditions():
    assert is_fresh('W/"b", "a"', '"a"')
    assert is_fresh("*", '"a"')
    assert not is_fresh('"b"', '"a"')
    assert not is_fresh(None, '"a"')
    assert is_other('"b", W/"a"', '"a"')
    assert not any(is_other(asked, '"a"') for asked in (None, "*", '"b", "a"'))
    assert may_resume(None, '"a"')
    assert may_resume('"a"', '"a"')
    # Weak ones and dates prove nothing about bytes.
    assert not may_resume('W/"a"', '"a"')
    assert not may_resume("Mon, 01 Jan 2026 00:00:00 GMT", '"a"')


def test_the_rest_of_another_file_is_not_given(front):
    etag = front.get(LARGE, method="HEAD").headers["etag"]
    rest = {"Range": f"bytes={SIZE - 5}-"}
    assert front.get(LARGE, **rest, If_Match=etag).body == WEIGHTS[-5:]
    refused = front.get(LARGE, **rest, If_Match='"of an older commit"')
    assert (refused.status, refused.body) == (412, b"")


def test_parts_of_a_warm_file(front):
    part = front.get(LARGE, Range="bytes=1000-2000999")
    assert (part.status, part.body) == (206, WEIGHTS[1000:2001000])
    assert part.headers["content-range"] == f"bytes 1000-2000999/{SIZE}"
    assert front.get(LARGE, Range="bytes=-7").body == WEIGHTS[-7:]
    tag = part.headers["etag"]
    assert front.get(LARGE, Range="bytes=5-9", If_Range=tag).status == 206
    assert front.get(LARGE, Range="bytes=5-9", If_Range='"other"').body == WEIGHTS
    beyond = front.get(LARGE, Range=f"bytes={SIZE}-")
    assert (beyond.status, beyond.headers["content-range"]) == (416, f"bytes */{SIZE}")
    unchanged = front.get(LARGE, If_None_Match=tag)
    assert (unchanged.status, unchanged.body) == (304, b"")
    assert front.get(LARGE, Range="bytes=0-1,4-5").body == WEIGHTS


def test_heads_and_files_without_bytes(front, hub):
    head = front.get(LARGE, method="HEAD", Range="bytes=5-9")
    assert (head.status, head.headers["content-length"], head.body) == (200, str(SIZE), b"")
    assert head.headers["accept-ranges"] == "bytes"
    empty = front.get("empty.txt")
    assert (empty.status, empty.headers["content-length"], empty.body) == (200, "0", b"")
    named = until(lambda: front.named("empty.txt"), "its snapshot has it")
    assert named.size == 0


def test_a_defect_in_mid_file_is_not_told_among_its_bytes(front, hub, monkeypatch):
    hub.add("lab/new", {"new.safetensors": WEIGHTS[::-1]})
    real = Reader.available

    def fails(self, offset):
        if offset:
            raise RuntimeError("a defect")
        return min(real(self, offset), 1000)

    monkeypatch.setattr(Reader, "available", fails)
    answer = front.get("new.safetensors", repo="lab/new")
    assert (answer.cut, answer.status) == (True, 200)
    assert WEIGHTS[::-1].startswith(answer.body)


def test_the_answer_tells_nothing_of_the_server(front):
    for answer in (front.get(LARGE), front.get("missing"), front.get(LARGE, method="DELETE")):
        assert answer.headers["server"] == "zhcache"


def test_a_connection_is_used_again(front):
    line = front.connect()
    for _ in range(3):
        line.request("GET", f"/{REPO}/main/{LARGE}")
        assert line.getresponse().read() == WEIGHTS
    assert front.server.clients == 1
    line.close()
    until(lambda: front.server.clients == 0, "it is closed")


def test_a_client_that_reads_nothing_is_cut(tmp_path, hub, front):
    hub.add("lab/wide", {"wide.safetensors": WEIGHTS * 6})
    assert len(front.get("wide.safetensors", repo="lab/wide").body) == 6 * SIZE
    with socket.socket() as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.connect(("127.0.0.1", front.port))
        line.sendall(b"GET /lab/wide/main/wide.safetensors HTTP/1.1\r\nHost: localhost\r\n\r\n")
        until(lambda: front.server.clients == 1, "it is there")
        until(lambda: front.server.clients == 0, "it was cut")


def test_a_blob_that_turns_out_to_be_damaged_is_not_sent_to_its_end(tmp_path, hub):
    content = WEIGHTS * 6
    hub.add("lab/rotten", {"r.safetensors": content})
    with Front(tmp_path / "store", [hub]) as front, socket.socket() as line:
        put(front.store, content)
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.connect(("127.0.0.1", front.port))
        line.sendall(b"GET /lab/rotten/main/r.safetensors HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert line.recv(12) == b"HTTP/1.1 200"
        blob = front.store.blobs.path(sha256(content))
        blob.chmod(0o600)
        with blob.open("r+b") as file:
            file.write(b"rot")
        assert front.store.checks.recheck(sha256(content), lambda _: None) is False
        until(lambda: front.server.clients == 0, "it was cut, though nothing is read")
        # Who comes back for the rest holds another beginning, perhaps.
        again = front.get("r.safetensors", repo="lab/rotten", Range="bytes=1000-")
        assert again.body == content


def test_one_rate_for_all(tmp_path, hub):
    with Front(tmp_path / "store", [hub], rate=20 << 20) as front:
        assert front.get(LARGE).body == WEIGHTS
        started = front.clock.monotonic()
        threads = [threading.Thread(target=front.get, args=(LARGE,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # Never faster than the rate, however slow this machine is.
        assert front.clock.monotonic() - started > 2 * SIZE / (20 << 20) - 0.15


def test_over_tls(tmp_path, hub):
    if shutil.which("openssl") is None:
        pytest.skip("the openssl command makes the test's certificate and is not here")
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-keyout", key, "-out", certificate, "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost"],
        check=True,
        capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    trusting = ssl.create_default_context(cafile=certificate)
    with Front(tmp_path / "store", [hub], tls=context) as front:
        url = f"https://localhost:{front.port}/{REPO}/main/{LARGE}"
        for _ in ("cold", "warm"):
            with urllib.request.urlopen(url, context=trusting, timeout=20) as answer:
                assert answer.read() == WEIGHTS
