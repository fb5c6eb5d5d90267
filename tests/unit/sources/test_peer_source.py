"""What is taken of a peer that says what it likes."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from corpora.hostile_names import HOSTILE_NAMES
from zhcache.protocol.names import parse_repo
from zhcached.config import SourceConfig
from zhcached.errors import RemoteInvalid, RepoUnavailable, StatusError
from zhcached.sources import registry
from zhcached.transport.address import AddressPolicy
from zhcached.transport.http import Transport

REPO = parse_repo("org/model")
FILE = {"path": "a.safetensors", "size": 7, "sha256": "ab" * 32}
GOOD = {"repo": "org/model", "revision": "main", "commit": "c" * 40, "files": [FILE]}


@pytest.fixture
def peer():
    """A server that answers as ``answer`` says, and the source that asks it."""

    class Server(BaseHTTPRequestHandler):
        answer = (200, b"")
        asked = None

        def do_GET(self):
            self.asked.append(self.path)
            status, body = self.answer
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    transport = Transport(AddressPolicy.of([url]))
    (source,) = registry.build([SourceConfig("peer", "peer", url)], transport)
    Server.source = source
    Server.asked = []
    yield Server
    server.shutdown()
    server.server_close()
    transport.close()


def resolve(peer, document, status=200):
    peer.answer = (status, json.dumps(document).encode())
    return peer.source.resolve(REPO, None, 5.0)


def test_what_it_has_is_a_listing_that_defines_nothing_and_vouches_for_nobody(peer):
    found = resolve(peer, GOOD)
    assert (found.commit, found.files[0].sha256, found.is_hub) == ("c" * 40, "ab" * 32, False)
    assert peer.source.locate(found, found.files[0].path).url.endswith("/blobs/" + "ab" * 32)
    assert peer.asked == ["/zhcache/v1/models/org/model?revision=main"]


def test_what_it_was_told_to_give_though_not_public_is_not_public_here(peer):
    assert resolve(peer, GOOD | {"private": True}).private is True
    assert resolve(peer, GOOD).private is False


def test_snapshot_with_holes_is_none(peer):
    with pytest.raises(RepoUnavailable):
        resolve(peer, GOOD | {"complete": False})


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [(404, RepoUnavailable, "not_found"), (401, RepoUnavailable, "gated"), (418, StatusError, "")],
)
def test_no_is_told_as_what_it_means(peer, status, kind, code):
    with pytest.raises(kind) as refused:
        resolve(peer, {}, status)
    if code:
        assert refused.value.error.code == code


@pytest.mark.parametrize(
    "document",
    [
        {},
        [],
        GOOD | {"commit": "../../etc"},
        GOOD | {"files": []},
        GOOD | {"files": [FILE, FILE]},
        GOOD | {"files": [FILE | {"sha256": "../../x"}]},
        GOOD | {"files": [FILE | {"size": -1}]},
        *(GOOD | {"files": [FILE | {"path": name}]} for name in list(HOSTILE_NAMES.values())[:8]),
    ],
)
def test_listing_that_no_honest_peer_sends_is_refused(peer, document):
    with pytest.raises(RemoteInvalid):
        resolve(peer, document)


def test_only_digests_that_were_asked_about_count_and_many_take_several_questions(peer):
    digests = {f"{number:064x}" for number in range(150)}
    peer.answer = (200, json.dumps({"sizes": {"f" * 64: 1, min(digests): 3}}).encode())
    assert peer.source.holding(digests, 5.0) == {min(digests)}
    assert len(peer.asked) == 2
    assert max(map(len, peer.asked)) < 8000
