"""What is added to prompts, where, and what is left alone."""

import copy
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import zhcache
from zhcache.errors import UsageError
from zhcache.prompts import generate, optimize
from zhcache.prompts.lexicon import GENERAL, styles

ARTICLE = "一幅中国山水画,有青山绿水和云雾缭绕"


def test_landscape_of_the_usual_example_is_ink_and_gains_words_of_ink():
    result = zhcache.prompts.optimize(ARTICLE)
    assert result.style == "ink"
    assert result.startswith(ARTICLE + ",")
    assert "水墨写意" in result.added
    assert result == ",".join([ARTICLE, *result.added])
    # Mist is its mood already.
    assert "mood" not in result.aspects.values()


@pytest.mark.parametrize(
    ("prompt", "style"),
    [
        ("一幅油画，厚重的笔触", "oil"),
        ("可爱的小猫", GENERAL),
        ("可爱的卡通小猫", "cartoon"),
        ("水墨山水，远山如黛", "ink"),
        ("工笔山水画", "gongbi"),
        ("工笔重彩的牡丹，花鸟画", "gongbi"),
        ("写实风格的人物", "photo"),
        ("写实油画，一位老人", "oil"),
        ("印象派油画，睡莲", "impressionism"),
        ("8000万像素的照片", "photo"),
        ("像素风格的城堡", "pixel"),
        ("赛博朋克城市的水彩画", "cyberpunk"),
        ("C4D，卡通小熊", "render"),
        ("３Ｄ渲染的小屋", "render"),
        ("敦煌的沙漠日落", GENERAL),
        ("敦煌飞天", "dunhuang"),
        ("一张老照片，上海街头", "photo"),
        ("桌上的一支铅笔", GENERAL),
        ("古风少女", "guochao"),
        ("古风人像摄影", "photo"),
        ("版画，木刻刀痕", "print"),
        ("cyberpunk 风格的街道", "cyberpunk"),
        ("oil painting 风格的猫", "oil"),
        ("素描本放在桌上", GENERAL),
        ("油画棒和水彩笔", GENERAL),
        ("一位摄影师站在山顶", GENERAL),
        ("抽屉里的漫画书", GENERAL),
        ("大光圈镜头，背景虚化的人像", "photo"),
        ("雨夜的霓虹灯", GENERAL),
        ("不是油画而是水彩画", "watercolour"),
        ("小猫，不要卡通风格", GENERAL),
        ("没有任何阴影的素描", "sketch"),
        ("招牌上写着“油画”的小店", GENERAL),
        ("书名是《水墨》的封面", GENERAL),
    ],
)
def test_style_is_what_the_words_say(prompt, style):
    assert optimize(prompt).style == style


def test_only_what_is_missing_is_added():
    aspects = optimize("一幅油画，厚重的笔触，逆光").aspects
    assert set(aspects.values()) == {"composition", "colour", "texture"}
    full = "一幅油画，厚重的笔触，对称构图，逆光，暖色调，画布肌理，宁静"
    assert optimize(full) == full
    assert optimize(full).added == ()


def test_medium_is_added_where_a_style_is_only_implied():
    assert optimize("大光圈镜头，背景虚化的人像").aspects["写实摄影"] == "medium"


def test_traditional_prompt_is_recognised_and_gains_traditional_words():
    result = optimize("一幅中國山水畫，有青山綠水和雲霧繚繞")
    assert result.style == "ink"
    assert "水墨寫意" in result.added
    assert "筆法灑脫" in result.added


@pytest.mark.parametrize(
    ("prompt", "start", "end"),
    [
        ("一幅油画。", "一幅油画，厚涂", "。"),
        ("一幅油画", "一幅油画，厚涂", ""),
        ("一幅油画，老人", "一幅油画，老人，厚涂", ""),
        ("一幅油画,老人", "一幅油画,老人,厚涂", ""),
        ("一幅油画, 老人", "一幅油画, 老人, 厚涂", ""),
        ("一幅油画，", "一幅油画，厚涂", "，"),
        ("一幅油画！\n", "一幅油画，厚涂", "！\n"),
        ("一幅油画,写着“你好，世界”", "一幅油画,写着“你好，世界”,厚涂", ""),
    ],
)
def test_punctuation_is_kept_as_the_prompt_uses_it(prompt, start, end):
    result = optimize(prompt)
    assert result.startswith(start)
    assert result.endswith(f"{result.added[-1]}{end}")


@pytest.mark.parametrize(
    ("prompt", "body", "refusal"),
    [
        ("一幅水墨画，不要留白，不要人物", "一幅水墨画", "，不要留白，不要人物"),
        ("一幅水墨画。不要留白。", "一幅水墨画", "。不要留白。"),
        ("山很高，树很密但不要水墨", "山很高", "，树很密但不要水墨"),
    ],
)
def test_additions_come_before_what_is_refused(prompt, body, refusal):
    result = optimize(prompt)
    assert result == "，".join([body, *result.added]) + refusal


def test_what_is_refused_is_not_added():
    assert "composition" not in optimize("一幅水墨画，不要留白").aspects.values()
    # The first choice holds the refused word, the second does not.
    assert "光影层次丰富" in optimize("一幅油画").added
    assert "明暗过渡自然" in optimize("一幅油画，不要层次").added


@pytest.mark.parametrize(
    "prompt", ["", "  ", "a cat, oil painting", "不要卡通", "，。", "没有人", "不要油画。不要水墨"]
)
def test_nothing_is_added_to(prompt):
    assert optimize(prompt) == prompt
    assert optimize(prompt).added == ()


def test_style_that_is_asked_for_stands_above_what_the_prompt_says():
    for name in ("watercolour", "水彩画", "水彩", "Watercolour"):
        result = optimize("可爱的小猫", style=name)
        assert result.style == "watercolour"
        assert "水彩画" in result.added
    with pytest.raises(UsageError, match=r"no style '毕加索'.*ink \(水墨画\)"):
        optimize("可爱的小猫", style="毕加索")


def test_what_is_no_text_is_refused():
    with pytest.raises(UsageError, match="a prompt is text, not bytes"):
        optimize(b"\xe7")  # pyright: ignore[reportArgumentType]


def test_result_is_a_string_that_travels():
    result = optimize(ARTICLE)
    again = copy.deepcopy(result)
    assert (again, again.added, again.style) == (result, result.added, "ink")
    assert result.original == ARTICLE
    assert type(str(result)) is str


def test_optimizing_twice_is_optimizing_once_for_generated_prompts():
    for prompt in generate(150, elements=6, seed=5):
        for budget in (None, 20, 30, 36, 42):
            once = optimize(prompt, budget)
            assert optimize(once, budget) == once


_PIECES = [
    *(word for style in styles().values() for word, _ in style.evidence()),
    *(word for style in styles().values() for words in style.add.values() for word in words),
    "不要", "没有", "别", "不是", "而是", "的", "一幅", "“油画”", "“", "”", "，", ",", ", ", "。",
    "\n", "山水畫", "雲", "猫", "a cat", " ", "…", "夜",
]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(_PIECES), max_size=12), st.sampled_from([None, 12, 24, 33, 40]))
def test_optimizing_twice_is_optimizing_once_and_takes_nothing_away(pieces, budget):
    prompt = "".join(pieces)
    once = optimize(prompt, budget)
    assert optimize(once, budget) == once
    # All of the prompt is still there, in its order: one piece was put in.
    grown = len(once) - len(prompt)
    assert any(once[:at] + once[at + grown :] == prompt for at in range(len(prompt) + 1))


def test_optimizing_twice_is_optimizing_once_where_a_longer_text_is_fewer_tokens():
    def count(text):
        # As where a merge of a tokenizer reaches over what was added.
        return 9 if "厚涂" in text and "构图" not in text else 1

    once = optimize("一幅油画", 5, count)
    assert optimize(once, 5, count) == once


@pytest.mark.parametrize(
    ("prompt", "aspects"),
    [
        ("黑白照片，老北京胡同里的老人", {"colour"}),
        ("彩铅素描，一只橘猫", {"colour"}),
        ("阴雨绵绵的江南小镇，水彩", {"light"}),
        ("印象派，雾中的港口", {"light"}),
        ("暴风雨中的海上灯塔", {"light"}),
        ("卡通风格的鬼屋，昏暗", {"light", "colour"}),
        ("凌晨的便利店，动漫", {"light"}),
        ("夜空中绽放的烟花，油画", {"light"}),
        ("极简风格的狐狸", {"texture"}),
        ("一张极简主义海报", {"texture"}),
    ],
)
def test_nothing_is_added_that_contradicts_the_prompt(prompt, aspects):
    assert not aspects & set(optimize(prompt).aspects.values())


@pytest.mark.parametrize(
    ("prompt", "style"),
    [("黏土动画风格的小男孩", "render"), ("低多边形的狼", "render"), ("半写实厚涂，少女", "oil")],
)
def test_a_style_is_not_taken_for_another_whose_name_it_holds(prompt, style):
    assert optimize(prompt).style == style


def test_a_word_that_is_said_twice_counts_though_it_is_once_in_a_longer_one():
    once = optimize("窗花水彩")
    assert once.style == "watercolour"
    assert optimize(once) == once


def test_style_alone_says_nothing_of_a_scenes_mood():
    added = optimize("二次元少年手持长剑，背后是燃烧的城市").added
    assert not [word for word in added if "轻松" in word or "明快" in word or "活泼" in word]
    assert optimize("黑白照片，老人").style == "photo"


def test_document_shows_what_is_so():
    text = (Path(__file__).parents[3] / "docs" / "prompts.md").read_text("utf-8")
    result = optimize(ARTICLE)
    assert f"# a str: {result}\n" in text
    assert f"# {result.added}\n" in text


def test_order_of_calls_does_not_matter():
    prompts = list(generate(20, elements=5, seed=1))
    first = [optimize(prompt) for prompt in prompts]
    mixed = random.Random(3).sample(range(20), 20)
    assert [optimize(prompts[index]) for index in mixed] == [first[index] for index in mixed]
