"""Each fault as a client sees it, and the counting that decides when it strikes."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.client
import json
import random
import socket
import threading
import time

import pytest

from demohub import KINDS, Hub

SIZE = 600_000
WEIGHTS = random.Random(2).randbytes(SIZE)
FILES = {"a.json": b"{}", "unet/w.safetensors": WEIGHTS}
TARGET = "/o/n/resolve/main/unet/w.safetensors"
TREE = "/api/models/o/n/tree/main?recursive=true"


@pytest.fixture
def served(hub):
    hub.add("o/n", FILES)
    return hub


@pytest.fixture(params=["memory", "disk"])
def either(request, hub, tmp_path):
    """The same repository from memory and from disk: bodies take different ways to the socket."""
    path = tmp_path / "w"
    path.write_bytes(WEIGHTS)
    hub.add("o/n", {"unet/w.safetensors": path if request.param == "disk" else WEIGHTS})
    return hub


def flipped(offset: int) -> bytes:
    return WEIGHTS[:offset] + bytes([WEIGHTS[offset] ^ 0xFF]) + WEIGHTS[offset + 1 :]


def test_cut_ends_the_body_at_its_byte(either, ask):
    either.fault("cut", at=123_456)
    reply = ask(either, TARGET)
    assert (reply.body, reply.is_whole) == (WEIGHTS[:123_456], False)
    assert reply.headers["Content-Length"] == str(SIZE)


def test_cut_counts_from_the_start_of_a_ranged_answer(served, ask):
    served.fault("cut", at=10)
    assert ask(served, TARGET, Range="bytes=500-999").body == WEIGHTS[500:510]


def test_cut_is_at_the_middle_unless_told(served, ask):
    served.fault("cut")
    assert len(ask(served, TARGET).body) == SIZE // 2


def test_reset_breaks_the_connection_after_its_byte(served):
    served.fault("reset", at=100_000)
    connection = http.client.HTTPConnection(served.host, served.port, timeout=5)
    connection.request("GET", TARGET)
    response = connection.getresponse()
    body = bytearray()
    with pytest.raises(ConnectionResetError):
        while True:
            body += response.read1(65_536)
    connection.close()
    assert bytes(body) == WEIGHTS[:100_000]


def test_reset_lets_a_slow_reader_have_the_bytes_before_it(served):
    served.fault("reset", at=500_000)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(5)
        client.connect((served.host, served.port))
        client.sendall(f"GET {TARGET} HTTP/1.1\r\n\r\n".encode())
        assert served.wait_for(lambda log: sum(r.sent for r in log) == 500_000)
        received = bytearray()
        with pytest.raises(ConnectionResetError):
            while chunk := client.recv(65_536):
                received += chunk
    assert received.partition(b"\r\n\r\n")[2] == WEIGHTS[:500_000]


def test_stall_holds_the_rest_until_the_client_leaves(either):
    either.fault("stall", at=50_000)
    connection = http.client.HTTPConnection(either.host, either.port, timeout=0.2)
    connection.request("GET", TARGET)
    response = connection.getresponse()
    assert response.read(50_000) == WEIGHTS[:50_000]
    with pytest.raises(TimeoutError):
        response.read(1)
    response.close()
    connection.close()
    assert either.wait_for(lambda log: log[0].is_settled)
    assert either.sent() == 50_000


def test_stall_goes_on_after_its_seconds(either, ask):
    either.fault("stall", at=50_000, seconds=0.05)
    reply = ask(either, TARGET)
    assert (reply.body, reply.is_whole) == (WEIGHTS, True)


def test_stop_wakes_stalled_and_trickling_answers(ask):
    hub = Hub().start()
    hub.add("o/n", FILES)
    hub.fault("stall", at=10, times=2)
    hub.fault("trickle", after=2)

    def left_alone() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            ask(hub, TARGET)

    clients = [threading.Thread(target=left_alone) for _ in range(4)]
    for client in clients:
        client.start()
    assert hub.wait_for(lambda log: sum(r.is_settled for r in log) == 4)
    begun = time.monotonic()
    hub.stop()
    for client in clients:
        client.join(5)
    assert time.monotonic() - begun < 1


def test_trickle_gives_a_few_bytes_a_second(served):
    served.fault("trickle", rate=50, at=1000)
    connection = http.client.HTTPConnection(served.host, served.port, timeout=5)
    connection.request("GET", TARGET)
    response = connection.getresponse()
    assert response.read(1000) == WEIGHTS[:1000]
    begun = time.monotonic()
    assert response.read(5) == WEIGHTS[1000:1005]
    assert time.monotonic() - begun >= 0.06
    response.close()
    connection.close()


def test_rate_limits_each_connection(served, ask):
    served.fault("rate", rate=2_000_000)
    begun = time.monotonic()
    reply = ask(served, TARGET)
    assert reply.body == WEIGHTS
    assert 0.2 < time.monotonic() - begun < 2


def test_line_is_shared_by_all_connections(served, ask):
    served.fault("line", rate=4_000_000)
    replies = []
    asking = [
        threading.Thread(target=lambda: replies.append(ask(served, TARGET))) for _ in range(2)
    ]
    begun = time.monotonic()
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join(10)
    assert [reply.body == WEIGHTS for reply in replies] == [True, True]
    assert time.monotonic() - begun > 0.9 * 2 * len(WEIGHTS) / 4_000_000


@pytest.mark.parametrize("asked", [None, "bytes=250000-399999"])
def test_corrupt_inverts_one_byte(either, ask, asked):
    either.fault("corrupt", offset=300_000)
    body = ask(either, TARGET, **({"Range": asked} if asked else {})).body
    wrong = flipped(300_000)
    assert body == (wrong[250_000:400_000] if asked else wrong)


def test_corrupt_leaves_answers_without_its_byte_alone_and_uncounted(served, ask):
    fault = served.fault("corrupt", offset=300_000, times=1)
    assert ask(served, TARGET, Range="bytes=0-9").body == WEIGHTS[:10]
    assert fault.applied == 0
    assert ask(served, TARGET).body == flipped(300_000)
    assert ask(served, TARGET).body == WEIGHTS


def test_zeros_have_the_right_length(either, ask):
    either.fault("zeros")
    reply = ask(either, TARGET)
    assert (reply.body, reply.is_whole) == (bytes(SIZE), True)


def test_short_answer_announces_what_it_sends(served, ask):
    served.fault("short", by=7)
    reply = ask(served, TARGET)
    assert (reply.headers["Content-Length"], reply.is_whole) == (str(SIZE - 7), True)
    part = ask(served, TARGET, Range="bytes=0-99")
    assert part.headers["Content-Range"] == f"bytes 0-92/{SIZE}"


def test_long_answer_goes_past_the_declared_size(served, ask):
    served.fault("long", by=7)
    reply = ask(served, TARGET)
    assert reply.body == WEIGHTS + bytes(7)
    assert reply.headers["Content-Length"] == str(SIZE + 7)


def test_ignored_range_gets_the_whole_file(served, ask):
    served.fault("ignore_range")
    reply = ask(served, TARGET, Range="bytes=10-19")
    assert (reply.status, reply.headers["Content-Range"], reply.body) == (200, None, WEIGHTS)


def test_range_200_tells_the_truth_in_content_range(served, ask):
    served.fault("range_200")
    reply = ask(served, TARGET, Range="bytes=10-19")
    assert (reply.status, reply.body) == (200, WEIGHTS[10:20])
    assert reply.headers["Content-Range"] == f"bytes 10-19/{SIZE}"


def test_wrong_range_is_another_than_asked(served, ask):
    served.fault("wrong_range", shift=5)
    reply = ask(served, TARGET, Range="bytes=10-19")
    assert reply.headers["Content-Range"] == f"bytes 15-24/{SIZE}"
    assert reply.body == WEIGHTS[15:25]
    last = ask(served, TARGET, Range=f"bytes={SIZE - 10}-")
    assert last.headers["Content-Range"] != f"bytes {SIZE - 10}-{SIZE - 1}/{SIZE}"


def test_wrong_range_can_lie_about_the_total(served, ask):
    served.fault("wrong_range", shift=0, total=5)
    reply = ask(served, TARGET, Range="bytes=10-19")
    assert reply.headers["Content-Range"] == "bytes 10-19/5"


def test_range_faults_leave_whole_answers_uncounted(served, ask):
    fault = served.fault("ignore_range", times=1)
    ask(served, TARGET)
    assert (fault.seen, fault.applied) == (0, 0)


def test_status_comes_with_its_headers_and_body(served, ask):
    served.fault("status", status=429, headers={"Retry-After": "3"}, body=b"slow", times=1)
    reply = ask(served, TARGET)
    assert (reply.status, reply.headers["Retry-After"], reply.body) == (429, "3", b"slow")
    assert ask(served, TARGET).status == 200


def test_html_is_a_good_looking_page(served, ask):
    served.fault("html")
    reply = ask(served, TARGET)
    assert (reply.status, reply.headers["Content-Type"].partition(";")[0]) == (200, "text/html")


def test_redirect_names_its_target(served, ask):
    served.fault("redirect", to="http://10.0.0.1:1{target}")
    reply = ask(served, TARGET)
    assert (reply.status, reply.headers["Location"]) == (302, f"http://10.0.0.1:1{TARGET}")


def test_changed_file_has_other_bytes_and_another_etag(served, ask):
    served.fault("change", after=1, content=b"new")
    before, after = ask(served, TARGET), ask(served, TARGET)
    assert (before.body, after.body) == (WEIGHTS, b"new")
    assert before.headers["ETag"] != after.headers["ETag"]


def test_change_makes_if_range_fail(served, ask):
    etag = ask(served, TARGET).headers["ETag"]
    served.fault("change")
    reply = ask(served, TARGET, Range="bytes=9-", If_Range=etag)
    assert (reply.status, reply.body) == (200, flipped(0))


def test_gzip_is_sent_unasked(served, ask):
    served.fault("gzip", path="a.json")
    reply = ask(served, "/o/n/resolve/main/a.json", Accept_Encoding="identity")
    assert reply.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(reply.body) == b"{}"


def test_slow_header_never_ends_in_time(served):
    served.fault("slow_header", interval=0.05)
    with socket.create_connection((served.host, served.port), timeout=5) as client:
        client.sendall(f"GET {TARGET} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        begun = time.monotonic()
        received = b""
        while len(received) < 4:
            received += client.recv(100)
        assert received == b"HTTP"
        assert time.monotonic() - begun > 0.1


def test_delay_comes_before_the_answer(served, ask):
    served.fault("delay", seconds=0.1, plane="meta")
    begun = time.monotonic()
    assert ask(served, TREE).status == 200
    assert time.monotonic() - begun > 0.09


def test_signed_url_dies_after_its_uses(ask):
    with Hub() as hub, Hub() as cdn:
        hub.add("o/n", FILES, data_hub=cdn)
        hub.fault("expire", uses=2, times=1)
        first = ask(hub, TARGET).headers["Location"].removeprefix(cdn.url)
        assert [ask(cdn, first).status for _ in range(3)] == [200, 200, 403]
        fresh = ask(hub, TARGET).headers["Location"].removeprefix(cdn.url)
        assert [ask(cdn, fresh).status for _ in range(3)] == [200, 200, 200]


def test_lie_agrees_with_itself_on_every_route(served, ask):
    served.fault("lie", path="unet/*")
    wrong = flipped(0)
    digest = hashlib.sha256(wrong).hexdigest()
    entries = json.loads(ask(served, TREE).body)
    reply = ask(served, TARGET)
    listing = json.loads(ask(served, "/api/v1/models/o/n/repo/files?Recursive=True").body)
    assert entries[-1]["lfs"]["oid"] == digest
    assert (reply.body, reply.headers["ETag"]) == (wrong, f'"{digest}"')
    assert listing["Data"]["Files"][-1]["Sha256"] == digest
    assert ask(served, "/o/n/resolve/main/a.json").body == b"{}"


def test_lie_keeps_the_commit_of_the_honest_hub(served, ask):
    honest = json.loads(ask(served, "/api/models/o/n").body)["sha"]
    served.fault("lie")
    assert json.loads(ask(served, "/api/models/o/n").body)["sha"] == honest


def test_hostile_names_are_listed_and_served(served, ask):
    served.fault("hostile_listing", names=["../../evil", "/etc/passwd", "a\\b"])
    paths = [entry["path"] for entry in json.loads(ask(served, TREE).body)]
    assert {"../../evil", "/etc/passwd", "a\\b"} <= set(paths)
    listing = json.loads(ask(served, "/api/v1/models/o/n/repo/files?Recursive=True").body)
    assert "../../evil" in [entry["Path"] for entry in listing["Data"]["Files"]]
    assert ask(served, "/o/n/resolve/main/..%2F..%2Fevil").body == b"hostile\n"


def test_endless_pages_have_always_a_next_one(served, ask):
    served.fault("endless_pages")
    target, seen = TREE, set()
    for _ in range(5):
        reply = ask(served, target)
        seen |= {entry["path"] for entry in json.loads(reply.body)}
        target = reply.headers["Link"].partition(">")[0].removeprefix(f"<{served.url}")
    assert len(seen) == 5000


def test_huge_listing_is_valid_json_of_its_size(served, ask):
    served.fault("huge_listing", bytes=3_000_000)
    reply = ask(served, TREE)
    assert (len(reply.body), json.loads(reply.body)) == (3_000_000, [])


def test_deep_json_is_too_deep(served, ask):
    served.fault("deep_json", depth=200_000)
    with pytest.raises(RecursionError):
        json.loads(ask(served, TREE).body)


def test_fault_strikes_after_and_times(served, ask):
    fault = served.fault("status", after=1, times=2)
    assert [ask(served, TARGET).status for _ in range(5)] == [200, 503, 503, 200, 200]
    assert (fault.seen, fault.applied) == (5, 2)


def test_fault_is_for_its_path_repo_and_plane(served, ask):
    served.add("o/else", FILES)
    served.fault("status", path="unet/*", repo="o/n", status=500)
    statuses = [
        ask(served, TARGET).status,
        ask(served, TARGET, method="HEAD").status,
        ask(served, "/o/n/resolve/main/a.json").status,
        ask(served, TARGET.replace("/n/", "/else/")).status,
        ask(served, TREE).status,
    ]
    assert statuses == [500, 200, 200, 200, 200]


def test_faults_of_several_kinds_join_in_one_answer(served, ask):
    served.fault("corrupt", offset=5)
    served.fault("cut", at=10)
    assert ask(served, TARGET).body == flipped(5)[:10]


def test_heal_ends_one_fault_or_all(served, ask):
    one = served.fault("status", path="a.json")
    served.fault("status", path="unet/*")
    served.heal(one)
    assert ask(served, "/o/n/resolve/main/a.json").status == 200
    assert ask(served, TARGET).status == 503
    served.heal()
    assert ask(served, TARGET).status == 200


def test_fault_refuses_what_it_does_not_know(served):
    with pytest.raises(ValueError, match="no fault 'explode'"):
        served.fault("explode")
    with pytest.raises(ValueError, match="no plane"):
        served.fault("cut", plane="data")
    with pytest.raises(TypeError, match="cut takes"):
        served.fault("cut", after_bytes=3)
    with pytest.raises(TypeError, match=r"needs \['rate'\]"):
        served.fault("rate")
    with pytest.raises(TypeError, match="stands until healed"):
        served.fault("lie", times=1)


def test_every_kind_has_a_test_here():
    import inspect
    import sys

    source = inspect.getsource(sys.modules[__name__])
    assert [kind for kind in KINDS if f'fault("{kind}"' not in source] == []
