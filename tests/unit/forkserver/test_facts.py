"""What makes two processes need two servers."""

import os
import resource
import subprocess
import sys

import pytest

from zhcache.forkserver.facts import AT_IMPORT, AT_START, key_of, start_folder

ASK = (
    "import os, sys; from zhcache.forkserver.facts import key_of;"
    "print(key_of(dict(os.environ), set()))"
)


def asked(before: str = "", **environ: str) -> str:
    done = subprocess.run(
        ["bash", "-c", f'{before} "$@"', "bash", sys.executable, "-c", ASK],
        env=os.environ | environ,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    return done.stdout


def test_equal_processes_have_one_key() -> None:
    assert asked() == asked("cd /; umask 077; ulimit -S -n 200;", MINE="1", PATH_OF="x")


@pytest.mark.parametrize(
    "before",
    [
        "ulimit -n 200;",
        "nice -n 1",
        "taskset -c 0",
        "setpriv --no-new-privs",
        "ulimit -S -s 512;",
    ],
)
def test_what_a_child_cannot_take_over_makes_another_key(before: str) -> None:
    if len(os.sched_getaffinity(0)) == 1 and "taskset" in before:
        pytest.skip("one processor")
    assert asked(before) != asked()


@pytest.mark.parametrize("name", ["PYTHONHASHSEED", "LD_BIND_NOW", "OMP_NUM_THREADS", "LC_TIME"])
def test_variables_read_at_the_start_make_another_key(name: str) -> None:
    assert asked(**{name: "1"}) != asked()


def test_learnt_names_count_even_without_a_value() -> None:
    assert key_of({}, {"HF_HOME"}) != key_of({}, set())
    assert key_of({"HF_HOME": "a"}, {"HF_HOME"}) != key_of({"HF_HOME": "b"}, {"HF_HOME"})
    assert key_of({"HF_HOME": "a"}, set()) == key_of({"HF_HOME": "b"}, set())


def test_what_is_read_by_cuda_later_does_not_count() -> None:
    assert not "CUDA_VISIBLE_DEVICES".startswith((*AT_START, *AT_IMPORT))


def test_every_limit_is_there() -> None:
    from zhcache.forkserver.facts import limits

    assert {resource.RLIMIT_NOFILE, resource.RLIMIT_AS, resource.RLIMIT_STACK} <= {*limits()}


def test_relative_path_entries_are_taken_from_where_the_client_is() -> None:
    assert start_folder({}) == "/"
    assert start_folder({"PYTHONPATH": "/a:/b"}) == "/"
    assert start_folder({"PYTHONPATH": "/a:"}) == os.getcwd()
    assert start_folder({"PYTHONPATH": "src"}) == os.getcwd()
