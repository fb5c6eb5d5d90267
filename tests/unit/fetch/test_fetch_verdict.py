import pytest

from zhcache.errors import NoSpace, NotFound
from zhcached.errors import (
    AddressRefused,
    RemoteInvalid,
    RepoUnavailable,
    StatusError,
    TransportError,
)
from zhcached.fetch.answer import ChangedError, OtherFileError
from zhcached.fetch.limits import SlowError
from zhcached.fetch.verdict import (
    BACKOFF_CAP_S,
    Again,
    OtherSource,
    Relocate,
    Restart,
    Stop,
    backoff_s,
    judge,
)


def judged(error, failures=0, *, alone=True, relocated=False, restarted=False, dice=0.5):
    return judge(
        error,
        failures,
        retries=5,
        has_alternatives=not alone,
        was_relocated=relocated,
        was_restarted=restarted,
        random=lambda: dice,
    )


def status(code, wait=None):
    return StatusError("no", status=code, retry_after_s=wait)


def test_first_break_of_a_connection_is_tried_again_at_once():
    assert judged(TransportError("reset")) == Again(0.0)


def test_source_that_keeps_failing_is_given_up_after_the_retries():
    assert isinstance(judged(TransportError("reset"), 4), Again)
    assert judged(TransportError("reset"), 5) == OtherSource("reset")
    assert isinstance(judged(status(503), 4), Again)
    assert isinstance(judged(status(503), 5), OtherSource)


def test_source_that_fails_twice_rests_when_there_is_another():
    verdict = judged(TransportError("reset"), 1, alone=False)
    assert isinstance(verdict, OtherSource)
    assert not verdict.ban
    assert verdict.rest_s > 0


@pytest.mark.parametrize(("asked", "least"), [(0.0, 0.25), (None, 0.25), (7.0, 7.0), (1e9, 0.25)])
def test_limited_source_is_left_alone_as_long_as_it_asks_within_reason(asked, least):
    assert judged(status(429, asked)) == Again(least)


def test_limited_source_gives_its_turn_away_when_there_is_another():
    verdict = judged(status(429, 60.0), alone=False)
    assert isinstance(verdict, OtherSource)
    assert (verdict.ban, verdict.rest_s) == (False, 60.0)


@pytest.mark.parametrize("code", [401, 403, 404, 410])
def test_refused_address_is_located_anew_once(code):
    assert judged(status(code)) == Relocate()
    assert isinstance(judged(status(code), relocated=True), OtherSource)


def test_what_one_source_has_no_more_is_asked_of_another_before_it_is_of_the_first_again():
    assert isinstance(judged(status(404), alone=False), OtherSource)
    assert judged(status(403), alone=False) == Relocate()


@pytest.mark.parametrize("code", [400, 405, 451, 501])
def test_status_that_will_not_change_leads_to_another_source(code):
    verdict = judged(status(code))
    assert isinstance(verdict, OtherSource)
    assert verdict.ban
    assert not verdict.lied


def test_other_file_is_a_lie_and_a_web_page_is_none():
    assert judged(OtherFileError("size"), 1) == OtherSource("size", ban=True, lied=True)
    assert judged(RemoteInvalid("html"), 2) == OtherSource("html", ban=True, lied=False)


def test_nonsense_may_be_gone_in_a_moment():
    assert isinstance(judged(RemoteInvalid("html")), Again)
    assert isinstance(judged(OtherFileError("an empty body")), Again)
    verdict = judged(RemoteInvalid("html"), alone=False)
    assert isinstance(verdict, OtherSource)
    assert not verdict.ban


def test_forbidden_address_and_refused_repository_are_never_tried_again():
    for error in (AddressRefused("no"), RepoUnavailable(NotFound("gone"))):
        verdict = judged(error)
        assert isinstance(verdict, OtherSource)
        assert verdict.ban


def test_slow_source_gives_its_turn_away_only_when_there_is_another():
    assert isinstance(judged(SlowError("slow")), Again)
    verdict = judged(SlowError("slow"), alone=False)
    assert isinstance(verdict, OtherSource)
    assert not verdict.ban


def test_changed_file_restarts_once_when_there_is_no_other_source():
    assert judged(ChangedError("x")) == Restart()
    assert judged(ChangedError("x"), restarted=True) == Again(0.0)
    assert isinstance(judged(ChangedError("x"), alone=False), OtherSource)


@pytest.mark.parametrize("error", [NoSpace("full"), OSError("io"), KeyError("bug")])
def test_what_is_no_fault_of_a_source_stops(error):
    assert judged(error, alone=False) == Stop(error)


def test_backoff_is_bounded_and_jittered():
    assert backoff_s(0, lambda: 1.0) < backoff_s(3, lambda: 1.0) <= BACKOFF_CAP_S
    assert backoff_s(10**6, lambda: 1.0) == BACKOFF_CAP_S
    assert backoff_s(3, lambda: 0.0) == 0.0
