"""Variants in ls, show, path, du and rm."""

import msgspec
import pytest

from simulators.daemon import COMMIT
from zhcache.errors import ZhcacheError
from zhcache.protocol import messages as m
from zhcache.protocol.variants import VariantPart


@pytest.fixture
def fp16(daemon, snapshot, tmp_path):
    folder = tmp_path / "fp16"
    folder.mkdir()
    (folder / "half.safetensors").write_bytes(b"h" * 1024)
    daemon.hold("org/name", snapshot)
    daemon.hold_variant("org/name", "fp16", folder)
    return folder


def damage(daemon):
    made = daemon.snapshots["org/name"].variants
    made["fp16"] = msgspec.structs.replace(made["fp16"], state="damaged")


def test_ls_names_the_variants_of_each_snapshot(daemon, zhcache, fp16):
    assert zhcache("ls").out.splitlines()[1].endswith("fp16")
    made = zhcache("ls", "--json").json["snapshots"][0]["variants"]
    assert (made["fp16"]["path"], made["fp16"]["state"]) == (str(fp16), "ready")


def test_ls_and_show_say_that_a_variant_is_damaged(daemon, zhcache, fp16):
    damage(daemon)
    assert zhcache("ls").out.splitlines()[1].endswith("fp16 (damaged)")
    assert f"Variant: fp16 (damaged) 1.0 KiB {fp16}" in zhcache("show", "org/name").out


def test_show_of_a_variant_lists_its_files(daemon, zhcache, fp16):
    shown = zhcache("show", "org/name", "--variant", "fp16")
    assert "Variant: fp16" in shown.out
    assert f"Commit: {COMMIT}" in shown.out
    assert "half.safetensors" in shown.out
    assert "config.json" not in shown.out


def test_path_of_a_variant_is_its_folder(daemon, zhcache, fp16, snapshot):
    assert zhcache("path", "org/name", "--variant", "fp16").out == f"{fp16}\n"
    assert zhcache("path", "org/name").out == f"{snapshot}\n"


def test_path_of_a_variant_whose_file_is_damaged_is_9(daemon, zhcache, fp16):
    (fp16 / "half.safetensors").write_bytes(b"h")
    ran = zhcache("path", "org/name", "--variant", "fp16")
    assert (ran.code, ran.out) == (9, "")


def test_path_of_a_variant_that_is_not_here_is_4(daemon, zhcache, fp16):
    assert zhcache("path", "org/name", "--variant", "int4").code == 4
    assert zhcache("path", "org/name", "--variant", "../x").code == 2


def test_path_of_a_variant_from_a_daemon_that_knows_of_none_is_4(
    daemon, zhcache, fp16, monkeypatch
):
    monkeypatch.setitem(daemon.variants, ("org/name", "fp16"), daemon.snapshots["org/name"])
    ran = zhcache("path", "org/name", "--variant", "fp16")
    assert (ran.code, ran.out) == (4, "")


def test_rm_of_a_variant_leaves_what_it_was_made_of(daemon, zhcache, fp16):
    ran = zhcache("rm", "org/name", "--variant", "fp16", "--variant", "int4")
    assert ran.code == 3
    assert "variant fp16 removed; `zhcache gc` frees 1.0 KiB" in ran.out
    assert "int4" in ran.err
    assert list(daemon.snapshots) == ["org/name"]
    assert daemon.snapshots["org/name"].variants == {}
    assert all("/v1/variants/org/name?" in path for _, path in daemon.requests[-2:])


def test_rm_tells_which_variants_went_along(daemon, zhcache, fp16, monkeypatch):
    removed = m.Removed(
        repo="org/name", commits=[COMMIT], bytes_released=5, variants=["bf16", "fp16"]
    )
    monkeypatch.setattr("zhcache.client.Client.remove", lambda *_, **__: removed)
    assert "removed with its variants bf16, fp16" in zhcache("rm", "org/name").out


def test_du_shows_each_variant_below_its_repository(daemon, zhcache, fp16, monkeypatch):
    made = m.VariantUse(commit=COMMIT, variant="fp16", bytes=2048, bytes_own=1024)
    use = m.RepoUse(repo="org/name", bytes=5, bytes_own=5, snapshots=1, variants=[made])
    space = m.Space(
        repos=[use], bytes_blobs=5, bytes_partial=0, bytes_released=0, bytes_reserved=0,
        bytes_free=9, quota=0, min_free=0,
    )  # fmt: skip
    monkeypatch.setattr("zhcache.client.Client.space", lambda _: space)
    line = zhcache("du").out.splitlines()[2]
    assert line.split() == [COMMIT[:12], "(fp16)", "2.0", "KiB", "1.0", "KiB"]


def test_no_text_of_a_variant_or_an_error_moves_the_cursor(daemon, zhcache, fp16):
    part = VariantPart(
        scheme="fp16", bytes_in=2, bytes_out=1, max_abs=0.0, relative=0.0, overflow=0,
        nonfinite_in=0, kept={"norm\x1b[2J": "asked\x1b]0;x\a"},
    )  # fmt: skip
    daemon.variants["org/name", "fp16"].parts = {"unet": part}
    shown = zhcache("show", "org/name", "--variant", "fp16").out
    assert "unet.norm�[2J stayed wider: asked�]0;x�" in shown
    daemon.error = ZhcacheError("it says {reason}", hint="see {reason}", reason="\x1b[2J\nmore")
    told = zhcache("ls").err
    assert "it says �[2J\nmore" in told
    assert "\x1b" not in told
