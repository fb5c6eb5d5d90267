"""Models that are put into a watched folder are taken in, once they are whole."""

import json
import os
import shutil

import pytest

from harness.daemon import until
from harness.storekit import publish_tiny
from harness.watchkit import hub_cache, lay, pipeline, watching, weights
from zhcache.errors import NotFound, NotPermitted, UsageError
from zhcache.protocol.names import parse_repo

A, B = "a" * 40, "b" * 40
TINY = parse_repo("org/tiny")


@pytest.fixture(scope="module")
def shared(module_path):
    """One store for what can share it: each test has a folder of its own."""
    with watching(module_path / "shared" / "store") as started:
        yield started


@pytest.fixture
def watched(shared, folder):
    shared.add(folder)
    shared.first_job = shared.jobs_count()
    yield shared
    for one in shared.call(shared.watching.all):
        shared.remove(one.folder)
    for repo in {snapshot.repo for snapshot in shared.store.snapshots()}:
        shared.store.remove(parse_repo(repo), None)
    shared.store.gc()


def held(watched, repo):
    manifest = watched.store.resolve(parse_repo(repo), None)
    return {
        file.path: watched.store.blobs.path(file.sha256).read_bytes() for file in manifest.files
    }


def test_each_layout_is_known_by_its_name(watched, folder):
    lay(folder / "org" / "plain", pipeline())
    lay(folder / "solo", {"config.json": b"{}", "model.safetensors": weights(9)})
    lay(folder / "lora", {"adapter_config.json": b"{}", "adapter_model.safetensors": weights(8)})
    hub_cache(folder, "org/hub", pipeline(20), A)
    lay(folder / "hub" / "models" / "org--scope" / "snapshots" / "master", pipeline(30))
    lay(folder / "Old" / "v1___5", {**pipeline(40), "configuration.json": b"{}", ".mdl": b"x"})
    places = {
        "org/plain": ("org/plain", None),
        "solo": ("local/solo", None),
        "lora": ("local/lora", None),
        f"models--org--hub/snapshots/{A}": ("org/hub", "main"),
        "hub/models/org--scope/snapshots/master": ("org/scope", "master"),
        "Old/v1___5": ("Old/v1.5", "master"),
    }
    for where, named in places.items():
        model = watched.wait(where, "taken")
        assert (model.repo, model.revision) == named
    assert set(watched.models()) == set(places)
    assert held(watched, "org/hub") == pipeline(20)
    assert watched.store.resolve(parse_repo("org/hub"), "main").commit == A
    assert ".mdl" not in held(watched, "Old/v1.5")


def test_watched_folder_may_be_one_repository(tmp_path):
    lay(tmp_path / "mine", pipeline())
    with watching(tmp_path / "store", tmp_path / "mine") as watched:
        assert watched.wait(".", "taken").repo == "local/mine"
        assert held(watched, "local/mine") == pipeline()


def test_slow_copy_is_waited_for_and_then_is_one_job(watched, folder):
    files = pipeline()
    name = "vae/diffusion_pytorch_model.safetensors"
    lay(folder / "org" / "tiny", files)
    with (folder / "org" / "tiny" / name).open("wb", buffering=0) as copy:
        copy.write(files[name][:20])
        waiting = watched.wait("org/tiny", "waiting")
        assert name in waiting.reason.message
        copy.write(files[name][20:])
        assert watched.jobs_done() == 0
    watched.wait("org/tiny", "taken")
    assert held(watched, "org/tiny") == files
    assert watched.jobs_done() == 1


def _without(name):
    return {path: content for path, content in pipeline().items() if path != name}


SHARDS = {"weight_map": {"w": "diffusion_pytorch_model-00002-of-00002.safetensors"}}
UNWHOLE = {
    "index": (_without("model_index.json"), "model_index.json"),
    "weights": (_without("unet/diffusion_pytorch_model.safetensors"), "unet/*.safetensors"),
    "component": (_without("scheduler/scheduler_config.json"), "scheduler/"),
    "half-json": ({**pipeline(), "model_index.json": b'{"unet": ['}, "model_index.json"),
    "shard": (
        {
            **pipeline(),
            "unet/diffusion_pytorch_model.safetensors.index.json": json.dumps(SHARDS).encode(),
        },
        "unet/diffusion_pytorch_model-00002-of-00002.safetensors",
    ),
    "no-header": ({**pipeline(), "unet/w.safetensors": bytes(200)}, "unet/w.safetensors"),
    "too-long": ({**pipeline(), "unet/w.safetensors": weights() + b"x"}, "unet/w.safetensors"),
    "gap": ({**pipeline(), "unet/w.safetensors": weights(gap=3)}, "unet/w.safetensors"),
}


def test_what_is_not_whole_waits_and_says_what_is_missing(watched, folder):
    for name, (files, _) in UNWHOLE.items():
        lay(folder / name, files)
    for name, (_, told) in UNWHOLE.items():
        assert told in watched.wait(name, "waiting").reason.message
    assert watched.jobs_done() == 0
    lay(folder / "component", pipeline())
    (folder / "gap" / "unet" / "w.safetensors").unlink()
    for name in ("component", "gap"):
        watched.wait(name, "taken")
    assert watched.jobs_done() == 2


def test_files_that_others_still_write_are_no_files_of_the_model(watched, folder):
    partial = {
        "a.safetensors.incomplete": b"x", "b.crdownload": b"x", ".c.safetensors.Ab3dEf": b"x",
        "d.part": b"x", "unet/e.tmp": b"x", "f.bin": b"x" * 9, "f.bin.aria2": b"x",
    }  # fmt: skip
    lay(folder / "tiny", {**pipeline(), **partial})
    watched.wait("tiny", "taken")
    assert held(watched, "local/tiny") == pipeline()


def test_changed_model_is_a_new_snapshot_and_the_ref_moves(watched, folder):
    lay(folder / "org" / "tiny", pipeline())
    first = watched.wait("org/tiny", "taken").commit
    lay(folder / "org" / "tiny", {"unet/config.json": b'{"changed": 1}'})

    def moved():
        now = watched.models()["org/tiny"]
        return now.state == "taken" and now.commit != first and now

    second = until(moved, "the change is taken in").commit
    assert watched.store.resolve(TINY, "main").commit == second
    assert watched.store.resolve(TINY, first).commit == first


def test_unchanged_model_is_not_read_again_after_a_restart(tmp_path, folder, monkeypatch):
    hub_cache(folder, "org/hub", pipeline(), A)
    lay(folder / "org" / "tiny", pipeline(7))
    with watching(tmp_path / "store", folder) as watched:
        watched.wait(f"models--org--hub/snapshots/{A}", "taken")
        watched.wait("org/tiny", "taken")
    monkeypatch.setattr("zhcached.jobs.importing.imports.hash_file", None)
    monkeypatch.setattr("zhcached.store.adoption.hash_file", None)
    with watching(tmp_path / "store") as watched:
        watched.wait(f"models--org--hub/snapshots/{A}", "taken")
        watched.wait("org/tiny", "taken")
        assert watched.jobs_done() == 0
        monkeypatch.undo()
        # Of a model that changed only what changed is read.
        read = []
        real = watched.store.intake.adopt
        monkeypatch.setattr("zhcached.jobs.importing.imports.hash_file", None)
        monkeypatch.setattr(
            watched.store.intake,
            "adopt",
            lambda fd, *args, **kwargs: (
                read.append(os.fstat(fd).st_size) or real(fd, *args, **kwargs)
            ),
        )
        changed = b'{"of a size of its own": 2}'
        lay(folder / "org" / "tiny", {"vae/config.json": changed})
        until(lambda: watched.jobs_done() == 1, "the change is taken in")
        watched.wait("org/tiny", "taken")
        assert read == [len(changed)]


def test_what_was_removed_from_the_store_is_not_taken_in_again(watched, folder):
    hub_cache(folder, "org/hub", pipeline(), A)
    where = f"models--org--hub/snapshots/{A}"
    watched.wait(where, "taken")
    blobs = folder / "models--org--hub" / "blobs"
    assert {file.stat().st_nlink for file in blobs.iterdir()} == {2}
    watched.store.remove(parse_repo("org/hub"), None)
    watched.store.gc()
    assert {file.stat().st_nlink for file in blobs.iterdir()} == {1}
    (folder / "nudge").mkdir()
    watched.wait(where, "removed")
    assert watched.jobs_done() == 1


def test_same_bytes_are_kept_once(watched, folder):
    hub_cache(folder, "org/hub", pipeline(), A)
    watched.wait(f"models--org--hub/snapshots/{A}", "taken")
    count = len(list(watched.store.blobs.list()))
    lay(folder / "org" / "copy", pipeline())
    watched.wait("org/copy", "taken")
    assert len(list(watched.store.blobs.list())) == count
    (job, *_) = watched.call(lambda: watched.jobs.all(ended=True))
    assert (job.result.disk.here, job.result.disk.added) == (job.result.bytes, 0)


def test_pickle_is_refused_with_what_to_do(watched, folder):
    files = {**pipeline(), "unet/diffusion_pytorch_model.bin": b"pickle"}
    del files["unet/diffusion_pytorch_model.safetensors"]
    lay(folder / "org" / "tiny", files)
    model = watched.wait("org/tiny", "refused")
    assert model.reason.code == "unsafe_weights"
    assert "prefetch org/tiny --allow-pickle" in model.reason.hint
    assert "save_pretrained" in model.reason.hint
    lay(folder, {"whole.ckpt": b"pickle", "copying.ckpt.part": b"pi", "notes.bin": b"1"})
    refused = watched.wait("whole.ckpt", "refused")
    assert refused.reason.code == "unsafe_weights"
    assert "save_file" in refused.reason.hint
    assert set(watched.models()) == {"org/tiny", "whole.ckpt"}


def test_ref_of_a_hub_stays_and_the_folder_says_so(watched, folder):
    publish_tiny(watched.store, repo=TINY)
    of_hub = watched.store.resolve(TINY, "main").commit
    lay(folder / "org" / "tiny", pipeline())
    model = watched.wait("org/tiny", "taken")
    assert watched.store.resolve(TINY, "main").commit == of_hub
    assert model.commit in model.reason.hint
    assert watched.store.resolve(TINY, model.commit).source == "import"


def test_hard_linked_cache_takes_no_room(watched, folder):
    top = hub_cache(folder, "org/hub", pipeline(), A)
    hub_cache(folder, "org/hub", {**pipeline(), "README.md": b"new"}, B, ref="next")
    watched.wait(f"models--org--hub/snapshots/{A}", "taken")
    watched.wait(f"models--org--hub/snapshots/{B}", "taken")
    for file in (top / "blobs").iterdir():
        assert os.path.samefile(file, watched.store.blobs.path(file.name))
    jobs = watched.call(lambda: watched.jobs.all(ended=True))[:2]
    disks = [job.result.disk for job in jobs]
    assert watched.jobs_done() == 2
    assert sum(disk.added for disk in disks) == sum(disk.shared for disk in disks) > 0


def test_folder_that_vanishes_is_told_and_comes_back(watched, folder, tmp_path):
    lay(folder / "tiny", pipeline())
    watched.wait("tiny", "taken")
    folder.rename(tmp_path / "away")
    until(lambda: watched.folder().state == "gone", "the folder is gone")
    (tmp_path / "away").rename(folder)
    watched.wait("tiny", "taken")
    shutil.rmtree(folder)
    until(lambda: watched.folder().state == "gone", "the folder is gone")
    lay(folder / "more", pipeline(5))
    watched.wait("more", "taken")
    assert watched.jobs_done() == 2


def test_who_may_watch_what(watched, folder, tmp_path):
    with pytest.raises(NotPermitted):
        watched.add(tmp_path, may_all=False)
    with pytest.raises(NotPermitted):
        watched.remove(folder, may_all=False)
    for place in (watched.root.parent, watched.root / "hub", watched.root):
        with pytest.raises(UsageError, match="lie in one another"):
            watched.add(place)
    (tmp_path / "link").symlink_to(watched.root)
    with pytest.raises(UsageError, match="lie in one another"):
        watched.add(tmp_path / "link")
    with pytest.raises(NotFound):
        watched.add(tmp_path / "absent")
    with pytest.raises(NotFound):
        watched.remove(tmp_path / "other")
    watched.remove(folder)
    assert watched.call(watched.watching.all) == []
    assert json.loads((watched.root / "watch.json").read_text())["folders"] == []


def test_configured_folder_is_watched_and_is_not_removed_by_command(tmp_path, folder):
    lay(folder / "tiny", pipeline())
    with watching(tmp_path / "store", folders=(str(folder), str(tmp_path / "store"))) as watched:
        watched.wait("tiny", "taken")
        with pytest.raises(UsageError, match="configuration"):
            watched.remove(folder)
        assert "lie in one another" in watched.folder(1).reason.message


def test_nothing_is_taken_in_before_it_rests(tmp_path, folder):
    lay(folder / "tiny", pipeline())
    with watching(tmp_path / "store", folder, settle=3600.0) as watched:
        watched.wait("tiny", "settling")
        assert watched.jobs_done() == 0


def test_damaged_list_is_set_aside_and_told(tmp_path, folder):
    with watching(tmp_path / "store", folder):
        pass
    (tmp_path / "store" / "watch.json").write_text('{"folders": [')
    with watching(tmp_path / "store") as watched:
        assert watched.call(watched.watching.all) == []
        (problem,) = watched.watching.problems
        assert "watch.json.damaged" in problem.hint
        assert (tmp_path / "store" / "watch.json.damaged").read_text() == '{"folders": ['
        watched.add(folder)
    with watching(tmp_path / "store") as watched:
        assert watched.folder().folder == str(folder)
        assert watched.watching.problems == []
