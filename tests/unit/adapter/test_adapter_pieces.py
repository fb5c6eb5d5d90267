"""Long texts are cut after punctuation, lose nothing and fit."""

from hypothesis import given
from hypothesis import strategies as st

from zhcache.chinese.adapter.pieces import cut_into


def by_character(text, limit):
    return cut_into(text, range(1, len(text) + 1), limit)


def test_a_short_text_stays_whole():
    assert by_character("红色的圆", 4) == ["红色的圆"]
    assert by_character("", 4) == [""]


def test_a_cut_comes_after_a_full_stop_rather_than_a_comma():
    assert by_character("一二三四。五六，七八", 8) == ["一二三四。", "五六，七八"]
    assert by_character("一二三四五，六七八", 8) == ["一二三四五，", "六七八"]


def test_punctuation_in_the_first_half_does_not_cut():
    assert by_character("一。二三四五六七八九", 8) == ["一。二三四五六七", "八九"]


@given(st.text("一二。，a ", max_size=60), st.integers(1, 9))
def test_pieces_fit_and_join_to_the_text(text, limit):
    ends = [n + 1 for n, character in enumerate(text) if character != " "]
    pieces = cut_into(text, ends, limit)
    assert "".join(pieces) == text
    assert all(len(piece.replace(" ", "")) <= limit for piece in pieces)
