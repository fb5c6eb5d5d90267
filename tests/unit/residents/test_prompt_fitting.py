"""Which of the held prompt models fit a model, and what a request for one becomes."""

import json

import pytest
from structlog.testing import capture_logs

from harness import adapterkit
from harness.storekit import MADE, publish, publish_variant, sha256
from zhcache.chinese.adapter import format as adapter
from zhcache.errors import Incomplete, NotFound, UsageError
from zhcache.protocol.names import parse_repo
from zhcache.protocol.residency import ResidentRequest
from zhcached.config import ChineseConfig, EncoderConfig
from zhcached.residency.prompts.fitting import ENCODERS, TRANSLATOR, choices, everything
from zhcached.residency.prompts.known import known, reads_prompts
from zhcached.residency.resident import prompted

TAIYI = ENCODERS[0].repo
ME, SHE = 1000, 1001
"""Users; neither of them runs the machine."""

ONE, TWO = b"weights of a text encoder", b"weights of another"


def text(**fields):
    return json.dumps(fields).encode()


def base(*, hidden=768, cross=768, encoders=(ONE,), kind="StableDiffusionPipeline"):
    files = {
        "model_index.json": text(_class_name=kind),
        "text_encoder/config.json": text(model_type="clip_text_model", hidden_size=hidden),
        "unet/config.json": text(cross_attention_dim=cross),
    }
    names = ("text_encoder", "text_encoder_2")
    for name, weights in zip(names, encoders, strict=False):
        files[f"{name}/model.safetensors"] = weights
        files.setdefault(f"{name}/config.json", text(model_type="clip_text_model"))
    return files


def bert():
    return {
        "text_encoder/config.json": text(model_type="bert"),
        "text_encoder/model.safetensors": b"bert",
        "tokenizer/vocab.txt": b"[PAD]",
    }


def marian(**more):
    names = ("source.spm", "target.spm", "vocab.json", "model.safetensors")
    files = {name: name.encode() for name in names}
    return {"config.json": text(model_type="marian"), **files, **more}


def trained(*encoders, **fields):
    """An adapter for a model with these text encoders."""
    digests = [sha256(weights) for weights in encoders]
    for_model = adapter.Base(
        repo="org/pipe", commit="a" * 40, class_name="X", text_encoders=digests
    )
    return {
        adapter.FILE: adapter.written(adapterkit.about(base=for_model, **fields)),
        "adapter.safetensors": b"resampler",
        "encoder/config.json": text(model_type="bert"),
        "encoder/model.safetensors": b"encoder",
        "tokenizer/vocab.txt": b"[PAD]",
    }


def hold(store, repo, files, *, uid=ME, **fields):
    return publish(store, files, repo=parse_repo(repo), uid=uid, **fields)


def fitting(store, wanted=None, **of):
    found = choices(store, wanted or ChineseConfig(), "org/pipe", None, of.get("variant"), uid=ME)
    return [(one.route, one.repo) for one in found.models]


def test_nothing_held_is_nothing_to_choose(store):
    hold(store, "org/pipe", base())
    found = choices(store, ChineseConfig(), "org/pipe", None, None, uid=ME)
    assert (found.class_name, found.models) == ("StableDiffusionPipeline", [])
    with pytest.raises(NotFound):
        choices(store, ChineseConfig(), "org/none", None, None, uid=ME)


@pytest.mark.parametrize(
    ("files", "fits"),
    [
        (base(), True),
        (base(hidden=1024), False),
        (base(cross=1024), False),
        (base(encoders=(ONE, TWO)), False),
    ],
)
def test_known_encoder_is_for_stable_diffusion_1_alone(store, files, fits):
    hold(store, TAIYI, bert())
    hold(store, "org/pipe", files)
    assert fitting(store) == ([("encoder", TAIYI)] if fits else [])


def test_configured_encoder_is_for_the_models_that_it_names(store):
    hold(store, "org/pipe", base(hidden=32))
    hold(store, "org/bert", bert())
    wanted = ChineseConfig(encoder=(EncoderConfig("org/bert", ("org/pipe",)),))
    assert fitting(store, wanted) == [("encoder", "org/bert")]
    wanted = ChineseConfig(encoder=(EncoderConfig("org/bert", ("org/other",)),))
    assert fitting(store, wanted) == []


def test_adapter_fits_who_has_its_text_encoders_the_best_first(store):
    hold(store, "org/pipe", base())
    worse = adapter.Quality(heldout_error=0.1, retrieval=0.5, pairs=3)
    hold(store, "adapters/worse", trained(ONE, quality=worse))
    hold(store, "lab/better", trained(ONE))
    hold(store, "adapters/other", trained(TWO))
    found = choices(store, ChineseConfig(), "org/pipe", None, None, uid=ME).models
    assert [(one.repo, one.name) for one in found] == [
        ("lab/better", "lab/better"),
        ("adapters/worse", "worse"),
    ]
    assert found[0].quality == {"heldout_error": 0.1, "retrieval": 0.9, "pairs": 3.0}
    assert found[0].base == "org/pipe"
    assert len(everything(store, ChineseConfig()).models) == 3


def test_adapter_for_one_of_two_text_encoders_does_not_fit(store):
    hold(store, "org/pipe", base(encoders=(ONE, TWO)))
    hold(store, "adapters/one", trained(ONE))
    assert fitting(store) == []
    hold(store, "adapters/both", trained(ONE, TWO))
    assert fitting(store) == [("adapter", "adapters/both")]


def test_variant_is_prompted_as_what_it_was_made_of(store):
    source = base()
    hold(store, "org/pipe", source)
    hold(store, "adapters/one", trained(ONE))
    half = {"text_encoder/model.safetensors": b"half of them"}
    publish_variant(store, half, source=source, repo=parse_repo("org/pipe"), commit=MADE)
    assert fitting(store, variant="fp16") == [("adapter", "adapters/one")]


def test_translators_come_in_the_order_of_the_configuration(store):
    hold(store, "org/pipe", base())
    for repo in ("lab/mt", "a/opus-mt-zh-en", TRANSLATOR, "a/opus-mt-en-zh", "a/opus-mt-de-en"):
        hold(store, repo, marian())
    languages = {"tokenizer_config.json": text(source_lang="zho", target_lang="eng")}
    hold(store, "lab/told", marian(**languages))
    wanted = ChineseConfig(translator="lab/mt")
    assert [repo for _, repo in fitting(store, wanted)] == [
        "lab/mt", TRANSLATOR, "a/opus-mt-zh-en", "lab/told",
    ]  # fmt: skip


def test_what_another_user_took_in_comes_last_and_says_so(store):
    hold(store, "org/pipe", base())
    hold(store, "lab/praises-itself", trained(ONE), uid=SHE)
    worse = adapter.Quality(heldout_error=0.1, retrieval=0.5, pairs=3)
    hold(store, "adapters/mine", trained(ONE, quality=worse))
    hold(store, "adapters/of-root", trained(ONE, quality=worse), uid=0)
    found = choices(store, ChineseConfig(), "org/pipe", None, None, uid=ME).models
    assert [(one.repo, one.is_strangers) for one in found] == [
        ("adapters/mine", False),
        ("adapters/of-root", False),
        ("lab/praises-itself", True),
    ]
    hers = choices(store, ChineseConfig(), "org/pipe", None, None, uid=SHE).models
    assert not hers[0].is_strangers and hers[0].repo == "lab/praises-itself"


@pytest.mark.parametrize(
    ("repo", "source", "wanted", "is_strangers"),
    [
        ("lab/opus-mt-zh-en", "hub", ChineseConfig(), True),
        ("lab/opus-mt-zh-en", "import", ChineseConfig(translator="lab/opus-mt-zh-en"), False),
        (TRANSLATOR, "hub", ChineseConfig(translator="lab/other"), False),
        (TRANSLATOR, "import", ChineseConfig(translator="lab/other"), True),
    ],
)
def test_a_name_counts_where_it_is_configured_or_a_hubs(store, repo, source, wanted, is_strangers):
    hold(store, "org/pipe", base())
    hold(store, repo, marian(), uid=SHE, source=source)
    (found,) = choices(store, wanted, "org/pipe", None, None, uid=ME).models
    assert found.is_strangers is is_strangers


def test_what_cannot_be_read_is_left_out_and_says_why_to_who_asks_for_it(store):
    hold(store, "org/pipe", base())
    lacking = marian()
    del lacking["target.spm"]
    hold(store, TRANSLATOR, lacking)
    hold(store, "adapters/odd", {**trained(ONE), adapter.FILE: b"{}"})
    assert fitting(store) == []
    manifest = store.resolve(parse_repo(TRANSLATOR), None)
    with pytest.raises(Incomplete, match=r"target\.spm"):
        known(store, manifest)


def test_pipelines_that_are_no_prompt_models_are_not_told_of_at_each_question(store):
    hold(store, "org/pipe", base())
    lacking = marian()
    del lacking["target.spm"]
    hold(store, TRANSLATOR, lacking)
    with capture_logs() as said:
        everything(store, ChineseConfig())
    assert [(one["log_level"], one["repo"]) for one in said] == [("debug", TRANSLATOR)]


def index(*names):
    kinds = {name: ["diffusers", "X"] for name in names}
    return {"model_index.json": text(_class_name="X", safety_checker=[None, None], **kinds)}


@pytest.mark.parametrize(
    ("files", "is_one"),
    [
        (marian(), True),
        (trained(ONE), True),
        (bert(), True),
        # Its unet was left out; with it, it is a pipeline that may read for others besides.
        ({**bert(), **index("text_encoder", "unet")}, True),
        ({**bert(), **index("text_encoder", "unet"), "unet/config.json": b"{}"}, False),
        (base(), False),
        ({"config.json": text(model_type="clip")}, False),
    ],
)
def test_what_is_no_pipeline_is_there_to_read_prompts(store, files, is_one):
    hold(store, "org/one", files)
    assert reads_prompts(store, store.resolve(parse_repo("org/one"), None)) is is_one


def request(**fields):
    return ResidentRequest(**{"repo": "org/bert", "role": "prompts", **fields})


def test_request_becomes_one_kind_for_all(store):
    hold(store, "org/bert", bert())
    manifest = store.resolve(parse_repo("org/bert"), None)
    one = prompted.kind_of(request(), manifest, store, ChineseConfig())
    assert one == prompted.kind_of(request(device="cpu"), manifest, store, ChineseConfig())
    assert (one.device, one.decoded_options(), str(one)) == (
        "cpu", {}, "org/bert (prompts) on cpu",
    )  # fmt: skip
    told = ChineseConfig(encoder=(EncoderConfig("org/bert"),))
    assert prompted.kind_of(request(), manifest, store, told).decoded_options() == {
        "simplified": True
    }


@pytest.mark.parametrize(
    "fields",
    [{"device": "cuda"}, {"compile": True}, {"memory": "low"}, {"options": {"simplified": False}}],
)
def test_what_only_pipelines_have_is_refused(store, fields):
    hold(store, "org/bert", bert())
    manifest = store.resolve(parse_repo("org/bert"), None)
    with pytest.raises(UsageError, match="means nothing"):
        prompted.kind_of(request(**fields), manifest, store, ChineseConfig())
