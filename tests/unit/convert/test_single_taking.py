"""Checkpoints taken in by workers that keep to what was agreed, and by ones that do not."""

import contextlib
import hashlib
import json
import os

import pytest

from harness import singlekit
from harness.singlekit import BASE, PREFIXES, Office, tensors, write
from harness.storekit import open_store
from zhcache.errors import Cancelled, IntegrityError, NotFound, UsageError, WorkerDied
from zhcache.protocol import frames
from zhcache.protocol.failure import to_info
from zhcache.protocol.names import parse_repo
from zhcache.protocol.residency import Failed

INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
FILES = {
    "model_index.json": json.dumps(INDEX).encode(),
    "scheduler/scheduler_config.json": b"{}",
    "text_encoder/config.json": b'{"a": 1}',
    "unet/config.json": b'{"b": 1}',
    "unet/diffusion_pytorch_model.safetensors": b"the base's own",
    "vae/config.json": b'{"c": 1}',
}
WEIGHTS = {
    "unet/diffusion_pytorch_model.safetensors": PREFIXES[0],
    "vae/diffusion_pytorch_model.safetensors": PREFIXES[1],
    "text_encoder/model.safetensors": PREFIXES[2],
}
REPO = parse_repo("local/a")


@pytest.fixture
def office(tmp_path, clock):
    with contextlib.closing(open_store(tmp_path / "store", clock)) as store:
        yield Office(store, clock, FILES)


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / "a.safetensors", tensors())


def nothing_is_left(office):
    assert office.scraps == []
    with pytest.raises(NotFound):
        office.store.resolve(REPO, None)


def test_snapshot_has_what_workers_sent_and_the_small_files_of_the_base(office, file):
    taken = office.take(file)
    manifest = taken.manifest
    assert (taken.is_new, taken.warnings) == (True, [])
    for path, prefix in WEIGHTS.items():
        assert office.content(manifest, path) == singlekit.wanted(file, prefix)
    small = {path for path in FILES if path.endswith("config.json")}
    for path in small:
        assert office.content(manifest, path) == FILES[path]
    assert {f.path for f in manifest.files} == {
        *WEIGHTS,
        *small,
        "model_index.json",
        "zhcache-checkpoint.json",
    }
    index = json.loads(office.content(manifest, "model_index.json"))
    assert index["safety_checker"] == [None, None]
    assert (manifest.source, manifest.uid, manifest.trust) == ("import", 7, "first-use")
    assert manifest.complete
    assert office.store.resolve(REPO, "main").commit == manifest.commit
    assert office.scraps == []


def test_records_tell_of_what_it_was_made(office, file):
    manifest = office.take(file).manifest
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    for made in manifest.files:
        origin = made.converted_from
        assert (origin is not None) == (made.path in WEIGHTS)
        if origin is not None:
            told = (origin.path, origin.size, origin.sha256)
            assert told == (file.name, file.stat().st_size, sha256)
    record = json.loads(office.content(manifest, "zhcache-checkpoint.json"))
    assert record["sha256"] == sha256
    assert (record["like"], record["tools"]) == (BASE, {"stand-in": "1"})
    assert record["kind"] == "Stable Diffusion 1"


def test_a_lock_names_what_the_snapshot_has(office, file):
    manifest = office.take(file).manifest
    (locked,) = office.store.lock_file(["local/a"]).repos
    assert {f.path: f.sha256 for f in locked.files} == {f.path: f.sha256 for f in manifest.files}


def test_workers_get_a_descriptor_that_cannot_write(office, file):
    modes = []

    def act(line, request, fd):
        with pytest.raises(OSError):
            os.pwrite(fd, b"x", 0)
        modes.append(request.component)
        singlekit.send(line, request, fd)

    office.workers.act = act
    office.take(file)
    assert sorted(modes) == ["text_encoder", "unet", "vae"]


def test_the_same_file_again_is_no_work(office, file, tmp_path):
    first = office.take(file)
    fetched, asked = len(office.fetched), len(office.workers.asked)
    again = office.take(file)
    assert (again.is_new, again.manifest.commit) == (False, first.manifest.commit)
    renamed = file.rename(tmp_path / "b.safetensors")
    assert not office.take(renamed).is_new
    assert (len(office.fetched), len(office.workers.asked)) == (fetched, asked)


def test_the_same_bytes_elsewhere_have_the_same_commit(office, file):
    first = office.take(file).manifest
    assert office.take(file, repo="local/b").manifest.commit == first.commit


@pytest.mark.parametrize("asked", [{}, {"replace": True, "uid": 8}])
def test_a_name_that_is_taken_is_not_given_away(office, file, tmp_path, asked):
    first = office.take(file)
    other = write(tmp_path / "other.safetensors", tensors(b"b"))
    with pytest.raises(UsageError, match="local/a is here already") as refused:
        office.take(other, **asked)
    assert "--repo" in refused.value.hint
    assert office.store.resolve(REPO, None).commit == first.manifest.commit


def test_a_name_like_another_model_is_taken_too(office, file):
    office.take(file)
    with pytest.raises(UsageError, match="is here already"):
        office.take(file, like="demo/other")


def test_a_file_that_was_written_anew_may_take_its_own_place(office, file):
    first = office.take(file)
    write(file, tensors(b"b"))
    second = office.take(file, replace=True)
    assert second.manifest.commit != first.manifest.commit
    assert office.store.resolve(REPO, None).commit == second.manifest.commit


def die_midway(line, request, fd):
    singlekit.begin(line, request, b"some")


def fail(line, request, fd):
    frames.send(line, Failed(error=to_info(UsageError("it does not fit"))))


def lie(line, request, fd):
    singlekit.begin(line, request, b"some")
    request = type(request)(**{**_fields(request), "bytes": 4})
    frames.send(line, singlekit.End(path=request.output, tensors=[]))


def _fields(request):
    return {name: getattr(request, name) for name in type(request).__struct_fields__}


@pytest.mark.parametrize(
    ("act", "error"), [(die_midway, WorkerDied), (fail, UsageError), (lie, WorkerDied)]
)
def test_a_worker_that_fails_leaves_nothing(office, file, act, error):
    office.workers.act = act
    with pytest.raises(error):
        office.take(file)
    nothing_is_left(office)
    office.workers.act = singlekit.send
    assert office.take(file).is_new


def test_a_file_that_changes_meanwhile_is_not_taken(office, file):
    def act(line, request, fd):
        singlekit.send(line, request, fd)
        with file.open("ab") as target:
            target.write(b"more")

    office.workers.act = act
    with pytest.raises(UsageError, match="changed while it was read"):
        office.take(file)
    nothing_is_left(office)


def test_a_file_that_was_cut_starts_no_worker(office, file):
    os.truncate(file, file.stat().st_size - 1)
    with pytest.raises(IntegrityError, match="it was cut"):
        office.take(file)
    assert (office.workers.asked, office.fetched) == ([], [])
    nothing_is_left(office)


def test_a_job_that_is_cancelled_leaves_nothing(office, file):
    office.show.error = Cancelled("the job was cancelled")
    with pytest.raises(Cancelled):
        office.take(file)
    nothing_is_left(office)


def test_what_was_damaged_since_is_made_again(office, file):
    first = office.take(file).manifest
    path = office.store.layout.blob(
        next(f.sha256 for f in first.files if f.path.startswith("unet/diff"))
    )
    path.unlink()
    office.store.checks.verify(None, lambda _: None)
    with pytest.raises(IntegrityError):
        office.store.resolve(REPO, None)
    again = office.take(file)
    assert (again.is_new, again.manifest.commit) == (True, first.commit)
    assert office.store.resolve(REPO, None).commit == first.commit


def test_what_is_doubtful_is_told(office, tmp_path):
    office.workers.act = lambda line, request, fd: singlekit.send(line, request, fd, nan=3)
    odd = write(tmp_path / "odd.safetensors", {**tensors(), "stray": ((2,), b"ab")})
    warnings = office.take(odd).warnings
    assert any("3 values of unet are NaN" in warning for warning in warnings)
    assert any("1 tensors belong to no component" in w and "'stray'" in w for w in warnings)
