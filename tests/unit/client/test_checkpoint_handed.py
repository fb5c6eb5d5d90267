"""A model in one file goes over the descriptor socket, under a name that a repository may have."""

from pathlib import Path

import pytest

from simulators.daemon import DaemonSimulator
from zhcache.client import Client
from zhcache.errors import NotFound, UsageError
from zhcache.protocol.names import repo_of_file


@pytest.mark.parametrize(
    ("file", "repo"),
    [
        ("v1-5-pruned-emaonly.safetensors", "local/v1-5-pruned-emaonly"),
        ("国风3 GuoFeng (v3.2).safetensors", "local/3-GuoFeng-v3.2"),
        ("a.--b..c.safetensors", "local/a.-b.c"),
        ("-_.safetensors", "local/_"),
        ("sd_xl_base_1.0", "local/sd_xl_base_1.0"),
        ("x" * 200, "local/" + "x" * 96),
        ("x" * 95 + "-y.ckpt", "local/" + "x" * 95),
    ],
)
def test_a_repository_is_called_as_the_file_as_far_as_it_may(file, repo):
    assert str(repo_of_file(file)) == repo


@pytest.mark.parametrize("file", ["国风.safetensors", "...", "", "--.ckpt"])
def test_a_file_of_which_no_name_is_left_wants_one(file):
    with pytest.raises(UsageError) as refused:
        repo_of_file(file)
    assert "--repo" in refused.value.hint


def test_file_is_handed_over_with_what_was_said_of_it(
    daemon: DaemonSimulator, client: Client, tmp_path: Path
) -> None:
    blob = tmp_path / "0123abcd"
    blob.write_bytes(b"weights")
    link = tmp_path / "My model.safetensors"
    link.symlink_to(blob)
    job = client.import_checkpoint(link, like="demo/base", revision="v2")
    ((request, contents),) = daemon.imports
    assert (job.kind, contents) == ("import", [b"weights"])
    assert (request.op, request.repo, request.like) == ("checkpoint", "local/My-model", "demo/base")
    assert (request.revision, request.commit, request.replace) == ("v2", None, False)
    assert [(file.path, file.size) for file in request.files] == [("My model.safetensors", 7)]


def test_name_that_no_path_may_have_is_not_sent(
    daemon: DaemonSimulator, client: Client, tmp_path: Path
) -> None:
    odd = tmp_path / "a\nb.safetensors"
    odd.write_bytes(b"weights")
    client.import_checkpoint(odd)
    assert [file.path for file in daemon.imports[0][0].files] == ["checkpoint.safetensors"]
    assert daemon.imports[0][0].repo == "local/a-b"


def test_file_that_is_not_there_is_told(daemon: DaemonSimulator, client: Client, tmp_path: Path):
    with pytest.raises(NotFound, match="there is no file"):
        client.import_checkpoint(tmp_path / "absent.safetensors")
    with pytest.raises(UsageError):
        client.import_checkpoint(tmp_path / "absent.safetensors", like="no name")
    assert daemon.imports == []
