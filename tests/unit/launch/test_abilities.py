"""What ``doctor`` says of workers, asked of a real one in its sandbox."""

from __future__ import annotations

from importlib.metadata import version
from types import SimpleNamespace

import pytest

from zhcache.errors import ZhcacheError
from zhcache.protocol.residency import Abilities
from zhcached.api import doctor
from zhcached.residency.launch import abilities
from zhcached.residency.launch.launch import Direct, Remote
from zhcached.workers import sandbox


def checks(launcher) -> list:
    return list(doctor._workers(SimpleNamespace(launcher=launcher)))


def test_direct_says_what_its_environment_has(tmp_path):
    pytest.importorskip("torch", reason="torch is not installed")
    found = Direct(tmp_path).abilities()
    assert found.parts["torch"] == version("torch")
    first, *_ = checks(Direct(tmp_path))
    assert (first.name, first.status) == ("workers", "ok")
    assert f"torch {version('torch')}" in first.detail


def test_doctor_warns_of_a_sandbox_that_is_off(tmp_path, monkeypatch):
    monkeypatch.setenv(sandbox.SWITCH, "off")
    (last,) = checks(Direct(tmp_path))[1:] or [None]
    assert last is not None
    assert last.status == "warn"
    assert sandbox.SWITCH in last.detail


def test_doctor_says_what_missing_torch_takes_away():
    class Bare:
        def abilities(self):
            return Abilities(parts={"torch": None, "diffusers": "0.42"}, lacking=[])

    (only,) = checks(Bare())
    assert only.status == "ok"
    assert "torch, transformers not found" in only.detail
    assert "pip install 'zhcache[daemon,torch]'" in only.detail


def test_doctor_says_that_the_service_does_not_answer(tmp_path):
    (only,) = checks(Remote(tmp_path / "workers.sock"))
    assert only.status == "bad"
    assert "zhcached-workers.socket" in only.fix


def test_check_that_says_nothing_is_an_error():
    with pytest.raises(ZhcacheError, match="cannot be checked"):
        abilities.of_program(["true"], {})
