"""Models that are on this machine already: caches of the hubs' own clients, and watched folders."""

import hashlib
import json
import os
from pathlib import Path

import pytest

import zhcache
from demohub import Hub
from harness.daemon import Daemon, source, until
from harness.otheruser import BECOME, common_folder, let_in
from harness.watchkit import hub_cache, lay, pipeline

MODELS = {f"org/model-{number}": pipeline(10 * number) for number in range(3)}


@pytest.fixture
def caches(hub, tmp_path, monkeypatch):
    """The caches of both clients, each with all models."""
    import huggingface_hub
    from modelscope_hub.compat.snapshot_download import snapshot_download as from_modelscope

    monkeypatch.setenv("HOME", str(tmp_path))
    huggingface, modelscope = tmp_path / "hf", tmp_path / "ms"
    for repo, files in MODELS.items():
        hub.add(repo, files)
        huggingface_hub.snapshot_download(
            repo, endpoint=hub.url, cache_dir=huggingface, token=False
        )
        from_modelscope(repo, endpoint=hub.url, cache_dir=str(modelscope), token="")
    return huggingface, modelscope


def places_of(root: Path) -> set[tuple[int, int]]:
    files = (path.lstat() for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    return {(found.st_dev, found.st_ino) for found in files}


def test_caches_of_both_hubs_become_one_copy_without_network(make_daemon, tmp_path, caches):
    huggingface, modelscope = caches
    with Hub(name="empty") as empty:
        daemon = make_daemon(source(empty)).start()
        ran = daemon.cli("import", str(huggingface), str(modelscope), "--json")
        assert empty.requests == []
    results = [json.loads(line) for line in ran.stdout.splitlines()]
    assert sorted(result["repo"] for result in results) == sorted([*MODELS, *MODELS])
    size = sum(len(content) for files in MODELS.values() for content in files.values())
    found, here, added, shared = (
        sum(result["disk"][key] for result in results)
        for key in ("found", "here", "added", "shared")
    )
    distinct = {content for files in MODELS.values() for content in files.values()}
    assert found == 2 * size
    assert added == sum(map(len, distinct)) == shared
    assert here == found - added
    assert len(daemon.blobs()) == len(distinct)
    # Hard links of the cache, or extents that the file system shares: nothing was copied.
    linked = places_of(huggingface) & {
        (found.st_dev, found.st_ino) for found in (path.stat() for path in daemon.blobs().values())
    }
    assert len(linked) in (0, len(distinct))
    for repo, files in MODELS.items():
        path = Path(daemon.json("path", repo)["path"])
        assert {name: (path / name).read_bytes() for name in files} == files
    assert "were in the store already" in ran.stderr
    assert "The store: 0 B before" in ran.stderr


def test_watched_caches_are_one_copy_too(make_daemon, tmp_path, caches):
    huggingface, modelscope = caches
    daemon = make_daemon('[watch]\nsettle = "1s"\n').start()
    with zhcache.Client(daemon.socket) as client:
        client.watch(huggingface)
        client.watch(modelscope)

        def taken():
            models = [model for folder in client.watched() for model in folder.models]
            return len(models) == 6 and {model.state for model in models} == {"taken"} and models

        models = until(taken, "all is taken in")
        assert {model.repo for model in models} == set(MODELS)
        distinct = {content for files in MODELS.values() for content in files.values()}
        assert len(daemon.blobs()) == len(distinct)
        assert {job.kind for job in client.jobs(past=True)} == {"import"}


@pytest.mark.parametrize("is_here", [False, True])
def test_rotten_cache_is_not_taken_in_as_its_commit(make_daemon, tmp_path, is_here):
    files = pipeline()
    top = hub_cache(tmp_path / "hf", "org/rotten", files, "a" * 40)
    sound = files["vae/diffusion_pytorch_model.safetensors"]
    rotten = sound[:-1] + b"!"
    blob = top / "blobs" / hashlib.sha256(sound).hexdigest()
    blob.write_bytes(rotten)
    daemon = make_daemon('[watch]\nsettle = "1s"\n').start()
    if is_here:  # the same wrong bytes, which nobody promised to be others
        daemon.cli("import", str(lay(tmp_path / "own", {"x.bin.txt": rotten})), "--repo", "me/own")
    error = daemon.json("import", str(tmp_path / "hf"), code=9)["error"]
    assert "vae/diffusion_pytorch_model.safetensors of org/rotten is damaged" in error["message"]
    with zhcache.Client(daemon.socket) as client:
        client.watch(tmp_path / "hf")

        def refused():
            return [m for folder in client.watched() for m in folder.models if m.reason]

        (model,) = until(refused, "the watched folder tells it too")
        assert "is damaged" in model.reason.message
        assert "org/rotten" not in {snapshot.repo for snapshot in client.snapshots()}
    assert blob.read_bytes() == rotten
    blob.write_bytes(sound)
    assert daemon.json("import", str(tmp_path / "hf"))["commit"] == "a" * 40


def test_weights_cut_short_are_not_taken_in_from_a_plain_folder(make_daemon, tmp_path):
    files = pipeline()
    name = "unet/diffusion_pytorch_model.safetensors"
    folder = lay(tmp_path / "own", files | {name: files[name][:-1]})
    daemon = make_daemon("").start()
    error = daemon.json("import", str(folder), "--repo", "me/own", code=9)["error"]
    assert f"'{name}' is not a sound safetensors file" in error["message"]
    refused = daemon.cli("--lang", "zh", "import", str(folder), "--repo", "me/own", check=False)
    assert "文件被截断了" in refused.stderr
    assert daemon.json("ls")["snapshots"] == []
    lay(folder, files)
    daemon.json("import", str(folder), "--repo", "me/own")


def test_watched_folder_lives_through_a_restart_and_shows_in_all_commands(make_daemon, tmp_path):
    folder = tmp_path / "in"
    lay(folder / "org" / "tiny", pipeline())
    (folder / "org" / "tiny" / "passwd").symlink_to("/etc/passwd")
    hub_cache(folder, "org/hub", {"config.json": b"{}", "model.safetensors": b"\x09"}, "a" * 40)
    daemon = make_daemon('[watch]\nsettle = "1s"\n').start()
    assert daemon.json("watch", "add", str(folder))["folder"] == str(folder)
    assert daemon.json("watch", "add", str(daemon.home), code=2)["error"]["code"] == "usage"

    def settled():
        with zhcache.Client(daemon.socket) as client:
            # After a restart it is there at once, as starting.
            (found,) = client.watched()
            return {model.state for model in found.models} == {"taken", "waiting"}

    until(settled, "what is whole is taken in")
    shown = daemon.cli("--lang", "zh", "watch", "ls").stdout
    assert "尚不完整" in shown
    assert "有 1 个文件未收入" in shown
    assert "还没有完好的 safetensors 文件头" in shown
    daemon.stop()
    daemon.start()
    until(settled, "it is watched after the restart")
    with zhcache.Client(daemon.socket) as client:
        assert len(client.jobs(past=True)) == 1
        assert f"watched {folder}" in {check.name for check in client.doctor().checks}
        path = client.path("org/tiny")
        assert (path / "model_index.json").read_bytes() == pipeline()["model_index.json"]
    daemon.json("watch", "rm", str(folder))
    assert os.listdir(daemon.home / "watched") == []


def test_another_user_may_look_and_not_change():
    if os.geteuid():
        pytest.skip("only root can be another user")
    asks = """
with zhcache.Client(sys.argv[1]) as client:
    for ask in (client.watch, client.unwatch):
        try:
            ask(sys.argv[2])
        except NotPermitted as error:
            print(len(client.watched()), error.exit_code)
"""
    imports = "import sys, zhcache\nfrom zhcache.errors import NotPermitted\n"
    warm = "zhcache.Client(sys.argv[1]).watched()\n"
    with common_folder() as place:
        daemon = Daemon(place / "d").start()
        let_in(daemon)
        asking = daemon.script(imports + warm + BECOME + asks, str(daemon.socket), str(place))
        out, err = asking.communicate(timeout=30)
        assert out.splitlines() == ["0 8", "0 8"], err
        daemon.stop()
