"""The typed door, against the simulator."""

import threading
from pathlib import Path

import pytest

import zhcache
from simulators.daemon import DaemonSimulator, describe
from zhcache.client import Client
from zhcache.errors import (
    Busy,
    Cancelled,
    IntegrityError,
    NotFound,
    SourcesFailed,
    UsageError,
)
from zhcache.protocol.messages import Job, PrefetchRequest


def test_prefetch_shows_each_step_and_returns_what_came(
    daemon: DaemonSimulator, client: Client, snapshot: Path
) -> None:
    daemon.incoming["a/b"] = describe("a/b", snapshot)
    daemon.steps = [{"state": "fetching", "bytes_total": 10}, {"bytes_done": 7}]
    seen: list[Job] = []

    result = client.prefetch(
        "a/b", revision="main", include=["*.json"], source="one", on_progress=seen.append
    )

    assert [(job.state, job.bytes_done) for job in seen] == [
        ("fetching", 0),
        ("fetching", 7),
        ("done", 7),
    ]
    assert result.path == str(snapshot)
    assert daemon.submitted == [
        PrefetchRequest(repo="a/b", revision="main", include=["*.json"], source="one")
    ]


def test_prefetch_raises_the_error_of_the_job(
    daemon: DaemonSimulator, client: Client, snapshot: Path
) -> None:
    daemon.incoming["a/b"] = describe("a/b", snapshot)
    daemon.job_error = SourcesFailed("no source answered for {repo}", repo="a/b")
    with pytest.raises(SourcesFailed, match="for a/b"):
        client.prefetch("a/b")


def test_prefetch_is_busy_when_the_time_is_over(
    daemon: DaemonSimulator, client: Client, snapshot: Path
) -> None:
    daemon.incoming["a/b"] = describe("a/b", snapshot)
    daemon.go_on.clear()
    with pytest.raises(Busy, match="j1"):
        client.prefetch("a/b", timeout_s=0.2)
    assert daemon.jobs["j1"].state == "queued"


def test_prefetch_refuses_a_malformed_name_without_asking(
    daemon: DaemonSimulator, client: Client
) -> None:
    with pytest.raises(UsageError):
        client.prefetch("a/b/c")
    assert daemon.requests == []


def test_wait_goes_on_when_the_daemon_was_restarted(
    daemon: DaemonSimulator, client: Client, snapshot: Path
) -> None:
    daemon.incoming["a/b"] = describe("a/b", snapshot)
    daemon.go_on.clear()
    job = client.submit(PrefetchRequest(repo="a/b"))
    over: list[Job] = []
    waiting = threading.Thread(target=lambda: over.append(client.wait(job.id)))
    waiting.start()
    assert daemon.streaming.wait(10)

    daemon.cut_streams()
    daemon.go_on.set()

    waiting.join(20)
    assert [job.state for job in over] == ["done"]
    assert len([path for _, path in daemon.requests if path.endswith("/events")]) == 2


def test_wait_raises_cancelled_when_the_job_was_cancelled(
    daemon: DaemonSimulator, client: Client, snapshot: Path
) -> None:
    daemon.incoming["a/b"] = describe("a/b", snapshot)
    daemon.go_on.clear()
    job = client.submit(PrefetchRequest(repo="a/b"))
    client.cancel(job.id)
    from zhcache.results import result_of

    with pytest.raises(Cancelled):
        result_of(client.wait(job.id))


def test_dry_run_plans_and_fetches_nothing(
    daemon: DaemonSimulator, client: Client, snapshot: Path
) -> None:
    daemon.incoming["a/b"] = describe("a/b", snapshot)
    plan = client.dry_run(PrefetchRequest(repo="a/b", revision="main"))
    assert plan.bytes == describe("a/b", snapshot).bytes
    assert daemon.submitted[0].dry_run
    assert daemon.jobs == {}


def test_logs_keep_line_separators_inside_a_value(client: Client) -> None:
    assert [line.event for line in client.logs(lines=2)] == ["fetched\u2028file"] * 2


def test_path_is_the_snapshots_folder(daemon: DaemonSimulator, snapshot: Path) -> None:
    daemon.hold("a/b", snapshot)
    assert zhcache.path("a/b") == snapshot


def test_path_says_damaged_when_a_file_was_cut(
    daemon: DaemonSimulator, client: Client, snapshot: Path
) -> None:
    daemon.hold("a/b", snapshot)
    (snapshot / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"w")
    with pytest.raises(IntegrityError, match="diffusion_pytorch_model"):
        client.path("a/b")


def test_path_gives_a_snapshot_that_was_fetched_in_part(
    daemon: DaemonSimulator, client: Client, snapshot: Path
) -> None:
    daemon.hold("a/b", snapshot, complete=False)
    assert client.path("a/b") == snapshot


def test_path_of_an_unknown_variant_is_not_found(
    daemon: DaemonSimulator, client: Client, snapshot: Path
) -> None:
    daemon.hold("a/b", snapshot)
    with pytest.raises(NotFound, match="no variant fp8"):
        client.path("a/b", variant="fp8")


def test_prefetch_of_the_module_returns_the_snapshot_as_held(
    daemon: DaemonSimulator, snapshot: Path
) -> None:
    daemon.incoming["a/b"] = describe("a/b", snapshot)
    held = zhcache.prefetch("a/b")
    assert isinstance(held, zhcache.Snapshot)
    assert held.path == str(snapshot)


def test_every_other_call_is_answered(
    daemon: DaemonSimulator, client: Client, snapshot: Path
) -> None:
    daemon.hold("a/b", snapshot)
    client.pin("a/b")
    assert daemon.pins == {"a/b"}
    client.unpin("a/b")
    assert daemon.pins == set()
    assert client.space().bytes_blobs == client.snapshots()[0].bytes
    assert client.gc(dry_run=True).dry_run
    assert client.wait(client.verify("a/b").id).verify is not None
    assert client.wait(client.repair().id).verify is not None
    assert [source.name for source in client.sources()] == ["one", "two"]
    assert client.lock(["a/b"]).repos[0].repo == "a/b"
    assert client.resident() == []
    assert client.doctor().checks[0].name == "store"
    assert {job.id for job in client.jobs(past=True)} == {"j1", "j2"}
    assert client.remove("a/b").repo == "a/b"
    client.stop_daemon()
    assert daemon.stopped.wait(30)


def test_commands_that_ask_the_daemon_are_methods_of_their_names() -> None:
    named = {
        *("prefetch", "pull", "ls", "show", "du", "path", "rm", "pin", "unpin", "gc", "verify"),
        *("repair", "ps", "warm", "stop", "jobs", "wait", "cancel", "logs", "sources", "import_"),
        *("export", "watch", "follow", "unfollow", "serve", "lock", "plan", "doctor"),
    }
    assert {name for name in named if not callable(getattr(Client, name, None))} == set()
    # One repository's, as the command; never the daemon.
    assert Client.stop is Client.unload
