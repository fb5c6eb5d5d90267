"""Files of pairs: what is tolerated, what is counted, what is refused, what is held out."""

import hashlib
import json

import pytest

from harness.adapterkit import captions, pairs_file
from zhcache.chinese.adapter.pairs import MAX_LINE_BYTES, Pair, PairFile, split
from zhcache.errors import IntegrityError, NotFound, UsageError

LINE = b'{"en": "a cat", "zh": "\xe7\x8c\xab"}'


def opened(tmp_path, content):
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(content)
    return PairFile(path)


def test_pairs_are_read_in_any_order(tmp_path):
    pairs = PairFile(pairs_file(tmp_path / "pairs.jsonl"))
    known = captions()
    assert len(pairs) == len(known) == 96
    assert [pairs[n] for n in (95, 0, 40)] == [Pair(*known[n]) for n in (95, 0, 40)]
    assert pairs.sha256 == hashlib.sha256(pairs.path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "content",
    [LINE, b"\xef\xbb\xbf" + LINE + b"\r\n", b"\n\n" + LINE + b"\n \r\n"],
)
def test_marks_line_ends_and_empty_lines_are_tolerated(tmp_path, content):
    pairs = opened(tmp_path, content)
    assert [*pairs] == [Pair("a cat", "猫")]
    assert pairs.bad == 0


BAD = [
    b"no json",
    b'{"en": "a cat"}',
    b'{"en": "a cat", "zh": 7}',
    b'{"en": " ", "zh": "\xe7\x8c\xab"}',
    b'{"en": "a cat", "zh": "\xff"}',
    b'["a cat", "x"]',
    json.dumps({"en": "a cat", "zh": "x" * MAX_LINE_BYTES}).encode(),
]


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_line_is_counted_named_and_left_out(tmp_path, bad):
    pairs = opened(tmp_path, b"\n".join([*[LINE] * 150, bad, *[LINE] * 50]))
    assert (len(pairs), pairs.bad, pairs.named) == (200, 1, [151])


def test_more_than_one_bad_line_of_a_hundred_ends_it(tmp_path):
    with pytest.raises(IntegrityError, match=r"2 of 102 lines .* first of them: 1, 102"):
        opened(tmp_path, b"\n".join([b"x", *[LINE] * 100, b"y"]))


def test_lines_longer_than_memory_should_hold_do_not_move_those_after_them(tmp_path):
    long = b'{"en": "a cat", "zh": "' + b"x" * (3 * MAX_LINE_BYTES) + b'"}'
    pairs = opened(tmp_path, b"\n".join([*[LINE] * 99, long, *[LINE] * 101, long]))
    assert (len(pairs), pairs.bad, pairs.named) == (200, 2, [100, 202])
    assert pairs[199] == pairs[0] == Pair("a cat", "猫")


def test_the_longest_line_is_taken(tmp_path):
    room = MAX_LINE_BYTES - len(LINE)
    longest = LINE.replace(b"a cat", b"a cat" + b"t" * room)
    assert len(opened(tmp_path, longest + b"\r\n" + LINE)) == 2
    with pytest.raises(IntegrityError, match="1 of 2 lines"):
        opened(tmp_path, longest.replace(b"a cat", b"a catt") + b"\r\n" + LINE)


def test_a_file_that_is_cut_short_meanwhile_is_told(tmp_path):
    pairs = opened(tmp_path, b"\n".join([LINE] * 3))
    pairs.path.write_bytes(LINE)
    with pytest.raises(IntegrityError, match="was changed"):
        pairs[2]


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_a_file_without_pairs_is_refused(tmp_path, content):
    with pytest.raises(UsageError, match="no pair"):
        opened(tmp_path, content)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(NotFound, match="cannot be read"):
        PairFile(tmp_path / "nothing.jsonl")


def test_what_is_held_out_is_drawn_by_the_seed_and_never_trained_on(tmp_path):
    known = captions()
    # The Chinese of a held pair under other English would give it away as well.
    twice = known + [(f"{en}!", zh) for en, zh in known]
    pairs = PairFile(pairs_file(tmp_path / "pairs.jsonl", twice))
    parts = split(pairs, 10, seed=1)
    assert len({pair.en for pair in parts.held}) == len(parts.held) == 10
    assert parts.held == split(pairs, 10, seed=1).held != split(pairs, 10, seed=2).held
    texts = {pair.zh for pair in parts.held}
    assert [parts.is_held(pair) for pair in pairs] == [pair.zh in texts for pair in pairs]


def test_a_file_of_its_own_is_held_out(tmp_path):
    pairs = PairFile(pairs_file(tmp_path / "pairs.jsonl"))
    held = PairFile(pairs_file(tmp_path / "held.jsonl", captions()[:5] * 2))
    parts = split(pairs, held, seed=0)
    assert len(parts.held) == 5
    assert sum(parts.is_held(pair) for pair in pairs) == 5


def test_too_few_pairs_to_hold_some_out_are_refused(tmp_path):
    with pytest.raises(UsageError, match="too few"):
        split(PairFile(pairs_file(tmp_path / "pairs.jsonl", captions()[:3])), 2, seed=0)
