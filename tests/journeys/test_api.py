"""The socket itself: limits, peers, versions, descriptions."""

import json
import os
import re
import resource
import socket
import stat
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from demohub import Hub
from harness.daemon import Daemon, sent_so_far, source, until
from harness.otheruser import open_way

pytestmark = pytest.mark.journey


@pytest.fixture(scope="module")
def daemon(tmp_path_factory, shared_workers):
    """One for all tests that break nothing; what they do to it, the others bear."""
    with Hub() as hub:
        hub.add("org/name", {"config.json": b"{}"})
        workers = {"ZHCACHE_WORKERS": str(shared_workers.path)}
        started = Daemon(tmp_path_factory.mktemp("api"), source(hub), workers).start()
        yield started
        started.stop()


@pytest.fixture(scope="module")
def api(daemon):
    transport = httpx.HTTPTransport(uds=str(daemon.socket))
    with httpx.Client(transport=transport, base_url="http://zhcached", timeout=30) as client:
        yield client


@pytest.fixture(scope="module", autouse=True)
def half_a_header(daemon):
    """A connection that is begun before all tests, as it takes the daemon's deadline to end."""
    with opened(daemon, b"GET /v1/version HTTP/1.1\r\nHost: x\r\nX-Slow: ") as channel:
        yield channel


def opened(daemon, content: bytes) -> socket.socket:
    channel = socket.socket(socket.AF_UNIX)
    channel.settimeout(30)
    channel.connect(str(daemon.socket))
    channel.sendall(content)
    return channel


def rest(channel: socket.socket) -> bytes:
    """What comes until the daemon closes; the socket's own time-out is the deadline."""
    return b"".join(iter(lambda: channel.recv(65536), b""))


def test_socket_and_store_are_for_their_user_alone(daemon):
    assert stat.S_IMODE(daemon.socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(daemon.home.stat().st_mode) & 0o007 == 0


def test_daemon_imports_no_torch_and_is_small(daemon):
    maps = Path(f"/proc/{daemon.process.pid}/maps").read_text()
    assert "libtorch" not in maps
    assert "numpy" not in maps
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    resident_kib = int(re.search(r"VmRSS:\s+(\d+) kB", status)[1])
    assert resident_kib < 100 * 1024


def test_limit_of_descriptors_is_raised_as_far_as_it_may_be(hub, make_daemon):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
    try:
        daemon = make_daemon(source(hub)).start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE) == (hard, hard)


def test_description_names_every_path_that_answers(api):
    described = api.get("/v1/openapi.json").json()
    assert described["openapi"].startswith("3.1")
    for path, operations in described["paths"].items():
        if "get" in operations and "{" not in path and "logs" not in path:
            assert api.get(path).status_code == 200, path
    refs = set(re.findall(r"#/components/schemas/(\w+)", json.dumps(described)))
    assert refs <= set(described["components"]["schemas"])


def test_metrics_are_in_prometheus_format(api, daemon):
    daemon.json("prefetch", "org/name")
    families = {f.name: f for f in text_string_to_metric_families(api.get("/metrics").text)}
    assert families["zhcache_blob_bytes"].samples[0].value == 2
    assert families["zhcache_source_bytes"].samples[0].labels == {"source": "hub"}


def test_body_over_the_cap_is_refused(api):
    answer = api.post("/v1/prefetch", content=b"x" * (2 * 2**20))
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "usage"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"repo": 7}', b'{"repo": "../x"}', b"\xff"])
def test_malformed_request_is_a_usage_error(api, body):
    answer = api.post("/v1/prefetch", content=body)
    assert answer.json()["error"]["code"] == "usage"
    assert answer.json()["schema"] == 1


def test_unknown_path_is_not_found_in_our_own_words(api):
    assert api.get("/v2/anything").json()["error"]["code"] == "not_found"


@pytest.mark.parametrize(
    "garbage", [b"\x00" * 100, b"GET / HTTP/9.9\r\n\r\n", b"A" * 70_000 + b"\r\n\r\n"]
)
def test_garbage_ends_its_connection_and_nothing_else(daemon, api, garbage):
    with opened(daemon, garbage) as channel:
        assert b"Traceback" not in rest(channel)
    assert api.get("/v1/version").status_code == 200


def test_uid_in_a_header_or_body_is_ignored(api, daemon):
    claim = {"X-Uid": "4242", "Authorization": "uid 4242"}
    body = {"repo": "org/name", "uid": 4242}
    job = api.post("/v1/prefetch", json=body, headers=claim).json()
    assert job["uid"] != 4242


def test_events_end_with_the_result(api):
    job = api.post("/v1/prefetch", json={"repo": "org/name"}).json()
    last = json.loads(api.get(f"/v1/jobs/{job['id']}/events").text.splitlines()[-1])
    assert last["state"] == "done"
    assert last["result"]["files"] == 1


def test_log_of_a_job_has_its_lines_and_no_others(api, daemon):
    one = daemon.json("prefetch", "org/name")
    assert one["files"] == 1
    jobs = daemon.json("jobs")["jobs"]
    text = api.get("/v1/logs", params={"job": jobs[0]["id"]}).text
    events = [json.loads(line)["event"] for line in text.splitlines()]
    assert "job.started" in events
    assert "daemon.ready" not in events


def test_stop_lets_a_running_job_go_on_at_the_next_start(hub, make_daemon):
    hub.add("org/big", {"model.safetensors": os.urandom(8_000_000)})
    slow = hub.fault("rate", path="model.safetensors", rate=1_000_000)
    daemon = make_daemon(source(hub) + "[download]\nconnections = 1\n").start()
    daemon.cli("prefetch", "org/big", "--detach")
    until(lambda: sent_so_far(hub, "model.safetensors") > 1_000_000, "bytes come")
    assert daemon.stop() == 0
    assert not daemon.socket.exists()
    hub.heal(slow)
    daemon.start()
    until(lambda: daemon.json("ls")["snapshots"], "the job ends")


@pytest.mark.skipif("os.geteuid() != 0", reason="needs root to become two other users")
def test_other_user_cannot_cancel_or_remove(hub, make_daemon):
    hub.add("org/big", {"model.safetensors": os.urandom(8_000_000)})
    hub.fault("rate", path="model.safetensors", rate=1_000_000)
    daemon = make_daemon(source(hub)).start()
    daemon.cli("prefetch", "org/big", "--detach")
    (job,) = daemon.json("jobs")["jobs"]
    os.chmod(daemon.socket, 0o666)
    path = f"/v1/jobs/{job['id']}/cancel"
    request = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
    script = f"""
import os, socket
os.setuid(4321)
with socket.socket(socket.AF_UNIX) as c:
    c.connect({str(daemon.socket)!r})
    c.sendall({request!r})
    while part := c.recv(9999):
        print(part.decode(errors="replace"))
"""
    open_way(daemon.folder)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "not_permitted" in done.stdout, (done.stdout, done.stderr)
    assert daemon.json("jobs")["jobs"][0]["state"] not in ("cancelled", "failed")


def test_half_a_header_is_closed_in_time(half_a_header, api):
    assert b"200" not in rest(half_a_header)
    assert api.get("/v1/version").status_code == 200
