"""Which texts are Chinese, and the table of families against the diffusers that is installed."""

import ast
import importlib.util
from pathlib import Path

import pytest

from zhcache.chinese.detect import has_han
from zhcache.chinese.families import FAMILIES, family_of

ABOUT_TEXTS = ("prompt", "negative_prompt")


def signatures():
    """Yields class name, arguments of the call and of encode_prompt, and what that returns."""
    # Parsed rather than imported: all pipelines together take half a minute to import.
    (root,) = importlib.util.find_spec("diffusers").submodule_search_locations
    for path in sorted(Path(root, "pipelines").rglob("pipeline_*.py")):
        if "deprecated" in path.parts:
            continue
        for kind in ast.parse(path.read_text()).body:
            if not isinstance(kind, ast.ClassDef) or not kind.name.endswith("Pipeline"):
                continue
            made = {one.name: one for one in kind.body if isinstance(one, ast.FunctionDef)}
            if "__call__" in made:
                yield kind.name, arguments(made["__call__"]), made.get("encode_prompt")


def arguments(function):
    return [one.arg for one in (*function.args.args, *function.args.kwonlyargs)]


def returned(function):
    last = [one for one in ast.walk(function) if isinstance(one, ast.Return)][-1]
    return [one.id for one in last.value.elts]


@pytest.fixture(scope="module")
def known():
    """All of diffusers is parsed: not while tests are collected, by every process of a run."""
    return {name: (call, encode) for name, call, encode in signatures()}


@pytest.fixture(scope="module")
def injected(known):
    """Those that are given embeddings."""
    found = [name for name in known if (family_of(name) and family_of(name).embeds)]
    assert len(found) > 50
    return found


@pytest.mark.parametrize("text", ["红", "a 红 house", "𠮷野家", "々", "〇", "\uf900"])
def test_one_han_character_is_chinese(text):
    assert has_han(text)


@pytest.mark.parametrize(
    "text", ["", "a red house", "a cat，a dog。", "赤い".strip("赤"), "Ω é 🏠"]
)
def test_texts_without_han_are_not(text):
    assert not has_han(text)


def test_table_knows_every_kin_once_and_no_name_that_diffusers_lacks(known):
    for family in FAMILIES:
        assert any(family.has(name) for name in known), family.name
    for name in known:
        assert len([family.name for family in FAMILIES if family.has(name)]) <= 1, name


def test_classes_take_what_the_table_says_and_encode_prompt_returns_it_there(known, injected):
    for name in injected:
        family, (call, encode) = family_of(name), known[name]
        assert "prompt" in call, name
        for argument, position in family.embeds.items():
            assert argument in call, name
            # LCM and FLUX's ControlNets have no negative of any kind.
            assert (f"negative_{argument}" in call) == ("negative_prompt" in call), name
            if encode is not None:
                assert returned(encode)[position] == argument, name


def test_texts_of_a_family_are_had_through_the_public_encode_prompt(known, injected):
    for name in injected:
        _, encode = known[name]
        assert encode is not None and "prompt" in arguments(encode), name


def test_families_of_the_facts():
    natives = ["KolorsPipeline", "HunyuanDiTPAGPipeline", "QwenImageEditPipeline", "ZImagePipeline"]
    assert all(family_of(name).is_native for name in natives)
    assert family_of("Flux2KleinPipeline").is_native and not family_of("FluxPipeline").is_native
    assert family_of("StableDiffusionXLControlNetPAGPipeline").name == "sdxl"
    assert family_of("LatentConsistencyModelImg2ImgPipeline").name == "stable-diffusion"
    assert family_of("StableDiffusion3InpaintPipeline").name == "sd3"
    assert family_of("KandinskyPipeline") is None
