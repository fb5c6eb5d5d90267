"""Which bytes a ``Range`` means."""

import pytest

from zhcached.gateway.spans import NoSuchSpanError, Span, chosen


@pytest.mark.parametrize(
    ("header", "span"),
    [
        ("bytes=0-", (0, 10)),
        ("bytes=9-", (9, 10)),
        ("bytes=2-5", (2, 6)),
        ("bytes=2-99", (2, 10)),
        ("bytes=-3", (7, 10)),
        ("bytes=-99", (0, 10)),
        ("bytes = 1-1", (1, 2)),
        (None, None),
        ("", None),
        ("bytes=5-2", None),
        ("bytes=0-1,3-4", None),
        ("lines=0-1", None),
        ("bytes=-", None),
        ("bytes=٣-", None),
    ],
)
def test_span_of_a_file_of_ten_bytes(header, span):
    assert chosen(header, 10) == (None if span is None else Span(*span, 10))


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=10-20", "bytes=99-", "bytes=-0"])
def test_what_the_file_has_not_got_is_refused(header):
    # A downloader that has all of the file asks for what comes after it, and goes by the 416.
    with pytest.raises(NoSuchSpanError):
        chosen(header, 10)
