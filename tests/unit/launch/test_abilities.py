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
    (told,) = [one for one in checks(Direct(tmp_path)) if one.name == "workers' sandbox"]
    assert told.status == "warn"
    assert sandbox.SWITCH in told.detail


def test_doctor_says_what_missing_torch_takes_away():
    class Bare:
        def abilities(self):
            return Abilities(parts={"torch": None, "diffusers": "0.42"}, lacking=[])

    (only,) = checks(Bare())
    assert only.status == "ok"
    assert "torch, transformers not found" in only.detail
    assert "pip install 'zhcache[daemon,torch]'" in only.detail


def test_doctor_says_which_prompts_cannot_be_read(tmp_path):
    found = Direct(tmp_path).abilities().parts
    assert {"sentencepiece", "opencc"} <= found.keys()

    class Lacking:
        def __init__(self, *names):
            self.names = names

        def abilities(self):
            parts = dict.fromkeys(found, "1.0") | dict.fromkeys(self.names)
            return Abilities(parts=parts, lacking=[])

    assert [one.name for one in checks(Lacking())] == ["workers"]
    _, told = checks(Lacking("opencc"))
    assert (told.name, told.status) == ("chinese prompts", "ok")
    assert told.detail.startswith("opencc not found: traditional characters cannot be used")
    assert "pip install 'zhcache[chinese]'" in told.detail
    _, told = checks(Lacking("opencc", "sentencepiece"))
    assert "translators, traditional characters" in told.detail


def test_doctor_says_that_the_service_does_not_answer(tmp_path):
    (only,) = checks(Remote(tmp_path / "workers.sock"))
    assert only.status == "bad"
    assert "zhcached-workers.socket" in only.fix


def test_check_that_says_nothing_is_an_error():
    with pytest.raises(ZhcacheError, match="cannot be checked"):
        abilities.of_program(["true"], {})
