import pytest

from simulators.daemon import describe

REPO = "lab/tiny"


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "pipeline"
    made.mkdir()
    (made / "config.json").write_text("{}")
    (made / "model.safetensors").write_bytes(b"w" * 2048)
    return made


@pytest.fixture
def held(daemon, folder):
    return daemon.hold(REPO, folder)


def test_warm_prints_what_is_in_memory_and_until_when(zhcache, held):
    ran = zhcache("warm", REPO)
    assert ran.code == 0
    assert f"{REPO}: 2.0 KiB of 2.0 KiB are in memory on cpu" in ran.out
    assert "not locked" in ran.out
    assert "until 2027-01-1" in ran.out


def test_warm_json_is_the_result(zhcache, held):
    shown = zhcache("warm", REPO, "--json").json
    assert (shown["schema"], shown["repo"], shown["mode"], shown["locked"]) == (
        1,
        REPO,
        "attach",
        False,
    )
    assert shown["bytes"] == shown["bytes_resident"] == held.bytes


def test_warm_fetches_what_is_not_held(zhcache, daemon, folder):
    daemon.incoming[REPO] = describe(REPO, folder)
    assert zhcache("warm", REPO, "-q").out == f"{REPO}\n"
    assert [request.only_pipeline for request in daemon.submitted] == [True]


def test_warm_does_not_fetch_what_is_held(zhcache, daemon, held):
    zhcache("warm", REPO)
    assert daemon.submitted == []


def test_warm_fetches_nothing_for_a_device_that_is_not_there(zhcache, daemon, folder):
    daemon.incoming[REPO] = describe(REPO, folder)
    ran = zhcache("warm", REPO, "--device", "cuda:7", "--json")
    assert (ran.code, daemon.submitted) == (2, [])
    assert ran.json["error"]["hint"] == "there is: cpu, cuda:0, cuda:1"


def test_warm_of_what_no_source_has_is_not_found(zhcache, daemon):
    assert zhcache("warm", REPO).code == 4


@pytest.mark.parametrize(
    ("said", "seconds"),
    [("1s", 1), ("90s", 90), ("10m", 600), ("1.5h", 5400), ("1d", 86400), ("forever", 0)],
)
def test_warm_for_a_time(zhcache, daemon, held, said, seconds):
    assert zhcache("warm", REPO, "--for", said).code == 0
    assert daemon.warm[REPO][0].keep == seconds


@pytest.mark.parametrize("said", ["", "5", "0s", "0.5s", "-1s", "h", "1w", "ever", "1e9s", "nans"])
def test_warm_for_no_time_is_a_usage_error(zhcache, held, said):
    assert zhcache("warm", REPO, "--for", said).code == 2


def test_warm_passes_on_what_was_asked(zhcache, daemon, held):
    zhcache("warm", REPO, "--device", "cuda:1", "--resident", "--variant", "fp16")
    asked, _ = daemon.warm[REPO]
    assert (asked.device, asked.mode, asked.variant) == ("cuda:1", "resident", "fp16")
    assert (asked.keep, asked.revision) == (None, held.commit)


def test_warm_until_it_is_stopped_says_how(zhcache, held):
    assert f"until `zhcache stop {REPO}`" in zhcache("warm", REPO, "--for", "forever").out


def test_stop_says_what_may_go(zhcache, held):
    zhcache("warm", REPO)
    assert zhcache("stop", REPO).out == f"{REPO}: 2.0 KiB on cpu is no longer kept in memory\n"
    ran = zhcache("stop", REPO, "--json")
    assert (ran.code, ran.json["error"]["code"]) == (4, "not_found")


def test_stop_of_what_is_in_use_is_busy_unless_forced(zhcache, daemon, held):
    from zhcache.client import Client

    zhcache("warm", REPO)
    with Client() as client, client.lease(REPO):
        assert zhcache("stop", REPO).code == 75
        assert zhcache("stop", REPO, "--force", "-q").out == f"{REPO}\n"


def test_ps_shows_whether_pages_are_locked_and_calls_of_workers(zhcache, daemon, monkeypatch):
    from zhcache.client import Client
    from zhcache.protocol.messages import Resident

    rows = [
        Resident(repo=REPO, variant=None, device="cpu", bytes=4096, leases=1, uid=7, expires=None,
                 bytes_resident=2048, locked=True),
        Resident(repo=REPO, variant=None, device="GPU-8f2b3c4d-1111-2222", bytes=4096, leases=0,
                 uid=7, expires=None, mode="resident", running=1, queued=2),
    ]  # fmt: skip
    monkeypatch.setattr(Client, "resident", lambda _: rows)
    one, two = zhcache("ps").out.splitlines()[1:]
    assert "2.0 KiB *" in one
    assert two.split() == [REPO, "-", "GPU-8f2b3c4d", "resident", "4.0", "KiB", "-", "0", "1+2",
                           "7", "-"]  # fmt: skip
