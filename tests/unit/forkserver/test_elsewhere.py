"""Which environment the user means."""

import sys
from pathlib import Path

import pytest

from zhcache.errors import UsageError
from zhcache.forkserver.elsewhere import check_environment


def test_none_active_is_ours() -> None:
    check_environment({}, None)
    check_environment({"VIRTUAL_ENV": "", "CONDA_PREFIX": ""}, None)


@pytest.mark.parametrize("name", ["VIRTUAL_ENV", "CONDA_PREFIX"])
def test_ours_is_ours_by_any_name(tmp_path: Path, name: str) -> None:
    link = tmp_path / "link"
    link.symlink_to(sys.prefix)
    for spelled in (sys.prefix, f"{sys.prefix}/", str(link)):
        check_environment({name: spelled}, None)


@pytest.mark.parametrize("name", ["VIRTUAL_ENV", "CONDA_PREFIX"])
def test_another_is_named_in_the_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=str(tmp_path)) as raised:
        check_environment({name: str(tmp_path)}, None)
    assert name in raised.value.hint
    assert sys.prefix in str(raised.value)


def test_of_two_that_are_active_the_first_on_the_path_counts(tmp_path: Path) -> None:
    both = {"VIRTUAL_ENV": sys.prefix, "CONDA_PREFIX": str(tmp_path)}
    check_environment(both | {"PATH": f"/bin:{sys.prefix}/bin:{tmp_path}/bin"}, None)
    with pytest.raises(UsageError, match=str(tmp_path)):
        check_environment(both | {"PATH": f"{tmp_path}/bin:{sys.prefix}/bin"}, None)


@pytest.mark.parametrize("mark", ["pyvenv.cfg", "conda-meta"])
def test_first_line_that_names_another_environment(tmp_path: Path, mark: str) -> None:
    (tmp_path / "env" / "bin").mkdir(parents=True)
    (tmp_path / "env" / mark).mkdir() if mark == "conda-meta" else (tmp_path / "env" / mark).touch()
    script = tmp_path / "script.py"
    script.write_text(f"#!{tmp_path}/env/bin/python3 -u\n")
    with pytest.raises(UsageError, match="first line"):
        check_environment({}, str(script))


@pytest.mark.parametrize(
    "first", ["#!/usr/bin/python3", "#!/usr/bin/env python", "#!", "", "#!/bin/sh", "# no"]
)
def test_first_line_that_names_none(tmp_path: Path, first: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(first)
    check_environment({}, str(script))
    check_environment({}, str(tmp_path / "missing.py"))
