"""Generated prompts: seeded, each combination once, any number of them."""

import collections
import itertools
import json
import math

import pytest

import zhcache
from zhcache.errors import NotFound, UsageError
from zhcache.prompts import generate
from zhcache.prompts.generator import CLASSES, Draws, phrase
from zhcache.prompts.lexicon import vocabulary
from zhcache.prompts.shuffle import Shuffle


@pytest.mark.parametrize("elements", range(1, 6))
def test_every_combination_comes_once_before_any_comes_again(elements):
    whole = math.prod(len(vocabulary()[name]) for name in CLASSES[:elements])
    prompts = list(generate(2 * whole, elements, seed=9))
    first, second = prompts[:whole], prompts[whole:]
    assert len(set(first)) == whole
    assert set(first) == set(second)
    assert first != second or whole < 10


def test_same_seed_gives_the_same_prompts_on_every_machine():
    assert list(zhcache.prompts.generate(3, elements=6, seed=1)) == [
        "复古的猫在森林里，夜景中，油画风格，对称构图",
        "神秘的山在海边，阴天里，油画风格，特写",
        "宁静的建筑在海边，晨光下，印象派风格，留白构图",
    ]
    assert list(generate(50, 6, seed=2)) != list(generate(50, 6, seed=3))
    assert list(generate(50, 6)) != list(generate(50, 6))


@pytest.mark.parametrize(
    ("elements", "prompt"),
    [
        (1, "猫"),
        (2, "美丽的猫"),
        (3, "美丽的猫在山间"),
        (4, "美丽的猫在山间，晨光下"),
        (5, "美丽的猫在山间，晨光下，水墨画风格"),
        (6, "美丽的猫在山间，晨光下，水墨画风格，特写"),
    ],
)
def test_elements_come_in_order_and_read_as_chinese(elements, prompt):
    drawn = {name: vocabulary()[name][0] for name in CLASSES[:elements]}
    assert phrase(drawn) == prompt


def test_words_that_carry_their_own_particle_get_no_second():
    drawn = {"subjects": "猫", "environments": "在海边", "lighting": "雪中", "styles": "国风"}
    assert phrase(drawn) == "猫在海边，雪中，国风"


def test_every_built_in_place_and_light_reads_as_chinese():
    said = {phrase({"subjects": "猫", "environments": one}) for one in vocabulary()["environments"]}
    assert said >= {"猫在城市里", "猫在森林里", "猫在草原上", "猫在山间"}
    said = {phrase({"subjects": "猫", "lighting": one}) for one in vocabulary()["lighting"]}
    assert said == {
        "猫，晨光下", "猫，夕阳下", "猫，夜景中", "猫，阴天里", "猫，雾天里", "猫，雪景中",
    }  # fmt: skip


def test_any_number_is_drawn_without_a_list_of_them():
    words = [str(number) for number in range(1000)]
    draws = Draws(6, seed=4, vocabulary=dict.fromkeys(CLASSES, words))
    assert draws.combinations == 10**18
    drawn = [tuple(one.values()) for one in itertools.islice(draws, 2000)]
    assert len(set(drawn)) == 2000
    endless = generate(None, 1, seed=1)
    assert len(list(itertools.islice(endless, 100))) == 100
    assert list(generate(0)) == []


def test_draws_are_uniform_over_the_combinations():
    # 3000 seeds, 48 combinations: chi-square with 47 degrees of freedom is below 95 but for one
    # in 20,000; the seeds are fixed.
    counted = collections.Counter(
        prompt for seed in range(3000) for prompt in generate(1, 2, seed=seed)
    )
    expected = 3000 / 48
    assert len(counted) == 48
    assert sum((count - expected) ** 2 / expected for count in counted.values()) < 95


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16, 17, 1000])
def test_shuffle_is_a_permutation(size):
    shuffle = Shuffle(size, "key")
    assert sorted(shuffle[place] for place in range(size)) == list(range(size))
    with pytest.raises(IndexError):
        shuffle[size]


@pytest.mark.parametrize("elements", [0, 7, -1])
def test_elements_beyond_the_classes_are_refused_at_once(elements):
    with pytest.raises(UsageError, match=f"{elements} elements"):
        generate(1, elements)


def test_count_beyond_all_use_is_refused_at_once():
    with pytest.raises(UsageError, match="10000000000000000000000"):
        generate(10**22)


def test_negative_count_is_refused_at_once():
    with pytest.raises(UsageError, match="-1 prompts"):
        generate(-1)


def test_own_words_take_the_place_of_a_class(tmp_path):
    file = tmp_path / "词.json"
    file.write_text(json.dumps({"subjects": ["龙", "龙", "凤"]}), "utf-8-sig")
    toml = tmp_path / "words.toml"
    toml.write_text('subjects = ["龙", "凤"]\n', "utf-8")
    for given in (file, str(toml), {"subjects": ["龙", "凤"]}):
        assert set(generate(2, 1, seed=1, vocabulary=given)) == {"龙", "凤"}
    assert Draws(2, vocabulary=toml).combinations == 2 * len(vocabulary()["adjectives"])


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.json", '{"subject": ["龙"]}', "subject: there is no such class"),
        ("a.json", '{"subjects": []}', "subjects: not a list"),
        ("a.json", '{"subjects": "龙"}', "subjects: not a list"),
        ("a.json", '{"subjects": ["龙", 3]}', "subjects: 3 is no word"),
        ("a.json", '{"subjects": ["龙", " "]}', "subjects: ' ' is no word"),
        ("a.json", '{"subjects": ["a\\nb"]}', "is no word"),
        ("a.json", '{"subjects": [', "is not JSON"),
        ("a.json", "[" * 100_000, "is not JSON"),
        ("a.json", '["龙"]', "not an object"),
        ("a.toml", "subjects = [", "is not TOML"),
        ("a.toml", b"subjects = ['\xff']", "is not TOML"),
    ],
)
def test_errors_name_file_class_and_reason(tmp_path, name, content, told):
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UsageError) as caught:
        generate(1, vocabulary=file)
    assert str(file) in caught.value.message
    assert told in caught.value.message


def test_vocabulary_that_is_not_there_is_not_found(tmp_path):
    with pytest.raises(NotFound, match="no file"):
        generate(1, vocabulary=tmp_path / "none.toml")
    with pytest.raises(UsageError, match="cannot be read"):
        generate(1, vocabulary=tmp_path)
