"""A repository named on the command line ends as verified blobs that every tool can read."""

import hashlib
import json
import os
import stat
import subprocess
import sys

import pytest

from demohub import Hub
from harness.daemon import source

pytestmark = pytest.mark.journey

WEIGHTS = os.urandom(3_000_000)
FILES = {
    "README.md": b"# a model\n",
    "config.json": b'{"a": 1}',
    "unet/model.safetensors": WEIGHTS,
    "unet/config.json": b"{}",
}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_prefetch_brings_verified_read_only_blobs_and_the_view(hub, make_daemon):
    hub.add("org/name", FILES)
    daemon = make_daemon(source(hub)).start()
    result = daemon.json("prefetch", "org/name")
    assert (result["files"], result["bytes"]) == (4, sum(map(len, FILES.values())))
    assert result["bytes_fetched"] == result["bytes"]
    assert result["sources"] == {"hub": result["bytes"]}
    assert result["trust"] == "first-use"
    assert set(daemon.blobs()) == {sha256(content) for content in FILES.values()}
    for name, blob in daemon.blobs().items():
        assert sha256(blob.read_bytes()) == name
        assert stat.S_IMODE(blob.stat().st_mode) & 0o337 == 0
    for path, content in FILES.items():
        with open(os.path.join(result["path"], path), "rb") as stream:
            assert stream.read() == content
    assert daemon.cli("path", "org/name").stdout.strip() == result["path"]


def test_prefetch_again_fetches_nothing(hub, make_daemon):
    hub.add("org/name", FILES)
    daemon = make_daemon(source(hub)).start()
    first = daemon.json("prefetch", "org/name")
    sent = hub.sent("*")
    again = daemon.json("prefetch", "org/name")
    assert again["bytes_fetched"] == 0
    assert again["bytes_reused"] == first["bytes"]
    by_commit = daemon.json("prefetch", "org/name", "--revision", first["commit"])
    assert by_commit["path"] == first["path"]
    assert hub.sent("*") - sent < 1_000


def test_prefetch_of_a_new_commit_fetches_what_changed(hub, make_daemon):
    hub.add("org/name", FILES)
    daemon = make_daemon(source(hub)).start()
    old = daemon.json("prefetch", "org/name")
    hub.update("org/name", {"config.json": b'{"a": 2}'})
    new = daemon.json("prefetch", "org/name")
    assert new["commit"] != old["commit"]
    assert new["bytes_fetched"] == 8
    assert daemon.cli("path", "org/name").stdout.strip() == new["path"]
    assert daemon.cli("path", "org/name", "--revision", old["commit"]).stdout.strip() == old["path"]


def test_same_bytes_under_two_names_on_two_hubs_are_stored_once(make_daemon):
    with Hub(name="hf") as hf, Hub(name="ms") as ms:
        hf.add("org/one", FILES, protocols=["huggingface"])
        ms.add("other/two", FILES, protocols=["modelscope"])
        daemon = make_daemon(source(hf) + source(ms, "modelscope")).start()
        daemon.json("prefetch", "org/one")
        two = daemon.json("prefetch", "other/two")
        assert two["bytes_fetched"] == 0
        assert len(daemon.blobs()) == len(FILES)


def test_two_hubs_that_agree_are_a_quorum(make_daemon):
    with Hub(name="hf") as hf, Hub(name="ms") as ms:
        hf.add("org/name", FILES, protocols=["huggingface"])
        ms.add("org/name", FILES, protocols=["modelscope"])
        daemon = make_daemon(source(hf) + source(ms, "modelscope")).start()
        assert daemon.json("prefetch", "org/name")["trust"] == "quorum"


def test_alias_leads_to_the_repository_under_its_other_name(hub, make_daemon):
    hub.add("stable-diffusion-v1-5/stable-diffusion-v1-5", FILES)
    daemon = make_daemon(source(hub)).start()
    result = daemon.json("prefetch", "runwayml/stable-diffusion-v1-5")
    assert result["repo"] == "runwayml/stable-diffusion-v1-5"


def test_configured_alias_is_used_at_its_kind_of_hub(hub, make_daemon):
    hub.add("hidden/elsewhere", FILES)
    alias = '[alias]\n"org/name" = { huggingface = "hidden/elsewhere" }\n'
    daemon = make_daemon(source(hub) + alias).start()
    assert daemon.json("prefetch", "org/name")["files"] == 4


def test_lock_file_pins_and_refuses_what_differs(hub, make_daemon, tmp_path):
    hub.add("org/name", FILES)
    daemon = make_daemon(source(hub)).start()
    daemon.json("prefetch", "org/name")
    lock = tmp_path / "models.lock"
    lock.write_text(daemon.cli("lock", "org/name").stdout)
    other = make_daemon(source(hub), name="other").start()
    assert other.json("prefetch", "org/name", "--lock", str(lock))["trust"] == "pinned"
    locked = json.loads(lock.read_text())
    for file in locked["repos"][0]["files"]:
        file["sha256"] = "0" * 64
    lock.write_text(json.dumps(locked))
    third = make_daemon(source(hub), name="third").start()
    refused = third.json("prefetch", "org/name", "--lock", str(lock), code=9)
    assert refused["error"]["code"] == "integrity"
    assert third.blobs() == {}


def test_include_and_exclude_choose_and_a_dry_run_fetches_nothing(hub, make_daemon):
    hub.add("org/name", FILES)
    daemon = make_daemon(source(hub)).start()
    plan = daemon.json("prefetch", "org/name", "--dry-run", "--include", "unet/*")
    assert [file["path"] for file in plan["files"]] == [
        "unet/config.json",
        "unet/model.safetensors",
    ]
    assert daemon.blobs() == {}
    result = daemon.json("prefetch", "org/name", "--include", "unet/*", "--exclude", "*.json")
    assert result["files"] == 1
    assert daemon.cli("path", "org/name").returncode == 0


def test_pickle_beside_safetensors_is_left_out_and_alone_is_refused(hub, make_daemon):
    hub.add("org/both", FILES | {"unet/pytorch_model.bin": b"\x80\x02pickle"})
    hub.add("org/only", {"config.json": b"{}", "pytorch_model.bin": b"\x80\x02pickle"})
    daemon = make_daemon(source(hub)).start()
    both = daemon.json("prefetch", "org/both")
    assert "unet/pytorch_model.bin" in both["left_out"]
    assert hub.sent("unet/pytorch_model.bin") == 0
    refused = daemon.json("prefetch", "org/only", code=8)
    assert refused["error"]["code"] == "unsafe_weights"
    assert refused["error"]["hint"]


def test_removed_model_is_freed_by_the_next_collection_at_once(hub, make_daemon):
    hub.add("org/name", FILES)
    daemon = make_daemon(source(hub)).start()
    daemon.json("prefetch", "org/name")
    assert daemon.json("gc")["bytes_freed"] == 0
    daemon.json("rm", "org/name")
    assert daemon.json("gc", "--dry-run")["bytes_freed"] > 0
    assert daemon.blobs()
    daemon.json("gc")
    assert daemon.blobs() == {}
    assert daemon.json("ls")["snapshots"] == []
    assert daemon.json("path", "org/name", code=4)["error"]["code"] == "not_found"


def test_pinned_model_is_not_removed(hub, make_daemon):
    hub.add("org/name", FILES)
    daemon = make_daemon(source(hub)).start()
    daemon.json("prefetch", "org/name")
    daemon.cli("pin", "org/name")
    assert daemon.cli("rm", "org/name", check=False).returncode != 0
    daemon.cli("unpin", "org/name")
    daemon.cli("rm", "org/name")


def test_several_repositories_some_missing_are_partial(hub, make_daemon):
    hub.add("org/name", FILES)
    daemon = make_daemon(source(hub)).start()
    assert daemon.cli("prefetch", "org/name", "org/none", check=False).returncode == 3
    assert daemon.cli("prefetch", "org/none", check=False).returncode == 4


def test_real_clients_load_the_view_offline(hub, make_daemon, pipeline_dir):
    files = {str(p.relative_to(pipeline_dir)): p for p in pipeline_dir.rglob("*") if p.is_file()}
    hub.add("org/pipe", files)
    daemon = make_daemon(source(hub)).start()
    path = daemon.json("prefetch", "org/pipe")["path"]
    script = """
import sys, warnings
from huggingface_hub import scan_cache_dir, snapshot_download
found = snapshot_download("org/pipe", local_files_only=True)
assert found == sys.argv[1], found
scan = scan_cache_dir()
assert not scan.warnings, scan.warnings
assert [r.repo_id for r in scan.repos] == ["org/pipe"]
from diffusers import DiffusionPipeline
from transformers import CLIPTextModel, CLIPTokenizer
CLIPTokenizer.from_pretrained("org/pipe", subfolder="tokenizer")
CLIPTextModel.from_pretrained("org/pipe", subfolder="text_encoder")
pipe = DiffusionPipeline.from_pretrained("org/pipe", torch_dtype="auto")
print(type(pipe).__name__)
import modelscope
modelscope.AutoTokenizer.from_pretrained(sys.argv[1] + "/tokenizer", local_files_only=True)
print("modelscope")
"""
    environ = daemon.environ | {"HF_HUB_CACHE": str(daemon.home / "hub"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script, path], env=environ, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["StableDiffusionPipeline", "modelscope"]


def test_import_of_a_hugging_face_cache_needs_no_network(hub, make_daemon, tmp_path):
    from huggingface_hub import snapshot_download

    hub.add("org/name", FILES)
    commit = os.path.basename(
        snapshot_download("org/name", cache_dir=tmp_path / "cache", endpoint=hub.url)
    )
    with Hub(name="empty") as empty:
        daemon = make_daemon(source(empty)).start()
        daemon.cli("import", str(tmp_path / "cache"))
        shown = daemon.json("show", "org/name")
        assert shown["commit"] == commit
        assert {f["sha256"] for f in shown["files"]} == {sha256(c) for c in FILES.values()}
        assert empty.requests == []


def test_export_gives_a_plain_folder(hub, make_daemon, tmp_path):
    hub.add("org/name", FILES)
    daemon = make_daemon(source(hub)).start()
    daemon.json("prefetch", "org/name")
    daemon.cli("export", "org/name", str(tmp_path / "out"))
    for path, content in FILES.items():
        assert (tmp_path / "out" / path).read_bytes() == content
        assert not (tmp_path / "out" / path).is_symlink()
