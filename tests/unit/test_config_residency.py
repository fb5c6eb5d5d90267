"""[residency]: a number up to 1 is a share of the device, anything else is bytes."""

import pytest

from zhcache.errors import UsageError
from zhcached import config


def read(tmp_path, text):
    path = tmp_path / "config.toml"
    path.write_text(text, "utf-8")
    return config.load([path], {}).residency


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ('"0.8"', 0.8),
        ("0.25", 0.25),
        ("1", 1.0),
        ('"20GiB"', 20 * 2**30),
        ("0", 0.0),
        ('"1B"', 1.0),
    ],
)
def test_share_of_a_device(tmp_path, written, meant):
    assert read(tmp_path, f"[residency]\nvram = {written}\n").vram == meant


@pytest.mark.parametrize(
    "line",
    ['vram = "much"', "ram = -1", 'share = "everybody"', 'host = "disk"', "workers = 0",
     "workers = 65", 'keep_alive = "soon"', "vrma = 0.5"],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_with_the_file_named(tmp_path, line):
    with pytest.raises(UsageError, match=r"config\.toml"):
        read(tmp_path, f"[residency]\n{line}\n")


def test_defaults_are_those_of_the_contract(tmp_path):
    found = read(tmp_path, "")
    assert (found.share, found.vram, found.ram, found.keep_alive) == ("uid", 0.8, 0.5, 600.0)
