"""What a command of the shell makes sure of before a worker is asked."""

from types import SimpleNamespace

from simulators.daemon import COMMIT, DaemonSimulator
from zhcache.cli import presence
from zhcache.client import Client


def test_files_that_are_closed_are_left_to_the_worker(tmp_path, monkeypatch):
    folder = tmp_path / "snapshot"
    folder.mkdir()
    (folder / "model_index.json").write_text('{"unet": ["diffusers", "X"]}')
    monkeypatch.setattr(presence, "is_closed", lambda path: path == folder)
    with DaemonSimulator(tmp_path / "api.sock") as daemon, Client(daemon.socket) as client:
        daemon.hold("lab/pipe", folder)
        session = SimpleNamespace(client=client)
        assert presence.ensure(session, "lab/pipe", None, variant=None, output=None) == COMMIT
        assert daemon.submitted == []
