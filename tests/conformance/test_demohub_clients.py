"""The real clients of both hubs against the demo hub: what they accept is what it must speak."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import huggingface_hub
import modelscope_hub
import pytest
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub import errors as hf_errors
from modelscope_hub import errors as ms_errors
from modelscope_hub.compat.file_download import model_file_download
from modelscope_hub.compat.snapshot_download import (
    snapshot_download as modelscope_snapshot_download,
)

from demohub import Hub

WEIGHTS = random.Random(3).randbytes(2_000_000)
FILES = {
    "model_index.json": b'{"_class_name": "X"}\n',
    "README.md": "# 模型\n".encode(),
    "unet/config.json": b"{}",
    "unet/diffusion_pytorch_model.safetensors": WEIGHTS,
}
WEIGHTS_PATH = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(autouse=True)
def own_surroundings(monkeypatch, tmp_path):
    """Keeps the clients from the user's tokens and caches, and from any hub but ours."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "modelscope"))
    for name in ("HF_TOKEN", "MODELSCOPE_API_TOKEN", "MODELSCOPE_ENDPOINT", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def huggingface(hub, tmp_path):
    """Options that send huggingface_hub to the hub, anonymously."""
    return {"endpoint": hub.url, "cache_dir": tmp_path / "hf", "token": False}


@pytest.fixture
def modelscope(hub, tmp_path):
    """Options that send modelscope to the hub, anonymously."""
    return {"endpoint": hub.url, "cache_dir": str(tmp_path / "ms"), "token": ""}


def contents(folder: str | Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in Path(folder).rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


# huggingface_hub


def test_huggingface_snapshot_is_whole_and_takes_the_known_requests(hub, huggingface):
    repo = hub.add("o/n", FILES)
    folder = snapshot_download("o/n", **huggingface)
    assert contents(folder) == FILES
    assert Path(folder).name == repo.commit
    assert Counter(request.method for request in hub.requests) == {"GET": 2 + 4, "HEAD": 4}


def test_huggingface_warm_snapshot_asks_once(hub, huggingface):
    hub.add("o/n", FILES)
    snapshot_download("o/n", **huggingface)
    hub.clear_log()
    snapshot_download("o/n", **huggingface)
    assert len(hub.requests) == 1


def test_huggingface_follows_lfs_to_the_data_hub_without_its_token(hub, huggingface):
    with Hub(name="cdn") as cdn:
        hub.add("o/n", FILES, data_hub=cdn, private=True, token="secret")
        folder = snapshot_download("o/n", **huggingface | {"token": "secret"})
        assert contents(folder) == FILES
        assert hub.sent(WEIGHTS_PATH) == 0
        assert cdn.sent(WEIGHTS_PATH) == len(WEIGHTS)
        assert all("authorization" in request.headers for request in hub.requests)
        assert not any("authorization" in request.headers for request in cdn.requests)


@pytest.mark.parametrize("revision", ["refs/pr/1", "v1", "commit"])
def test_huggingface_finds_revisions(hub, huggingface, revision):
    repo = hub.add("o/n", FILES)
    first = repo.commit
    repo.point("refs/pr/1")
    repo.point("v1", tag=True)
    hub.update("o/n", {"README.md": b"new"})
    asked = first if revision == "commit" else revision
    path = hf_hub_download("o/n", "README.md", revision=asked, **huggingface)
    assert Path(path).read_bytes() == FILES["README.md"]


def test_huggingface_api_reads_info_refs_paths_and_pages():
    with Hub(page_size=2) as hub:
        repo = hub.add("o/n", FILES)
        repo.point("v1", tag=True)
        api = HfApi(hub.url, token=False)
        info = api.model_info("o/n", files_metadata=True)
        sizes = {sibling.rfilename: sibling.size for sibling in info.siblings}
        assert (info.sha, sizes) == (repo.commit, {p: len(FILES[p]) for p in FILES})
        assert [tag.name for tag in api.list_repo_refs("o/n").tags] == ["v1"]
        (weights,) = api.get_paths_info("o/n", [WEIGHTS_PATH])
        assert weights.lfs.sha256 == repo.files[WEIGHTS_PATH].sha256
        tree = [entry.path for entry in api.list_repo_tree("o/n", recursive=True)]
        assert sorted(tree) == sorted([*FILES, "unet"])


def test_huggingface_follows_a_renamed_repository(hub, huggingface):
    hub.add("o/old", FILES)
    hub.rename("o/old", "o/new")
    assert contents(snapshot_download("o/old", **huggingface)) == FILES


def test_huggingface_reads_gzip_text(hub, huggingface):
    hub.add("o/n", FILES)
    hub.fault("gzip", path="README.md")
    path = hf_hub_download("o/n", "README.md", **huggingface)
    assert Path(path).read_bytes() == FILES["README.md"]


def test_huggingface_resumes_within_a_call_after_a_cut(hub, huggingface):
    content = WEIGHTS * 7
    hub.add("o/n", {"w.safetensors": content})
    hub.fault("cut", at=11 << 20, times=1)
    path = hf_hub_download("o/n", "w.safetensors", **huggingface)
    assert Path(path).read_bytes() == content
    ranges = [r.range for r in hub.requests if r.plane == "bytes"]
    assert ranges == [None, f"bytes={10 << 20}-"]


def test_huggingface_accepts_zeros_of_the_right_length(hub, huggingface):
    """It verifies sizes only; this is why zhcache has to verify digests."""
    hub.add("o/n", FILES)
    hub.fault("zeros", path=WEIGHTS_PATH)
    path = hf_hub_download("o/n", WEIGHTS_PATH, **huggingface)
    assert Path(path).read_bytes() == bytes(len(WEIGHTS))


@pytest.mark.parametrize(
    ("repo", "options", "error"),
    [
        ("o/none", {}, hf_errors.RepositoryNotFoundError),
        ("o/n", {"revision": "none"}, hf_errors.RevisionNotFoundError),
        ("o/private", {}, hf_errors.RepositoryNotFoundError),
        ("o/private", {"token": "else"}, hf_errors.RepositoryNotFoundError),
        ("o/gated", {}, hf_errors.GatedRepoError),
        ("o/gated", {"token": "else"}, hf_errors.GatedRepoError),
        ("o/disabled", {}, hf_errors.DisabledRepoError),
    ],
)
def test_huggingface_maps_refusals_to_its_errors(hub, huggingface, repo, options, error):
    hub.add("o/n", FILES)
    hub.add("o/private", FILES, private=True, token="secret")
    hub.add("o/gated", FILES, gated=True, token="secret")
    hub.add("o/disabled", FILES, disabled=True)
    hub.tokens.add("else")
    # A refused HEAD may be told as LocalEntryNotFoundError, the refusal being its cause.
    with pytest.raises((error, hf_errors.LocalEntryNotFoundError)) as raised:
        hf_hub_download(repo, "README.md", **huggingface | options)
    assert isinstance(raised.value, error) or isinstance(raised.value.__cause__, error)


def test_huggingface_tells_a_missing_file_from_a_missing_repository(hub, huggingface):
    hub.add("o/n", FILES)
    with pytest.raises(hf_errors.RemoteEntryNotFoundError):
        hf_hub_download("o/n", "none.json", **huggingface)


@pytest.mark.parametrize("gated", [True, "listing"])
def test_huggingface_opens_a_gate_with_its_token(hub, huggingface, gated):
    hub.add("o/n", FILES, gated=gated, token="secret")
    with pytest.raises(hf_errors.GatedRepoError):
        HfApi(hub.url, token=False).get_hf_file_metadata(
            url=f"{hub.url}/o/n/resolve/main/README.md"
        )
    assert contents(snapshot_download("o/n", **huggingface | {"token": "secret"})) == FILES


# modelscope


def test_modelscope_snapshot_is_whole(hub, modelscope):
    hub.add("o/n", FILES)
    assert contents(modelscope_snapshot_download("o/n", **modelscope)) == FILES


def test_modelscope_follows_lfs_to_the_data_hub(hub, modelscope):
    with Hub(name="cdn") as cdn:
        hub.add("o/n", FILES, data_hub=cdn)
        assert contents(modelscope_snapshot_download("o/n", **modelscope)) == FILES
        assert (hub.sent(WEIGHTS_PATH), cdn.sent(WEIGHTS_PATH)) == (0, len(WEIGHTS))


def test_modelscope_finds_a_tag(hub, modelscope):
    hub.add("o/n", FILES).point("v1", tag=True)
    hub.update("o/n", {"README.md": b"new"})
    path = model_file_download("o/n", "README.md", "v1", **modelscope)
    assert Path(path).read_bytes() == FILES["README.md"]


def test_modelscope_resumes_at_the_byte_from_a_200_with_content_range(hub, modelscope):
    hub.add("o/n", FILES)
    hub.fault("cut", path=WEIGHTS_PATH, at=1_000_001, times=1)
    path = model_file_download("o/n", WEIGHTS_PATH, **modelscope)
    assert Path(path).read_bytes() == WEIGHTS
    asked = [(r.range, r.status) for r in hub.requests if r.file == WEIGHTS_PATH]
    assert asked == [(None, 200), ("bytes=1000001-", 200)]


def test_modelscope_fetches_again_what_has_the_wrong_hash(hub, modelscope):
    hub.add("o/n", FILES)
    fault = hub.fault("corrupt", path=WEIGHTS_PATH, offset=1_500_000, times=1)
    folder = modelscope_snapshot_download("o/n", **modelscope)
    assert contents(folder) == FILES
    assert fault.applied == 1


def test_modelscope_walks_a_listing_that_is_cut(hub, modelscope):
    files = {f"{n // 1200}/{n}.txt": b"" for n in range(3600)}
    hub.add("o/n", files)
    api = modelscope_hub.HubApi(endpoint=hub.url, token="")
    listed = {entry.path for entry in api.list_repo_files("o/n", repo_type="model")}
    assert files.keys() <= listed


@pytest.mark.parametrize(
    ("repo", "options", "error"),
    [
        ("o/none", {}, ms_errors.NotExistError),
        ("o/n", {"revision": "none"}, ms_errors.NotExistError),
        ("o/private", {}, ms_errors.NotExistError),
        ("o/gated", {}, ms_errors.PermissionDeniedError),
        ("o/gated", {"token": "wrong"}, ms_errors.AuthenticationError),
    ],
)
def test_modelscope_maps_refusals_to_its_errors(hub, tmp_path, repo, options, error):
    hub.add("o/n", FILES)
    hub.add("o/private", FILES, private=True, token="secret")
    hub.add("o/gated", FILES, gated=True, token="secret")
    api = modelscope_hub.HubApi(endpoint=hub.url, token=options.get("token", ""))
    with pytest.raises(error):
        api.download_file(
            repo, "model", "README.md", revision=options.get("revision"), cache_dir=tmp_path
        )


def test_modelscope_opens_a_private_repository_with_its_token(hub, modelscope):
    hub.add("o/n", FILES, private=True, token="secret")
    folder = modelscope_snapshot_download("o/n", **modelscope | {"token": "secret"})
    assert contents(folder) == FILES
