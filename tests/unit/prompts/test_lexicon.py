"""The lexicon holds what optimizing relies on: else what is optimized twice would change again."""

import pytest

from zhcache.prompts.lexicon import GENERAL, speech, styles
from zhcache.prompts.optimizer import MEDIUM, style_of
from zhcache.prompts.words import Words

STYLES = list(styles().items())


def wanted(words, terms):
    return [term for term in terms if words.wants(term) is not None]


@pytest.mark.parametrize(("name", "style"), STYLES)
def test_additions_speak_of_their_own_aspect_alone(name, style):
    for aspect, additions in style.add.items():
        for addition in additions:
            words = Words(addition)
            said = [a.name for a in speech().aspects if a.name != MEDIUM and words.speaks_of(a)]
            assert said == ([] if aspect == MEDIUM else [aspect]), addition


@pytest.mark.parametrize(("name", "style"), STYLES)
def test_additions_are_no_evidence_of_another_style(name, style):
    for additions in style.add.values():
        for addition in additions:
            words = Words(addition)
            for other, its in styles().items():
                terms = [term for term, _ in its.evidence()]
                assert other == name or not wanted(words, terms), (addition, other)


@pytest.mark.parametrize(("name", "style"), [pair for pair in STYLES if pair[0] != GENERAL])
def test_names_and_kinds_are_found_and_say_their_style(name, style):
    for word in (*style.names, *style.kinds):
        assert style_of(Words(f"一幅{word}，两只猫")) == name, word
    for word in style.hints:
        assert Words(f"两只猫，{word}，狗").wants(word) is not None, word
    assert all(wanted(Words(medium), style.names) for medium in style.add.get(MEDIUM, ()))


def test_longer_words_hide_the_names_in_them():
    for word in speech().apart:
        assert style_of(Words(f"桌上的{word}")) == GENERAL, word


@pytest.mark.parametrize("aspect", speech().aspects, ids=lambda aspect: aspect.name)
def test_words_of_aspects_are_found(aspect):
    for word in aspect.words:
        assert Words(f"猫，{word}，狗").speaks_of(aspect), word
    for word in aspect.but:
        assert not Words(f"猫，{word}，狗").speaks_of(aspect), word


def test_every_style_adds_by_known_aspects():
    known = {aspect.name for aspect in speech().aspects}
    assert all(set(style.add) <= known for style in styles().values())
