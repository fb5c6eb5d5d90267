"""What is in a batch's folder counts only if it is whole, and is never written over."""

import json
import os
import resource
from contextlib import contextmanager

import msgspec
import pytest
from PIL import Image

from harness.paintkit import task
from zhcache.cluster.folder import JOURNAL, Folder
from zhcache.cluster.task import Model, Picture
from zhcache.errors import Busy, NoSpace, UsageError

TASKS = [task("org/a", seed, num_inference_steps=2) for seed in range(3)]


def picture(seed):
    return Picture(mode="RGB", size=(4, 4), pixels=bytes([seed, 0, 0]) * 16, commit="c1", node="n")


def fill(path, *indices):
    folder = Folder(path)
    lines = [folder.add(index, 3, TASKS[index], picture(index)) for index in indices]
    folder.close()
    return lines


def made(path, tasks=TASKS):
    folder = Folder(path)
    try:
        return folder.made(tasks)
    finally:
        folder.close()


def test_images_come_back_by_their_index(tmp_path):
    lines = fill(tmp_path / "out", 2, 0)
    assert made(tmp_path / "out") == {2: lines[0], 0: lines[1]}
    with Image.open(tmp_path / "out" / "00002.png") as image:
        assert image.getpixel((0, 0)) == (2, 0, 0)
        assert image.text["seed"] == "2"
        assert image.text["commit"] == "c1"


def test_torn_line_and_torn_file_are_made_again(tmp_path):
    fill(tmp_path, 0, 1, 2)
    journal = tmp_path / JOURNAL
    journal.write_bytes(journal.read_bytes()[:-20])
    (tmp_path / "00001.png").write_bytes(b"half")
    assert list(made(tmp_path)) == [0]
    fill(tmp_path, 2)
    assert sorted(made(tmp_path)) == [0, 2]
    lines = journal.read_bytes().splitlines()
    assert json.loads(lines[-1])["index"] == 2


def test_file_that_is_gone_is_made_again(tmp_path):
    fill(tmp_path, 0, 1)
    (tmp_path / "00000.png").unlink()
    assert list(made(tmp_path)) == [1]


@pytest.mark.parametrize(
    "change",
    [{"prompt": "y"}, {"seed": 9}, {"arguments": {}}, {"model": Model(repo="a", revision="v2")}],
    ids=lambda c: next(iter(c)),
)
def test_folder_of_another_batch_is_refused(tmp_path, change):
    fill(tmp_path, 1)
    others = [TASKS[0], msgspec.structs.replace(TASKS[1], **change), TASKS[2]]
    with pytest.raises(UsageError, match="other prompts"):
        made(tmp_path, others)


def test_more_prompts_than_before_are_welcome(tmp_path):
    fill(tmp_path, 0, 1, 2)
    assert len(made(tmp_path, [*TASKS, task("org/a", 3)])) == 3


def test_line_that_names_a_file_elsewhere_is_not_followed(tmp_path):
    out = tmp_path / "out"
    fill(out, 0)
    (tmp_path / "00000.png").write_bytes((out / "00000.png").read_bytes())
    (out / "00000.png").unlink()
    journal = out / JOURNAL
    journal.write_text(journal.read_text().replace('"00000.png"', '"../00000.png"'))
    assert made(out) == {}


def test_folder_is_one_batchs_at_a_time(tmp_path):
    folder = Folder(tmp_path)
    with pytest.raises(Busy):
        Folder(tmp_path)
    folder.close()
    Folder(tmp_path).close()


def test_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="file"):
        Folder(tmp_path / "file" / "out")


@contextmanager
def no_file_grows_beyond(size):
    """As a disk that fills up: what fits of a write is written, the next one fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_line_that_fits_in_part_is_told_and_does_not_tear_the_next(tmp_path):
    folder = Folder(tmp_path)
    one = folder.add(0, 3, TASKS[0], picture(0))
    full = no_file_grows_beyond((tmp_path / JOURNAL).stat().st_size + 150)
    with full, pytest.raises(UsageError, match="cannot be written"):
        folder.add(1, 3, TASKS[1], picture(1))
    two = folder.add(2, 3, TASKS[2], picture(2))
    folder.close()
    assert made(tmp_path) == {0: one, 2: two}


def test_image_that_does_not_fit_leaves_nothing_behind(tmp_path):
    folder = Folder(tmp_path)
    with no_file_grows_beyond(50), pytest.raises(UsageError, match="cannot be written"):
        folder.add(0, 3, TASKS[0], picture(0))
    folder.close()
    assert [path.name for path in tmp_path.iterdir()] == [JOURNAL]


def test_full_disk_is_no_space(tmp_path, monkeypatch):
    folder = Folder(tmp_path)

    def full(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Folder, "_write", full)
    with pytest.raises(NoSpace):
        folder.add(0, 1, TASKS[0], picture(0))
    folder.close()
