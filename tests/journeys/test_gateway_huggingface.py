"""huggingface_hub against the gateway, which must look like the hub to it."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import HfApi, HfFileSystem, constants, hf_hub_download, snapshot_download
from huggingface_hub import errors as hf_errors
from huggingface_hub.utils import get_session

from harness.gatewaysite import Site, ask, contents, site

pytestmark = pytest.mark.journey

WEIGHTS_PATH = "unet/diffusion_pytorch_model.safetensors"
WEIGHTS = os.urandom(1_500_000)
FILES = {
    "model_index.json": b'{"_class_name": "X"}\n',
    "README.md": "# 模型\n".encode(),
    "unet/config.json": b"{}",
    WEIGHTS_PATH: WEIGHTS,
}
CLIENTS = 20


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    with site(tmp_path_factory.mktemp("gateway"), "[download]\nretries = 1\n") as started:
        yield started


@pytest.fixture(autouse=True)
def own_surroundings(monkeypatch, tmp_path):
    """Keeps the client from the user's token and caches."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("HF_TOKEN", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def client(gateway: Site, tmp_path):
    """Options that send huggingface_hub to the gateway, anonymously, with a cache of its own."""
    return {"endpoint": gateway.url, "cache_dir": tmp_path / "hf", "token": False}


def test_snapshot_comes_whole_and_the_hub_sends_it_once(gateway, client, tmp_path):
    repo = gateway.hub.add("hf/cold", FILES)
    folder = snapshot_download("hf/cold", **client)
    assert contents(folder) == FILES
    assert Path(folder).name == repo.commit
    total = sum(map(len, FILES.values()))
    assert gateway.hub.sent(repo="hf/cold") == total
    again = snapshot_download("hf/cold", **client | {"cache_dir": tmp_path / "other"})
    assert contents(again) == FILES
    assert gateway.hub.sent(repo="hf/cold") == total
    assert gateway.daemon.json("ls")["snapshots"][0]["repo"] == "hf/cold"


def test_blobs_of_the_clients_cache_are_named_as_the_hub_names_them(gateway, client):
    gateway.hub.add("hf/names", FILES)
    folder = Path(snapshot_download("hf/names", **client))
    weights, text = folder / WEIGHTS_PATH, FILES["README.md"]
    assert weights.resolve().name == hashlib.sha256(WEIGHTS).hexdigest()
    git = hashlib.sha1(b"blob %d\0%s" % (len(text), text)).hexdigest()
    assert (folder / "README.md").resolve().name == git
    verified = HfApi(gateway.url, token=False).verify_repo_checksums(
        "hf/names", cache_dir=client["cache_dir"]
    )
    assert (verified.checked_count, verified.mismatches) == (len(FILES), [])


def test_twenty_cold_clients_cost_the_hub_one_download(gateway, client, tmp_path):
    content = os.urandom(3_000_000)
    gateway.hub.add("hf/crowd", {"w.safetensors": content})
    fault = gateway.hub.fault("rate", repo="hf/crowd", rate=6_000_000)

    def fetch(number: int) -> bytes:
        own = client | {"cache_dir": tmp_path / str(number)}
        return Path(hf_hub_download("hf/crowd", "w.safetensors", **own)).read_bytes()

    with ThreadPoolExecutor(CLIENTS) as pool:
        came = list(pool.map(fetch, range(CLIENTS)))
    gateway.hub.heal(fault)
    assert came == [content] * CLIENTS
    assert gateway.hub.sent(repo="hf/crowd") == len(content)


def test_bytes_that_the_hub_sent_wrong_never_make_a_file(gateway, client):
    content = os.urandom(2_000_000)
    gateway.hub.add("hf/wrong", {"w.safetensors": content})
    fault = gateway.hub.fault("corrupt", repo="hf/wrong", offset=1_000_000, times=1)
    # The client checks sizes alone; it was given a part, is cut, and is then given the whole anew.
    path = hf_hub_download("hf/wrong", "w.safetensors", **client)
    assert fault.applied == 1
    assert Path(path).read_bytes() == content


@pytest.mark.parametrize("revision", ["refs/pr/1", "v1", "commit"])
def test_revisions_of_every_kind_are_found(gateway, client, revision):
    name = f"hf/rev-{revision.replace('/', '-')}"
    repo = gateway.hub.add(name, FILES)
    first = repo.commit
    repo.point("refs/pr/1")
    repo.point("v1", tag=True)
    gateway.hub.update(name, {"README.md": b"new"})
    asked = first if revision == "commit" else revision
    path = hf_hub_download(name, "README.md", revision=asked, **client)
    assert Path(path).read_bytes() == FILES["README.md"]
    assert Path(hf_hub_download(name, "README.md", **client)).read_bytes() == b"new"


def test_repositories_of_one_part_and_aliases_are_found(gateway, client):
    gateway.hub.add("gpt2", FILES)
    assert contents(snapshot_download("gpt2", **client)) == FILES
    gateway.hub.add("stable-diffusion-v1-5/stable-diffusion-v1-5", FILES)
    path = hf_hub_download("runwayml/stable-diffusion-v1-5", "README.md", **client)
    assert Path(path).read_bytes() == FILES["README.md"]


def test_api_tells_of_files_as_the_hub_does(gateway):
    gateway.hub.add("hf/api", FILES)
    ours, theirs = HfApi(gateway.url, token=False), HfApi(gateway.hub.url, token=False)

    def told(api: HfApi) -> object:
        info = api.model_info("hf/api", files_metadata=True)
        tree = api.list_repo_tree("hf/api", recursive=True)
        (weights,) = api.get_paths_info("hf/api", [WEIGHTS_PATH, "none"])
        sizes = {s.rfilename: (s.size, s.blob_id) for s in info.siblings or []}
        entries = {entry.path: getattr(entry, "blob_id", None) for entry in tree}
        below = {entry.path for entry in api.list_repo_tree("hf/api", "unet")}
        return info.id, info.sha, sizes, entries, weights.lfs, below

    ids = {WEIGHTS_PATH}
    for mine, hubs in zip(told(ours), told(theirs), strict=True):
        if isinstance(mine, dict):
            # The demo hub gives the id of what it holds, not of the pointer.
            mine = {path: value for path, value in mine.items() if path not in ids}
            hubs = {path: value for path, value in hubs.items() if path not in ids}
        assert mine == hubs
    assert ours.file_exists("hf/api", "README.md")
    assert not ours.file_exists("hf/api", "none")
    assert not ours.repo_exists("hf/none")
    refs = ours.list_repo_refs("hf/api")
    assert [branch.name for branch in refs.branches] == ["main"]


def test_filesystem_interface_lists_and_reads_parts(gateway):
    gateway.hub.add("hf/fs", FILES)
    fs = HfFileSystem(endpoint=gateway.url, token=False)
    assert fs.glob("hf/fs/**/*.safetensors") == [f"hf/fs/{WEIGHTS_PATH}"]
    assert fs.info(f"hf/fs/{WEIGHTS_PATH}")["size"] == len(WEIGHTS)
    assert fs.read_bytes(f"hf/fs/{WEIGHTS_PATH}", start=1000, end=3000) == WEIGHTS[1000:3000]


def test_tree_comes_in_pages_that_the_client_follows(gateway):
    files = {f"{n % 7}/{n}.txt": b"%d" % n for n in range(1200)}
    gateway.hub.add("hf/pages", files)
    tree = HfApi(gateway.url, token=False).list_repo_tree("hf/pages", recursive=True)
    assert {entry.path for entry in tree} == files.keys() | {str(n) for n in range(7)}


@pytest.mark.parametrize(
    ("repo", "options", "error", "telling"),
    [
        ("hf/none", {}, hf_errors.RepositoryNotFoundError, "hf/none"),
        ("no--name", {}, hf_errors.RepositoryNotFoundError, ""),
        ("hf/there", {"revision": "none"}, hf_errors.RevisionNotFoundError, "none"),
        ("hf/there", {"filename": "none.json"}, hf_errors.EntryNotFoundError, "none.json"),
        ("hf/gated", {}, hf_errors.GatedRepoError, "hf/gated"),
        ("hf/private", {}, hf_errors.RepositoryNotFoundError, "hf/private"),
        ("hf/pickled", {"filename": "pytorch_model.bin"}, hf_errors.EntryNotFoundError, "pickle"),
    ],
)
def test_refusals_are_errors_that_the_client_knows(gateway, client, repo, options, error, telling):
    hub = gateway.hub
    hub.add("hf/there", FILES)
    hub.add("hf/gated", FILES, gated=True, token="secret")
    hub.add("hf/private", FILES, private=True, token="secret")
    hub.add("hf/pickled", FILES | {"pytorch_model.bin": b"p" * 100})
    asked = {"filename": "README.md"} | options
    # The client itself refuses such a name; others do not.
    if repo == "no--name":
        answer = ask(gateway.file_url(repo, "README.md"))
        assert (answer.status, answer.headers["x-error-code"]) == (404, "RepoNotFound")
        return
    with pytest.raises(error) as caught:
        hf_hub_download(repo, **asked, **client)
    assert telling in str(caught.value)


def test_what_was_taken_down_is_told_as_such(gateway):
    gateway.hub.add("hf/gone", FILES, disabled=True)
    with pytest.raises(hf_errors.DisabledRepoError):
        HfApi(gateway.url, token=False).model_info("hf/gone")


def test_pickles_are_not_listed(gateway, client):
    gateway.hub.add("hf/both", FILES | {"unet/diffusion_pytorch_model.bin": b"p" * 100})
    assert contents(snapshot_download("hf/both", **client)) == FILES


def test_a_missing_file_is_remembered_by_the_client_and_a_withheld_one_is_not(gateway, client):
    gateway.hub.add("hf/absent", FILES | {"pytorch_model.bin": b"p" * 100})
    for path in ("none.json", "pytorch_model.bin"):
        with pytest.raises(hf_errors.EntryNotFoundError):
            hf_hub_download("hf/absent", path, **client)
    remembered = [path.name for path in client["cache_dir"].rglob(".no_exist/*/*")]
    assert remembered == ["none.json"]


def test_other_kinds_of_repositories_and_accounts_are_refused_in_words(gateway, client):
    with pytest.raises(hf_errors.RepositoryNotFoundError, match="serves models"):
        hf_hub_download("hf/data", "a.csv", repo_type="dataset", **client)
    with pytest.raises(hf_errors.RepositoryNotFoundError, match="serves models"):
        HfApi(gateway.url, token=False).dataset_info("hf/data")
    with pytest.raises(hf_errors.HfHubHTTPError, match="Invalid user token"):
        HfApi(gateway.url).whoami(token="hf_someones")
    assert get_session().get(f"{gateway.url}/api/agent-harnesses").status_code == 404
    assert not any("authorization" in request.headers for request in gateway.hub.requests)


def test_nothing_is_said_of_xet(gateway):
    gateway.hub.add("hf/xet", FILES)
    for method in ("HEAD", "GET"):
        answer = ask(gateway.file_url("hf/xet", WEIGHTS_PATH), method)
        assert answer.headers["x-linked-etag"] == answer.headers["etag"]
        assert answer.headers["content-length"] == str(len(WEIGHTS))
        assert not any("xet" in f"{name} {value}" for name, value in answer.headers.items())
    assert ask(f"{gateway.url}/api/models/hf/xet/xet-read-token/main").status == 404


def test_head_costs_the_hub_no_bytes(gateway):
    gateway.hub.add("hf/head", {"w.safetensors": os.urandom(300_000)})
    url = gateway.file_url("hf/head", "w.safetensors")
    metadata = huggingface_hub.get_hf_file_metadata(url, token=False)
    assert (metadata.size, metadata.location) == (300_000, url)
    assert gateway.hub.sent(repo="hf/head") == 0


def test_offline_what_is_here_is_served_and_the_rest_is_an_error(gateway, client, tmp_path):
    gateway.hub.add("hf/offline", FILES)
    gateway.hub.add("hf/half", FILES | {WEIGHTS_PATH: os.urandom(100_000)})
    snapshot_download("hf/offline", **client)
    hf_hub_download("hf/half", "README.md", **client)
    gateway.hub.stop()
    try:
        fresh = client | {"cache_dir": tmp_path / "fresh"}
        assert contents(snapshot_download("hf/offline", **fresh)) == FILES
        assert hf_hub_download("hf/half", "README.md", **fresh)
        answer = ask(gateway.file_url("hf/half", WEIGHTS_PATH))
        assert answer.status == 502
        assert ask(f"{gateway.url}/api/models/hf/never").status == 502
    finally:
        gateway.hub.start()
