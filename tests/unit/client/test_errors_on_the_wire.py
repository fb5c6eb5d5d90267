"""Errors that a worker words: it parses strangers' files, and may be theirs."""

import pytest

from zhcache.errors import NotFound, ZhcacheError, fill
from zhcache.protocol.failure import MAX_TEXT, MAX_VALUES, to_error, to_info
from zhcache.protocol.messages import ErrorInfo


@pytest.mark.parametrize(
    "template",
    ["{x:>1000000000}", "{x:{x}}", "{x.nothing}", "{x[0]}", "{x!r:>99999999}", "{}", "{0}", "{x"],
)
def test_only_plain_fields_are_filled_in(template):
    assert fill(template, {"x": "9999999"}) == template


def test_doubled_braces_are_braces():
    assert fill("{{{x}}} of {x}", {"x": "a"}) == "{a} of a"


def test_error_that_names_a_value_as_our_own_argument_is_still_that_error():
    info = ErrorInfo(
        code="not_found", message="", template="{what} {x}", hint_template="look for {x}",
        values={"x": "it", "what": "no", "self": "a", "template": "b", "hint": "c"},
    )  # fmt: skip
    error = to_error(info)
    assert isinstance(error, NotFound)
    assert (error.message, error.hint) == ("no it", "look for it")


def test_error_is_cut_to_what_a_person_reads():
    many = {f"x{n}": "long" * MAX_TEXT for n in range(1000)}
    told = to_error(ErrorInfo(code="failed", message="", template="{x0}" * 10**6, values=many))
    assert len(told.values) == MAX_VALUES
    assert len(told.message) <= MAX_TEXT**2
    plain = to_error(ErrorInfo(code="failed", message="m" * 10**7, hint="h" * 10**7))
    assert (len(plain.message), len(plain.hint)) == (MAX_TEXT, MAX_TEXT)


def test_error_moves_no_cursor():
    info = ErrorInfo(
        code="failed", message="", template="\x1b]0;x\a{x}", values={"x": "two\nlines\x1b[2J\u202e"}
    )
    assert to_error(info).message == "\ufffd]0;x\ufffdtwo\nlines\ufffd[2J\ufffd"
    assert to_error(ErrorInfo(code="failed", message="\x1b[2J")).message == "\ufffd[2J"


def test_error_of_ours_arrives_as_it_was():
    error = ZhcacheError("没有 {thing}\n下一行", hint="see {thing}", thing="it: {x}")
    assert str(to_error(to_info(error))) == str(error)
