"""Which prompts are taken for Chinese: a table, and what is quoted in it."""

import pytest

from zhcache.chinese.detect import language

PROMPTS = [
    ("一只戴斗笠的猫", "chinese"),
    ("一隻戴斗笠的貓，水墨畫風格", "chinese"),
    ("a portrait of 杨贵妃, oil painting", "chinese"),
    ("赛博朋克 city street，ＮＥＯＮ　ｌｉｇｈｔｓ，8k", "chinese"),
    ("㐀𠮷野家的招牌", "chinese"),
    ("一只猫🐱在睡觉", "chinese"),
    ("一块写着「ありがとう」的木牌", "chinese"),
    ("咖啡馆的招牌，上面写着“어서 오세요”", "chinese"),
    ('a sign that says "福"', "chinese"),
    ("約翰・史密斯的肖像，～ー～", "chinese"),
    # Of Chinese characters alone: it cannot be told from Chinese.
    ("東京夜景、高画質、桜並木", "chinese"),
    ("猫の絵、水彩", "unread"),
    ("ネコ", "unread"),
    ("ﾈｺの写真", "unread"),
    ("한국의 가을 풍경", "unread"),
    ("大韓民國 서울의 밤", "unread"),
    # A quotation mark that is not closed quotes nothing.
    ("一块写着「ありがとう的木牌", "unread"),
    ("ａ ｃａｔ，ａ ｄｏｇ。", "other"),
    ('a sign that says "日本語のテキスト"', "other"),
    ("🏔️ ✨ Ωé а б в", "other"),
    ("a\u3164cat ヽ(°▽°)ヽ", "other"),
    ("", "other"),
]


@pytest.mark.parametrize(("text", "expected"), PROMPTS)
def test_prompt_is_of_the_language_that_decides_who_reads_it(text, expected):
    assert language(text) == expected
