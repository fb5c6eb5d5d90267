"""Variants made by workers that keep to what was agreed, and by ones that do not."""

import json
import threading

import msgspec
import pytest

from harness.fillkit import files_of, put_pipeline
from harness.storekit import COMMIT, publish
from zhcache.errors import (
    Busy,
    Cancelled,
    IntegrityError,
    NoSpace,
    NotFound,
    UsageError,
    WorkerDied,
)
from zhcached.config import RecipeConfig
from zhcached.convert import runner
from zhcached.convert.report import Report

UNET_FILE = "unet/diffusion_pytorch_model.safetensors"
VAE_FILE = "vae/diffusion_pytorch_model.safetensors"
REPORT = "zhcache-variant.json"
OTHER = "beef" + "0" * 36


def test_variant_is_a_snapshot_with_what_workers_sent_and_the_base_besides(shop):
    made = shop.make()
    manifest = made.manifest
    assert made.state == "made"
    assert shop.content(manifest, UNET_FILE) == shop.unet[::2]
    assert shop.content(manifest, VAE_FILE) == shop.vae[::2]
    base = {file.path: file for file in shop.base.files}
    assert {f.path for f in manifest.files} == {*base, REPORT}
    for path in set(base) - {UNET_FILE, VAE_FILE}:
        assert {f.path: f.sha256 for f in manifest.files}[path] == base[path].sha256
    assert (manifest.derived.of, manifest.derived.variant) == (COMMIT, "fp16")
    assert (manifest.source, manifest.trust, manifest.uid) == ("derived", shop.base.trust, 7)
    assert manifest.created == shop.clock.wall()
    folder = shop.store.view.snapshot_dir(shop.repo, manifest.commit)
    assert (folder / UNET_FILE).read_bytes() == shop.unet[::2]
    assert shop.store.variant(shop.repo, COMMIT, "fp16").commit == manifest.commit
    assert shop.scraps == []


def test_report_tells_how_it_was_made_and_is_the_same_each_time(shop):
    first = shop.make().manifest
    report = msgspec.json.decode(shop.content(first, REPORT), type=Report)
    unet = report.components["unet"]
    assert report.inputs == {file.path: file.sha256 for file in shop.base.files}
    assert (report.variant, report.of, report.recipe) == ("fp16", COMMIT, first.derived.recipe)
    assert (unet.bytes_in, unet.bytes_out) == (len(shop.unet), len(shop.unet) // 2)
    assert (unet.tools, unet.kept) == ({"stand-in": "1"}, {"norm": "asked"})
    assert (unet.max_abs, unet.relative, unet.tensors[0].dtype_out) == (0.25, 0.5, "F16")
    shop.store.remove(shop.repo, first.commit)
    shop.clock.pass_s(1000)
    again = shop.make(job="other").manifest
    assert (again.commit, again.files) == (first.commit, first.files)


def test_variant_that_is_here_is_not_made_again(shop):
    first = shop.make().manifest
    again = shop.make()
    assert (again.state, again.manifest) == ("present", first)
    assert len(shop.launcher.children) == 2


def test_damaged_variant_is_made_again(shop):
    first = shop.make().manifest
    (file,) = [file for file in first.files if file.path == UNET_FILE]
    shop.store.layout.blob(file.sha256).unlink()
    shop.store.checks.verify()
    with pytest.raises(IntegrityError):
        shop.store.variant(shop.repo, COMMIT, "fp16")
    again = shop.make()
    assert (again.state, again.manifest.commit) == ("made", first.commit)
    assert shop.content(shop.store.variant(shop.repo, COMMIT, "fp16"), UNET_FILE)


def test_files_that_need_no_change_are_the_base_s_blobs(shop, control):
    control.do("unet:same")
    manifest = shop.make().manifest
    base = {file.path: file.sha256 for file in shop.base.files}
    ours = {file.path: file.sha256 for file in manifest.files}
    assert ours[UNET_FILE] == base[UNET_FILE]
    assert ours[VAE_FILE] != base[VAE_FILE]
    report = msgspec.json.decode(shop.content(manifest, REPORT), type=Report)
    assert report.components["unet"].bytes_out == len(shop.unet)


@pytest.mark.parametrize(
    ("word", "content"), [("discard", None), ("again", b"anew")], ids=["begun", "ended"]
)
def test_discarded_file_comes_again(shop, control, word, content):
    control.do(f"unet:{word}")
    manifest = shop.make().manifest
    assert shop.content(manifest, UNET_FILE) == (content or shop.unet[::2])
    assert shop.scraps == []


def test_discarded_file_may_turn_out_to_need_no_change(shop, control):
    control.do("unet:same-after-all")
    assert shop.content(shop.make().manifest, UNET_FILE) == shop.unet


def test_config_of_a_quantized_component_takes_the_place_of_the_base_s(shop, control):
    control.do("unet:config")
    manifest = shop.make("int8").manifest
    assert json.loads(shop.content(manifest, "unet/config.json")) == {"quantization_config": {}}
    assert shop.content(manifest, "vae/config.json") == b"{}"
    schemes = {line[1]: line[2] for line in control.starts}
    assert schemes == {"unet": "int8", "vae": "bf16"}
    report = msgspec.json.decode(shop.content(manifest, REPORT), type=Report)
    assert report.tools == {"torch": "2.6", "torchao": "0.18"}


def test_newer_tools_are_no_reason_to_make_it_again_but_a_damaged_one_gets_its_own(shop):
    first = shop.make("int8").manifest
    shop.launcher.parts = {"torch": "2.7", "torchao": "0.19"}
    assert shop.make("int8").state == "present"
    shop.store.remove(shop.repo, first.commit)
    assert shop.make("int8").manifest.commit != first.commit


def test_recipe_that_was_changed_and_changed_back_is_the_newest_again(shop):
    commits = []
    for default in ("fp16", "bf16", "fp16"):
        shop.renew(recipes={"mine": RecipeConfig(default=default)})
        shop.clock.pass_s(10)
        made = shop.make("mine").manifest
        assert shop.store.variant(shop.repo, COMMIT, "mine").commit == made.commit
        assert shop.make("mine").state == "present"
        commits.append(made.commit)
    assert commits[0] == commits[2] != commits[1]


def test_two_commits_with_the_same_files_have_a_variant_each(shop, store):
    first = shop.make().manifest
    lease = store.leases.grant(shop.repo, first.commit, uid=1, pid=1)
    put_pipeline(store, str(shop.repo), OTHER, unet=shop.unet, vae=shop.vae)
    other = shop.variants.make(store.resolve(shop.repo, OTHER), "fp16", "job", 7, shop.show)
    store.leases.release_holds("job")
    store.leases.end(lease)
    assert store.variant(shop.repo, COMMIT, "fp16") == first
    assert store.variant(shop.repo, OTHER, "fp16") == other.manifest
    assert shop.content(other.manifest, UNET_FILE) == shop.content(first, UNET_FILE)


def test_shards_are_made_with_an_index_of_their_own(shop, store):
    shards = [f"diffusion_pytorch_model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    files = files_of(unet=b"", vae=b"v" * 10)
    del files[UNET_FILE]
    files |= {f"unet/{name}": name.encode() * 100 for name in shards}
    index = "unet/diffusion_pytorch_model.safetensors.index.json"
    files[index] = json.dumps({"weight_map": {"a": shards[0], "b": shards[1]}}).encode()
    publish(store, files, repo="lab/pipe", commit="beef" * 10, ref="sharded")
    of = store.resolve(shop.repo, "sharded")
    manifest = shop.variants.make(of, "fp16", "job", 7, shop.show).manifest
    for name in shards:
        assert shop.content(manifest, f"unet/{name}") == (name.encode() * 100)[::2]
    assert set(json.loads(shop.content(manifest, index))["weight_map"].values()) == set(shards)


def test_what_the_hub_published_is_taken_over_without_a_worker(shop, store):
    files = files_of(unet=b"wide", vae=b"wide too")
    wide = {path: content for path, content in files.items() if path.endswith(".safetensors")}
    files |= {p.replace(".safe", ".fp16.safe"): b"half" + c for p, c in wide.items()}
    publish(store, files, repo="lab/pipe", commit="beef" * 10, ref="published")
    of = store.resolve(shop.repo, "published")
    made = shop.variants.make(of, "fp16", "job", 7, shop.show)
    assert made.state == "published"
    assert shop.content(made.manifest, UNET_FILE) == b"halfwide"
    assert shop.launcher.children == []


def test_progress_is_told(shop, control):
    control.do("gate-midway")
    making = threading.Thread(target=shop.make)
    making.start()
    shop.show.wait(lambda p: p.bytes_total == len(shop.unet) + len(shop.vae))
    control.go()
    making.join()
    last = shop.show.seen[-1]
    assert last.bytes_done == last.bytes_total
    assert "fp16" in last.note


MISBEHAVIOURS = [
    "silent", "die", "garbage", "flood", "outside", "stray", "config-as-weights", "huge", "empty",
    "negative", "unbegun", "unended", "undone", "early", "stray-text", "no-json", "same-other",
    "same-twice", "die-midway", "hang-midway", "more", "short", "second", "overrun", "short-chunk",
    "finish",
]  # fmt: skip


@pytest.mark.parametrize("word", MISBEHAVIOURS)
def test_worker_that_misbehaves_is_ended_and_the_next_one_does_it_right(shop, control, word):
    control.do(f"unet:{word}")
    shop.renew(stall_s=1.0 if word in ("silent", "hang-midway") else 60.0)
    with pytest.raises(WorkerDied, match="unet"):
        shop.make()
    assert all(child.wait(0) is not None for child in shop.launcher.children)
    assert shop.store.variants(shop.repo, COMMIT) == {}
    assert list(shop.store.layout.ingests.iterdir()) == []
    assert shop.store.leases.holders(shop.repo) == []
    control.do()
    shop.renew()
    assert shop.content(shop.make().manifest, UNET_FILE) == shop.unet[::2]
    assert shop.scraps == []


def test_how_a_worker_ended_by_itself_is_told(shop, control):
    control.do("unet:leave-midway")
    with pytest.raises(WorkerDied, match=r"ended early: it ended with 3( \(|$)"):
        shop.make()


def test_worker_that_never_comes_to_an_end_gives_its_place_back(shop, control, monkeypatch):
    control.do("unet:trickle")
    monkeypatch.setattr(runner, "PATIENCE_S", 1.0)
    with pytest.raises(WorkerDied, match="was not done after"):
        shop.make()
    assert all(child.wait(0) is not None for child in shop.launcher.children)
    control.do()
    assert shop.make().state == "made"


def test_what_a_worker_cannot_do_is_told_in_its_words(shop, control):
    control.do("unet:fail")
    with pytest.raises(IntegrityError, match="header of x is hostile"):
        shop.make()
    assert shop.store.variants(shop.repo, COMMIT) == {}


def test_full_disk_is_told_before_any_worker_starts(shop):
    def room(size):
        raise NoSpace("{size} bytes are needed", size=size)

    shop.renew(room=room)
    with pytest.raises(NoSpace):
        shop.make()
    assert shop.launcher.children == []


def test_cancelled_job_ends_its_workers(shop, control):
    control.do("gate-midway")
    shop.renew(stall_s=600.0)
    caught = []

    def make():
        with pytest.raises(Cancelled) as error:
            shop.make()
        caught.append(error)

    making = threading.Thread(target=make)
    making.start()
    shop.show.wait(lambda p: p.bytes_total)
    control.pid(1)
    shop.show.error = Cancelled("the job was cancelled")
    making.join()
    assert caught
    assert all(child.wait(0) is not None for child in shop.launcher.children)
    assert shop.scraps == []


def test_components_that_were_done_are_not_done_again(shop, control):
    control.do("unet:die", "vae:")
    shop.renew(workers=1)
    publish(shop.store, files_of(unet=b"u" * 10, vae=b"v" * 4000), repo="lab/pipe",
            commit="beef" * 10, ref="other")  # fmt: skip
    of = shop.store.resolve(shop.repo, "other")
    with pytest.raises(WorkerDied):
        shop.variants.make(of, "fp16", "job", 7, shop.show)
    control.do()
    shop.store.leases.release_holds("job")
    shop.renew()
    manifest = shop.variants.make(of, "fp16", "job", 7, shop.show).manifest
    assert [line[1] for line in control.starts] == ["vae", "unet", "unet"]
    assert shop.content(manifest, VAE_FILE) == b"v" * 2000
    assert shop.scraps == []


def test_what_was_done_and_is_gone_is_done_again(shop, control):
    control.do("vae:die")
    shop.renew(workers=1)
    with pytest.raises(WorkerDied):
        shop.make()
    (record,) = shop.store.layout.conversions.iterdir()
    made = json.loads(record.read_bytes())["unet"]["files"]
    for file in made.values():
        shop.store.layout.blob(file["sha256"]).unlink()
    control.do()
    assert shop.content(shop.make().manifest, UNET_FILE) == shop.unet[::2]
    assert [line[1] for line in control.starts] == ["unet", "vae", "unet", "vae"]


def test_record_that_cannot_be_read_costs_time_alone(shop, control):
    control.do("vae:die")
    with pytest.raises(WorkerDied):
        shop.make()
    for record in shop.store.layout.conversions.iterdir():
        record.write_bytes(b"\xff{")
    control.do()
    assert shop.make().state == "made"


def test_record_that_nobody_went_on_with_is_swept(shop, control):
    control.do("vae:die")
    shop.renew(workers=1)
    with pytest.raises(WorkerDied):
        shop.make()
    shop.variants.sweep()
    assert len(shop.scraps) == 1
    (record,) = shop.store.layout.conversions.iterdir()
    shop.clock.now = record.stat().st_mtime + shop.store.config.keep_partial + 1
    shop.variants.sweep()
    assert shop.scraps == []


def test_record_that_goes_while_others_are_swept_is_gone(shop, monkeypatch):
    folder = shop.store.layout.conversions
    names = [folder / f"{digit * 40}.json" for digit in "ab"]
    for path in names:
        path.touch()
    shop.clock.now = names[0].stat().st_mtime + shop.store.config.keep_partial + 1
    listed = list(folder.iterdir())
    names[0].unlink()
    monkeypatch.setattr(type(folder), "iterdir", lambda _: iter(listed))
    shop.variants.sweep()
    monkeypatch.undo()
    assert shop.scraps == []


def test_two_jobs_that_want_one_variant_make_it_once(shop, control):
    control.do("gate-midway")
    made = []
    jobs = [
        threading.Thread(target=lambda n=n: made.append(shop.make(job=f"job{n}"))) for n in (1, 2)
    ]
    for job in jobs:
        job.start()
    shop.show.wait(lambda p: "waits for another job" in p.note)
    control.go()
    for job in jobs:
        job.join()
    assert sorted(one.state for one in made) == ["made", "present"]
    assert len(shop.launcher.children) == 2


def test_base_is_in_use_while_its_variant_is_made(shop, control):
    control.do("gate-midway")
    making = threading.Thread(target=shop.make)
    making.start()
    control.pid(1)
    with pytest.raises(Busy):
        shop.store.remove(shop.repo, COMMIT)
    control.go()
    making.join()
    assert shop.store.leases.holders(shop.repo) == []


def test_components_at_once_are_bounded_in_all_jobs(shop, control):
    shop.renew(workers=1)
    control.do("gate-midway")
    jobs = [threading.Thread(target=shop.make, args=(name, name)) for name in ("fp16", "bf16")]
    for job in jobs:
        job.start()
    control.pid(0)
    shop.show.wait(lambda p: "bf16" in p.note)
    assert len(control.starts) == 1
    control.go()
    for job in jobs:
        job.join()
    assert len(control.starts) == 4


def test_variant_of_a_variant_and_unknown_recipes_are_refused(shop):
    manifest = shop.make().manifest
    with pytest.raises(UsageError, match="variant itself"):
        shop.variants.make(manifest, "bf16", "job", 7, shop.show)
    with pytest.raises(UsageError, match="fp61"):
        shop.make("fp61")
    with pytest.raises(NotFound):
        shop.store.variant(shop.repo, COMMIT, "bf16")
