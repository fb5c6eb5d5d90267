"""Chinese prompts through the real daemon and its prompt workers: attached, resident, shell."""

import hashlib
import json
import re
import shutil

import pytest

from harness import adapterkit, promptkit
from harness.daemon import source

pytestmark = [pytest.mark.journey, pytest.mark.timeout(600)]

CAT = "一只红色的猫"
FEW = {"num_inference_steps": 2}

ATTACHED = """
import hashlib, json, numpy, sys, torch, warnings, zhcache
CAT, FEW = "一只红色的猫", {"num_inference_steps": 2, "height": 64, "width": 64}
def pipe(chinese, **more):
    made = zhcache.load_pipeline("org/pipe", device="cpu", chinese=chinese, **more)
    made.set_progress_bar_config(disable=True)
    return made
def told(made):
    return [(draw(made, text), list(map(str, made.chinese_report.texts))) for text in TEXTS]
def draw(made, prompt, **more):
    seed = torch.Generator("cpu").manual_seed(7)
    images = made(prompt, generator=seed, **FEW, **more).images
    return [hashlib.sha256(image.tobytes()).hexdigest() for image in images]
"""

TEXTS = """
TEXTS = ["一只红色的猫在雪里，" * 20, "a red cat, " * 12 + "a dog, " * 40, "赤い猫"]
"""

NOTHING = (
    ATTACHED
    + """
auto = pipe("auto")
try:
    auto(CAT, **FEW)
except zhcache.NotFound as error:
    assert "opus-mt" in error.hint and "adapter train" in error.hint, error
else:
    raise AssertionError("byte soup")
assert draw(auto, "a red cat") == draw(pipe(None), "a red cat")
assert auto.chinese_report.texts == ()
assert draw(pipe(None), CAT)
print("done")
"""
)

ROUTES = (
    ATTACHED
    + """
found = {}
with pipe("translate") as made:
    found["translate"] = draw(made, CAT)
    (line,) = made.chinese_report.texts
    assert (line.route, line.text, line.used) == ("translate", CAT, "a red cat"), line
    assert found["translate"] == draw(made, "a red cat")
    assert draw(made, [CAT, "a dog"], num_images_per_prompt=2) == draw(
        made, ["a red cat", "a dog"], num_images_per_prompt=2
    )
    found["told"] = told(made)
with pipe("adapter:small") as made:
    found["adapter"] = draw(made, CAT)
    lines = made.chinese_report.texts
    assert [(one.argument, one.route) for one in lines] == [
        ("prompt", "adapter"), ("negative_prompt", "adapter"),
    ], lines
    assert lines[0].used.startswith("adapters/small@"), lines
    assert found["adapter"] != draw(made, "一只蓝色的桥")
    assert len(draw(made, [CAT, "a dog", CAT], num_images_per_prompt=2)) == 6
    assert draw(made, "a dog", negative_prompt=CAT) != draw(made, "a dog")
    assert draw(made, "一只红色的猫在雪里，" * 9) and made.chinese_report.texts[0].chunks > 1
    kin = made.using("StableDiffusionImg2ImgPipeline")
    kin.set_progress_bar_config(disable=True)
    from PIL import Image
    del FEW["height"], FEW["width"]
    kin(CAT, image=Image.new("RGB", (64, 64), "red"), strength=1.0, **FEW)
    assert kin.chinese_report.texts[0].route == "adapter"
    FEW.update(height=64, width=64)
with pipe("encoder") as made:
    found["encoder"] = draw(made, CAT, negative_prompt="a dog")
    assert [one.route for one in made.chinese_report.texts] == ["encoder"] * 2
    assert draw(made, "a dog") == draw(pipe(None), "a dog")
assert draw(pipe("auto"), CAT) == draw(pipe("encoder"), CAT)
print(json.dumps(found))
"""
)

RESIDENT = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "diffusers", "transformers", "numpy"}:
            raise ImportError(f"{name} must not be imported here", name=name)

sys.meta_path.insert(0, Refuse())
import hashlib, json, zhcache
CAT, FEW = "一只红色的猫", {"num_inference_steps": 2, "height": 64, "width": 64}
def told(made):
    return [(draw(made, text), list(map(str, made.chinese_report.texts))) for text in TEXTS]
def draw(made, prompt, **more):
    images = made(prompt, seed=7, **FEW, **more).images
    return [hashlib.sha256(image.tobytes()).hexdigest() for image in images]
found = {}
for route in ("translate", "adapter:small", "encoder"):
    more = {"negative_prompt": "a dog"} if route == "encoder" else {}
    with zhcache.load_pipeline(
        "org/pipe", mode="resident", device="cpu", chinese=route
    ) as made:
        found[route.partition(":")[0]] = draw(made, CAT, **more)
        assert made.chinese_report.texts[0].route == route.partition(":")[0]
        draw(made, "a dog")
        assert made.chinese_report.texts == ()
        if route == "translate":
            found["told"] = told(made)
print(json.dumps(found))
"""


@pytest.fixture
def adapter(pipeline_dir, tmp_path):
    from zhcache.chinese.adapter import format as described

    weights = pipeline_dir / "text_encoder" / "model.safetensors"
    base = described.Base(
        repo="org/pipe", commit="a" * 40, class_name="StableDiffusionPipeline",
        text_encoders=[hashlib.sha256(weights.read_bytes()).hexdigest()],
    )  # fmt: skip
    return adapterkit.small_adapter(
        tmp_path / "adapter",
        base=base,
        arguments={"prompt_embeds": described.Argument(length=77, dim=32)},
    )


@pytest.fixture
def daemon(hub, make_daemon, pipeline_dir):
    files = {str(p.relative_to(pipeline_dir)): p for p in pipeline_dir.rglob("*") if p.is_file()}
    hub.add("org/pipe", files)
    encoder = '[[chinese.encoder]]\nrepo = "org/bert"\nbase = ["org/pipe"]\n'
    made = make_daemon(source(hub) + encoder).start()
    made.json("prefetch", "org/pipe")
    return made


@pytest.fixture
def held(daemon, adapter, pipeline_dir, tmp_path):
    """The daemon with a translator, an encoder and an adapter in its store."""
    bert = shutil.copytree(promptkit.encoder(), tmp_path / "bert")
    (bert / "model_index.json").write_text(json.dumps(PIPELINE))
    daemon.cli("import", str(promptkit.translator()), "--repo", "Helsinki-NLP/opus-mt-zh-en")
    daemon.cli("import", str(bert), "--repo", "org/bert")
    daemon.cli("import", str(adapter), "--repo", "adapters/small")
    return daemon


PIPELINE = {
    "_class_name": "StableDiffusionPipeline",
    "text_encoder": ["transformers", "BertModel"],
    "tokenizer": ["transformers", "BertTokenizer"],
}


def ran(daemon, script):
    out, errors = daemon.script(script).communicate(timeout=400)
    assert out, (errors[-3000:], daemon.tail())
    return out.strip().splitlines()[-1]


def test_nothing_that_reads_chinese_is_an_error_and_english_is_untouched(daemon):
    assert ran(daemon, NOTHING) == "done"


def test_attached_and_resident_draw_the_same_of_chinese_by_every_route(held):
    attached = json.loads(ran(held, TEXTS + ROUTES))
    pieces, cut, unread = (lines for _, lines in attached["told"])
    assert re.search(r": translate, [2-9] pieces, .a red cat in the snow", pieces[0])
    assert re.search(": plain, .*; not read: .*a dog,'$", cut[0])
    assert "unread" in unread[0]
    assert json.loads(ran(held, TEXTS + RESIDENT)) == attached


def test_shell_tells_who_read_the_prompt(held, tmp_path):
    done = held.cli(
        "run", "org/pipe", CAT, "--steps", "2", "--seed", "7", "--device", "cpu", "--size", "64x64",
        "--chinese", "translate", "--output", str(tmp_path / "one.png"), timeout=400,
    )  # fmt: skip
    assert "a red cat" in done.stderr
    told = held.json(
        "run", "org/pipe", CAT, "--steps", "2", "--seed", "7", "--device", "cpu", "--size", "64x64",
        "--chinese", "adapter:small", "--output", str(tmp_path / "two.png"),
    )  # fmt: skip
    assert [one["route"] for one in told["images"][0]["chinese"]] == ["adapter", "adapter"]
    refused = held.json("run", "org/pipe", CAT, "--chinese", "adapter:none", code=4)
    assert "adapters/small" in refused["error"]["hint"]
