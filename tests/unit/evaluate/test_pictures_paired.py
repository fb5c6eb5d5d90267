"""Pictures read from folders, and which belongs to which."""

import json
import os
import subprocess
import sys

import pytest
import torch
from PIL import Image

from harness import visionkit
from harness.otheruser import BECOME, common_folder
from zhcache.errors import NotFound, UsageError
from zhcache.evaluate import pairs
from zhcache.evaluate.pictures import Picture, pictures_of, read_prompts

PROMPTS = ["一只小猫", 'a "red" <chair>']


def test_pictures_of_a_run_say_their_prompts_and_seeds(tmp_path):
    found = pictures_of(visionkit.drawn(tmp_path / "a", PROMPTS))
    assert [(one.prompt, one.seed) for one in found] == [(p, s) for p in PROMPTS for s in (1, 2)]
    assert found[0].name == "pic-0"
    assert found[0].read().mode == "RGB"


def test_prompts_that_others_write_are_not_taken_for_ours(tmp_path):
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("prompt", json.dumps({"3": {"class_type": "KSampler"}}))
    visionkit.noise(1).save(tmp_path / "graph.png", pnginfo=info)
    assert pictures_of(tmp_path)[0].prompt is None


def test_a_folder_is_read_by_path_without_what_is_hidden_or_no_picture(tmp_path):
    for name in ("b/2.png", "a.JPG", ".hidden/x.png", "b/10.webp", "b/.y.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        visionkit.noise(1).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    assert [one.name for one in pictures_of(tmp_path)] == ["a", "b/10", "b/2"]


def test_images_at_hand_files_and_tensors_are_the_same_picture(tmp_path):
    image = visionkit.noise(3)
    image.save(tmp_path / "one.png")
    rows = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    tensor = rows.view(32, 40, 3).permute(2, 0, 1)
    for given in (image, [image], str(tmp_path / "one.png"), [tmp_path / "one.png"], tensor):
        (found,) = pictures_of(given)
        assert found.read().tobytes() == image.tobytes()
    assert len(pictures_of(torch.stack([tensor, tensor]))) == 2


def test_pictures_are_upright_and_rgb(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    visionkit.noise(1).save(tmp_path / "turned.jpg", exif=exif)
    Image.new("RGBA", (8, 8), (1, 2, 3, 4)).save(tmp_path / "clear.png")
    clear, turned = (one.read() for one in pictures_of(tmp_path))
    assert turned.size == (32, 40)
    assert (clear.mode, clear.getpixel((0, 0))) == ("RGB", (1, 2, 3))


def test_sixteen_bits_keep_their_upper_eight(tmp_path):
    levels = torch.arange(0, 65536, 16).view(64, 64)
    grey = Image.fromarray(levels.to(torch.uint16).numpy())
    grey.save(tmp_path / "deep.png")
    grey.save(tmp_path / "deep.tiff")
    expected = (levels // 256).byte().flatten().tolist()
    for given in (tmp_path / "deep.png", tmp_path / "deep.tiff", grey):
        (found,) = pictures_of(given)
        assert [list(band.tobytes()) for band in found.read().split()] == [expected] * 3


@pytest.mark.parametrize("mode", ["I", "F"])
def test_numbers_of_which_none_is_white_are_refused(tmp_path, mode):
    Image.new(mode, (8, 8), 300).save(tmp_path / "raw.tiff")
    for given in (tmp_path / "raw.tiff", Image.new(mode, (8, 8), 300)):
        with pytest.raises(UsageError, match=f"pixels of the mode {mode}, and nothing says"):
            pictures_of(given)[0].read()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "CMYK", "RGBA"])
def test_pictures_of_every_usual_kind_are_read(mode):
    assert pictures_of(Image.new(mode, (8, 8)))[0].read().mode == "RGB"


def test_a_link_to_nothing_is_a_picture_that_is_missing(tmp_path):
    visionkit.noise(1).save(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to("nowhere.png")
    with pytest.raises(NotFound, match=r"b\.png"):
        pictures_of(tmp_path)


CLOSED = f"""
import sys
from pathlib import Path
from PIL import Image
from zhcache.errors import NotPermitted
from zhcache.evaluate.pictures import pictures_of, read_prompts
Image.init()
import os
if os.geteuid() == 0:
{BECOME.replace(chr(10), chr(10) + "    ")}
folder = Path(sys.argv[1])
for given in (folder, folder / "inner", folder / "inner" / "b.png", folder / "locked.png"):
    try:
        print(pictures_of(given))
    except NotPermitted as error:
        print(Path(error.values["path"]).name)
try:
    read_prompts(folder / "locked.png")
except NotPermitted as error:
    print(error.exit_code)
"""


def test_what_is_closed_is_told_and_not_left_out():
    with common_folder() as folder:
        (folder / "inner").mkdir()
        for name in ("a.png", "inner/b.png", "locked.png"):
            visionkit.noise(1).save(folder / name)
        for name in ("inner", "locked.png"):
            (folder / name).chmod(0)
        done = subprocess.run(
            [sys.executable, "-c", CLOSED, str(folder)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            timeout=120,
        )
        (folder / "inner").chmod(0o755)
    assert done.stdout.split() == ["inner", "inner", "b.png", "locked.png", "8"], done.stderr


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ([], UsageError, "there are no pictures"),
        ("nowhere", NotFound, "no picture or folder"),
        (3, UsageError, "int is no picture"),
        (torch.zeros(3, 8, 8), UsageError, "Tensor is no picture"),
    ],
)
def test_what_is_no_picture_is_refused(given, error, words):
    with pytest.raises(error, match=words):
        pictures_of(given)


def test_empty_folders_and_cut_files_are_told(tmp_path):
    with pytest.raises(UsageError, match="no pictures in"):
        pictures_of(tmp_path)
    visionkit.noise(1).save(tmp_path / "whole.png")
    content = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    cut, _ = pictures_of(tmp_path)
    with pytest.raises(UsageError, match=r"cut\.png cannot be read as a picture"):
        cut.read()
    (tmp_path / "cut.png").write_text("text")
    with pytest.raises(UsageError, match=r"cut\.png cannot be read as a picture"):
        pictures_of(tmp_path)


def test_pairs_have_the_same_prompt_and_seed_whatever_they_are_called(tmp_path):
    one = pictures_of(visionkit.drawn(tmp_path / "a", PROMPTS))
    other = pictures_of(visionkit.drawn(tmp_path / "b", PROMPTS, names="other"))[::-1]
    found, by = pairs.paired(one, other)
    assert by == "prompt"
    assert [(p.one.seed, p.one.prompt) for p in found] == [
        (p.other.seed, p.other.prompt) for p in found
    ]
    with pytest.raises(UsageError, match=r"4 of 4 pictures of A have no counterpart in B: .*pic-0"):
        pairs.paired(one, other, "name")


def named(*names, **said):
    return [Picture(name, **said) for name in names]


def test_pairs_by_name_where_pictures_say_nothing():
    found, by = pairs.paired(named("1", "2"), named("2", "1"))
    assert (by, [(p.one.name, p.other.name) for p in found]) == ("name", [("1", "1"), ("2", "2")])
    with pytest.raises(UsageError, match="does not say its prompt and seed"):
        pairs.paired(named("1"), named("1"), "prompt")


def test_prompts_of_two_languages_are_paired_by_name_and_belong_to_no_text():
    one, other = named("1", prompt="猫", seed=1), named("1", prompt="cat", seed=1)
    (found,), _ = pairs.paired(one, other, "name")
    assert (found.prompt, found.seed) == (None, 1)
    with pytest.raises(UsageError, match="what 1 is to show is not known") as raised:
        pairs.texts([found])
    assert '{"1": "..."}' in raised.value.hint
    assert pairs.texts(pairs.with_prompts([found], {"1": "猫"})) == ["猫"]
    with pytest.raises(UsageError, match="not known"):
        pairs.with_prompts([found], {"2": "猫"})


def test_missing_counterparts_are_named_on_both_sides():
    with pytest.raises(UsageError, match="2 of 3 pictures of left have no counterpart in right: b"):
        pairs.paired(named("a", "b", "c"), named("a"), None, ("left", "right"))
    with pytest.raises(UsageError, match="1 of 2 pictures of right have no counterpart in left: b"):
        pairs.paired(named("a"), named("a", "b"), None, ("left", "right"))


def test_pictures_that_cannot_be_told_apart_are_refused():
    twice = named("1", "2", prompt="cat", seed=1)
    with pytest.raises(UsageError, match="1 and 2 cannot be told apart"):
        pairs.paired(twice, twice)


def test_lists_are_paired_in_order():
    assert [p.other.name for p in pairs.in_order(named("a", "b"), named("x", "y"))] == ["x", "y"]
    with pytest.raises(UsageError, match="2 and 1 pictures do not make pairs"):
        pairs.in_order(named("a", "b"), named("x"))


def test_design_says_what_it_cannot_show():
    def notes(prompts, seeds=1):
        each = [Picture(str(n), prompt=p, seed=n) for n, p in enumerate(prompts * seeds)]
        return [note.template for note in pairs.design_notes(pairs.in_order(each, each))]

    assert "prompts are not known" in notes([None, None])[0]
    assert "prompts are not known" in notes([None, "cat"])[0]
    assert "little evidence" in notes(["cat", "dog"])[0]
    many = [f"prompt {n}" for n in range(pairs.FEW_PROMPTS)]
    assert notes(many, 4) == []
    assert "each counts the same" in notes([*many, many[0]])[0]


def test_prompts_come_from_a_table_or_from_a_run(tmp_path):
    table = visionkit.said(tmp_path / "p.json", {"a.png": "猫", "b/c.d": "狗"})
    assert read_prompts(table) == {"a": "猫", "b/c.d": "狗"}
    image = {"path": "out/tiny-7.png", "prompt": "猫", "seed": 7, "nsfw": False}
    ran = {"schema": 1, "repo": "a/b", "images": [image]}
    table.write_text('{"schema":1,"error":{}}\n' + json.dumps(ran) + "\n", encoding="utf-8-sig")
    assert read_prompts(table) == {"tiny-7": "猫"}
    assert read_prompts(visionkit.said(table, {"images": "猫"})) == {"images": "猫"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '["a"]',
        '{"a": 1}',
        '{"a": "\\ud800"}',
        '{"images": 3}',
        '{"images": [{"path": "x"}]}',
        "[" * 9999,
    ],
)
def test_other_files_say_no_prompts(tmp_path, text):
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(UsageError, match=r"p\.json does not say the prompts") as raised:
        read_prompts(tmp_path / "p.json")
    assert '{"NAME": "PROMPT"}' in raised.value.hint
    with pytest.raises(NotFound):
        read_prompts(tmp_path / "nothing.json")
