"""Clean answers: both protocols, ranges, redirects to the data hub, many connections, the log."""

from __future__ import annotations

import hashlib
import http.client
import json
import random
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from demohub import Hub, StoredFile

WEIGHTS = random.Random(1).randbytes(300_000)
FILES = {"model_index.json": b"{}\n", "unet/w.safetensors": WEIGHTS, "文件.txt": "字".encode()}
RESOLVE = "/o/n/resolve/main/unet/w.safetensors"
MODELSCOPE = "/api/v1/models/o/n/repo?Revision=master&FilePath=unet%2Fw.safetensors"


@pytest.fixture
def served(hub):
    hub.add("o/n", FILES)
    return hub


@pytest.mark.parametrize(
    "target", [RESOLVE, MODELSCOPE, "/models/o/n/resolve/master/unet/w.safetensors"]
)
def test_file_arrives_whole_over_each_route(served, ask, target):
    reply = ask(served, target)
    assert (reply.status, reply.body, reply.is_whole) == (200, WEIGHTS, True)


def test_file_on_disk_is_sent_as_it_is(hub, ask, tmp_path):
    path = tmp_path / "big.safetensors"
    path.write_bytes(WEIGHTS * 40)
    hub.add("o/n", {"big.safetensors": path})
    assert ask(hub, "/o/n/resolve/main/big.safetensors").body == WEIGHTS * 40
    part = ask(hub, "/o/n/resolve/main/big.safetensors", Range="bytes=299999-900000")
    assert part.body == (WEIGHTS * 40)[299_999:900_001]
    assert hub.sent("big*") == 300_000 * 40 + 600_002


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("0-0", 0, 0),
        ("100-199", 100, 199),
        ("299999-", 299999, 299999),
        ("-5", 299995, 299999),
        ("5-900000000", 5, 299999),
    ],
)
def test_range_is_answered_exactly(served, ask, asked, first, last):
    reply = ask(served, RESOLVE, Range=f"bytes={asked}")
    assert reply.status == 206
    assert reply.headers["Content-Range"] == f"bytes {first}-{last}/300000"
    assert reply.body == WEIGHTS[first : last + 1]


def test_range_past_the_end_is_refused_with_the_size(served, ask):
    reply = ask(served, RESOLVE, Range="bytes=300000-")
    assert (reply.status, reply.headers["Content-Range"]) == (416, "bytes */300000")


def test_if_range_of_another_etag_gets_the_whole_file(served, ask):
    etag = ask(served, RESOLVE, method="HEAD").headers["ETag"]
    assert ask(served, RESOLVE, Range="bytes=9-9", If_Range=etag).status == 206
    assert ask(served, RESOLVE, Range="bytes=9-9", If_Range='"other"').body == WEIGHTS
    assert ask(served, RESOLVE, Range="bytes=9-9", If_Range=f"W/{etag}").body == WEIGHTS


def test_modelscope_range_is_200_with_a_content_range(served, ask):
    reply = ask(served, MODELSCOPE, Range="bytes=1-2")
    assert (reply.status, reply.headers["Content-Range"]) == (200, "bytes 1-2/300000")
    assert reply.body == WEIGHTS[1:3]


def test_modelscope_range_is_206_when_asked_for(ask):
    with Hub(modelscope_partial_status=206) as hub:
        hub.add("o/n", FILES)
        assert ask(hub, MODELSCOPE, Range="bytes=1-2").status == 206


def test_head_promises_what_get_sends(served, ask):
    reply = ask(served, RESOLVE, method="HEAD")
    assert reply.headers["ETag"] == f'"{hashlib.sha256(WEIGHTS).hexdigest()}"'
    assert (reply.headers["Content-Length"], reply.body) == ("300000", b"")
    assert len(reply.headers["X-Repo-Commit"]) == 40


def test_git_file_is_named_as_git_names_it(served, ask):
    content = FILES["model_index.json"]
    named = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    assert ask(served, "/o/n/resolve/main/model_index.json").headers["ETag"] == f'"{named}"'


def test_lfs_bytes_are_redirected_to_a_signed_url(ask):
    with Hub() as hub, Hub(name="cdn") as cdn:
        hub.add("o/n", FILES, data_hub=cdn)
        reply = ask(hub, RESOLVE)
        assert reply.status == 302
        assert reply.headers["X-Linked-Size"] == "300000"
        assert reply.headers["Location"].startswith(cdn.url)
        target = reply.headers["Location"].removeprefix(cdn.url)
        assert ask(cdn, target, Range="bytes=7-8").body == WEIGHTS[7:9]
        assert ask(cdn, target.replace("uses=0", "uses=9")).status == 403
        assert (hub.sent(), cdn.sent("unet/*")) == (0, 2)


def test_signed_url_dies_with_its_time(ask):
    with Hub() as hub, Hub(signed_life_s=0) as cdn:
        hub.add("o/n", FILES, data_hub=cdn)
        target = ask(hub, RESOLVE).headers["Location"].removeprefix(cdn.url)
        assert ask(cdn, target).status == 403


def test_pushed_commit_moves_the_branch_and_keeps_the_old_one(served, ask):
    old = served.repo("o/n", "huggingface").commit
    repo = served.update("o/n", {"model_index.json": b"[]", "文件.txt": None})
    assert repo.commit != old
    assert ask(served, "/o/n/resolve/main/model_index.json").body == b"[]"
    assert ask(served, f"/o/n/resolve/{old}/model_index.json").body == b"{}\n"
    assert sorted(repo.files) == ["model_index.json", "unet/w.safetensors"]


def test_pull_request_branch_is_found_by_its_quoted_name(served, ask):
    served.repo("o/n", "huggingface").point("refs/pr/1")
    assert ask(served, "/api/models/o/n/revision/refs%2Fpr%2F1").status == 200
    assert ask(served, "/o/n/resolve/refs%2Fpr%2F1/model_index.json").status == 200
    refs = json.loads(ask(served, "/api/models/o/n/refs").body)
    assert [pull["ref"] for pull in refs["pullRequests"]] == ["refs/pr/1"]


def test_equal_repositories_have_equal_commits(served):
    with Hub() as other:
        other.add("o/n", FILES)
        commits = {h.repo("o/n", "huggingface").commit for h in (served, other)}
        assert len(commits) == 1


def test_chinese_path_is_found(served, ask):
    assert ask(served, "/o/n/resolve/main/%E6%96%87%E4%BB%B6.txt").body == "字".encode()


def test_connection_takes_many_requests(served):
    connection = http.client.HTTPConnection(served.host, served.port)
    for _ in range(50):
        connection.request("GET", "/o/n/resolve/main/model_index.json")
        assert connection.getresponse().read() == b"{}\n"
    connection.close()
    assert len(served.requests) == 50


def test_hub_survives_two_thousand_connections(served, ask):
    def one(_number: int) -> int:
        return len(ask(served, "/o/n/resolve/main/model_index.json").body)

    with ThreadPoolExecutor(32) as pool:
        assert sum(pool.map(one, range(2000))) == 6000
    assert served.sent() == 6000


def test_log_tells_each_request_as_it_came(served, ask):
    ask(served, RESOLVE, Range="bytes=0-9", Authorization="Bearer t")
    (request,) = served.requests
    assert (request.method, request.path, request.range) == ("GET", RESOLVE, "bytes=0-9")
    assert (request.status, request.repo, request.file) == (206, "o/n", "unet/w.safetensors")
    assert request.headers["authorization"] == "Bearer t"
    assert (served.sent("unet/*"), request.sent) == (10, 10)


def test_wait_for_sees_a_request_that_another_thread_makes(served, ask):
    client = threading.Thread(target=ask, args=(served, RESOLVE))
    client.start()
    assert served.wait_for(lambda log: any(r.sent == 300_000 for r in log), timeout=5)
    client.join()
    assert not served.wait_for(lambda log: len(log) > 1, timeout=0.01)


def test_nonsense_is_answered_with_400(served):
    connection = http.client.HTTPConnection(served.host, served.port, timeout=5)
    connection.connect()
    connection.sock.sendall(b"HELO example.org\r\n\r\n")
    assert connection.sock.recv(12) == b"HTTP/1.1 400"
    connection.close()


def test_hub_comes_back_on_its_port(ask):
    hub = Hub()
    hub.add("o/n", FILES)
    with hub:
        port = hub.port
    with pytest.raises(ConnectionError):
        ask(hub, RESOLVE)
    with hub:
        assert hub.port == port
        assert ask(hub, RESOLVE).body == WEIGHTS


def test_stop_does_not_wait_for_idle_or_unread_connections(tmp_path):
    path = tmp_path / "big"
    with path.open("wb") as file:
        file.truncate(100 << 20)
    hub = Hub().start()
    hub.add("o/n", {"big.bin": path})
    clients = [socket.create_connection((hub.host, hub.port)) for _ in range(20)]
    for client in clients[10:]:
        client.sendall(b"GET /o/n/resolve/main/big.bin HTTP/1.1\r\n\r\n")
    assert hub.wait_for(lambda log: sum(request.sent > 0 for request in log) == 10)
    begun = time.monotonic()
    hub.stop()
    assert time.monotonic() - begun < 1
    for client in clients:
        client.close()


def test_stored_file_of_disk_and_of_memory_promise_the_same(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(WEIGHTS)
    on_disk, in_memory = StoredFile.of("a.bin", path), StoredFile.of("a.bin", WEIGHTS)
    assert (on_disk.sha256, on_disk.git_sha1) == (in_memory.sha256, in_memory.git_sha1)
