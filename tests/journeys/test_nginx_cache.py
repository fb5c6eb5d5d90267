"""The nginx configuration that comes with zhcache, between a gateway and the machines of a rack."""

import hashlib
import random
import re
import shutil
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from demohub import Hub
from harness.daemon import source, until
from zhcache.client import Client

CONFIG = Path(__file__).parents[2] / "examples/scale/nginx.conf"
REPO, WEIGHTS = "org/model", "unet/model.safetensors"
BYTES = random.Random(6).randbytes(20 * 2**20 + 7)
TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
SHA256 = hashlib.sha256(BYTES).hexdigest()

pytestmark = pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")


def free_port():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def running(folder, gateway):
    """Runs nginx by the shipped file, with nothing changed but addresses and places."""
    port = free_port()
    text = CONFIG.read_text()
    for pattern, here in (
        (r"server 10\.0\.0\.1:8590;", f"server {gateway.removeprefix('http://')};"),
        (r"listen 8591;", f"listen 127.0.0.1:{port};"),
        (r"/run/zhcache-nginx\.pid", f"{folder}/nginx.pid"),
        (r"/var/log/nginx/zhcache-error\.log", f"{folder}/error.log"),
        (r"/var/cache/nginx/zhcache", f"{folder}/cache"),
        # Its workers are to write where this user may, and nowhere else.
        (r"events \{", "user root;\ndaemon off;\nevents {"),
        (
            r"access_log off;",
            "access_log off;" + "".join(f"{name}_temp_path {folder}/{name};" for name in TEMPORARY),
        ),
    ):
        text, count = re.subn(pattern, here, text)
        assert count == 1, pattern
    (folder / "nginx.conf").write_text(text)
    with (folder / "output").open("wb") as output:
        command = ["nginx", "-c", folder / "nginx.conf", "-p", folder]
        process = subprocess.Popen(command, stderr=output)
    try:
        until(lambda: listens(port) or process.poll() is not None, "nginx listens")
        assert process.poll() is None, (folder / "output").read_text()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGQUIT)
        process.wait(30)


@pytest.fixture
def rack(tmp_path, make_daemon):
    """A gateway that has the model, the hub it has it from, and nginx before it."""
    with Hub(name="hub") as hub:
        hub.add(REPO, {"model_index.json": b"{}", WEIGHTS: BYTES})
        serve = '[serve]\nlisten = "127.0.0.1:0"\n'
        gateway = make_daemon(source(hub) + serve, name="gateway").start()
        gateway.json("prefetch", REPO)
        with Client(gateway.socket) as client:
            url = client.gateway().url
        with running(tmp_path, url) as cache:
            yield hub, gateway, cache


def get(url, **headers):
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
        return answer.status, answer.read()


def test_blob_is_kept_and_sent_without_the_gateway(rack):
    _, gateway, cache = rack
    url = f"{cache}/zhcache/v1/blobs/{SHA256}"
    with ThreadPoolExecutor(4) as asking:
        for status, body in asking.map(get, [url] * 4):
            assert (status, hashlib.sha256(body).hexdigest()) == (200, SHA256)
    gateway.kill()
    assert get(url) == (200, BYTES)
    middle = get(url, Range="bytes=9000000-18000000")
    assert middle == (206, BYTES[9_000_000:18_000_001])
    with pytest.raises(urllib.error.HTTPError):
        get(f"{cache}/zhcache/v1/blobs/{'0' * 64}")


def test_machines_of_a_rack_have_it_through_the_cache_as_a_peer_and_as_a_hub(rack, make_daemon):
    hub, _, cache = rack
    table = '[[source]]\nname = "{0}"\nkind = "{0}"\nendpoint = "{1}"\n'
    hub.clear_log()
    tables = table.format("peer", cache) + table.format("huggingface", cache) + "near = true\n"
    node = make_daemon(tables + source(hub), name="node").start()
    done = node.json("prefetch", REPO)
    assert done["sources"]["peer"] >= len(BYTES)
    assert hub.sent(WEIGHTS) == 0
    # The gateway asked, for whoever is behind it.
    assert sum("/tree/" in one.path for one in hub.requests) == 1
    path = Path(node.json("path", REPO)["path"])
    assert (path / WEIGHTS).read_bytes() == BYTES


def test_file_that_is_only_coming_goes_through_and_is_not_kept(rack, tmp_path):
    hub, _, cache = rack
    other = BYTES[::-1]
    hub.add("org/other", {WEIGHTS: other})
    commit = hub.repo("org/other", "huggingface").commit
    assert get(f"{cache}/org/other/resolve/{commit}/{WEIGHTS}") == (200, other)
    assert [one for one in (tmp_path / "cache").rglob("*") if one.is_file()] == []
