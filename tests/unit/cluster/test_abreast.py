"""A batch that is sorted by model gives work to several nodes, and no more models than need be."""

import pytest

from zhcache.cluster.abreast import abreast


@pytest.mark.parametrize(
    ("models", "count", "order"),
    [
        ("aaabbb", 2, "ababab"),
        ("aaabbb", 1, "aaabbb"),
        ("ababab", 1, "aaabbb"),
        ("abbbb", 2, "abbbb"),
        # The third model begins where one of the first two has ended.
        ("aabbbcc", 2, "ababcbc"),
        ("aabbcc", 9, "abcabc"),
        ("", 2, ""),
        ("ab", 0, "ab"),
    ],
)
def test_models_are_asked_for_in_turn(models, count, order):
    asked = list(abreast(models, range(len(models)), count))
    assert "".join(models[place] for place in asked) == order
    assert sorted(asked) == list(range(len(models)))


def test_images_of_a_model_come_in_their_order_and_those_not_wanted_not():
    assert list(abreast("aabab", [4, 0, 3], 2)) == [4, 0, 3]
    assert list(abreast("aabb", [1, 2, 3], 2)) == [1, 2, 3]
