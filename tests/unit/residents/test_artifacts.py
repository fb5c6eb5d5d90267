import os

import pytest

from harness.standin import read_all, sealed
from zhcache.errors import UsageError
from zhcached.residency.resident.artifacts import MAX_OF_A_KIND, Artifacts
from zhcached.residency.resident.kinds import Kind

KIND = Kind("lab/one", "c" * 40, "GPU-1", compile=True)
KEY = "ab" * 16


@pytest.fixture
def artifacts(tmp_path):
    return Artifacts(tmp_path / "compile", {"GPU-1": "H100", "GPU-2": "H100", "GPU-3": "T4"}.get)


def keep(artifacts, content=b"compiled", key=KEY, kind=KIND, age=0):
    fd = sealed(content)
    try:
        artifacts.keep(kind, key, fd)
    finally:
        os.close(fd)
    for path in artifacts._folder.glob(f"*/{key}"):
        if age:
            os.utime(path, (1e9 - age, 1e9 - age))


def opened(artifacts, kind=KIND):
    fd = artifacts.open(kind)
    if fd is None:
        return None
    content = read_all(fd)
    os.close(fd)
    return content


def test_what_was_kept_is_given_to_the_next_of_its_kind_on_equal_gpus(artifacts):
    keep(artifacts)
    kinds = [Kind(KIND.repo, KIND.commit, gpu) for gpu in ("GPU-1", "GPU-2", "GPU-3", "cpu")]
    assert [opened(artifacts, kind) for kind in kinds] == [b"compiled", b"compiled", None, None]


@pytest.mark.parametrize("other", [{"repo": "lab/two"}, {"options": b"1"}, {"attention": "x"}])
def test_other_kinds_get_nothing_of_it(artifacts, other):
    keep(artifacts)
    fields = {"repo": KIND.repo, "commit": KIND.commit, "device": KIND.device, **other}
    assert opened(artifacts, Kind(**fields)) is None


def test_newest_is_given(artifacts):
    keep(artifacts, b"old", "aa" * 16, age=100)
    keep(artifacts, b"new", "bb" * 16)
    assert opened(artifacts) == b"new"


@pytest.mark.parametrize("key", ["", "../../etc", "AB" * 16, "a" * 15, "a" * 65, "a/b"])
def test_key_is_hex_alone(artifacts, key):
    with pytest.raises(UsageError, match="key"):
        keep(artifacts, key=key)
    assert not artifacts._folder.exists()


def test_memory_that_may_change_is_refused(artifacts):
    fd = os.memfd_create("loose")
    with pytest.raises(UsageError):
        artifacts.keep(KIND, KEY, fd)
    os.close(fd)


def test_only_the_newest_few_of_a_kind_stay(artifacts):
    for number in range(MAX_OF_A_KIND + 2):
        keep(artifacts, b"x", f"{number:02x}" * 16, age=100 - number)
    left = sorted(path.name[:2] for path in artifacts._folder.glob("*/*") if len(path.name) == 32)
    assert left == ["02", "03", "04", "05"]


def test_least_used_goes_when_all_are_too_large(tmp_path):
    artifacts = Artifacts(tmp_path / "compile", limit_bytes=25)
    for number, repo in enumerate(("lab/one", "lab/two", "lab/three")):
        keep(artifacts, bytes(10), f"{number:02x}" * 16, Kind(repo, "c", "cpu"), age=9 - number)
    left = [opened(artifacts, Kind(repo, "c", "cpu")) for repo in ("lab/one", "lab/two")]
    assert (left, artifacts.bytes()) == ([None, bytes(10)], 20)


def test_artifacts_of_a_snapshot_that_is_gone_go_too(artifacts):
    keep(artifacts)
    keep(artifacts, kind=Kind("lab/two", "d", "cpu"))
    assert artifacts.prune(lambda repo, commit: repo == "lab/two") == 1
    assert (opened(artifacts), opened(artifacts, Kind("lab/two", "d", "cpu"))) == (
        None,
        b"compiled",
    )


def test_folder_is_the_daemons_alone(artifacts):
    keep(artifacts)
    modes = [os.stat(p).st_mode & 0o077 for p in (artifacts._folder, *artifacts._folder.rglob("*"))]
    assert set(modes) == {0}


def test_worker_gets_what_the_one_before_it_compiled(make):
    house = make(told={"artifacts": "kernels"})
    first = house.client(compile=True)
    assert first.do().fields["artifacts"] == []
    first.close()
    house.residents.stop("lab/one", uid=os.getuid())
    again = house.client(compile=True).do().fields
    plain = house.client().do().fields
    assert (again["artifacts"], plain["artifacts"]) == (["kernels"], [])
