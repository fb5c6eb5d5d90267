"""What a worker says reaches the log: whole lines, bounded."""

from __future__ import annotations

import os

import pytest

from zhcached.residency.launch import words
from zhcached.residency.launch.words import Words


@pytest.fixture
def said():
    """A pipe, what was passed on from it, and the reader."""
    heard, end = os.pipe()
    lines: list[str] = []
    yield end, lines, Words(heard, lines.append)
    os.close(heard)


def test_words_pass_on_whole_lines_and_the_last_without_its_end(said):
    end, lines, reader = said
    os.write(end, b"one\ntw")
    assert reader.take()
    assert lines == ["one"]
    os.write(end, b"o\nthree")
    os.close(end)
    while reader.take():
        pass
    assert lines == ["one", "two", "three"]


def test_words_keep_the_beginning_of_a_line_without_end(said):
    end, lines, reader = said
    for _ in range(10):
        os.write(end, b"x" * 30_000)
        reader.take()
    os.write(end, b"\n")
    os.close(end)
    reader.drain()
    assert [len(line) <= words.MAX_LINE for line in lines] == [True]


def test_words_count_what_is_too_much(said):
    end, lines, reader = said
    os.write(end, b"again\n" * (words.LINES + 50))
    os.close(end)
    reader.drain()
    assert len(lines) == words.LINES + 1
    assert lines[-1] == "(50 more lines were said and not kept)"


def test_words_of_a_bar_are_its_last(said):
    end, lines, reader = said
    os.write(end, b"10%\r50%\r100%\n\xff\n\n")
    os.close(end)
    reader.drain()
    assert lines == ["100%", "�"]


def test_drain_does_not_wait_for_an_end_that_somebody_holds(said):
    end, lines, reader = said
    os.write(end, b"last words")
    reader.drain()
    os.close(end)
    assert lines == ["last words"]
