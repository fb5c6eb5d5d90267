"""The process that is in torrents: libtorrent, which talks to strangers, shut in.

What to do comes as lines on standard input, and what came of it goes out on standard output. It
ends with the daemon: where standard input ends, nothing of it is left.

Source of the settings' meaning: libtorrent.org/reference-Settings.html, version 2.1.
"""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Final

import libtorrent as lt
import msgspec

from zhcached.swarm.torrent import info
from zhcached.swarm.words import (
    ALIVE_EVERY_S,
    Alive,
    Broken,
    Came,
    Command,
    Drop,
    Event,
    Fetch,
    Limit,
    Meet,
    Opening,
    Ready,
    Seed,
)
from zhcached.workers import sandbox

LOOK_EVERY_S: Final = 0.1
LISTEN_S: Final = 10.0
NEVER: Final = 2**30
_UNWANTED: Final = 0
_EVERYBODY: Final = (("0.0.0.0", "255.255.255.255"), ("::", "ffff" + ":ffff" * 7))  # noqa: S104


def settings(opening: Opening) -> lt.settings_pack:
    """Returns libtorrent's settings, as far as they are not its own. Pure."""
    place = f"[{opening.address}]" if ":" in opening.address else opening.address
    return {
        "user_agent": "zhcache",
        "listen_interfaces": f"{place}:{opening.port}",
        "outgoing_interfaces": opening.address,
        # Who takes part is configured; nothing of it is told to anybody else.
        "enable_dht": False,
        "enable_lsd": False,
        "enable_upnp": False,
        "enable_natpmp": False,
        # The port that is told, or none.
        "max_retry_port_bind": 0,
        "listen_system_port_fallback": False,
        "enable_incoming_utp": False,
        "enable_outgoing_utp": False,
        # It hides the protocol and proves nobody.
        "in_enc_policy": int(lt.enc_policy.pe_disabled),
        "out_enc_policy": int(lt.enc_policy.pe_disabled),
        # With the defaults a swarm whose only source was away for ten seconds stalled for good.
        "min_reconnect_time": 2,
        "max_failcount": NEVER,
        "urlseed_wait_retry": 5,
        # Two web seeds that each asked for long stretches would ask for the same ones.
        "urlseed_max_request_bytes": 2**20,
        "urlseed_pipeline_size": 2,
        "peer_connect_timeout": 5,
        # First bytes after 0.1 s rather than 0.5 s.
        "tick_interval": 100,
        "unchoke_interval": 1,
        "smooth_connects": False,
        "close_redundant_connections": True,
        # The filter holds for web seeds and their redirects too, and a site's are private.
        "ssrf_mitigation": False,
        "upload_rate_limit": opening.given,
        "alert_mask": int(
            lt.alert.category_t.error_notification
            | lt.alert.category_t.status_notification
            | lt.alert.category_t.storage_notification
        ),
    }


class Engine:
    """One session.

    Args:
        opening: As the daemon says.
        lacking: What this kernel cannot keep it from, in words.
    """

    def __init__(self, opening: Opening, lacking: list[str]) -> None:
        self._opening = opening
        self._lacking = lacking
        self._session = lt.session(settings(opening))
        allowed, alike = lt.ip_filter(), lt.ip_filter()
        for first, last in _EVERYBODY:
            allowed.add_rule(first, last, 1)
            # By default private addresses know neither rates nor turns, and all of a site's are.
            alike.add_rule(first, last, 1 << lt.session.global_peer_class_id)
        for first, last in opening.networks:
            allowed.add_rule(first, last, 0)
        self._session.set_ip_filter(allowed)
        self._session.set_peer_class_filter(alike)
        self._torrents: dict[str, lt.torrent_handle] = {}
        self._coming: dict[str, set[int]] = {}
        self._done: dict[str, int] = {}
        self._folders: dict[str, Path] = {}
        self._emptied: dict[str, Path] = {}
        self._listens = False

    def obey(self, command: Command) -> None:
        """Does what it is told."""
        match command:
            case Seed():
                self._drop(command.sha256)
                folder = Path(self._opening.blobs) / command.sha256[:2]
                self._add(command, folder, lt.torrent_flags.seed_mode)
            case Fetch():
                self._drop(command.sha256)
                folder = Path(self._opening.incoming) / command.folder
                folder.mkdir()
                handle = self._add(command, folder, 0)
                handle.prioritize_pieces([(piece, _UNWANTED) for piece in command.skipped])
                self._folders[command.sha256] = folder
                self._coming[command.sha256] = set()
            case Meet():
                handle = self._torrents.get(command.sha256)
                if handle is not None:
                    for url in command.web:
                        handle.add_url_seed(url)
                    for peer in command.peers:
                        handle.connect_peer(peer)
            case Drop():
                self._drop(command.sha256)
            case Limit():
                self._session.apply_settings({"download_rate_limit": command.taken})

    def look(self) -> list[Event]:
        """Returns what has happened."""
        told: list[Event] = []
        for alert in self._session.pop_alerts():
            told += self._heard(alert)
        for sha256, known in self._coming.items():
            status = self._torrents[sha256].status(lt.torrent_handle.query_pieces)
            # Of a piece that is only hashed, and not on disk yet, this says False.
            new = [piece for piece, is_here in enumerate(status.pieces) if is_here]
            new = [piece for piece in new if piece not in known]
            known.update(new)
            if new or status.total_wanted_done != self._done.get(sha256):
                self._done[sha256] = status.total_wanted_done
                told.append(Came(sha256, new, status.total_wanted_done))
        return told

    @property
    def listens(self) -> bool:
        """Whether it has a port."""
        return self._listens

    def _add(self, wanted: Seed | Fetch, folder: Path, flags: int) -> lt.torrent_handle:
        dictionary = info(wanted.sha256, wanted.size, wanted.hashes)
        parameters = lt.add_torrent_params()
        parameters.ti = lt.torrent_info(b"d4:info" + dictionary + b"e")
        parameters.save_path = str(folder)
        # Queued by nobody: each is wanted now, or gives.
        queued = lt.torrent_flags.auto_managed | lt.torrent_flags.paused
        parameters.flags = (lt.torrent_flags.default_flags | flags) & ~queued
        handle = self._session.add_torrent(parameters)
        self._torrents[wanted.sha256] = handle
        return handle

    def _drop(self, sha256: str) -> None:
        self._coming.pop(sha256, None)
        self._done.pop(sha256, None)
        if (handle := self._torrents.pop(sha256, None)) is None:
            return
        if (folder := self._folders.pop(sha256, None)) is None:
            self._session.remove_torrent(handle)
            return
        # Once nothing is left to be written there.
        self._emptied[str(handle.info_hashes().v1)] = folder
        self._session.remove_torrent(handle, int(lt.session.delete_files))

    def _heard(self, alert: lt.alert) -> list[Event]:
        if isinstance(alert, lt.listen_succeeded_alert):
            # Of the two that it opens, UDP carries nothing.
            if alert.socket_type != lt.socket_type_t.tcp:
                return []
            self._listens = True
            return [Ready(alert.port, self._lacking)]
        if isinstance(alert, lt.listen_failed_alert) and not self._listens:
            return [Broken("", alert.message())]
        if isinstance(alert, lt.torrent_deleted_alert | lt.torrent_delete_failed_alert):
            folder = self._emptied.pop(str(alert.info_hashes.v1), None)
            shutil.rmtree(folder or "", ignore_errors=True)
        if isinstance(alert, lt.torrent_error_alert | lt.file_error_alert):
            for sha256, handle in self._torrents.items():
                if handle == alert.handle:
                    return [Broken(sha256, alert.message())]
        return []


def main() -> None:
    """Is in torrents until standard input ends."""
    lines = sys.stdin.buffer
    opening = msgspec.json.decode(lines.readline(), type=Opening)
    # While there is one thread: what comes after is held by it too.
    lacking = sandbox.enter_networked(Path(opening.incoming), [Path(opening.blobs)])
    engine = Engine(opening, lacking)
    commands: queue.SimpleQueue[Command | None] = queue.SimpleQueue()

    def listen() -> None:
        decoder = msgspec.json.Decoder(Command)
        while line := lines.readline():
            commands.put(decoder.decode(line))
        commands.put(None)

    threading.Thread(target=listen, name="words", daemon=True).start()
    told_at, began = 0.0, time.monotonic()
    while True:
        with contextlib.suppress(queue.Empty):
            command = commands.get(timeout=LOOK_EVERY_S)
            if command is None:
                # Its own end waits for peers.
                os._exit(0)
            engine.obey(command)
            continue
        for event in engine.look():
            _tell(event)
            if isinstance(event, Broken) and not event.sha256:
                # Begun again later, when the port may be free.
                os._exit(1)
        if not engine.listens and time.monotonic() - began > LISTEN_S:
            # Of an address that no interface has libtorrent says nothing.
            _tell(Broken("", f"nothing listens: is {opening.address} an address of this machine?"))
            os._exit(1)
        if time.monotonic() - told_at >= ALIVE_EVERY_S:
            told_at = time.monotonic()
            _tell(Alive())


def _tell(event: Event) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(event) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
