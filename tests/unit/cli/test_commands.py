"""Every command: its output in each form, its exit code."""

import importlib
import json
import os
from pathlib import Path

import click
import pytest

from simulators.daemon import COMMIT, DaemonSimulator, describe, info, lock_of
from zhcache import diagnosis
from zhcache.cli import COMMANDS, cli
from zhcache.errors import (
    AlreadyRunning,
    Busy,
    Gated,
    IntegrityError,
    NoSpace,
    NotFound,
    Partial,
    SourcesFailed,
    ZhcacheError,
)
from zhcache.protocol import messages as m


def test_ls_lists_what_is_held_in_each_form(daemon: DaemonSimulator, zhcache, snapshot: Path):
    daemon.hold("org/name", snapshot)
    assert "org/name" in zhcache("ls").out
    assert zhcache("ls", "-q").out == "org/name\n"
    listed = zhcache("ls", "--json").json
    assert (listed["schema"], listed["snapshots"][0]["commit"]) == (1, COMMIT)


def test_show_lists_files_with_their_blobs(daemon: DaemonSimulator, zhcache, snapshot: Path):
    daemon.hold("org/name", snapshot)
    files = zhcache("show", "org/name", "--json").json["files"]
    assert [file["path"] for file in files] == ["config.json", "模型.safetensors"]
    assert set(files[0]) >= {"path", "size", "sha256", "blob"}
    assert "模型.safetensors" in zhcache("show", "org/name").out


def test_path_prints_the_folder_alone(daemon: DaemonSimulator, zhcache, snapshot: Path):
    daemon.hold("org/name", snapshot)
    assert zhcache("path", "org/name").out == f"{snapshot}\n"
    assert zhcache("path", "org/name", "--json").json["path"] == str(snapshot)


def test_path_of_a_damaged_snapshot_is_9(daemon: DaemonSimulator, zhcache, snapshot: Path):
    daemon.hold("org/name", snapshot)
    (snapshot / "config.json").unlink()
    ran = zhcache("path", "org/name")
    assert (ran.code, ran.out) == (9, "")
    assert "zhcache repair" in ran.err


def test_prefetch_prints_the_contracts_last_line(daemon: DaemonSimulator, zhcache, snapshot: Path):
    daemon.incoming["org/name"] = describe("org/name", snapshot)
    ran = zhcache("prefetch", "org/name", "--json", "--variant", "fp16", "--exclude", "*.bin")
    assert ran.code == 0
    assert set(ran.json) >= {
        "schema", "repo", "revision", "commit", "path", "files", "bytes", "bytes_fetched",
        "bytes_reused", "seconds", "sources", "trust", "variants",
    }  # fmt: skip
    assert daemon.submitted[0].variants == ["fp16"]
    assert daemon.submitted[0].exclude == ["*.bin"]


def test_pull_is_prefetch(daemon: DaemonSimulator, zhcache, snapshot: Path):
    daemon.incoming["org/name"] = describe("org/name", snapshot)
    assert zhcache("pull", "org/name", "-q").out == f"{snapshot}\n"


def test_prefetch_of_several_is_partial_when_one_fails(
    daemon: DaemonSimulator, zhcache, snapshot: Path
):
    daemon.incoming["org/name"] = describe("org/name", snapshot)
    ran = zhcache("prefetch", "org/gone", "org/name", "--json")
    lines = [json.loads(line) for line in ran.out.splitlines()]
    assert ran.code == 3
    assert [line.get("repo") or line["error"]["code"] for line in lines] == [
        "not_found",
        "org/name",
    ]


def test_prefetch_of_several_has_the_first_errors_code_when_all_fail(
    daemon: DaemonSimulator, zhcache
):
    assert zhcache("prefetch", "org/gone", "a/b/c").code == 4


def test_prefetch_detached_prints_the_job(daemon: DaemonSimulator, zhcache, snapshot: Path):
    daemon.incoming["org/name"] = describe("org/name", snapshot)
    assert zhcache("prefetch", "org/name", "--detach", "-q").out == "j1\n"
    assert zhcache("prefetch", "org/name", "--detach", "--json").json["id"] == "j2"
    assert zhcache("wait", "j1", "--json").json["path"] == str(snapshot)


def test_prefetch_dry_run_fetches_nothing(daemon: DaemonSimulator, zhcache, snapshot: Path):
    daemon.incoming["org/name"] = describe("org/name", snapshot)
    ran = zhcache("prefetch", "org/name", "--dry-run")
    assert "模型.safetensors" in ran.out
    assert "old.ckpt" in ran.out
    assert daemon.jobs == {}


def test_prefetch_with_a_lock_demands_what_it_pins(
    daemon: DaemonSimulator, zhcache, snapshot: Path, tmp_path: Path
):
    held = daemon.hold("org/name", snapshot)
    file = tmp_path / "lock.json"
    file.write_text(zhcache("lock", "org/name").out)
    assert zhcache("prefetch", "--lock", file).code == 0
    assert daemon.submitted[0].lock == lock_of(held)
    assert zhcache("prefetch", "--lock", file, "org/other").code == 2
    file.write_text("{}")
    assert zhcache("prefetch", "--lock", file, "org/name").code == 2


def test_prefetch_of_nothing_is_a_usage_error(daemon: DaemonSimulator, zhcache):
    assert zhcache("prefetch").code == 2


def test_rm_of_something_leased_is_75_and_names_the_holder(
    daemon: DaemonSimulator, zhcache, snapshot: Path
):
    held = daemon.hold("org/name", snapshot)
    daemon.leases["l9"] = m.Lease(id="l9", repo=held.repo, commit=COMMIT, path="", bytes=0)
    ran = zhcache("rm", "org/name", "--json")
    assert (ran.code, ran.json["error"]["code"]) == (75, "busy")
    assert "l9" in ran.json["error"]["message"]


def test_rm_says_what_gc_will_free(daemon: DaemonSimulator, zhcache, snapshot: Path):
    daemon.hold("org/name", snapshot)
    assert "2.0 KiB" in zhcache("rm", "org/name").out
    assert daemon.snapshots == {}


def test_pin_and_unpin(daemon: DaemonSimulator, zhcache, snapshot: Path):
    daemon.hold("org/name", snapshot)
    assert zhcache("pin", "org/name", "--json").json["pinned"] is True
    assert daemon.pins == {"org/name"}
    assert zhcache("unpin", "org/name", "-q").out == "org/name\n"
    assert daemon.pins == set()


def test_gc_names_why_each_thing_stays(daemon: DaemonSimulator, zhcache):
    ran = zhcache("gc", "--dry-run")
    assert "3 blobs" in ran.out
    assert "used by a/b" in ran.out
    assert zhcache("gc", "--json").json["dry_run"] is False
    assert zhcache("gc", "-q").out == "b" * 64 + "\n"


def test_verify_that_finds_damage_is_9(daemon: DaemonSimulator, zhcache):
    assert zhcache("verify").code == 0
    damaged = m.DamagedBlob(sha256="f" * 64, size=5, used_by=["org/name"])
    daemon.verify = m.VerifyResult(checked=1, bytes=5, damaged=[damaged])
    ran = zhcache("verify", "--json")
    assert (ran.code, ran.json["damaged"][0]["used_by"]) == (9, ["org/name"])
    assert zhcache("wait", "j2", "-q").out == "f" * 64 + "\n"


def test_repair_is_9_only_when_something_stays_missing(daemon: DaemonSimulator, zhcache):
    damaged = m.DamagedBlob(sha256="f" * 64, size=5, used_by=["org/name"])
    mended = m.VerifyResult(checked=1, bytes=5, damaged=[damaged], refetched=1, rebuilt=True)
    daemon.verify = mended
    assert zhcache("repair").code == 0
    daemon.verify = m.VerifyResult(checked=1, bytes=5, missing=["f" * 64])
    assert zhcache("repair").code == 9


def test_jobs_shows_each_jobs_error(daemon: DaemonSimulator, zhcache):
    error = info(SourcesFailed("nobody has {repo}", repo="org/name"))
    daemon.change(daemon.new_job("prefetch", "org/name"), state="failed", error=error)
    assert "nobody has org/name" in zhcache("jobs").out
    (job,) = zhcache("jobs", "--json").json["jobs"]
    assert set(job) >= {"id", "kind", "repo", "state", "bytes_done", "bytes_total", "error"}
    assert zhcache("wait", "j1").code == 10


def test_cancel_cancels(daemon: DaemonSimulator, zhcache):
    daemon.new_job("prefetch", "org/name")
    assert zhcache("cancel", "j1").code == 0
    assert daemon.jobs["j1"].state == "cancelled"
    assert zhcache("cancel", "j9").code == 4


def test_logs_are_lines(daemon: DaemonSimulator, zhcache):
    lines = zhcache("logs", "j1", "-n", "2", "--json").out.splitlines()
    assert [json.loads(line)["job"] for line in lines] == ["j1", "j1"]
    assert len(zhcache("logs").out.splitlines()) == 3


def test_sources_and_du_and_ps(daemon: DaemonSimulator, zhcache, snapshot: Path):
    daemon.hold("org/name", snapshot)
    assert zhcache("sources", "-q").out == "one\ntwo\n"
    assert "1.0 MiB/s" in zhcache("sources").out
    source = zhcache("sources", "--json").json["sources"][1]
    assert (source["state"], source["error"]["code"]) == ("down", "not_found")
    assert zhcache("du", "--json").json["repos"][0]["repo"] == "org/name"
    assert zhcache("ps", "--json").json == {"schema": 1, "resident": []}


def test_sources_says_why(daemon: DaemonSimulator, zhcache):
    lines = zhcache("sources").out.splitlines()
    assert lines[1].endswith("takes 10.0 s to answer")
    assert lines[2].endswith(
        "lists models, but cdn-x sends nothing: refused; last error: two is down"
    )


def test_sources_are_tested(daemon: DaemonSimulator, zhcache):
    ran = zhcache("sources", "test", "--json")
    assert (ran.code, ran.json["schema"], len(ran.json["sources"])) == (0, 1, 2)
    assert zhcache("sources", "test", "-q").out == "one\n"
    assert zhcache("sources", "test", "two").code == 10
    shown = zhcache("sources", "test").out
    assert "0.25 s  cdn.example  1.0 MiB/s" in shown
    assert "two refuses" in shown


def test_import_takes_a_model_in_one_file(daemon: DaemonSimulator, zhcache, tmp_path: Path):
    file = tmp_path / "m.safetensors"
    file.write_bytes(b"weights")
    zhcache("import", file, "--like", "demo/base", "--repo", "me/mine", "--json")
    ((request, _),) = daemon.imports
    assert (request.op, request.repo, request.like) == ("checkpoint", "me/mine", "demo/base")
    assert zhcache("import", tmp_path, "--like", "demo/base", "--repo", "me/mine").code == 2


def test_import_takes_a_plain_folder(daemon: DaemonSimulator, zhcache, snapshot: Path):
    assert zhcache("import", snapshot).code == 2
    ran = zhcache("import", snapshot, "--repo", "org/name", "--json")
    assert (ran.code, ran.json["repo"]) == (0, "org/name")
    assert [file.path for file in daemon.imports[0][0].files] == [
        "config.json",
        "模型.safetensors",
    ]
    assert zhcache("import", snapshot / "absent").code == 4


def test_export_copies_under_a_lease(
    daemon: DaemonSimulator, zhcache, snapshot: Path, tmp_path: Path
):
    daemon.hold("org/name", snapshot)
    target = tmp_path / "copy"
    assert zhcache("export", "org/name", target, "--json").json["files"] == 2
    assert (target / "模型.safetensors").stat().st_size == 2000
    assert daemon.lease_ended.wait(10)
    assert zhcache("export", "org/name", target).code == 2


def test_daemon_status_shows_who_answers(daemon: DaemonSimulator, zhcache):
    assert zhcache("daemon", "status", "--json").json["pid"] == os.getpid()
    assert zhcache("daemon", "start").code == 0


def test_daemon_status_is_5_when_nobody_answers(
    zhcache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ZHCACHE_SOCKET", str(tmp_path / "none.sock"))
    assert zhcache("daemon", "status").code == 5
    assert zhcache("daemon", "stop", "--json").json == {"stopped": None, "schema": 1}
    ran = zhcache("ls", "--json")
    assert (ran.code, ran.json["error"]["code"]) == (5, "daemon_unreachable")


def test_doctor_joins_both_sides(daemon: DaemonSimulator, zhcache, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HUB_CACHE", "/elsewhere")
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example/")
    monkeypatch.setenv("ZHCACHE_HOME", "/mine")
    ran = zhcache("doctor", "--json")
    status = {check["name"]: check["status"] for check in ran.json["checks"]}
    assert status["store"] == "ok"
    assert {status[n] for n in ("hf-cache", "hf-endpoint", "home")} == {"warn"}
    assert ran.code == 0


def test_doctor_says_what_extras_this_environment_lacks(
    daemon: DaemonSimulator, zhcache, monkeypatch: pytest.MonkeyPatch
):
    def told() -> dict[str, str]:
        checks = zhcache("doctor", "--json").json["checks"]
        return {check["name"]: check["detail"] for check in checks}

    monkeypatch.setattr(diagnosis, "find_spec", lambda _: object())
    assert not {"prompts", "eval"} & told().keys()
    monkeypatch.setattr(diagnosis, "find_spec", lambda name: name not in ("jieba", "torch") or None)
    found = told()
    assert found["prompts"].startswith("jieba not found: prompts cannot be optimized")
    assert "pip install 'zhcache[chinese]'" in found["prompts"]
    assert found["eval"].startswith("torch not found: `zhcache eval`")
    assert "pip install 'zhcache[eval]'" in found["eval"]
    assert zhcache("doctor").code == 0


def test_doctor_is_1_when_something_is_bad(
    zhcache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ZHCACHE_SOCKET", str(tmp_path / "none.sock"))
    ran = zhcache("doctor")
    assert ran.code == 1
    assert "zhcache daemon start" in ran.out


def test_completion_prints_a_script(zhcache):
    assert "_ZHCACHE_COMPLETE" in zhcache("completion", "zsh").out


@pytest.mark.parametrize(
    "error",
    [Partial, NotFound, AlreadyRunning, NoSpace, Gated, IntegrityError, SourcesFailed, Busy],
)
def test_every_error_has_the_contracts_exit_code(
    daemon: DaemonSimulator, zhcache, error: type[ZhcacheError]
):
    daemon.error = error("no {thing}", hint="do {thing}", thing="x")
    ran = zhcache("ls", "--json")
    assert ran.code == error.exit_code
    assert ran.json == {
        "schema": 1,
        "error": {"code": error.code, "message": "no x", "hint": "do x"},
    }
    told = zhcache("ls")
    assert (told.code, told.out) == (error.exit_code, "")
    assert "Traceback" not in told.err


def test_unknown_option_is_2_and_json_when_asked(zhcache):
    assert zhcache("ls", "--bogus").code == 2
    assert zhcache("nonsense").code == 2
    assert zhcache("ls", "--bogus", "--json").json["error"]["code"] == "usage"


def test_defect_is_told_without_a_traceback(zhcache, monkeypatch: pytest.MonkeyPatch):
    ls = importlib.import_module("zhcache.cli.ls")
    monkeypatch.setattr(ls.command, "callback", lambda **_: 1 / 0)
    ran = zhcache("ls")
    assert ran.code == 1
    assert "ZeroDivisionError" in ran.err
    assert "Traceback" not in ran.err
    shown = zhcache("--debug", "ls")
    assert shown.code == 1
    assert "Traceback" in shown.err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_output_options(zhcache, name: str):
    ran = zhcache(name, "--help")
    assert ran.code == 0
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert command.help
    leaves = command.commands.values() if isinstance(command, click.Group) else [command]
    for leaf in leaves:
        options = {option for param in leaf.params for option in param.opts}
        # What a script prints is its own; the words of a completion are for the shell.
        assert name in ("completion", "exec") or {"--json", "-q"} <= options
        assert all(p.help for p in leaf.params if isinstance(p, click.Option))
