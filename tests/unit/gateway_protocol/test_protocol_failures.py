"""Failures as each hub's client is to hear them."""

import pytest

from zhcache.errors import (
    Busy,
    Gated,
    NoSpace,
    NotFound,
    NotPermitted,
    SourcesFailed,
    UnsafeWeights,
    ZhcacheError,
)
from zhcached.gateway import failures
from zhcached.sources import refusals


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (refusals.missing_or_private("hub", "o/n").error, 404, "RepoNotFound"),
        (refusals.revision_missing("hub", "o/n", "v1").error, 404, "RevisionNotFound"),
        (failures.FileMissing("no file"), 404, "EntryNotFound"),
        (failures.FileLeftOut("a pickle"), 403, "EntryNotFound"),
        (refusals.gated("hub", "o/n", "https://hub").error, 403, "GatedRepo"),
        (refusals.taken_down("hub", "o/n").error, 403, ""),
        (UnsafeWeights("pickle"), 403, ""),
        (NotPermitted("no"), 403, ""),
        (NoSpace("full"), 507, ""),
        (Busy("later"), 503, ""),
        (SourcesFailed("all down"), 502, ""),
        (ZhcacheError("else"), 500, ""),
    ],
)
def test_status_and_code(error: ZhcacheError, status: int, code: str):
    told = failures.failure(error)
    assert (told.status, told.code) == (status, code)
    headers = failures.huggingface_headers(error)
    assert headers.get("X-Error-Code", "") == code
    assert ("Retry-After" in headers) == (status == 503)


def test_what_was_taken_down_is_told_in_the_words_the_client_knows():
    error = refusals.taken_down("hub", "o/n").error
    assert failures.huggingface_headers(error)["X-Error-Message"] == failures.DISABLED
    assert "o/n" in failures.failure(error).message


def test_what_a_hub_says_cannot_break_out_of_a_header():
    error = NotFound("line\r\nX-Evil: 1\t模型 {name}", name="x" * 5000)
    value = failures.huggingface_headers(error)["X-Error-Message"]
    assert value.isascii()
    assert value.isprintable()
    assert len(value) <= 1000
    assert value.startswith("line X-Evil: 1 ")


def test_refusals_are_what_they_always_were_on_the_wire():
    for made, code, exit_code in [
        (refusals.revision_missing("hub", "o/n", "v1").error, "not_found", 4),
        (refusals.taken_down("hub", "o/n").error, "not_permitted", 8),
    ]:
        assert (made.code, made.exit_code) == (code, exit_code)
    assert Gated.code == "gated"
