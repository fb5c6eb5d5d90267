"""What a repository is, and which of its files are given out."""

import pytest

from demohub.hub import Hub
from harness.daemon import until
from harness.gatewaykit import CONFIG, FILES, REPO, WEIGHTS, Front
from harness.storekit import publish_tiny
from zhcache.errors import NotFound, SourcesFailed
from zhcache.protocol.names import parse_repo

LARGE = "unet/model.safetensors"
SMALL = "model_index.json"
SECRET = parse_repo("lab/secret")


@pytest.fixture
def hub():
    with Hub(name="hub") as hub:
        hub.add(REPO, FILES)
        yield hub


def tree_requests(hub):
    return sum("/tree/" in request.path for request in hub.requests)


def test_a_branch_is_asked_about_once_in_a_while(tmp_path, hub):
    with Front(tmp_path / "store", [hub], refresh=1000.0) as front:
        first = front.pulls.listed(front.repo, "main")
        hub.update(REPO, {SMALL: b"{}"})
        assert front.pulls.listed(front.repo, None).commit == first.commit
        assert tree_requests(hub) == 1
    with Front(tmp_path / "store", [hub], refresh=0.0) as front:
        moved = front.pulls.listed(front.repo, "main")
        assert moved.commit != first.commit
        # A commit is what it was, and is not asked about again.
        hub.clear_log()
        assert front.pulls.listed(front.repo, first.commit).files == first.files
        assert hub.requests == []


def test_offline_after_a_restart_all_that_was_listed_is_told(tmp_path, hub, monkeypatch):
    with Front(tmp_path / "store", [hub]) as front:
        assert front.get(SMALL).body == CONFIG
        online = front.pulls.listed(front.repo, "main")
        until(lambda: front.snapshot(online.commit), "it is published")
    hub.stop()
    with Front(tmp_path / "store", [hub]) as front:
        offline = front.pulls.listed(front.repo, "main")
        assert (offline.current, online.current) == (False, True)
        assert (offline.commit, offline.files) == (online.commit, online.files)
        assert front.get(SMALL).body == CONFIG
        assert front.get(SMALL, revision=online.commit).body == CONFIG
        missing = front.get(LARGE)
        assert (missing.status, b"sources_failed" in missing.body) == (502, True)
        with pytest.raises(SourcesFailed):
            front.pulls.listed(SECRET, "main")
        monkeypatch.setattr("zhcached.jobs.pulling.listed.FAILED_S", 0.0)
        hub.start()
        front.forgive()
        assert front.get(LARGE, revision=online.commit).body == WEIGHTS


def test_nobody_waits_long_for_sources_whose_last_word_is_kept(tmp_path, hub, monkeypatch):
    monkeypatch.setattr("zhcached.jobs.pulling.listed.PATIENCE_S", 0.1)
    with Front(tmp_path / "store", [hub], refresh=0.0) as front:
        first = front.pulls.listed(front.repo, "main")
        silent = hub.fault("delay", plane="meta", seconds=3600.0)
        again = front.pulls.listed(front.repo, "main")
        assert (again.current, again.commit) == (False, first.commit)
        askings = front.pulls._listing._askings.values()
        assert not all(asking.over.is_set() for asking in askings)
        hub.heal(silent)
        hub.stop()
        hub.start()
        until(lambda: front.pulls.listed(front.repo, "main").current, "it is asked again")


def test_a_repository_that_was_deleted_is_still_what_it_was(tmp_path, hub):
    with Front(tmp_path / "store", [hub], refresh=0.0) as front:
        assert front.get(SMALL).body == CONFIG
        hub.remove(REPO)
        assert front.get(SMALL).body == CONFIG
        assert front.pulls.listed(front.repo, "main").current is False


def test_a_branch_that_moves_under_a_client(tmp_path, hub):
    with Front(tmp_path / "store", [hub], refresh=0.0) as front:
        old = front.pulls.listed(front.repo, "main")
        hub.update(REPO, {SMALL: b'{"new": 1}'})
        assert front.get(SMALL).body == b'{"new": 1}'
        assert front.get(SMALL, revision=old.commit).body == CONFIG


def test_private_ones_are_missing_unless_entitled(tmp_path, hub, monkeypatch):
    monkeypatch.setenv("HUB_TOKEN", "t0ken")
    hub.add(str(SECRET), FILES, private=True, token="t0ken")
    options = {"token_env": "HUB_TOKEN"}
    with Front(tmp_path / "a", [hub], source=options) as front:
        assert front.get(SMALL, repo=str(SECRET)).status == 404
        with pytest.raises(NotFound):
            front.pulls.listed(SECRET, "main")
    with Front(tmp_path / "b", [hub], source=options, entitled=(str(SECRET),)) as front:
        assert front.get(SMALL, repo=str(SECRET)).body == CONFIG
        kept = until(lambda: front.published(SECRET), "it is published")
        assert kept.private
    with Front(tmp_path / "b", [hub], source=options) as front:
        assert front.get(SMALL, repo=str(SECRET)).status == 404


def test_imports_are_not_known_to_be_public(tmp_path, hub):
    def asked(**serve):
        with Front(tmp_path / "store", [hub], **serve) as front:
            if front.published(parse_repo("me/mine")) is None:
                publish_tiny(front.store, repo="me/mine", source="import")
            return front.get("unet/config.json", repo="me/mine").status

    assert asked() == 404
    assert asked(entitled=("me/mine",)) == 200


def test_pickles(tmp_path, hub):
    files = {
        "unet/diffusion_pytorch_model.safetensors": WEIGHTS[:1000],
        "unet/diffusion_pytorch_model.bin": b"beside",
        "vae/diffusion_pytorch_model.bin": b"only",
        "config.json": b"{}",
    }
    hub.add("lab/old", files)
    old = parse_repo("lab/old")
    only, beside = "vae/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.bin"
    with Front(tmp_path / "a", [hub]) as front:
        listed = front.pulls.listed(old, "main")
        assert {file.path for file in listed.files} == set(files) - {beside}
        assert list(listed.left_out) == [only]
        refused = front.get(only, repo="lab/old")
        assert (refused.status, b"unsafe_weights" in refused.body) == (403, True)
        assert front.get(beside, repo="lab/old").status == 404
        assert hub.sent("*.bin") == 0
    with Front(tmp_path / "b", [hub], pickle=True) as front:
        assert front.get(only, repo="lab/old").body == b"only"
        assert front.get(beside, repo="lab/old").body == b"beside"


def test_without_pulling_only_what_is_here(tmp_path, hub):
    with Front(tmp_path / "store", [hub], pull=False) as front:
        assert front.get(LARGE).status == 404
        publish_tiny(front.store, repo=REPO)
        assert hub.sent() == 0
    hub.stop()
    with Front(tmp_path / "store", [hub], pull=False) as front:
        assert front.get("unet/config.json", revision=front.snapshot().commit).status == 200


def test_what_no_name_can_be_is_no_path(tmp_path, hub):
    with Front(tmp_path / "store", [hub]) as front:
        for path in (
            "../format",
            "..%2fformat",
            "%2e%2e/format",
            "a/../../format",
            "a%5Cb",
            "a%00",
        ):
            assert front.get(path).status in (400, 404, 502), path
        assert front.get("missing.json").status == 404


def test_a_full_disk(tmp_path, hub):
    with Front(tmp_path / "store", [hub], store={"quota": 1000}) as front:
        assert front.get(LARGE).status == 507
        assert hub.sent() == 0
