"""Files go over the descriptor socket with the caller's own permission."""

from pathlib import Path

import pytest

from simulators.daemon import DaemonSimulator
from zhcache.caches.find import find
from zhcache.client import Client
from zhcache.errors import NotFound, NotPermitted


def test_import_sends_every_file_in_order(
    daemon: DaemonSimulator, client: Client, tmp_path: Path
) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(150):
        (folder / f"{number:03}.txt").write_text(str(number))
    (found,) = find(folder, repo="org/name")

    job = client.import_folder(found.request(), [real for _, real, _ in found.files])

    request, contents = daemon.imports[0]
    assert job.kind == "import"
    assert [file.path for file in request.files] == [f"{n:03}.txt" for n in range(150)]
    assert contents == [str(n).encode() for n in range(150)]


def test_import_raises_what_the_daemon_refused(
    daemon: DaemonSimulator, client: Client, snapshot: Path
) -> None:
    (found,) = find(snapshot, repo="org/name")
    client.connect()
    daemon.error = NotPermitted("{repo} is not yours", repo="org/name")
    with pytest.raises(NotPermitted, match="org/name is not yours"):
        client.import_folder(found.request(), [real for _, real, _ in found.files])


def test_import_fails_when_a_file_went_away(
    daemon: DaemonSimulator, client: Client, snapshot: Path
) -> None:
    (found,) = find(snapshot, repo="org/name")
    (snapshot / "model_index.json").unlink()
    with pytest.raises(NotFound, match=r"model_index\.json is gone"):
        client.import_folder(found.request(), [real for _, real, _ in found.files])
    assert daemon.imports == []
