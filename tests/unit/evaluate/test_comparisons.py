"""Whole comparisons, the functions of ``zhcache.evaluate``, and the report."""

import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser

import msgspec
import numpy
import pytest
import torch

import zhcache
from harness import visionkit
from zhcache import i18n
from zhcache.errors import UsageError
from zhcache.evaluate import compared, paired

PROMPTS = ["一只小猫", "红色的椅子", 'a "red" <script>alert(1)</script>']
CLIP, CHINESE = "lab/clip", "lab/chinese"


@pytest.fixture
def models(daemon, vision):
    daemon.hold(CLIP, vision("clip"))
    daemon.hold(CHINESE, vision("chinese_clip"))
    return daemon


@pytest.fixture
def sets(tmp_path):
    a = visionkit.drawn(tmp_path / "a", PROMPTS)
    b = visionkit.drawn(tmp_path / "b", PROMPTS, off=0.3, names="other")
    return a, b


def means(batch):
    return batch.float().mean((2, 3))


def test_pixels_alone_need_no_model(sets):
    found = compared.compare(*sets)
    assert [row.metric for row in found.result.metrics] == ["psnr", "ssim"]
    psnr, ssim = found["psnr"], found["ssim"]
    by_hand = [
        paired.psnr(paired.pixels(pair.one.read()), paired.pixels(pair.other.read()))
        for pair in found.pairs
    ]
    # Of each prompt's two seeds first, then of the prompts.
    middle = sorted((by_hand[n] + by_hand[n + 1]) / 2 for n in (0, 2, 4))[1]
    assert psnr.value == pytest.approx(middle)
    assert (psnr.statistic, psnr.prompts, ssim.prompts) == ("median", 3, 3)
    assert ssim.low < ssim.value < ssim.high
    assert (found.result.paired_by, found.result.pictures_a) == ("prompt", 6)
    assert [row.psnr for row in found.result.pairs] == by_hand
    assert any("3 prompts are little evidence" in text for text in found.result.warnings)


def test_models_and_judges_add_what_they_can(models, sets):
    told = []
    found = compared.compare(
        *sets, extractor=CLIP, judges=[CHINESE, CLIP], device="cpu",
        progress=lambda *args: told.append(args),
    )  # fmt: skip
    names = [row.metric for row in found.result.metrics]
    assert names == ["psnr", "ssim", "distance", "score", "score", "cmmd", "kid"]
    assert {row.by for row in found.result.metrics} == {
        None, f"{CLIP}@{'c' * 40}", f"{CHINESE}@{'c' * 40}",
    }  # fmt: skip
    assert 0 < found["distance"].value < 4
    score = found["score"]
    assert score.value == pytest.approx(score.b - score.a)
    each = [b - a for row in found.result.pairs for a, b in [row.scores[score.by]]]
    assert score.value == pytest.approx(sum(each) / 6)
    assert found["cmmd"].error > 0
    assert ("features", 12, 12) in told
    assert any("knows no Chinese" in text for text in found.result.warnings)
    assert not any("one judge" in text for text in found.result.warnings)
    one = compared.compare(*sets, judges=[CHINESE], metrics=["score"], device="cpu")
    assert any("one judge alone" in text for text in one.result.warnings)
    with pytest.raises(UsageError, match="is named twice"):
        compared.compare(*sets, judges=[CHINESE, f"{CHINESE}@main"], device="cpu")


def test_the_same_again_gives_the_same_numbers(models, sets):
    options = {"extractor": CLIP, "judges": [CHINESE], "device": "cpu"}
    first, again = (compared.compare(*sets, **options) for _ in range(2))
    assert first.result == again.result


def test_equal_sets_are_equal(models, sets):
    found = compared.compare(sets[0], sets[0], extractor=CLIP, judges=[CHINESE], device="cpu")
    values = {row.metric: row.value for row in found.result.metrics}
    assert values["psnr"] == math.inf
    assert values["ssim"] == pytest.approx(1)
    assert values["distance"] == pytest.approx(0, abs=1e-6)
    assert values["score"] == 0
    assert values["kid"] < 0.1
    printed = json.loads(msgspec.json.encode(found.result))
    assert printed["metrics"][0]["value"] is None
    assert printed["schema"] == 1


def test_sets_without_counterparts_are_compared_as_sets(tmp_path):
    a = visionkit.drawn(tmp_path / "a", PROMPTS)
    b = visionkit.drawn(tmp_path / "b", PROMPTS[:2])
    with pytest.raises(UsageError, match="2 of 6 pictures") as raised:
        compared.compare(a, b)
    assert "--metric cmmd" in raised.value.hint
    found = compared.compare(a, b, metrics=["cmmd", "fid"], extractor=means)
    assert (found.result.paired_by, found.result.pairs) == (None, [])
    assert any("far too high" in text for text in found.result.warnings)
    assert any("6 and 4 are not equal" in text for text in found.result.warnings)


def test_prompts_from_a_file_are_what_is_judged(models, sets, tmp_path):
    a, b = sets
    for path in b.glob("*.png"):
        path.rename(b / path.name.replace("other", "pic"))
    said = {f"pic-{n}.png": "山水画" for n in range(6)}
    file = visionkit.said(tmp_path / "p.json", said)
    found = compared.compare(
        a, b, prompts=file, judges=[CHINESE], pair_by="name", device="cpu", metrics=["score"]
    )
    assert {row.prompt for row in found.result.pairs} == {"山水画"}
    assert found["score"].prompts == 1
    assert found["score"].low is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"metrics": ["lpips"]}, "'lpips' is no metric"),
        ({"metrics": ["score"]}, "scores need a judge"),
        ({"metrics": ["fid"]}, "FID needs an extractor"),
        ({"metrics": ["kid"]}, "kid needs an extractor"),
        ({"metrics": ["psnr"], "extractor": means}, "nothing that is asked for needs one"),
    ],
)
def test_what_cannot_be_measured_is_told_before_anything_is_read(options, words):
    with pytest.raises(UsageError, match=words):
        compared.compare("nowhere", "nowhere", **options)


@pytest.mark.parametrize("options", [{"prompts": {"0": "cat"}}, {"pair_by": "name"}])
def test_what_is_about_pairs_means_nothing_of_sets(sets, options):
    with pytest.raises(UsageError, match="mean nothing where sets are compared"):
        compared.compare(*sets, metrics=["kid"], extractor=means, **options)


def test_pictures_of_two_sizes_are_named():
    with pytest.raises(UsageError, match="0 has 40x32 pixels and 0 16x16"):
        compared.compare([visionkit.noise(1)], [visionkit.noise(1, size=(16, 16))])


def test_functions_measure_folders_lists_and_pictures(models, sets):
    evaluate = zhcache.evaluate
    assert evaluate.psnr(*sets) == pytest.approx(sorted(evaluate.psnr(*sets).values)[2], rel=0.1)
    assert evaluate.ssim(visionkit.noise(1), visionkit.noise(1)) == pytest.approx(1)
    found = evaluate.distance(*sets, CLIP, device="cpu")
    assert (found.metric, len(found.values)) == ("distance", 6)
    assert found.extractor == f"{CLIP}@{'c' * 40}"
    score = evaluate.clip_score(sets[0], "一只小猫", CHINESE, device="cpu")
    assert score == pytest.approx(sum(score.values) / 6)
    with pytest.raises(UsageError, match="2 prompts do not fit 6 pictures"):
        evaluate.clip_score(sets[0], ["a", "b"], CHINESE)
    with pytest.raises(UsageError, match="a judge is a model of the store"):
        evaluate.clip_score(sets[0], "a", means)


def test_fid_of_pictures_warns_and_keeps_nothing(sets):
    with pytest.warns(UserWarning, match="far too high"):
        first = zhcache.evaluate.fid(*sets, means)
    assert any("far too high" in text for text in first.remarks)
    with pytest.warns(UserWarning, match="far too high"):
        assert zhcache.evaluate.fid(*sets, extractor=means) == first
    with pytest.raises(UsageError, match="FID needs an extractor"):
        zhcache.evaluate.fid(*sets)


def test_functions_take_features_too():
    chance = torch.Generator().manual_seed(1)
    one, other = (torch.randn(40, 4, generator=chance) for _ in range(2))
    assert zhcache.evaluate.kid(one, other.numpy()).error > 0
    assert zhcache.evaluate.cmmd(one, one) < zhcache.evaluate.cmmd(one, other + 3)
    with pytest.raises(UsageError, match="an extractor takes pictures"):
        zhcache.evaluate.kid(one, other, means)
    words = numpy.array([["a"], ["b"]])
    with pytest.raises(UsageError, match="are no features"):
        zhcache.evaluate.kid(words, words)


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.images, self.texts, self.attributes = [], [], [], {}

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes[tag] = dict(attrs)
        if tag == "img":
            self.images.append(dict(attrs))

    def handle_data(self, data):
        self.texts.append(data)


def page(path):
    read = Page()
    read.feed(path.read_text("utf-8"))
    return read


def test_report_needs_nothing_else_and_runs_nothing(sets, tmp_path):
    found = compared.compare(*sets)
    found.html(tmp_path / "out" / "report.html", pictures=4)
    read = page(tmp_path / "out" / "report.html")
    assert "script" not in read.tags
    assert len(read.images) == 12
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in read.images)
    assert all(image["alt"].split(": ")[1] in PROMPTS for image in read.images)
    assert not re.search(r'(?:src|href)="(?!data:)', (tmp_path / "out" / "report.html").read_text())
    shown = [text.split(" · ")[0] for text in read.texts if text.split(" · ")[0] in PROMPTS]
    order = sorted(found.result.pairs, key=lambda row: row.ssim)
    assert shown == [row.prompt for row in order[:4]]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["report.html"]


def test_names_of_files_and_models_are_text_in_the_report(tmp_path):
    hostile = '<img src=x onerror="alert(1)">{0}&'
    for folder in ("a", "b"):
        (tmp_path / f"{folder} {hostile}").mkdir()
        visionkit.noise(1).save(tmp_path / f"{folder} {hostile}" / f"{hostile}.png")

    def looks(batch):
        return batch.float().flatten(1)[:, :3]

    looks.__qualname__ = hostile
    folders = [tmp_path / f"{folder} {hostile}" for folder in ("a", "b")]
    twice = [2 * list(folder.iterdir()) for folder in folders]
    found = compared.compare(*twice, metrics=["kid"], extractor=looks)
    found.html(tmp_path / "kid.html")
    compared.compare(*folders).html(tmp_path / "pairs.html")
    for name, images in (("kid.html", 0), ("pairs.html", 3)):
        read = page(tmp_path / name)
        assert len(read.images) == images
        assert not any("onerror" in image for image in read.images)
        assert any(hostile in text for text in read.texts)


def test_report_is_in_the_readers_language(sets, tmp_path):
    i18n.use("zh")
    try:
        compared.compare(*sets).html(tmp_path / "r.html", pictures=0)
    finally:
        i18n._chosen.clear()
    read = page(tmp_path / "r.html")
    assert read.attributes["html"] == {"lang": "zh-CN"}
    assert "指标" in read.texts
    assert read.images == []


def test_place_that_cannot_be_written_is_told(sets, tmp_path):
    (tmp_path / "file").write_text("")
    found = compared.compare(*sets)
    with pytest.raises(UsageError, match="cannot be written"):
        found.html(tmp_path / "file" / "r.html")
    with pytest.raises(UsageError, match="is no file"):
        found.html(tmp_path)


def test_report_may_have_as_long_a_name_as_a_file_can(sets, tmp_path):
    name = "报" * 83 + ".html"
    compared.compare(*sets).html(tmp_path / name, pictures=1)
    assert [path.name for path in tmp_path.glob("*.html")] == [name]


def test_module_costs_no_torch_and_says_what_is_missing():
    code = """
import sys
import zhcache
zhcache.evaluate.fid, zhcache.evaluate.Measure
assert "torch" not in sys.modules
sys.meta_path.insert(0, type("No", (), {"find_spec": staticmethod(
    lambda name, path, target=None: None)}))
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name == "transformers" else real(name)
try:
    zhcache.evaluate.fid([], [])
except zhcache.UsageError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "needs transformers" in done.stdout, done.stderr
    assert "pip install 'zhcache[eval]'" in done.stdout
