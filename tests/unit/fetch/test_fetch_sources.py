"""Several sources: who takes over, what is kept, who lied."""

import threading

import pytest

from demohub import Hub
from harness.fetchkit import MIB, content_of, offer
from harness.storekit import promise_of
from simulators.scripted import CLOSE, HOLD, Scripted, part, plain
from zhcache.errors import IntegrityError, SourcesFailed
from zhcached.config import DownloadConfig

CONTENT = content_of(3 * MIB + 17)
WRONG = bytes(CONTENT[:-1]) + bytes([CONTENT[-1] ^ 1])
REPO = "lab/tiny"


def honest(asked):
    return [part(CONTENT, asked)]


def begins(content, until, end=CLOSE):
    """Sends the file up to an offset, then breaks off; afterwards refuses."""

    def script(asked):
        if asked.number:
            return [plain(b"", "404 Gone")]
        head, _, _ = part(CONTENT, asked).partition(b"\r\n\r\n")
        return [head + b"\r\n\r\n" + content[:until], end]

    return script


def hub_url(hub, path="model.safetensors"):
    return f"{hub.url}/{REPO}/resolve/main/{path}"


# Failing over.


def test_failover_keeps_what_the_first_source_sent(fetching):
    with Scripted(begins(CONTENT, 2 * MIB)) as bad, Scripted(honest) as good:
        came = fetching.obtain(CONTENT, [offer("bad", bad.url), offer("good", good.url)])
        assert [asked.range for asked in good.asked] == [(2 * MIB, len(CONTENT))]
    assert came.fetched == {"bad": 2 * MIB, "good": len(CONTENT) - 2 * MIB}
    assert came.lied == []
    assert fetching.blob(came) == CONTENT


@pytest.mark.parametrize("kind", ["stall", "trickle", "reset"])
def test_failover_from_a_real_hub_that_misbehaves(fetching, kind):
    """Of what the first hub sent, nothing is asked for again; the second's log proves it."""
    with Hub(name="first") as first, Hub(name="second") as second:
        for hub in (first, second):
            hub.add(REPO, {"model.safetensors": CONTENT})
        options = {"rate": 10} if kind == "trickle" else {}
        first.fault(kind, at=MIB // 2, **options)
        came = fetching.obtain(
            CONTENT, [offer("first", hub_url(first)), offer("second", hub_url(second))]
        )
        asked = [request.range for request in second.requests]
        kept = came.fetched.get("first", 0)
        # A reset throws away what was received and not read yet.
        assert kept >= MIB // 2 or kind == "reset"
        assert asked == [f"bytes={kept}-{len(CONTENT) - 1}"]
        assert second.sent("*.safetensors") == came.fetched["second"] == len(CONTENT) - kept
    assert fetching.blob(came) == CONTENT


@pytest.mark.parametrize("location", ["http://[x", "https://hub.example:99999/", "//a]b/"])
def test_source_that_redirects_to_no_address_gives_way_to_another(fetching, location):
    def nowhere(_asked):
        return [plain(b"", "302 Found", Location=location)]

    with Scripted(nowhere) as bad, Scripted(honest) as good:
        came = fetching.obtain(CONTENT, [offer("bad", bad.url), offer("good", good.url)])
    assert came.fetched == {"good": len(CONTENT)}
    assert fetching.kinds("bad") == ["switch"]


def test_silent_source_gives_its_turn_away_without_a_second_try(fetching):
    with Scripted(lambda _: [HOLD]) as silent, Scripted(honest) as good:
        fetching.obtain(CONTENT, [offer("silent", silent.url), offer("good", good.url)])
        assert len(silent.asked) == 1


def test_source_without_ranges_does_not_send_all_again_when_another_has_the_rest(fetching):
    content = content_of(12 * MIB)

    def no_ranges(asked):
        whole = plain(content)
        return [whole[: 10 * MIB], CLOSE] if asked.number == 0 else [whole]

    with Scripted(no_ranges) as first, Scripted(lambda a: [part(content, a)]) as second:
        came = fetching.obtain(content, [offer("first", first.url), offer("second", second.url)])
    assert came.fetched["first"] < 10 * MIB
    assert sum(came.fetched.values()) == len(content)


def test_limited_source_rests_while_another_has_its_turn(fetching):
    limited = plain(b"", "429 Too Many Requests", Retry_After="300")
    with Scripted(lambda _: [limited]) as first, Scripted(honest) as second:
        came = fetching.obtain(CONTENT, [offer("first", first.url), offer("second", second.url)])
        assert len(first.asked) == 1
    assert came.fetched == {"second": len(CONTENT)}
    assert fetching.kinds("first") == ["limited"]


def test_source_that_sends_another_file_is_asked_no_more(fetching):
    with Scripted(lambda _: [plain(b"short")]) as other, Scripted(honest) as good:
        came = fetching.obtain(CONTENT, [offer("other", other.url), offer("good", good.url)])
        assert len(other.asked) == 1
    assert fetching.blob(came) == CONTENT


def test_file_that_changed_at_one_source_is_finished_by_another(fetching):
    def changing(asked):
        sent = part(CONTENT, asked, ETag=f'"{asked.number}"')
        return [sent[: len(sent) // 2], CLOSE] if asked.number == 0 else [sent]

    with Scripted(changing) as first, Scripted(honest) as second:
        came = fetching.obtain(CONTENT, [offer("first", first.url), offer("second", second.url)])
        assert second.asked[0].range[0] > MIB
    assert fetching.blob(came) == CONTENT


def test_every_source_failing_names_each_reason(fetching):
    with (
        Scripted(lambda _: [plain(b"", "404 No")]) as one,
        Scripted(lambda _: [plain(b"", "501 No")]) as two,
        pytest.raises(SourcesFailed) as caught,
    ):
        fetching.obtain(CONTENT, [offer("one", one.url), offer("two", two.url)])
    for text in ("one", "404", "two", "501"):
        assert text in str(caught.value)


def test_no_source_at_all_is_an_error(fetching):
    with pytest.raises(SourcesFailed):
        fetching.obtain(CONTENT, [])


# Lies.


def test_sole_liar_gets_one_second_chance_and_nothing_of_it_is_kept(fetching):
    with Scripted(lambda a: [part(WRONG, a)]) as liar, pytest.raises(IntegrityError) as caught:
        fetching.obtain(CONTENT, [offer("liar", liar.url)])
    assert len(liar.asked) == 2
    assert caught.value.exit_code == 9
    assert "lied" in fetching.kinds("liar")
    again = fetching.store.intake.begin(promise_of(CONTENT), "job")
    assert again.received.total == 0
    again.close()


def test_flipped_bit_on_the_way_is_mended_by_the_second_chance(fetching):
    with Scripted(lambda a: [part(WRONG if a.number == 0 else CONTENT, a)]) as server:
        came = fetching.obtain(CONTENT, [offer("hub", server.url)])
    assert fetching.blob(came) == CONTENT
    assert came.lied == []


@pytest.mark.parametrize("kind", ["corrupt", "zeros"])
def test_wrong_bytes_of_the_right_length_ban_their_source_and_another_heals(fetching, kind):
    with Hub(name="liar") as liar, Hub(name="good") as good:
        for hub in (liar, good):
            hub.add(REPO, {"model.safetensors": CONTENT})
        liar.fault(kind)
        came = fetching.obtain(
            CONTENT, [offer("liar", hub_url(liar)), offer("good", hub_url(good))]
        )
        assert good.sent("*.safetensors") == len(CONTENT)
    assert came.lied == ["liar"]
    assert fetching.kinds("liar") == ["lied"]
    assert fetching.blob(came) == CONTENT


def test_liar_among_two_is_named_though_it_sent_less(fetching):
    """The one who sent most sends the rest too; what then differs from the proven bytes lied."""
    wrong = bytearray(CONTENT)
    wrong[100] ^= 1
    with Scripted(begins(wrong, MIB)) as liar, Scripted(honest) as good:
        came = fetching.obtain(CONTENT, [offer("liar", liar.url), offer("good", good.url)])
        assert [asked.range for asked in good.asked] == [(MIB, len(CONTENT)), (0, MIB)]
    assert came.lied == ["liar"]
    assert fetching.blob(came) == CONTENT


def test_liar_among_two_is_named_though_it_sent_most(fetching):
    with (
        Scripted(begins(CONTENT, MIB)) as good,
        Scripted(lambda a: [part(WRONG, a)]) as liar,
        Scripted(honest) as third,
    ):
        came = fetching.obtain(
            CONTENT,
            [offer("good", good.url), offer("liar", liar.url), offer("third", third.url)],
        )
    assert came.lied == ["liar"]
    assert fetching.blob(came) == CONTENT


def test_liar_of_an_earlier_run_is_found_through_the_journal(fetching):
    wrong = bytearray(CONTENT)
    wrong[100] ^= 1
    ingest = fetching.store.intake.begin(promise_of(CONTENT), "job")
    ingest.write(0, bytes(wrong[:MIB]), "earlier")
    ingest.sync()
    ingest.close()
    with Scripted(honest) as good:
        came = fetching.obtain(CONTENT, [offer("good", good.url)])
    assert came.lied == ["earlier"]
    assert fetching.blob(came) == CONTENT


def test_all_lying_is_an_integrity_error_that_names_them(fetching):
    def lying(asked):
        return [part(WRONG, asked)]

    with Scripted(lying) as one, Scripted(lying) as two, pytest.raises(IntegrityError) as caught:
        fetching.obtain(CONTENT, [offer("one", one.url), offer("two", two.url)])
    assert "one" in str(caught.value)
    assert "two" in str(caught.value)


# All at once.


def test_random_errors_of_every_kind_end_in_the_right_bytes(fetching, monkeypatch):
    monkeypatch.setattr("random.random", lambda: 0.01)
    content = content_of(20 * MIB)
    with Hub(name="one") as one, Hub(name="two") as two:
        for hub in (one, two):
            hub.add(REPO, {"model.safetensors": content})
            for after, kind in enumerate(("cut", "status", "ignore_range", "reset", "status")):
                hub.fault(kind, after=after, times=1)
        came = fetching.obtain(
            content,
            [offer("one", hub_url(one)), offer("two", hub_url(two))],
            config=DownloadConfig(stall=0.6, retries=20),
        )
    assert fetching.blob(came) == content


def test_two_files_at_once_share_one_transport(fetching):
    contents = [content_of(6 * MIB, seed) for seed in range(3)]
    came, errors = [], []

    def fetch(index, server, transport):
        try:
            target = offer("hub", f"{server.url}/{index}")
            came.append(fetching.obtain(contents[index], [target], transport=transport))
        except BaseException as error:
            errors.append(error)

    with Scripted(lambda a: [part(contents[int(a.path[1:])], a)]) as server:
        transport = fetching.transport(server.url)
        threads = [
            threading.Thread(target=fetch, args=(n, server, transport))
            for n in range(len(contents))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert not errors
    assert sorted(fetching.blob(one) for one in came) == sorted(contents)


def test_sole_source_that_breaks_off_again_and_again_ends_well(fetching):
    with Hub(name="first") as hub:
        hub.add(REPO, {"model.safetensors": CONTENT})
        hub.fault("cut", at=200_000)
        came = fetching.obtain(CONTENT, [offer("first", hub_url(hub))])
        assert hub.sent("*.safetensors") == len(CONTENT)
    assert fetching.blob(came) == CONTENT
