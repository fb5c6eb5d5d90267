"""Recipes: the built-in ones, the configuration's, what each component becomes, what names it."""

import pytest

from zhcache.errors import UsageError
from zhcache.protocol.conversion import Part
from zhcached import config
from zhcached.config import PartConfig, RecipeConfig, check
from zhcached.convert.recipe import BUILT_IN, commit, digest, is_quantized, of_name, parts, tools
from zhcached.convert.recipe import published as precisions

SD = {
    "text_encoder": ("transformers", "CLIPTextModel"),
    "unet": ("diffusers", "UNet2DConditionModel"),
    "vae": ("diffusers", "AutoencoderKL"),
    "safety_checker": ("stable_diffusion", "StableDiffusionSafetyChecker"),
}
WAN = {
    "text_encoder": ("transformers", "UMT5EncoderModel"),
    "transformer": ("diffusers", "WanTransformer3DModel"),
    "transformer_2": ("diffusers", "WanTransformer3DModel"),
    "vae": ("diffusers", "AutoencoderKLWan"),
}


def schemes(name, components, **recipes):
    found = parts(of_name(name, recipes), components)
    return {component: part.scheme for component, part in found.items()}


@pytest.mark.parametrize("name", ["fp16", "bf16"])
def test_cast_is_of_every_component(name):
    assert schemes(name, SD) == dict.fromkeys(SD, name)


@pytest.mark.parametrize("name", ["fp8", "int8", "int4"])
def test_quantization_is_of_denoisers_and_the_rest_becomes_bf16(name):
    assert schemes(name, SD) == dict.fromkeys(SD, "bf16") | {"unet": name}
    denoisers = {"transformer": name, "transformer_2": name}
    assert schemes(name, WAN) == dict.fromkeys(WAN, "bf16") | denoisers


def test_quantization_of_a_pipeline_without_denoiser_is_refused():
    with pytest.raises(UsageError, match=r"components are vae"):
        schemes("int8", {"vae": SD["vae"]})


def test_denoiser_of_another_library_is_not_taken_for_one():
    with pytest.raises(UsageError):
        schemes("int8", {"transformer": ("transformers", "GPT2Model")})


def test_own_recipe_goes_by_name_and_pattern():
    mine = RecipeConfig(
        default="fp16",
        components={
            "transformer*": PartConfig("int4", 64, ("proj_out",)),
            "vae": "fp32",
        },
    )
    assert schemes("mine", WAN, mine=mine) == {
        "text_encoder": "fp16", "transformer": "int4", "transformer_2": "int4", "vae": "fp32",
    }  # fmt: skip
    found = parts(of_name("mine", {"mine": mine}), WAN)
    assert found["transformer"] == Part(scheme="int4", group_size=64, keep=["proj_out"])


def test_own_recipe_whose_components_are_not_there_is_refused():
    mine = RecipeConfig(components={"transformer": "int4"})
    with pytest.raises(UsageError, match="transformer") as caught:
        schemes("mine", SD, mine=mine)
    assert "unet" in str(caught.value)


def test_unknown_recipe_names_those_there_are():
    with pytest.raises(UsageError) as caught:
        of_name("fp61", {"mine": RecipeConfig()})
    assert all(name in caught.value.hint for name in [*BUILT_IN, "mine"])


def test_built_in_names_are_those_the_configuration_knows():
    assert set(BUILT_IN) == check.BUILT_IN


def test_published_precisions():
    assert precisions([]) == {None}
    assert precisions(["fp16"]) == {"fp16"}
    assert precisions(["fp16", "int8"]) == {"fp16", None}


def test_quantized_is_told():
    assert not is_quantized(parts(BUILT_IN["fp16"], SD).values())
    assert is_quantized(parts(BUILT_IN["int4"], SD).values())


def test_commit_follows_from_all_that_decides_the_bytes():
    part, inputs = {"unet": Part(scheme="int4")}, {"unet/a": "0" * 64}
    same = digest("int4", {"unet": Part(scheme="int4")}, {"unet/a": "0" * 64})
    others = [
        digest("mine", part, inputs),
        digest("int4", {"unet": Part(scheme="int4", group_size=32)}, inputs),
        digest("int4", {"unet": Part(scheme="int4", keep=["x"])}, inputs),
        digest("int4", part, {"unet/a": "1" * 64}),
        digest("int4", part, {"unet/b": "0" * 64}),
    ]
    assert digest("int4", part, inputs) == same
    assert len({same, *others}) == 6
    assert commit("a", same, {"torchao": "1"}) == commit("a", same, {"torchao": "1"})
    made = {
        commit("a", same, {}),
        commit("b", same, {}),
        commit("a", same, {"torchao": "1"}),
        commit("a", others[0], {}),
    }
    assert len(made) == 4
    assert {len(name) for name in made} == {40}


def read(tmp_path, text):
    path = tmp_path / "config.toml"
    path.write_text(text)
    return config.load([path], {})


def test_configuration_of_recipes_is_read(tmp_path):
    found = read(
        tmp_path,
        """
        [recipe.small]
        default = "fp16"
        [recipe.small.components]
        transformer = { scheme = "int4", group_size = 64, keep = ["proj_out"] }
        text_encoder = "int8"
        [convert]
        workers = 3
        [convert.auto]
        "lab/model" = ["fp16", "small"]
        """,
    )
    assert found.recipe["small"].components["transformer"] == PartConfig("int4", 64, ("proj_out",))
    assert found.recipe["small"].components["text_encoder"] == "int8"
    assert found.convert.workers == 3
    assert found.convert.auto == {"lab/model": ("fp16", "small")}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[recipe.fp16]\n", "already"),
        ("[recipe.Big]\n", "Big"),
        ("[recipe.a]\ndefault = 'fp17'\n", "fp17"),
        ("[recipe.a]\ncomponent = {}\n", "component"),
        ("[recipe.a]\ndefault = { scheme = 'int8', group_size = 64 }\n", "int4 alone"),
        ("[recipe.a]\ndefault = { scheme = 'int4', group_size = 33 }\n", "one of"),
        ("[convert]\nworkers = 0\n", "1 to 64"),
        ("[convert.auto]\n'lab/model' = ['small']\n", "small"),
        ("[convert.auto]\n'lab model' = ['fp16']\n", "lab model"),
        ("[convert.auto]\n'lab/model' = 'fp16'\n", "array"),
    ],
)
def test_configuration_that_cannot_be_meant_is_refused(tmp_path, text, told):
    with pytest.raises(UsageError) as caught:
        read(tmp_path, text)
    assert told in caught.value.message


@pytest.mark.parametrize("name", ["gguf-q8_0", "gguf-q4_k"])
def test_gguf_is_refused_with_what_can_be_had(name):
    with pytest.raises(UsageError, match="from_pretrained reads no folder") as caught:
        of_name(name, {})
    assert "int8 or int4" in caught.value.hint
    assert of_name(name, {name: RecipeConfig(default="bf16")}).name == name


def test_text_encoder_in_int4_is_refused_before_any_work():
    mine = {"small": RecipeConfig(components={"unet": "int4", "text_encoder": "int4"})}
    with pytest.raises(UsageError, match="text_encoder cannot become int4") as caught:
        schemes("small", SD, **mine)
    assert "[recipe.small]" in caught.value.hint
    assert schemes("small", {"unet": SD["unet"]}, **mine) == {"unet": "int4"}


def test_tools_are_those_that_make_it_and_must_be_there():
    found = {"torch": "2.13", "torchao": "0.18", "sdnq": None, "diffusers": "0.42"}
    assert tools([Part(scheme="int8"), Part(scheme="bf16")], found) == {
        "torch": "2.13",
        "torchao": "0.18",
    }
    assert tools([Part(scheme="fp16")], {}) == {}
    with pytest.raises(UsageError, match="int4 is made with sdnq") as caught:
        tools([Part(scheme="bf16"), Part(scheme="int4")], found)
    assert "zhcache[quant]" in caught.value.hint
