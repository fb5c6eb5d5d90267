"""Which route Chinese texts take, and the errors that name the choices."""

import pytest

from zhcache.chinese.choose import Route, check_asked, choose, is_settled
from zhcache.chinese.families import family_of
from zhcache.errors import NotFound, UsageError
from zhcache.protocol.prompts import ChineseChoices, PromptModel

SD, NATIVE, UNKNOWN = (
    family_of(name)
    for name in ("StableDiffusionPipeline", "QwenImagePipeline", "KandinskyPipeline")
)


def model(route, repo="org/one", name=""):
    return PromptModel(route=route, repo=repo, commit="c" * 40, name=name or repo)


def choices(*models, class_name="StableDiffusionPipeline"):
    return ChineseChoices(repo="org/pipe", commit="b" * 40, class_name=class_name, models=models)


ENCODER, TRANSLATOR = model("encoder", "org/taiyi"), model("translate", "org/opus")
MINE, OTHER = model("adapter", "adapters/mine", "ink"), model("adapter", "org/other")


@pytest.mark.parametrize("asked", [None, "auto", "native", "encoder", "adapter:x", "translate"])
def test_what_may_be_asked(asked):
    check_asked(asked)


@pytest.mark.parametrize("asked", ["", "adapter", "adapter:", "Translate", 3, ["auto"]])
def test_what_may_not_be_asked_is_told_with_what_may(asked):
    with pytest.raises(UsageError, match="adapter:NAME"):
        check_asked(asked)


def test_auto_takes_encoder_then_adapter_then_translator():
    for models in ([ENCODER, MINE, TRANSLATOR], [MINE, TRANSLATOR], [TRANSLATOR]):
        route = choose("auto", SD, choices(*reversed(models)))
        assert route == Route(models[0].route, models[0])


def test_auto_takes_the_first_of_a_route():
    assert choose("auto", SD, choices(OTHER, MINE)).model == OTHER


def test_auto_takes_nothing_of_a_stranger_and_says_what_is_there():
    hers = [model("adapter", "adapters/hers", "hers"), model("translate", "lab/mt")]
    for one in hers:
        one.is_strangers = True
    assert choose("auto", SD, choices(*hers, TRANSLATOR)).model == TRANSLATOR
    with pytest.raises(NotFound, match="another user") as caught:
        choose("auto", SD, choices(*hers))
    assert "'adapter:hers' | 'translate'" in caught.value.hint
    assert choose("adapter:hers", SD, choices(*hers)).model == hers[0]
    assert choose("translate", SD, choices(*hers)).model == hers[1]


def test_native_families_need_nobody():
    assert is_settled("auto", NATIVE) == is_settled("native", NATIVE) == Route("native")
    assert not is_settled("auto", family_of("Lumina2Pipeline")).is_measured
    assert is_settled("translate", NATIVE) is None
    assert choose("translate", NATIVE, choices(TRANSLATOR)).kind == "translate"


def test_native_is_refused_where_the_encoder_reads_no_chinese():
    with pytest.raises(UsageError, match="native"):
        is_settled("native", SD)


@pytest.mark.parametrize("name", ["mine", "adapters/mine", "ink"])
def test_adapter_is_found_by_short_name_repository_and_its_own_name(name):
    assert choose(f"adapter:{name}", SD, choices(OTHER, MINE)).model == MINE


def test_adapter_that_is_not_there_is_told_with_those_that_are():
    with pytest.raises(NotFound, match=r"org/other.*adapter train"):
        choose("adapter:mine", SD, choices(OTHER))


@pytest.mark.parametrize(("asked", "word"), [("encoder", "Taiyi"), ("translate", "opus-mt")])
def test_route_that_has_no_model_is_told_with_what_to_fetch(asked, word):
    with pytest.raises(NotFound, match=f"zhcache prefetch .*{word}"):
        choose(asked, SD, choices(MINE))


@pytest.mark.parametrize(
    ("family", "named"),
    [
        (SD, ["opus-mt", "Taiyi", "adapter train", "chinese=None"]),
        (family_of("FluxPipeline"), ["opus-mt", "adapter train", "chinese=None"]),
        (UNKNOWN, ["opus-mt", "chinese=None"]),
    ],
)
def test_auto_with_nothing_there_names_what_would_serve_this_pipeline(family, named):
    with pytest.raises(NotFound) as told:
        choose("auto", family, choices())
    every = ["opus-mt", "Taiyi", "adapter train", "chinese=None"]
    assert [word for word in every if word in told.value.hint] == named


def test_class_that_takes_no_embeddings_is_translated_for_and_refused_the_rest():
    there = choices(ENCODER, MINE, TRANSLATOR, class_name="KandinskyPipeline")
    assert choose("auto", UNKNOWN, there).kind == "translate"
    for asked in ("encoder", "adapter:mine"):
        with pytest.raises(UsageError, match="KandinskyPipeline"):
            choose(asked, UNKNOWN, there)
