"""What prompt workers hold: translators and encoders as they lie on the disk, and spoilt ones."""

import json
import shutil

import pytest

from harness import promptkit
from zhcache.errors import IntegrityError, UsageError
from zhcache.protocol.frames import close_all
from zhcache.protocol.residency import Call, Load
from zhcache.resident.decode import Decoder

CAT = "一只红色的猫"
LONG = "一只红色的猫在河边，" * 20


def load(folder, **options):
    from zhcached.workers.prompts.loading import load as load_model

    return load_model(
        Load(folder=str(folder), device="cpu", options=options, role="prompts", repo="org/model")
    )


def ask(model, *texts, is_cancelled=lambda: False, **more):
    returned, fds = model.perform(Call(id=1, arguments={"texts": [*texts], **more}), is_cancelled)
    try:
        decoder = Decoder(list(fds))
        return {name: decoder.decode(value) for name, value in returned.fields.items()}
    finally:
        close_all(fds)


@pytest.fixture(scope="module")
def encoder():
    return load(promptkit.encoder())


@pytest.fixture(scope="module")
def translator():
    return load(promptkit.translator())


@pytest.fixture
def copy(tmp_path):
    def copied(folder, *, without=(), **files):
        made = shutil.copytree(folder, tmp_path / "copy")
        for name in without:
            (made / name).unlink()
        for name, content in files.items():
            (made / name).write_bytes(content)
        return made

    return copied


def states(answer):
    return answer["embeds"]["prompt_embeds"]


def test_encoder_reads_as_stable_diffusion_with_it_would(encoder, pipeline_dir):
    import torch
    from diffusers import StableDiffusionPipeline
    from transformers import BertModel, BertTokenizer

    tokenizer = BertTokenizer.from_pretrained(promptkit.encoder() / "tokenizer")
    # Without it the pipeline pads to as many tokens as a tokenizer of BERT's says: 1e30.
    tokenizer.model_max_length = 77
    swapped = StableDiffusionPipeline.from_pretrained(
        pipeline_dir,
        text_encoder=BertModel.from_pretrained(promptkit.encoder() / "text_encoder"),
        tokenizer=tokenizer,
    )
    with torch.no_grad():
        expected, negative = swapped.encode_prompt(CAT, "cpu", 1, True, "")
    found = states(ask(encoder, CAT, ""))
    assert [tuple(one.shape) for one in found] == [(1, 77, 32)] * 2
    assert torch.equal(found[0], expected)
    assert torch.equal(found[1], negative)


def test_text_is_read_alike_whatever_is_asked_beside_it(encoder):
    import torch

    alone = states(ask(encoder, CAT))[0]
    beside = states(ask(encoder, LONG, CAT, chunks=True))[1]
    assert torch.equal(alone, beside)


def test_long_text_is_read_in_pieces_that_end_after_commas(encoder):
    import torch

    whole = ask(encoder, LONG, chunks=True)
    assert (states(whole)[0].shape, whole["cut"]) == ((3, 77, 32), [""])
    first = ask(encoder, LONG)
    assert states(first)[0].shape == (1, 77, 32)
    (cut,) = first["cut"]
    assert LONG.endswith(cut)
    read = LONG.removesuffix(cut)
    assert read.endswith("，")
    assert torch.equal(states(first)[0], states(ask(encoder, read))[0])
    assert torch.equal(states(first)[0][0], states(whole)[0][0])


def test_traditional_characters_are_simplified_where_the_encoder_needs_it(encoder):
    import torch

    told = load(promptkit.encoder(), simplified=True)
    same, other = (states(ask(model, "一隻紅色的貓"))[0] for model in (told, encoder))
    assert torch.equal(same, states(ask(encoder, CAT))[0])
    assert not torch.equal(other, same)


def test_translation_is_the_same_each_time_and_in_any_company(translator):
    alone = [ask(translator, text)["texts"][0] for text in (CAT, "一只蓝色的桥和myGirl")]
    assert alone == ["a red cat", "a blue bridge and myGirl"]
    assert ask(translator, CAT, "一只蓝色的桥和myGirl")["texts"] == alone


def test_long_text_is_translated_sentence_by_sentence(translator):
    answer = ask(translator, "一只红色的猫在河边。" * 12)
    assert answer["texts"] == [". ".join(["a red cat by the river"] * 12) + "."]
    assert answer["cut"] == [""]


def test_translation_that_has_no_end_is_told():
    model = load(promptkit.translator())
    settings = model._reader.model.generation_config
    settings.suppress_tokens = [settings.eos_token_id]
    assert ask(model, CAT)["cut"] == [CAT]


def test_question_that_is_cancelled_ends_before_its_answer(translator, encoder):
    from zhcached.workers.failures import Stopped

    for model in (translator, encoder):
        with pytest.raises(Stopped):
            ask(model, CAT, is_cancelled=lambda: True)
    asked = iter([False, False, True, True, True, True])
    with pytest.raises(Stopped):
        ask(translator, CAT, is_cancelled=lambda: next(asked))


@pytest.mark.parametrize(
    "more",
    [
        {"texts": [3]},
        {"texts": ["x" * 20_001]},
        {"texts": ["x"] * 1025},
        {"texts": ["x"], "keep": [""]},
        {"texts": ["x"], "image": None},
    ],
)
def test_what_is_no_question_is_refused(encoder, more):
    with pytest.raises(UsageError, match="cannot be asked"):
        encoder.perform(Call(id=1, arguments=more), lambda: False)


def test_weights_in_pickle_are_not_read(tmp_path):
    folder = promptkit.pickled(promptkit.translator(), tmp_path / "pickled")
    with pytest.raises(IntegrityError, match="org/model"):
        load(folder)


@pytest.mark.parametrize(
    "without", [("source.spm",), ("target.spm",), ("vocab.json",), ("model.safetensors",)]
)
def test_translator_that_lacks_a_file_is_named(copy, without):
    with pytest.raises(IntegrityError, match="org/model"):
        load(copy(promptkit.translator(), without=without))


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "llama"},
        {"d_model": 10**9},
        {"vocab_size": 0},
        {"encoder_layers": "2"},
        {"max_position_embeddings": None},
    ],
)
def test_configuration_that_cannot_be_meant_is_refused_before_anything_is_built(copy, changes):
    config = json.loads((promptkit.translator() / "config.json").read_text())
    folder = copy(promptkit.translator(), **{"config.json": json.dumps(config | changes).encode()})
    with pytest.raises(IntegrityError, match=f"{next(iter(changes))} is|not of the kind"):
        load(folder)


@pytest.mark.parametrize(
    ("part", "changes", "told"),
    [
        ("", {"encoder_layers": 128, "encoder_ffn_dim": 65_536}, "weights, in files of"),
        ("", {"max_position_embeddings": 65_536, "d_model": 8192}, "table of positions"),
        ("text_encoder", {"num_hidden_layers": 128, "hidden_size": 8192}, "weights, in files of"),
        ("text_encoder", {"max_position_embeddings": 65_536}, "weights, in files of"),
    ],
)
def test_model_of_more_weights_than_its_files_have_is_not_built(tmp_path, part, changes, told):
    made = promptkit.encoder() if part else promptkit.translator()
    folder = shutil.copytree(made, tmp_path / "copy")
    path = folder / part / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(IntegrityError, match=told):
        load(folder)


@pytest.mark.parametrize("name", ["attn_implementation", "_attn_implementation"])
@pytest.mark.parametrize("part", ["", "text_encoder"])
def test_no_code_of_a_hub_is_looked_for_because_a_configuration_names_it(tmp_path, part, name):
    made = promptkit.encoder() if part else promptkit.translator()
    folder = shutil.copytree(made, tmp_path / "copy")
    path = folder / part / "config.json"
    named = {name: "stranger/kernel"}
    path.write_text(json.dumps(json.loads(path.read_text()) | named))
    assert load(folder).loaded().bytes


def test_weights_of_another_shape_are_refused(copy):
    config = json.loads((promptkit.translator() / "config.json").read_text())
    more = json.dumps(config | {"encoder_layers": 3}).encode()
    with pytest.raises(IntegrityError, match="org/model"):
        load(copy(promptkit.translator(), **{"config.json": more}))


def test_text_of_more_tokens_than_characters_is_translated_in_parts(translator):
    # By compatibility one character of these is eighteen.
    answer = ask(translator, "\ufdfa" * 500 + CAT)
    assert answer["texts"][0]


@pytest.mark.parametrize("name", ["source.spm", "vocab.json"])
def test_vocabulary_beyond_all_measure_is_not_read(copy, name):
    folder = copy(promptkit.translator())
    with (folder / name).open("r+b") as file:
        file.truncate(2**40)
    with pytest.raises(IntegrityError, match=f"{name} is too large"):
        load(folder)
