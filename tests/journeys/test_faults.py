"""What goes wrong between hub, daemon and user, and how each ends."""

import contextlib
import hashlib
import os
import shutil
import signal
import threading
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from demohub import Hub
from harness.daemon import lines, sent_so_far, source, until

pytestmark = pytest.mark.journey

BIG = os.urandom(24_000_000)
FILES = {"config.json": b"{}", "model.safetensors": BIG}
QUICK = '[download]\nstall = "1s"\nmin_rate = "64KiB"\nretries = 2\n'


def test_killed_daemon_resumes_at_the_byte_range(hub, make_daemon):
    hub.add("org/name", FILES)
    slow = hub.fault("rate", path="model.safetensors", rate=6_000_000)
    daemon = make_daemon(source(hub) + "[download]\nconnections = 2\n").start()
    daemon.cli("prefetch", "org/name", "--detach")
    until(lambda: sent_so_far(hub, "model.safetensors") > 12_000_000, "half of the file is sent")
    daemon.kill()
    hub.heal(slow)
    before = hub.sent("model.safetensors")
    daemon.start()
    job = daemon.json("jobs")["jobs"] or daemon.json("ls")["snapshots"]
    assert job, "the job was not taken up again"
    result = daemon.json("prefetch", "org/name")
    again = hub.sent("model.safetensors") - before
    assert again < len(BIG) * 0.75
    assert result["bytes"] == len(BIG) + 2
    assert daemon.json("verify")["damaged"] == []


def test_wrong_bytes_of_the_right_length_end_in_an_integrity_error(hub, make_daemon):
    hub.add("org/name", FILES)
    hub.fault("corrupt", path="model.safetensors", offset=1_000_000)
    daemon = make_daemon(source(hub)).start()
    refused = daemon.json("prefetch", "org/name", code=9)
    assert refused["error"]["code"] == "integrity"
    assert all(blob.stat().st_size < 100 for blob in daemon.blobs().values())
    (shown,) = daemon.json("sources")["sources"]
    assert shown["state"] == "lying"


def test_liar_is_named_and_the_second_source_completes(make_daemon):
    with Hub(name="liar") as liar, Hub(name="honest") as honest:
        for one in (liar, honest):
            one.add("org/name", FILES)
        liar.fault("zeros", path="model.safetensors")
        daemon = make_daemon(source(liar) + source(honest)).start()
        result = daemon.json("prefetch", "org/name")
        assert result["trust"] == "quorum"
        states = {s["name"]: s["state"] for s in daemon.json("sources")["sources"]}
        assert states["liar"] == "lying"
        assert states["honest"] in ("ok", "unknown")


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("short", {}),
        ("long", {}),
        ("cut", {"at": 5_000_000}),
        ("reset", {"at": 5_000_000}),
        ("stall", {"at": 5_000_000}),
        ("trickle", {"rate": 64}),
        ("ignore_range", {}),
        ("range_200", {}),
        ("wrong_range", {}),
        ("html", {}),
        ("gzip", {}),
        ("change", {"content": os.urandom(len(BIG))}),
        ("status", {"status": 503}),
        ("status", {"status": 429, "headers": {"Retry-After": "1000000000"}}),
    ],
)
def test_second_source_completes_what_the_first_spoils(make_daemon, kind, options):
    with Hub(name="bad") as bad, Hub(name="good") as good:
        for one in (bad, good):
            one.add("org/name", FILES)
        bad.fault(kind, path="model.safetensors", **options)
        daemon = make_daemon(source(bad) + source(good) + QUICK).start()
        result = daemon.json("prefetch", "org/name")
        assert result["bytes"] == len(BIG) + 2
        assert daemon.json("verify")["damaged"] == []


def test_sole_source_that_stalls_is_named_when_all_failed(hub, make_daemon):
    hub.add("org/name", FILES)
    hub.fault("status", path="model.safetensors", status=503)
    daemon = make_daemon(source(hub) + QUICK).start()
    refused = daemon.json("prefetch", "org/name", code=10)
    assert "hub" in refused["error"]["message"]


def test_transient_errors_are_survived_without_a_second_source(hub, make_daemon):
    hub.add("org/name", FILES)
    hub.fault("cut", path="model.safetensors", at=4_000_000, times=2)
    hub.fault("status", path="model.safetensors", status=503, times=1)
    daemon = make_daemon(source(hub)).start()
    assert daemon.json("prefetch", "org/name")["bytes"] == len(BIG) + 2


def test_token_goes_to_its_own_origin_alone(make_daemon):
    with Hub(name="hub") as hub, Hub(name="cdn") as cdn:
        hub.add("org/name", FILES, private=True, token="canary-token-123456", data_hub=cdn)
        config = source(hub, token_env='"MY_TOKEN"', data_origins=f'["{cdn.url}"]')
        daemon = make_daemon(config, MY_TOKEN="canary-token-123456").start()
        daemon.json("prefetch", "org/name")
        assert cdn.sent("*") > 0
        seen = [str(request.headers) for request in cdn.requests]
        assert not any("canary" in headers for headers in seen)
        assert any("canary" in str(request.headers) for request in hub.requests)
        kept = [path for path in daemon.home.rglob("*") if path.is_file()]
        assert not any(b"canary-token" in path.read_bytes() for path in kept)
        assert "canary-token" not in daemon.log.read_text()


@pytest.mark.parametrize("address", ["127.0.0.1", "localhost", "2130706433", "[::ffff:127.0.0.1]"])
def test_redirect_to_a_private_address_is_refused_before_a_byte_is_sent(make_daemon, address):
    with Hub(name="hub") as hub, Hub(name="canary") as canary:
        hub.add("org/name", FILES)
        port = canary.url.rpartition(":")[2]
        hub.fault("redirect", path="model.safetensors", to=f"http://{address}:{port}/x")
        daemon = make_daemon(source(hub) + QUICK).start()
        refused = daemon.json("prefetch", "org/name", code=10)
        assert "data_origins" in refused["error"]["message"] + refused["error"]["hint"]
        assert canary.requests == []


def test_gated_private_and_missing_each_have_their_error(hub, make_daemon):
    hub.add("org/gated", FILES, gated="listing", token="t" * 20)
    hub.add("org/private", FILES, private=True, token="u" * 20)
    daemon = make_daemon(source(hub)).start()
    assert daemon.json("prefetch", "org/gated", code=8)["error"]["code"] == "gated"
    for name in ("org/private", "org/missing"):
        missing = daemon.json("prefetch", name, code=4)["error"]
        assert missing["code"] == "not_found"
        assert "private" in missing["hint"]
    unknown = daemon.json("prefetch", "org/gated", "--revision", "nope", code=8)["error"]
    assert unknown["code"] == "gated"


def test_bare_401_says_that_private_and_missing_look_alike(make_daemon):
    with Hub(bare_401=True) as hub:
        daemon = make_daemon(source(hub)).start()
        error = daemon.json("prefetch", "org/none", code=4)["error"]
        assert "private" in error["hint"]
        assert "gated" in error["hint"]


def test_gated_files_behind_an_open_listing_are_gated(hub, make_daemon):
    hub.add("org/gated", FILES, gated=True, token="t" * 20)
    daemon = make_daemon(source(hub)).start()
    assert daemon.json("prefetch", "org/gated", code=8)["error"]["code"] == "gated"


def test_hostile_names_create_nothing(hub, make_daemon):
    hub.add("org/name", FILES)
    hub.fault("hostile_listing", names=["../../escape", "ok.txt"])
    daemon = make_daemon(source(hub)).start()
    assert daemon.json("prefetch", "org/name", code=9)["error"]["code"] == "integrity"
    assert daemon.blobs() == {}
    assert not list(daemon.folder.rglob("escape"))


@pytest.mark.parametrize("kind", ["endless_pages", "huge_listing", "deep_json"])
def test_endless_and_huge_listings_are_refused(hub, make_daemon, kind):
    hub.add("org/name", FILES)
    hub.fault(kind, plane="meta")
    daemon = make_daemon(source(hub)).start()
    assert daemon.cli("prefetch", "org/name", check=False).returncode in (9, 10)


def test_two_daemons_never_share_a_store(hub, make_daemon, tmp_path):
    first = make_daemon(source(hub)).start()
    second = make_daemon(source(hub), name="second")
    second.environ["ZHCACHE_HOME"] = str(first.home)
    with pytest.raises(AssertionError, match=r"another daemon|already"):
        second.start()
    assert second.process.returncode == 5


def test_first_interrupt_leaves_the_job_running_and_the_second_cancels(hub, make_daemon):
    hub.add("org/name", FILES)
    hub.fault("rate", path="model.safetensors", rate=2_000_000)
    daemon = make_daemon(source(hub) + "[download]\nconnections = 1\n").start()

    def begin():
        client = daemon.popen("prefetch", "org/name")
        until(lambda: sent_so_far(hub, "model.safetensors") > 100_000, "bytes come")
        # Its first line of progress: it attends the job.
        assert client.stderr.readline()
        return client

    client = begin()
    client.send_signal(signal.SIGINT)
    _, said = client.communicate(timeout=20)
    assert client.returncode == 130
    (job,) = daemon.json("jobs")["jobs"]
    assert job["id"] in said
    client = begin()
    client.send_signal(signal.SIGINT)
    # To the end of what it says, if it never does.
    assert any(job["id"] in line for line in iter(client.stderr.readline, ""))
    client.send_signal(signal.SIGINT)
    assert client.wait(20) == 130
    (job,) = daemon.json("jobs")["jobs"]
    assert job["state"] == "cancelled"


def test_killed_client_does_not_stop_the_job(hub, make_daemon):
    hub.add("org/name", FILES)
    hub.fault("rate", path="model.safetensors", rate=8_000_000)
    daemon = make_daemon(source(hub)).start()
    client = daemon.popen("prefetch", "org/name")
    until(lambda: sent_so_far(hub, "model.safetensors") > 100_000, "bytes come")
    client.kill()
    client.communicate()
    until(lambda: daemon.json("ls")["snapshots"], "the job ends without its client")


def test_many_clients_at_once_share_one_download(hub, make_daemon):
    hub.add("org/name", FILES)
    held = hub.fault("stall", path="model.safetensors", at=0)
    daemon = make_daemon(source(hub) + "[download]\nconnections = 1\n").start()
    asked: list[str] = []
    ended: list[str] = []

    def ask() -> None:
        transport = httpx.HTTPTransport(uds=str(daemon.socket), verify=False)
        with httpx.Client(transport=transport, base_url="http://zhcached", timeout=60) as client:
            job = client.post("/v1/prefetch", json={"repo": "org/name"}).json()["id"]
            asked.append(job)
            stream = client.get(f"/v1/jobs/{job}/events").text
            ended.append(job + lines(stream)[-1]["state"])

    threads = [threading.Thread(target=ask) for _ in range(200)]
    for thread in threads:
        thread.start()
    until(lambda: len(asked) == 200, "all have asked")
    hub.heal(held)
    # Ends what it holds back.
    hub.stop()
    hub.start()
    for thread in threads:
        thread.join(90)
    assert len(ended) == 200
    assert len(set(ended)) == 1
    assert ended[0].endswith("done")
    assert hub.sent("model.safetensors") == len(BIG)


def test_old_client_is_told_to_upgrade(make_daemon, hub):
    daemon = make_daemon(source(hub)).start()
    transport = httpx.HTTPTransport(uds=str(daemon.socket))
    with httpx.Client(transport=transport, base_url="http://zhcached") as client:
        answer = client.get("/v1/jobs", headers={"Zhcache-Protocol": "0"})
        assert answer.json()["error"]["code"] == "version_mismatch"
        assert client.get("/v1/version", headers={"Zhcache-Protocol": "0"}).status_code == 200


def test_full_disk_ends_in_exit_6_and_resumes_after_space(hub, make_daemon):
    hub.add("org/name", FILES)
    daemon = make_daemon('[store]\nmin_free = "0"\nquota = "10MB"\n' + source(hub)).start()
    refused = daemon.json("prefetch", "org/name", code=6)
    assert refused["error"]["code"] == "no_space"
    assert refused["error"]["hint"]
    assert hub.sent("model.safetensors") == 0
    daemon.stop()
    daemon.configure('[store]\nmin_free = "0"\n' + source(hub))
    daemon.start()
    assert daemon.json("prefetch", "org/name")["bytes"] == len(BIG) + 2


@pytest.mark.parametrize("damage", ["missing", "garbage"])
def test_lost_index_is_rebuilt_without_network(hub, make_daemon, damage):
    hub.add("org/name", FILES)
    daemon = make_daemon(source(hub)).start()
    path = daemon.json("prefetch", "org/name")["path"]
    daemon.cli("pin", "org/name")
    daemon.stop()
    for index in daemon.home.glob("index.sqlite*"):
        if damage == "missing":
            index.unlink()
        else:
            index.write_bytes(os.urandom(9000))
    hub.stop()
    daemon.start()
    daemon.cli("repair")
    assert daemon.cli("path", "org/name").stdout.strip() == path
    (snapshot,) = daemon.json("ls")["snapshots"]
    assert snapshot["pinned"]


def test_damaged_blob_is_found_quarantined_and_refetched(hub, make_daemon):
    hub.add("org/name", FILES)
    daemon = make_daemon(source(hub)).start()
    daemon.json("prefetch", "org/name")
    (blob,) = [b for b in daemon.blobs().values() if b.stat().st_size == len(BIG)]
    os.chmod(blob, 0o640)
    with blob.open("r+b") as stream:
        stream.seek(77)
        stream.write(b"rotten")
    found = daemon.json("verify", code=9)
    assert "org/name" in str(found)
    assert not blob.exists()
    assert daemon.cli("path", "org/name", check=False).returncode == 9
    daemon.cli("repair")
    assert daemon.cli("path", "org/name").returncode == 0
    assert daemon.json("verify")["damaged"] == []


def test_leased_model_is_not_removed_and_the_lease_ends_with_its_client(hub, make_daemon):
    hub.add("org/name", FILES)
    daemon = make_daemon(source(hub)).start()
    daemon.json("prefetch", "org/name")
    transport = httpx.HTTPTransport(uds=str(daemon.socket))
    with (
        httpx.Client(transport=transport, base_url="http://zhcached", timeout=30) as client,
        client.stream("POST", "/v1/leases", json={"repo": "org/name"}) as lease,
    ):
        heard = lease.iter_lines()
        assert next(heard)
        refused = daemon.json("rm", "org/name", code=75)
        assert str(os.getpid()) in refused["error"]["message"]
        assert daemon.json("ps")["resident"][0]["leases"] == 1
    until(lambda: not daemon.json("ps")["resident"], "the lease ends")
    daemon.cli("rm", "org/name")


def test_gated_files_at_modelscope_are_gated_though_its_listing_is_open(hub, make_daemon):
    hub.add("org/gated", FILES, gated=True, token="t" * 20)
    daemon = make_daemon(source(hub, "modelscope") + QUICK).start()
    assert daemon.json("prefetch", "org/gated", code=8)["error"]["code"] == "not_permitted"


def test_hub_cannot_plant_bytes_under_another_files_git_name(make_daemon, tmp_path):
    victim, evil = b'{"honest": true}', b'{"evil": "yes"}!'
    with Hub(name="evil") as bad, Hub(name="honest") as good:
        good.add("org/victim", {"config.json": victim})
        bad.add("org/trap", {"config.json": evil})
        daemon = make_daemon(source(bad) + source(good)).start()
        daemon.json("prefetch", "org/trap", "--source", "evil")
        lock = tmp_path / "lock"
        lock.write_text(daemon.cli("lock", "org/trap").stdout)
        daemon.json("rm", "org/trap")
        # The pinned bytes come, while the listing calls them by the victim's git name.
        named = hashlib.sha1(b"blob %d\0" % len(victim) + victim).hexdigest()
        repo = bad.repo("org/trap", "huggingface")
        repo.head.files["config.json"] = replace(repo.head.files["config.json"], git_sha1=named)
        daemon.json("prefetch", "org/trap", "--source", "evil", "--lock", str(lock))
        path = daemon.json("prefetch", "org/victim", "--source", "honest")["path"]
        assert (Path(path) / "config.json").read_bytes() == victim


def test_import_of_a_part_does_not_pass_for_the_whole_commit(hub, make_daemon, tmp_path):
    from huggingface_hub import hf_hub_download

    hub.add("org/name", FILES)
    found = hf_hub_download("org/name", "config.json", cache_dir=tmp_path, endpoint=hub.url)
    commit = Path(found).parent.name
    daemon = make_daemon(source(hub)).start()
    daemon.cli("import", str(tmp_path))
    assert daemon.json("prefetch", "org/name", "--revision", commit)["files"] == 2


def test_forged_import_gives_way_to_the_hub(hub, make_daemon, tmp_path):
    from huggingface_hub import snapshot_download

    hub.add("org/name", FILES)
    folder = Path(snapshot_download("org/name", cache_dir=tmp_path, endpoint=hub.url))
    (folder / "config.json").resolve().write_bytes(b'{"forged": 1}')
    daemon = make_daemon(source(hub)).start()
    daemon.cli("import", str(tmp_path))
    path = daemon.json("prefetch", "org/name")["path"]
    assert (Path(path) / "config.json").read_bytes() == FILES["config.json"]


def test_log_follower_goes_on_when_the_log_is_rotated(hub, make_daemon):
    hub.add("org/name", FILES)
    daemon = make_daemon(source(hub)).start()
    follower = daemon.popen("logs", "-f", "--json")
    try:
        assert follower.stdout.readline()
        log = daemon.home / "logs" / "zhcached.jsonl"
        log.write_text("x" * (9 * 2**20) + "\n" + log.read_text())
        daemon.json("prefetch", "org/name")
        daemon.json("prefetch", "org/name")
        until(lambda: "job.done" in follower.stdout.readline(), "the follower hears the new file")
    finally:
        follower.kill()
        follower.communicate()


def test_many_dry_runs_of_one_user_keep_nobody_else_waiting(hub, make_daemon):
    hub.add("org/name", FILES)
    hub.fault("delay", plane="meta", seconds=3.0)
    daemon = make_daemon(source(hub)).start()
    transport = httpx.HTTPTransport(uds=str(daemon.socket))
    with httpx.Client(transport=transport, base_url="http://zhcached", timeout=0.3) as client:
        for n in range(40):
            with contextlib.suppress(httpx.TimeoutException):
                client.post("/v1/prefetch", json={"repo": f"org/n{n}", "dry_run": True})
        client.timeout = 2.0
        assert client.get("/v1/snapshots").status_code == 200


def test_deleted_view_is_made_again_by_itself_and_by_a_restart(hub, make_daemon):
    hub.add("org/name", FILES)
    daemon = make_daemon(source(hub)).start()
    path = Path(daemon.json("prefetch", "org/name")["path"])

    def lose(name):
        # In one step: what a deletion has not reached yet may be made again already.
        (daemon.home / "hub").rename(daemon.home / name)

    lose("once")
    # Whoever asks meanwhile is told that it is incomplete, or given the whole.
    asked = daemon.cli("path", "org/name", check=False)
    assert asked.returncode == 9 or (path / "config.json").exists()
    until(lambda: (path / "config.json").exists(), "the view is made again")
    assert (path / "config.json").read_bytes() == FILES["config.json"]
    daemon.stop()
    lose("twice")
    daemon.start()
    assert daemon.cli("path", "org/name").stdout.strip() == str(path)
    assert (path / "config.json").read_bytes() == FILES["config.json"]


def test_index_deleted_under_a_running_daemon_comes_back_with_its_leases(hub, make_daemon):
    hub.add("org/name", FILES)
    daemon = make_daemon(source(hub)).start()
    daemon.json("prefetch", "org/name")
    transport = httpx.HTTPTransport(uds=str(daemon.socket))
    with (
        httpx.Client(transport=transport, base_url="http://zhcached", timeout=30) as client,
        client.stream("POST", "/v1/leases", json={"repo": "org/name"}) as lease,
    ):
        heard = lease.iter_lines()
        assert next(heard)
        for index in daemon.home.glob("index.sqlite*"):
            index.unlink()
        daemon.cli("repair")
        assert (daemon.home / "index.sqlite").exists()
        assert daemon.json("ls")["snapshots"]
        assert daemon.json("rm", "org/name", code=75)


def test_configuration_error_reaches_the_user_whole(hub, make_daemon):
    daemon = make_daemon(source(hub) + "[download]\nconections = 3\n")
    daemon.environ.pop("ZHCACHE_SOCKET")
    refused = daemon.json("ls", code=2)["error"]
    assert "conections" in refused["message"]
    assert str(daemon.config) in refused["message"]


@pytest.mark.parametrize("is_running", [True, False])
def test_damaged_manifest_is_told_its_blobs_are_kept_and_repair_restores_it(
    hub, make_daemon, is_running
):
    hub.add("org/name", FILES)
    config = '[store]\nmin_free = "0"\ngrace = "0s"\n' + source(hub)
    daemon = make_daemon(config).start()
    path = daemon.json("prefetch", "org/name")["path"]
    (manifest,) = (daemon.home / "repos").glob("*/snapshots/*.json")
    manifest.write_text('{"trunc')
    if not is_running:
        daemon.stop()
        daemon.start()
    daemon.json("verify", code=9)
    daemon.json("gc")
    assert len(daemon.blobs()) == 2
    sent = hub.sent("*")
    daemon.cli("repair")
    # Only the small file that git names: by what it was called there went with the manifest.
    assert hub.sent("*") - sent < 100
    assert daemon.cli("path", "org/name").stdout.strip() == path
    assert daemon.json("verify")["missing"] == []


@pytest.mark.parametrize("name", ["blobs", "ingest", "hub"])
def test_folder_deleted_under_a_running_daemon_does_not_stop_it(hub, make_daemon, name):
    hub.add("org/name", FILES)
    daemon = make_daemon(source(hub)).start()
    daemon.json("prefetch", "org/name")
    shutil.rmtree(daemon.home / name)
    daemon.json("gc")
    hub.add("org/other", {"config.json": b'{"b": 2}'})
    assert daemon.json("prefetch", "org/other")["files"] == 1
    assert daemon.json("prefetch", "org/name")["files"] == 2
    assert daemon.cli("path", "org/name").returncode == 0


def test_deleted_socket_comes_back(hub, make_daemon):
    daemon = make_daemon(source(hub)).start()
    daemon.socket.unlink()
    until(daemon.socket.exists, "the daemon listens again")
    assert daemon.json("ls")["snapshots"] == []
    assert daemon.stop() == 0
    assert not daemon.socket.exists()


def test_daemon_ends_when_its_lock_is_no_longer_the_stores(hub, make_daemon):
    daemon = make_daemon(source(hub)).start()
    (daemon.home / "lock").unlink()
    until(lambda: daemon.process.poll() is not None, "the daemon ends")
    assert daemon.process.returncode == 0
