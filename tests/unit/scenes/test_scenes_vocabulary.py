"""The tokenizer of the scenes: every word one token, everything else spelled, nothing unknown."""

from __future__ import annotations

import pytest

from scenes import captions
from scenes.training import vocabulary


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    return vocabulary.tokenizer(captions.vocabulary(), folder)


def test_every_word_of_a_caption_is_one_token(tokenizer):
    for word in captions.vocabulary():
        assert tokenizer.tokenize(word) == [word + "</w>"]


def test_every_caption_fits(tokenizer):
    texts = [one.en for one in (*captions.pairs(2000, 0), *captions.evaluation())]
    longest = max(len(ids) for ids in tokenizer(texts).input_ids)
    assert longest <= vocabulary.LENGTH == tokenizer.model_max_length


def test_other_text_is_spelled_and_comes_back(tokenizer):
    for text in ("左边有三个红色的大星形", "zebra", "ünïcode 5!"):
        ids = tokenizer(text).input_ids
        assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == (
            text.replace(" ", "")
        )


def test_tokens_are_numbered_without_gaps():
    numbers = vocabulary.tokens(vocabulary.merges(captions.vocabulary())).values()
    assert sorted(numbers) == list(range(len(numbers)))
