"""How long optimized prompts may be: exact where a tokenizer is given, else estimated."""

import json

import pytest

from zhcache.errors import UsageError
from zhcache.prompts import optimize
from zhcache.prompts.budget import budget_for

PROMPT = "一幅油画"


@pytest.fixture(scope="module")
def clip(pipeline_dir):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(pipeline_dir / "tokenizer")


def test_folder_of_a_pipeline_and_of_a_tokenizer_and_a_tokenizer_count_alike(pipeline_dir, clip):
    results = [
        optimize(PROMPT, encoder=encoder)
        for encoder in (pipeline_dir, str(pipeline_dir / "tokenizer"), clip)
    ]
    assert len({(result, result.tokens, result.budget) for result in results}) == 1
    assert results[0].tokens == len(clip(results[0])["input_ids"]) <= results[0].budget == 77


def test_widest_of_a_pipelines_encoders_is_counted(pipeline_dir, clip, tmp_path):
    clip.save_pretrained(tmp_path / "tokenizer")
    clip.model_max_length = 256
    clip.save_pretrained(tmp_path / "tokenizer_2")
    clip.model_max_length = 77
    assert budget_for(tmp_path).limit == 256


def test_result_never_passes_the_budget_and_uses_what_fits(clip):
    lengths = []
    for budget in range(14, 78, 3):
        result = optimize(PROMPT, budget, clip)
        assert len(clip(result)["input_ids"]) == result.tokens <= budget == result.budget
        lengths.append(len(result.added))
    assert lengths == sorted(lengths)
    assert (lengths[0], len(set(lengths)) > 2) == (0, True)


def test_prompt_that_is_too_long_itself_stays_whole():
    long = "一幅油画，" + "山" * 100
    result = optimize(long)
    assert result == long
    assert result.tokens > result.budget == 77


def test_estimates_are_by_name():
    assert budget_for("bert").tokens("一幅油画，cat") == 8
    assert budget_for("clip").tokens("一幅油画，cat") == 14
    assert budget_for().tokens("猫") == budget_for("bert").tokens("猫")
    assert budget_for("clip", 20).limit == 20
    long = f"{PROMPT}，远处的山和近处的水"
    assert 0 < len(optimize(long, encoder="clip").added) < len(optimize(long).added)


def test_digits_are_a_token_each():
    # As in CLIP's pattern, whose \\p{N} has no repetition.
    assert budget_for("clip").tokens("1920x1080") == 9 + 2


def test_function_counts_where_it_is_given_with_a_budget():
    result = optimize(PROMPT, 20, len)
    assert len(result) == result.tokens <= 20
    assert result.added
    with pytest.raises(UsageError, match="no limit"):
        optimize(PROMPT, encoder=len)


@pytest.mark.parametrize(
    ("encoder", "budget", "told"),
    [
        ("nonsense", None, "neither a folder nor an encoder"),
        ("/does/not/exist", None, "neither a folder"),
        (7, 5, "int is no encoder"),
        (None, 0, "0 tokens"),
    ],
)
def test_what_is_no_encoder_is_said_so(encoder, budget, told):
    with pytest.raises(UsageError, match=told):
        budget_for(encoder, budget)


def test_tokenizer_that_is_damaged_is_said_so(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "CLIPTokenizerFast"}')
    model = {"type": "BPE", "vocab": 7, "merges": []}
    (tmp_path / "tokenizer.json").write_text(
        json.dumps({"version": "1.0", "added_tokens": [], "model": model})
    )
    with pytest.raises(UsageError, match="holds no tokenizer"):
        budget_for(tmp_path)


def test_code_of_a_folder_is_neither_run_nor_asked_for(tmp_path, monkeypatch):
    own = {"AutoTokenizer": ["own.Own", None]}
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "Own", "auto_map": own})
    )
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nOwn = None\n")
    asked = []
    monkeypatch.setattr("builtins.input", lambda text: asked.append(text) or "y")
    with pytest.raises(UsageError, match="holds no tokenizer"):
        budget_for(tmp_path)
    assert not asked
    assert not (tmp_path / "ran").exists()


def test_folder_without_a_tokenizer_is_said_so(tmp_path):
    with pytest.raises(UsageError, match="holds no tokenizer") as caught:
        budget_for(tmp_path)
    assert str(tmp_path) in str(caught.value)
