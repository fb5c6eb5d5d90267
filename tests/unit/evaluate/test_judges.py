"""Judges: scores are cosines of the models' own features, and what they cannot read is told."""

import socket

import pytest
import torch

from harness import visionkit
from zhcache.errors import UsageError
from zhcache.evaluate.judges import Judge
from zhcache.evaluate.pictures import pictures_of
from zhcache.evaluate.stored import Stored

REPO = "lab/judge"
TEXTS = ["一只小猫", "a red chair", "一只小猫"]
PICTURES = pictures_of([visionkit.noise(n) for n in range(3)])


@pytest.fixture
def judge(daemon, vision):
    def make(kind):
        daemon.hold(REPO, vision(kind))
        return Judge(Stored(REPO, device="cpu"))

    return make


@pytest.mark.parametrize("kind", ["clip", "chinese_clip", "altclip", "siglip"])
def test_score_is_the_cosine_that_the_libraries_give(judge, vision, kind):
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    found = judge(kind).scores(PICTURES, TEXTS)
    model = AutoModel.from_pretrained(vision(kind)).eval()
    tokenizer = AutoTokenizer.from_pretrained(vision(kind))
    looks = AutoImageProcessor.from_pretrained(vision(kind), backend="pil")
    for picture, text, score in zip(PICTURES, TEXTS, found, strict=True):
        pixels = looks(images=[picture.read()], return_tensors="pt")["pixel_values"]
        padding = {"padding": "max_length"} if kind == "siglip" else {}
        ids = tokenizer([text], return_tensors="pt", **padding)["input_ids"]
        with torch.no_grad():
            seen = model.get_image_features(pixels).pooler_output
            said = model.get_text_features(ids).pooler_output
        expected = 100 * float(torch.nn.functional.cosine_similarity(seen, said))
        assert score == pytest.approx(expected, abs=1e-3)
    assert found[0] != pytest.approx(found[1], abs=1e-3)


@pytest.mark.parametrize("kind", ["clip", "chinese_clip", "altclip", "siglip"])
def test_judging_asks_no_network(judge, kind, monkeypatch):
    asked = []

    def resolve(*address, **_):
        asked.append(address)
        raise OSError

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    made = judge(kind)
    made.scores(PICTURES, TEXTS)
    made.notes(TEXTS)
    assert asked == []


def words(notes):
    return [note.template for note in notes]


def test_a_judge_that_reads_bytes_is_no_judge_of_chinese(judge):
    blind = judge("clip")
    assert any("knows no Chinese" in text for text in words(blind.notes(["一只小猫坐在椅子上"])))
    assert words(blind.notes(["a red chair"])) == []
    assert words(judge("chinese_clip").notes(["一只小猫坐在椅子上", "a red chair"])) == []


def test_characters_that_a_judge_does_not_know_are_told(judge):
    assert any("knows no Chinese" in text for text in words(judge("siglip").notes(["龘靐齉爩"])))


@pytest.mark.parametrize(("kind", "room"), [("chinese_clip", 52), ("altclip", 64), ("siglip", 24)])
def test_prompts_that_are_cut_are_counted_and_judged_by_what_is_read(judge, kind, room, caplog):
    long = "一只小猫坐在红色的椅子上" * 9
    made = judge(kind)
    (note,) = made.notes([long, "猫"])
    assert (note.values["room"], note.values["count"]) == (str(room), "1")
    cut = made.scores(PICTURES[:1], [long[: room - 2]])
    assert made.scores(PICTURES[:1], [long]) == pytest.approx(cut)
    assert caplog.messages == []


@pytest.mark.parametrize("kind", ["dinov2", "clip_vision_model"])
def test_a_model_that_reads_nothing_is_refused(judge, kind):
    with pytest.raises(UsageError, match="reads no texts"):
        judge(kind)
