"""Files of folders that are sources, and that nothing else of this machine is read."""

import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from zhcached.errors import AddressRefused, TransportError
from zhcached.transport.address import AddressPolicy
from zhcached.transport.http import Target, Transport
from zhcached.transport.local import LocalFiles, url_of

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "a b%.bin").write_bytes(CONTENT)
    return folder


@pytest.fixture
def ask(root):
    transport = Transport(AddressPolicy.of([]), files=LocalFiles([root]))

    def get(path, asked=None):
        headers = {"Range": asked} if asked else {}
        with transport.open(Target(url_of(path)), headers=headers) as response:
            return response.status, dict(response.headers), response.read_limited(2**20)

    return get


def test_file_is_answered_whole_and_by_range(root, ask):
    path = root / "a b%.bin"
    status, headers, body = ask(path)
    assert (status, body, headers["content-length"]) == (200, CONTENT, str(len(CONTENT)))
    status, headers, body = ask(path, "bytes=10-19")
    assert (status, body) == (206, CONTENT[10:20])
    assert headers["content-range"] == f"bytes 10-19/{len(CONTENT)}"
    assert ask(path, f"bytes=100-{10**12}")[2] == CONTENT[100:]
    assert ask(path, f"bytes={len(CONTENT)}-{len(CONTENT)}")[0] == 416


def test_file_that_changed_has_another_validator(root, ask):
    path = root / "a b%.bin"
    before = ask(path)[1]["etag"]
    path.write_bytes(CONTENT[::-1])
    os.utime(path, ns=(1, 1))
    assert ask(path)[1]["etag"] != before


def test_nothing_outside_of_the_folders_is_read(root, tmp_path, ask):
    secret = tmp_path / "secret"
    secret.write_bytes(b"s")
    (root / "link").symlink_to(secret)
    for path in (secret, root / "link", root / ".." / "secret", "/etc/passwd"):
        with pytest.raises(AddressRefused):
            ask(path)


def test_what_is_no_plain_file_or_gone_is_an_error_and_holds_nobody(root, ask):
    os.mkfifo(root / "fifo")
    for name in ("fifo", "gone", "."):
        with pytest.raises((TransportError, AddressRefused)):
            ask(root / name)


def test_server_that_redirects_to_a_file_of_this_machine_is_refused(root):
    class Redirect(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(302)
            self.send_header("Location", url_of(root / "a b%.bin"))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Redirect)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    transport = Transport(AddressPolicy.of([url]), files=LocalFiles([root]))
    try:
        with pytest.raises(AddressRefused):
            transport.open(Target(f"{url}/x"))
    finally:
        server.shutdown()
        server.server_close()
        transport.close()
