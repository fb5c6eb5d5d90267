"""One source that misbehaves once or for good; the blob is right or there is none."""

import threading
import time

import pytest

from harness.fetchkit import MIB, content_of, offer
from harness.storekit import promise_of
from simulators.scripted import CLOSE, HOLD, RESET, Scripted, part, plain
from zhcache.errors import Cancelled, Gated, IntegrityError, NoSpace, SourcesFailed
from zhcached.config import DownloadConfig
from zhcached.fetch.download import Offer
from zhcached.fetch.limits import RateLimiter
from zhcached.transport.http import Target

CONTENT = content_of(3 * MIB + 17)
FEW = DownloadConfig(stall=0.6, min_rate=64 * 1024, connections=4, retries=1)


def first_then(first, then=lambda asked: [part(CONTENT, asked)]):
    """A script whose first answer is another one."""
    return lambda asked: first(asked) if asked.number == 0 else then(asked)


def head_of(body_bytes, asked, status="206 Partial Content", content=CONTENT, extra=""):
    start, end = asked.range
    return (
        f"HTTP/1.1 {status}\r\nContent-Length: {body_bytes}\r\n{extra}"
        f"Content-Range: bytes {start}-{end - 1}/{len(content)}\r\n\r\n"
    ).encode()


def obtain_one(fetching, script, *, content=CONTENT, config=None, **options):
    with Scripted(script) as server:
        came = fetching.obtain(
            content, [offer("hub", server.url + "/f.bin", **options)],
            config=config or fetching.config,
        )  # fmt: skip
        assert fetching.blob(came) == content
        assert came.size == len(content)
        return came, server


def refuse_one(fetching, script, error, *, content=CONTENT, url="/f.bin"):
    with Scripted(script) as server, pytest.raises(error) as caught:
        fetching.obtain(content, [offer("hub", server.url + url)], config=FEW)
    assert not fetching.store.blobs.has(promise_of(content).sha256)
    return caught.value, server


def test_file_comes_in_one_request_when_all_is_well(fetching):
    came, server = obtain_one(fetching, lambda asked: [part(CONTENT, asked)])
    assert len(server.asked) == 1
    assert came.fetched == {"hub": len(CONTENT)}
    assert came.lied == []


def test_empty_file_needs_no_request(fetching):
    _, server = obtain_one(fetching, lambda _: [], content=b"")
    assert server.asked == []


# What breaks on the way: only what is missing is asked for again.


@pytest.mark.parametrize("end", [CLOSE, RESET])
def test_broken_body_is_continued_where_it_broke(fetching, end):
    def cut(asked):
        yield head_of(len(CONTENT), asked) + CONTENT[: 2 * MIB]
        yield 0.05  # A reset overtakes bytes that are still on their way.
        yield end

    came, server = obtain_one(fetching, first_then(cut))
    assert server.asked[1].range == (2 * MIB, len(CONTENT))
    assert came.fetched == {"hub": len(CONTENT)}


def test_connection_that_stalls_is_replaced_and_continued(fetching):
    def stall(asked):
        yield head_of(len(CONTENT), asked) + CONTENT[:MIB]
        yield HOLD

    _, server = obtain_one(fetching, first_then(stall))
    assert server.asked[1].range == (MIB, len(CONTENT))


def test_answer_that_never_begins_is_asked_for_again(fetching):
    _, server = obtain_one(fetching, first_then(lambda _: [HOLD]))
    assert len(server.asked) == 2


def test_answer_whose_head_trickles_is_asked_for_again(fetching):
    def trickle(_):
        yield b"HTTP/1.1 206 Partial Content\r\n"
        while True:
            yield b"X-More: y\r\n"
            yield 0.02

    _, server = obtain_one(fetching, first_then(trickle))
    assert len(server.asked) == 2


def test_trickle_is_left_for_a_new_connection_though_bytes_never_cease(fetching):
    def trickle(asked):
        yield head_of(len(CONTENT), asked)
        for position in range(len(CONTENT)):
            yield CONTENT[position : position + 1]
            yield 0.01

    began = time.monotonic()
    obtain_one(fetching, first_then(trickle))
    assert time.monotonic() - began < 8
    assert "retry" in fetching.kinds("hub")


def test_slow_source_is_borne_when_it_is_the_only_one_and_keeps_moving(fetching):
    """Better slow than not at all: the floor chooses between sources, it does not end a job."""
    content = content_of(100_000)

    def slow(asked):
        start, end = asked.range
        yield head_of(end - start, asked, content=content)
        for position in range(start, end, 2000):
            yield content[position : min(position + 2000, end)]
            yield 0.05

    obtain_one(fetching, slow, content=content, config=FEW)


def test_source_that_breaks_for_ever_fails_and_what_came_is_kept(fetching):
    def cut(asked):
        start, end = asked.range
        yield head_of(end - start, asked) + CONTENT[start : start + 1000]
        yield CLOSE

    _, server = refuse_one(fetching, cut, SourcesFailed)
    starts = [asked.range[0] for asked in server.asked]
    assert starts == [1000 * n for n in range(len(starts))]
    again = fetching.store.intake.begin(promise_of(CONTENT), "job")
    assert again.durable.total == 1000 * len(starts)
    again.close()


def test_small_file_comes_in_crumbs_when_the_only_source_breaks_off_early(fetching):
    small = CONTENT[:30_000]

    def cut(asked):
        start, end = asked.range
        yield head_of(end - start, asked, content=small) + small[start : start + 1000]
        yield CLOSE

    config = DownloadConfig(retries=1)
    obtain_one(fetching, cut, content=small, config=config)


# Answers that are not the answer.


@pytest.mark.parametrize("first", [plain(b""), plain(b"", "416 No"), plain(b"", "404 Not Found")])
def test_answer_that_is_another_file_only_once_is_asked_for_again(fetching, first):
    obtain_one(fetching, first_then(lambda _: [first]))


def test_body_longer_than_declared_is_cut_off(fetching):
    def longer(asked):
        yield head_of(len(CONTENT), asked) + CONTENT + b"more" * 1000

    obtain_one(fetching, longer)


def test_body_that_goes_on_after_the_last_chunk_is_not_written(fetching):
    def longer(asked):
        start, end = asked.range
        yield (
            f"HTTP/1.1 206 P\r\nTransfer-Encoding: chunked\r\n"
            f"Content-Range: bytes {start}-{end - 1}/{len(CONTENT)}\r\n\r\n"
        ).encode()
        yield b"%x\r\n%s\r\n" % (len(CONTENT) + 4, CONTENT + b"more") + b"0\r\n\r\n"

    obtain_one(fetching, longer)


@pytest.mark.parametrize("by", [-1, 1])
def test_body_declared_with_another_size_is_another_file(fetching, by):
    def other(_):
        return [plain((CONTENT + b"x")[: len(CONTENT) + by])]

    refuse_one(fetching, other, IntegrityError)


@pytest.mark.parametrize("length", ["-5", "1e9", "999999999999999999999"])
def test_length_that_is_no_number_is_refused(fetching, length):
    refuse_one(
        fetching,
        lambda _: [f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n".encode(), CONTENT],
        SourcesFailed,
    )


def test_whole_file_instead_of_a_range_is_used_from_its_start(fetching):
    obtain_one(fetching, lambda _: [plain(CONTENT)])


def test_whole_file_instead_of_the_rest_never_lands_at_the_wrong_offset(fetching):
    def cut(asked):
        yield head_of(len(CONTENT), asked) + CONTENT[:MIB]
        yield CLOSE

    came, server = obtain_one(fetching, first_then(cut, lambda _: [plain(CONTENT)]))
    assert len(server.asked) == 2
    assert came.fetched == {"hub": MIB + len(CONTENT)}


def test_answer_200_with_a_content_range_is_a_part(fetching):
    def cut(asked):
        yield head_of(len(CONTENT), asked, "200 OK") + CONTENT[:MIB]
        yield CLOSE

    came, _ = obtain_one(fetching, first_then(cut, lambda a: [part(CONTENT, a, "200 OK")]))
    assert came.fetched == {"hub": len(CONTENT)}


@pytest.mark.parametrize("shift", [1, -1, 4096])
def test_other_range_than_asked_for_is_never_written(fetching, shift):
    def cut(asked):
        yield head_of(len(CONTENT), asked) + CONTENT[:MIB]
        yield CLOSE

    def wrong(asked):
        start, end = asked.range
        body = CONTENT[start + shift : end]
        field = f"bytes {start + shift}-{end - 1}/{len(CONTENT)}"
        return [plain(body, "206 Partial Content", Content_Range=field)]

    refuse_one(fetching, first_then(cut, wrong), IntegrityError)


def test_encoded_body_is_refused(fetching):
    def encoded(asked):
        return [part(CONTENT, asked, Content_Encoding="gzip")]

    error, _ = refuse_one(fetching, encoded, SourcesFailed)
    assert "gzip" in str(error)


def test_web_page_instead_of_the_file_is_named_so(fetching):
    page = b"<html>log in</html>".ljust(len(CONTENT))
    error, _ = refuse_one(
        fetching, lambda _: [plain(page, Content_Type="text/html")], SourcesFailed
    )
    assert "web page" in str(error)


# Files that change.


def versions(*contents, etags=None):
    """Serves the n-th content at the n-th request, each under an ETag of its own."""

    def script(asked):
        turn = min(asked.number, len(contents) - 1)
        etag = (etags or [f'"v{n}"' for n in range(len(contents))])[turn]
        if asked.headers.get("if-range", etag) != etag:
            return [plain(contents[turn], ETag=etag)]
        sent = part(contents[turn], asked, ETag=etag)
        return [sent[: len(sent) // 2], CLOSE] if asked.number == 0 else [sent]

    return script


def test_file_that_changed_to_the_promised_one_is_begun_anew(fetching):
    stale = content_of(len(CONTENT), seed=2)
    _, server = obtain_one(fetching, versions(stale, CONTENT))
    assert server.asked[1].headers["if-range"] == '"v0"'
    assert [asked.range[0] > 0 for asked in server.asked] == [False, True, False]
    assert "changed" in fetching.kinds("hub")
    assert "lied" not in fetching.kinds("hub")


def test_file_that_changed_is_noticed_when_the_server_ignores_if_range(fetching):
    stale = content_of(len(CONTENT), seed=2)

    def script(asked):
        content, etag = (stale, '"a"') if asked.number == 0 else (CONTENT, '"b"')
        sent = part(content, asked, ETag=etag)
        return [sent[: len(sent) // 2], CLOSE] if asked.number == 0 else [sent]

    obtain_one(fetching, script)
    assert "changed" in fetching.kinds("hub")


def test_validator_made_up_anew_each_time_does_not_stop_the_download(fetching):
    content = content_of(8 * MIB)

    def script(asked):
        start, end = asked.range
        sent = part(content, asked, ETag=f'"{asked.number}"')
        return [sent[: (end - start) // 2], CLOSE] if end - start > MIB else [sent]

    obtain_one(fetching, script, content=content)


def test_weak_validator_is_not_sent(fetching):
    def script(asked):
        sent = part(CONTENT, asked, ETag='W/"a"')
        return [sent[: len(sent) // 2], CLOSE] if asked.number == 0 else [sent]

    _, server = obtain_one(fetching, script)
    assert "if-range" not in server.asked[1].headers


# Statuses.


@pytest.mark.parametrize("wait", ["0", "garbage", "Thu, 01 Jan 1970 00:00:00 GMT", "-1"])
def test_limited_source_is_asked_again_without_hammering(fetching, wait, monkeypatch):
    monkeypatch.setattr("random.random", lambda: 0.1)

    def script(asked):
        if asked.number < 3:
            return [plain(b"slow down", "429 Too Many Requests", Retry_After=wait)]
        return [part(CONTENT, asked)]

    began = time.monotonic()
    _, server = obtain_one(fetching, script)
    assert time.monotonic() - began > 0.1 * (0.5 + 1 + 2) * 0.9
    assert len(server.asked) == 4
    assert fetching.kinds("hub") == ["retry"] * 3


def test_absurd_wait_is_shown_and_can_be_cancelled(fetching):
    def on_event(kind, _source, detail):
        shown.append((kind, detail))
        fetching.control.cancelled.set()

    shown = []
    fetching.control.on_event = on_event
    answer = plain(b"", "429 Too Many Requests", Retry_After="1000000000")
    began = time.monotonic()
    refuse_one(fetching, lambda _: [answer], Cancelled)
    assert time.monotonic() - began < 3
    assert shown[0][0] == "retry"


@pytest.mark.parametrize("status", ["500 Oh", "502 Bad", "503 Busy", "408 Late"])
def test_passing_error_is_tried_again(fetching, status):
    _, server = obtain_one(fetching, first_then(lambda _: [plain(b"", status)]))
    assert len(server.asked) == 2


def test_refusal_means_to_the_user_what_the_source_says_it_means(fetching):
    meant = Gated("accept the terms")
    with Scripted(lambda _: [plain(b"", "403 Forbidden", X_Error_Code="GatedRepo")]) as server:
        gated = Offer(
            "hub",
            lambda: Target(server.url),
            explain=lambda e: meant if e.headers["x-error-code"] == "GatedRepo" else None,
        )
        with pytest.raises(Gated) as caught:
            fetching.obtain(CONTENT, [gated])
    assert caught.value is meant


# Redirects.


def test_expired_address_is_located_anew_and_the_rest_comes_from_there(fetching):
    def data(asked):
        if asked.path == "/signed-1" and asked.number > 0:
            return [plain(b"expired", "403 Forbidden")]
        sent = part(CONTENT, asked)
        return [sent[: len(sent) // 2], CLOSE] if asked.number == 0 else [sent]

    with Scripted(data) as cdn:

        def hub(asked):
            return [plain(b"", "302 Found", Location=f"{cdn.url}/signed-{asked.number + 1}")]

        with Scripted(hub) as server:
            fetching.servers = [cdn.url]
            came = fetching.obtain(CONTENT, [offer("hub", server.url + "/f.bin")])
            assert [asked.path for asked in cdn.asked] == ["/signed-1", "/signed-1", "/signed-2"]
            assert cdn.asked[2].range[0] > 0
            assert len(server.asked) == 2
    assert fetching.blob(came) == CONTENT
    assert fetching.kinds("hub") == ["retry", "relocate"]


def test_hub_is_asked_once_for_a_file_of_many_ranges(fetching):
    content = content_of(24 * MIB)
    with Scripted(lambda asked: [part(content, asked)]) as cdn:
        with Scripted(lambda _: [plain(b"", "302 Found", Location=cdn.url + "/s")]) as server:
            fetching.servers = [cdn.url]
            fetching.obtain(content, [offer("hub", server.url + "/f.bin")])
            assert len(server.asked) == 1
        # How many depends on how fast they come.
        assert len(cdn.asked) > 1


def test_redirect_into_the_own_network_is_refused_and_nobody_there_is_asked(fetching):
    with Scripted(lambda asked: [part(CONTENT, asked)]) as canary:
        location = canary.url.replace("127.0.0.1", "2130706433")
        for to in (canary.url, location, f"http://[::ffff:127.0.0.1]:{canary.port}"):
            error, _ = refuse_one(
                fetching, lambda _, to=to: [plain(b"", "302 Found", Location=to)], SourcesFailed
            )
            assert "data_origins" in str(error)
        assert canary.connections == 0


# Ends.


def test_cancel_ends_a_running_download_soon_and_keeps_what_came(fetching):
    def hold(asked):
        yield head_of(len(CONTENT), asked) + CONTENT[:MIB]
        yield HOLD

    def on_bytes(_source, _count):
        threading.Timer(0.05, fetching.control.cancelled.set).start()

    fetching.control.on_bytes = on_bytes
    began = time.monotonic()
    with Scripted(hold) as server, pytest.raises(Cancelled):
        slow = DownloadConfig(stall=30)
        fetching.obtain(CONTENT, [offer("hub", server.url)], config=slow)
    assert time.monotonic() - began < 3
    again = fetching.store.intake.begin(promise_of(CONTENT), "job")
    assert again.durable.total > 0
    again.close()


def test_full_disk_stops_at_once_and_blames_no_source(fetching, monkeypatch):
    from zhcached.store.ingest import Ingest

    def write(_self, _offset, _chunk, _source):
        raise NoSpace("full")

    monkeypatch.setattr(Ingest, "write", write)
    with Scripted(lambda asked: [part(CONTENT, asked)]) as server, pytest.raises(NoSpace):
        fetching.obtain(CONTENT, [offer("hub", server.url)])
    assert fetching.events == []
    assert len(server.asked) == 1


def test_rate_limit_is_kept_and_not_taken_for_a_slow_source(fetching):
    content = content_of(MIB)
    fetching.limiter = RateLimiter(MIB)
    config = DownloadConfig(stall=0.2, min_rate=512 * MIB, connections=4, files=1)
    began = time.monotonic()
    obtain_one(fetching, lambda asked: [part(content, asked)], content=content, config=config)
    assert time.monotonic() - began > 0.7
    assert fetching.events == []


# Several connections.


def test_slow_connections_are_joined_by_more_and_the_file_is_whole(fetching):
    content = content_of(24 * MIB)
    together, most = threading.Semaphore(0), [0, 0]
    lock = threading.Lock()

    def shaped(asked):
        start, end = asked.range
        with lock:
            most[0] += 1
            most[1] = max(most)
        yield head_of(end - start, asked, content=content)
        for position in range(start, end, MIB // 2):
            yield content[position : min(position + MIB // 2, end)]
            yield 0.05
        with lock:
            most[0] -= 1
        together.release()

    obtain_one(fetching, shaped, content=content)
    assert 2 <= most[1] <= 4


def test_segment_stolen_while_its_answer_is_awaited_is_no_fault_of_the_source(fetching):
    content = content_of(24 * MIB)
    held, stolen, lock = [], threading.Event(), threading.Lock()

    def script(asked):
        start, end = asked.range
        with lock:
            is_last = end == len(content)
            if is_last and held:
                stolen.set()
            elif is_last:
                held.append(start)
        if held == [start]:
            assert stolen.wait(10)
        yield head_of(end - start, asked, content=content)
        for position in range(start, end, MIB):
            yield content[position : min(position + MIB, end)]
            yield 0.1 if start == 0 else 0.0

    patient = DownloadConfig(stall=10, connections=2)
    obtain_one(fetching, script, content=content, config=patient)
    assert stolen.is_set()
    assert fetching.events == []


def test_small_file_stays_on_one_connection(fetching):
    content = content_of(4 * MIB)

    def shaped(asked):
        start, end = asked.range
        yield head_of(end - start, asked, content=content)
        for position in range(start, end, MIB // 4):
            yield content[position : min(position + MIB // 4, end)]
            yield 0.05

    _, server = obtain_one(fetching, shaped, content=content)
    assert server.connections == len(server.asked) == 1


def test_source_that_wants_single_streams_gets_one(fetching):
    content = content_of(12 * MIB)

    def shaped(asked):
        start, end = asked.range
        yield head_of(end - start, asked, content=content)
        for position in range(start, end, MIB):
            yield content[position : min(position + MIB, end)]
            yield 0.05

    _, server = obtain_one(fetching, shaped, content=content, min_segment=32 * MIB)
    assert len(server.asked) == 1
