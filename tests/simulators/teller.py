"""A peer that tells of a torrent and gives pieces, which may be others than it says."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import libtorrent as lt

from zhcached.swarm.torrent import hash_pieces, info, infohash


class Teller:
    """Tells of a torrent of ``sha256`` whose pieces are those of ``told``, and gives ``given``.

    Args:
        folder: Where it may write.
        place: Its address, on loopback.
        sha256: The blob.
        told: The bytes whose pieces' hashes it tells.
        given: The bytes that it gives, as long.
    """

    def __init__(self, folder: Path, place: str, sha256: str, told: bytes, given: bytes) -> None:
        self.sha256 = sha256
        (folder / "told").write_bytes(told)
        (folder / sha256).write_bytes(given)
        hashes = hash_pieces(folder / "told", len(told), lambda: False)
        assert hashes is not None
        self.hashes = hashes
        self.infohash = infohash(sha256, len(told), hashes)
        self.asked: list[str] = []
        self._session = lt.session(
            {"listen_interfaces": f"{place}:0", "outgoing_interfaces": place, "enable_dht": False}
        )
        torrent = lt.add_torrent_params()
        torrent.ti = lt.torrent_info(b"d4:info" + info(sha256, len(told), hashes) + b"e")
        torrent.save_path = str(folder)
        torrent.flags = lt.torrent_flags.seed_mode
        self.torrent = self._session.add_torrent(torrent)
        self._server = ThreadingHTTPServer((place, 0), self._handler())
        self.url = f"http://{place}:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def __enter__(self) -> Teller:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str, query: str) -> bytes | None:
        """What it says to a path below ``/zhcache/v1/``."""
        self.asked.append(path)
        if path == f"torrents/{self.sha256}":
            return self.hashes
        if path == "torrents":
            known = {self.sha256: {"infohash": self.infohash, "whole": True}}
            asked = parse_qs(query)["sha256"][0].split(",")
            torrents = {name: one for name, one in known.items() if name in asked}
            port = self._session.listen_port()
            return json.dumps({"port": port, "torrents": torrents, "schema": 1}).encode()
        return b'{"sizes": {}, "schema": 1}' if path == "blobs" else None

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        teller = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                url = urlsplit(self.path)
                body = teller.answer(url.path.removeprefix("/zhcache/v1/"), url.query)
                self.send_response(404 if body is None else 200)
                self.send_header("Content-Length", str(len(body or b"")))
                self.end_headers()
                self.wfile.write(body or b"")

            def log_message(self, *_: object) -> None:
                pass

        return Handler
