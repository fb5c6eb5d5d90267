"""The ModelScope client against a gateway that asks for a token, over sources of both kinds."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import modelscope_hub
import pytest
import requests
from modelscope_hub import errors as ms_errors
from modelscope_hub.compat.file_download import model_file_download
from modelscope_hub.compat.snapshot_download import snapshot_download

from demohub import Hub
from harness.daemon import source
from harness.gatewaysite import Site, ask, contents, site

pytestmark = pytest.mark.journey

WEIGHTS_PATH = "unet/diffusion_pytorch_model.safetensors"
WEIGHTS = os.urandom(1_200_000)
FILES = {
    "configuration.json": b'{"framework": "pytorch"}\n',
    "README.md": "# 模型\n".encode(),
    "unet/config.json": b"{}",
    WEIGHTS_PATH: WEIGHTS,
}
FRESH = '[serve]\nrefresh = "0s"\n'
TOKEN = "ms-0123456789"


@pytest.fixture(scope="module")
def other():
    """A ModelScope, beside the hub of the other kind."""
    with Hub(name="ms") as started:
        yield started


@pytest.fixture(scope="module")
def gateway(tmp_path_factory, other):
    folder = tmp_path_factory.mktemp("gateway")
    token_file = folder / "token"
    token_file.write_text(TOKEN)
    config = FRESH + source(other, "modelscope")
    with site(folder, config, "--token-file", str(token_file)) as started:
        yield started


@pytest.fixture(autouse=True)
def own_surroundings(monkeypatch, tmp_path):
    """Keeps the client from the user's token and caches."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "modelscope"))
    for name in ("MODELSCOPE_API_TOKEN", "MODELSCOPE_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def client(gateway: Site, tmp_path):
    """Options that send modelscope to the gateway, with its token and a cache of its own."""
    return {"endpoint": gateway.url, "cache_dir": str(tmp_path / "ms"), "token": TOKEN}


def test_snapshot_of_a_hugging_face_hub_comes_whole_and_once(gateway, client, tmp_path):
    gateway.hub.add("ms/cold", FILES, protocols=["huggingface"])
    assert contents(snapshot_download("ms/cold", **client)) == FILES
    total = sum(map(len, FILES.values()))
    assert gateway.hub.sent(repo="ms/cold") == total
    again = snapshot_download("ms/cold", **client | {"cache_dir": str(tmp_path / "other")})
    assert contents(again) == FILES
    assert gateway.hub.sent(repo="ms/cold") == total


def test_every_file_is_listed_with_its_sha256(gateway):
    gateway.hub.add("ms/digests", FILES, protocols=["huggingface"])
    api = modelscope_hub.HubApi(endpoint=gateway.url, token=TOKEN)
    listed = api.legacy.list_repo_files("ms/digests", "model")
    told = {entry["Path"]: entry["Sha256"] for entry in listed if entry["Type"] == "blob"}
    assert told == {path: hashlib.sha256(content).hexdigest() for path, content in FILES.items()}
    sizes = {entry["Path"]: entry["Size"] for entry in listed if entry["Type"] == "blob"}
    assert sizes == {path: len(content) for path, content in FILES.items()}


def test_a_file_of_another_content_and_the_same_size_is_fetched_anew(gateway, client):
    gateway.hub.add("ms/moves", FILES, protocols=["huggingface"])
    snapshot_download("ms/moves", **client)
    gateway.hub.update("ms/moves", {"unet/config.json": b"[]"})
    folder = Path(snapshot_download("ms/moves", **client))
    assert (folder / "unet/config.json").read_bytes() == b"[]"


def test_twenty_cold_clients_cost_the_hub_one_download(gateway, client, tmp_path):
    content = os.urandom(2_000_000)
    gateway.hub.add("ms/crowd", {"w.safetensors": content}, protocols=["huggingface"])
    fault = gateway.hub.fault("rate", repo="ms/crowd", rate=6_000_000)

    def fetch(number: int) -> bytes:
        own = client | {"cache_dir": str(tmp_path / str(number))}
        return Path(model_file_download("ms/crowd", "w.safetensors", **own)).read_bytes()

    with ThreadPoolExecutor(20) as pool:
        came = list(pool.map(fetch, range(20)))
    gateway.hub.heal(fault)
    assert came == [content] * 20
    assert gateway.hub.sent(repo="ms/crowd") == len(content)


def test_what_a_killed_client_left_is_resumed_at_the_byte(gateway, client):
    gateway.hub.add("ms/resume", FILES, protocols=["huggingface"])
    path = Path(model_file_download("ms/resume", WEIGHTS_PATH, **client))
    # What a client that was killed leaves: the beginning, under the name it looks for.
    path.unlink()
    partial = path.with_name(f"{path.name}.incomplete")
    partial.write_bytes(WEIGHTS[:700_001])
    assert Path(model_file_download("ms/resume", WEIGHTS_PATH, **client)).read_bytes() == WEIGHTS
    url = f"{gateway.url}/models/ms/resume/resolve/master/{WEIGHTS_PATH}"
    answer = ask(url, Range="bytes=700001-", Authorization=f"Bearer {TOKEN}")
    assert (answer.status, answer.body) == (206, WEIGHTS[700_001:])
    total = len(WEIGHTS)
    assert answer.headers["content-range"] == f"bytes 700001-{total - 1}/{total}"


def test_tags_and_branches_are_found(gateway, client):
    gateway.hub.add("ms/tag", FILES, protocols=["huggingface"]).point("v1", tag=True)
    gateway.hub.update("ms/tag", {"README.md": b"new"})
    path = model_file_download("ms/tag", "README.md", "v1", **client)
    assert Path(path).read_bytes() == FILES["README.md"]
    for branch in (None, "master", "main"):
        path = model_file_download("ms/tag", "README.md", branch, **client)
        assert Path(path).read_bytes() == b"new"
    api = modelscope_hub.HubApi(endpoint=gateway.url, token=TOKEN)
    assert "master" in [entry["Revision"] for entry in api.list_repo_revisions("ms/tag", "model")]
    assert api.repo_exists("ms/tag", "model")
    assert not api.repo_exists("ms/none", "model")


@pytest.mark.parametrize(
    ("repo", "options", "error"),
    [
        ("ms/none", {}, ms_errors.NotExistError),
        ("ms/there", {"revision": "none"}, ms_errors.NotExistError),
        ("ms/there", {"file_path": "none.json"}, ms_errors.NotExistError),
        ("ms/private", {}, ms_errors.NotExistError),
        ("ms/gated", {}, ms_errors.PermissionDeniedError),
    ],
)
def test_refusals_are_errors_that_the_client_knows(gateway, tmp_path, repo, options, error):
    gateway.hub.add("ms/there", FILES)
    gateway.hub.add("ms/private", FILES, private=True, token="secret")
    gateway.hub.add("ms/gated", FILES, gated=True, token="secret")
    api = modelscope_hub.HubApi(endpoint=gateway.url, token=TOKEN)
    asked = {"file_path": "README.md", "revision": None} | options
    with pytest.raises(error):
        api.download_file(repo, "model", cache_dir=tmp_path, **asked)


def test_a_listing_of_more_than_the_hub_would_show_is_whole(gateway):
    files = {f"{n // 1600}/{n}.txt": b"" for n in range(3200)}
    gateway.hub.add("ms/large", files, protocols=["huggingface"])
    api = modelscope_hub.HubApi(endpoint=gateway.url, token=TOKEN)
    assert files.keys() <= {e.path for e in api.list_repo_files("ms/large", repo_type="model")}


def test_offline_what_is_here_is_served(gateway, client, tmp_path):
    gateway.hub.add("ms/offline", FILES, protocols=["huggingface"])
    snapshot_download("ms/offline", **client)
    gateway.hub.stop()
    try:
        fresh = client | {"cache_dir": str(tmp_path / "fresh")}
        assert contents(snapshot_download("ms/offline", **fresh)) == FILES
    finally:
        gateway.hub.start()


def test_a_modelscope_behind_the_gateway_serves_clients_of_both_kinds(
    gateway, other, client, tmp_path
):
    from huggingface_hub import snapshot_download as from_huggingface

    files = FILES | {WEIGHTS_PATH: os.urandom(300_000), "README.md": b"of ModelScope"}
    other.add("ms/only", files, protocols=["modelscope"])
    assert contents(snapshot_download("ms/only", **client)) == files
    options = {"endpoint": gateway.url, "cache_dir": tmp_path / "hf", "token": TOKEN}
    folder = Path(from_huggingface("ms/only", **options))
    assert contents(folder) == files
    assert other.sent(WEIGHTS_PATH, "ms/only") == 300_000
    name = (folder / "README.md").resolve().name
    assert name == hashlib.sha256(b"of ModelScope").hexdigest()


@pytest.mark.parametrize("token", ["", "wrong"])
def test_without_the_token_neither_client_gets_anything(gateway, client, tmp_path, token):
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    gateway.hub.add("ms/closed", FILES)
    asked = len(gateway.hub.requests)
    with pytest.raises(requests.HTTPError, match="asks for a token"):
        snapshot_download("ms/closed", **client | {"token": token})
    options = {"endpoint": gateway.url, "cache_dir": tmp_path / "hf", "token": token or False}
    with pytest.raises(HfHubHTTPError, match="asks for a token"):
        hf_hub_download("ms/closed", "README.md", **options)
    assert len(gateway.hub.requests) == asked


def test_the_gateways_token_goes_no_further(gateway, other, client):
    gateway.hub.add("ms/token", FILES)
    snapshot_download("ms/token", **client)
    for request in (*gateway.hub.requests, *other.requests):
        assert not any(TOKEN in value for value in request.headers.values())
