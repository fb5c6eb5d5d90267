from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhcached.errors import RemoteError, RemoteInvalid
from zhcached.fetch.answer import ChangedError, OtherFileError, accept, strong

MIB = 2**20


def judged(
    start=10, end=20, *, size=100, status=206, url="https://h/f.bin", pinned=None, **headers
):
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return accept(start, end, size=size, status=status, headers=fields, url=url, pinned=pinned)


def test_answer_with_the_exact_range_is_accepted():
    found = judged(content_range="bytes 10-19/100", content_length="10", etag='"a"')
    assert (found.start, found.end, found.etag, found.ranged) == (10, 20, '"a"', True)


def test_answer_200_with_content_range_counts_as_a_part():
    assert judged(status=200, content_range="bytes 10-19/100", content_length="10").ranged


def test_answer_200_without_content_range_is_the_whole_file():
    found = judged(status=200, content_length="100")
    assert (found.start, found.end, found.ranged) == (0, 100, False)


@pytest.mark.parametrize(
    "headers",
    [
        {"content_range": "bytes 11-20/100"},
        {"content_range": "bytes 9-19/100"},
        {"content_range": "bytes 10-20/100"},
        {"content_range": "bytes 10-9/100"},
        {"content_range": "bytes 10-19/101"},
        {"content_range": "bytes 10-19/100", "content_length": "11"},
        {"content_range": "bytes 10-19/100", "content_length": "9"},
        {"status": 200, "content_length": "99"},
        {"status": 200, "content_length": "101"},
        {"status": 416},
    ],
)
def test_answer_of_another_file_is_refused(headers):
    with pytest.raises(OtherFileError):
        judged(**headers)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content_range": "bytes 10-19/*"},
        {"content_range": "bytes */100"},
        {"content_range": "items 10-19/100"},
        {"content_range": "bytes 10-19/100, bytes 30-39/100"},
        {"content_range": "bytes 10-19/100", "content_type": "multipart/byteranges; boundary=x"},
        {"status": 200, "content_type": "text/html; charset=utf-8"},
        {"status": 204},
        {"status": 304},
    ],
)
def test_answer_that_carries_no_file_is_refused_without_calling_it_a_lie(headers):
    with pytest.raises(RemoteInvalid) as caught:
        judged(**headers)
    assert not isinstance(caught.value, OtherFileError)


def test_answer_cut_to_crumbs_is_refused_and_a_shortened_one_is_not():
    with pytest.raises(RemoteInvalid):
        judged(0, 10 * MIB, size=10 * MIB, content_range=f"bytes 0-0/{10 * MIB}")
    shortened = f"bytes 0-{2 * MIB - 1}/{10 * MIB}"
    assert judged(0, 10 * MIB, size=10 * MIB, content_range=shortened).end == 2 * MIB


def test_web_page_is_accepted_when_the_file_is_one():
    page = {"status": 200, "content_length": "100", "content_type": "text/html"}
    assert judged(url="https://h/docs/index.html?x=1", **page)
    assert judged(url="https://h/repo?FilePath=index.htm&Revision=master", **page)
    with pytest.raises(RemoteInvalid):
        judged(url="https://h/html/weights.bin", **page)


def test_validator_that_changed_is_told_apart():
    part = {"content_range": "bytes 10-19/100", "pinned": '"a"'}
    with pytest.raises(ChangedError):
        judged(etag='"b"', **part)
    with pytest.raises(ChangedError):
        judged(status=200, content_length="100", etag='"b"', pinned='"a"')
    assert judged(etag='"a"', **part).etag == '"a"'
    assert judged(**part).etag is None
    assert judged(etag='W/"b"', **part).etag is None


@pytest.mark.parametrize("etag", [None, "", "a", 'W/"a"', '""', '"a', '"a"b"', '"\r\n"'])
def test_only_a_strong_validator_counts(etag):
    assert strong(etag) is None


FIELDS = st.dictionaries(
    st.sampled_from(["content-range", "content-length", "content-type", "etag"]),
    st.one_of(
        st.binary(max_size=30).map(lambda raw: raw.decode("latin-1")),
        st.sampled_from(["bytes 10-19/100", "bytes 10-19/" + "9" * 5000, "bytes \xb2-1/*", "10"]),
    ),
)


@given(status=st.sampled_from([200, 206, 304, 416]), fields=FIELDS)
def test_answer_raises_only_remote_errors_whatever_its_fields(status, fields):
    with suppress(RemoteError):
        found = accept(10, 20, size=100, status=status, headers=fields, url="u", pinned='"a"')
        assert 0 <= found.start < found.end <= 100
