"""The units as systemd itself judges them, and the directives that must stay as they are."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).resolve().parents[2] / "systemd"
# systemd-analyze counts what is open, 0 (nothing) to 10; in tenths, as --threshold takes it.
EXPOSURE_MAX_TENTHS = 20
EVERY = [
    "zhcached.service",
    "zhcached-user.service",
    "zhcached.socket",
    "zhcached-workers.service",
    "zhcached-workers.socket",
]

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


def directives(name: str) -> list[tuple[str, str, str]]:
    """Returns (section, key, value) in order; keys may repeat, which configparser would refuse."""
    found, section = [], ""
    for line in (UNITS / name).read_text("utf-8").splitlines():
        if head := re.fullmatch(r"\[(\w+)\]", line):
            section = head[1]
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.append((section, key, value))
    return found


def values(name: str, key: str) -> list[str]:
    return [value for _, found, value in directives(name) if found == key]


def with_real_executable(folder: Path) -> list[Path]:
    """Copies the units with a program that exists, because verify looks for it."""
    program = shutil.which("true")
    copies = []
    for unit in sorted([*UNITS.glob("*.service"), *UNITS.glob("*.socket")]):
        text = re.sub(r"(?m)^ExecStart=\S+", f"ExecStart={program}", unit.read_text("utf-8"))
        (folder / unit.name).write_text(text, "utf-8")
        copies.append(folder / unit.name)
    return copies


def analyze(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@needs_systemd
def test_units_are_accepted_by_systemd(tmp_path):
    system = [path for path in with_real_executable(tmp_path) if "-user" not in path.name]
    done = analyze("verify", "--man=no", "--recursive-errors=yes", *system)
    assert (done.returncode, done.stderr.strip()) == (0, "")


@needs_systemd
def test_user_unit_is_accepted_by_systemd(tmp_path):
    with_real_executable(tmp_path)
    done = analyze(
        "verify", "--user", "--man=no", "--recursive-errors=yes", tmp_path / "zhcached-user.service"
    )
    # Where no user session runs, verify complains about the session's own folder, not about ours.
    ours = [line for line in done.stderr.splitlines() if "zhcached-user" in line]
    assert ours == []


@needs_systemd
def test_verify_sees_an_unknown_directive(tmp_path):
    """The test of the test: without --recursive-errors a misspelt key leaves exit code 0."""
    units = with_real_executable(tmp_path)
    service = tmp_path / "zhcached.service"
    misspelt = service.read_text("utf-8").replace("ProtectHome=", "ProtectHomes=")
    service.write_text(misspelt, "utf-8")
    system = [path for path in units if "-user" not in path.name]
    done = analyze("verify", "--man=no", "--recursive-errors=yes", *system)
    assert "ProtectHomes" in done.stderr


@needs_systemd
@pytest.mark.parametrize("unit", ["zhcached.service", "zhcached-workers.service"])
def test_service_exposure_stays_low(tmp_path, unit):
    with_real_executable(tmp_path)
    done = analyze(
        "security",
        "--offline=true",
        "--no-pager",
        f"--threshold={EXPOSURE_MAX_TENTHS}",
        tmp_path / unit,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("PrivateDevices", "no", "hides the cards"),
        ("ProtectProc", "default", "leases of other users' processes would look dead"),
        ("PrivateUsers", "no", "peers' uids would all read as nobody"),
        ("Type", "notify", "READY=1 is what orders units after an open store"),
        ("RuntimeDirectoryPreserve", "yes", "the listening socket lies in it"),
        ("DevicePolicy", "closed", "devices are named one by one"),
        ("MemoryDenyWriteExecute", "yes", "the daemon has no torch"),
        ("FileDescriptorStoreMax", "2048", "weights outlive a restart there"),
        ("LimitMEMLOCK", "infinity", "the page cache is locked within residency.ram"),
    ],
)
def test_service_keeps_directive(key, value, why):
    assert values("zhcached.service", key) == [value], why


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("PrivateNetwork", "yes", "a worker parses files from strangers"),
        (
            "RestrictAddressFamilies",
            "AF_UNIX AF_INET AF_NETLINK",
            "its line, CUDA's own sockets, and ranks that meet on the private loopback",
        ),
        ("MemoryDenyWriteExecute", "no", "torch writes code at run time"),
        ("ProtectSystem", "strict", "the store is read only"),
        ("PrivateTmp", "no", "the pipes of CUDA MPS lie in /tmp"),
        ("PrivateUsers", "no", "MPS looks at the users of its connections"),
        ("DevicePolicy", "closed", "devices are named one by one"),
        ("KillMode", "mixed", "workers die with the spawner"),
        ("PartOf", "zhcached.service", "an upgrade restarts both"),
        ("LimitMEMLOCK", "infinity", "pinned memory"),
    ],
)
def test_workers_service_keeps_directive(key, value, why):
    assert values("zhcached-workers.service", key) == [value], why


def test_workers_have_no_writable_folder_of_the_store_and_no_environment_of_the_daemon():
    keys = {key for _, key, _ in directives("zhcached-workers.service")}
    assert not keys & {"EnvironmentFile", "ReadWritePaths", "StateDirectory", "LoadCredential"}


def test_users_daemon_lets_its_workers_write_code():
    """They are its children, and a filter is inherited."""
    assert values("zhcached-user.service", "MemoryDenyWriteExecute") == []


@pytest.mark.parametrize(
    "unit", ["zhcached.service", "zhcached-user.service", "zhcached-workers.service"]
)
def test_service_never_hides_devices_or_proc(unit):
    assert "ProcSubset" not in {key for _, key, _ in directives(unit)}
    assert "ProtectProc" not in {
        k
        for _, k, v in directives(unit)
        # Workers look at no process but their own.
        if v in ("invisible", "noaccess") and "workers" not in unit
    }
    assert "PrivateDevices" not in {k for _, k, v in directives(unit) if v != "no"}


@pytest.mark.parametrize("unit", ["zhcached.service", "zhcached-workers.service"])
def test_service_allows_every_nvidia_device(unit):
    allowed = " ".join(values(unit, "DeviceAllow")).split()
    for device in ("char-nvidia", "char-nvidia-frontend", "char-nvidia-uvm", "char-nvidia-caps"):
        assert device in allowed
    assert "/dev/nvidiactl" in allowed


def test_service_and_socket_name_the_places_the_code_knows():
    from zhcache import paths

    (listen,) = values("zhcached.socket", "ListenStream")
    assert Path(listen) == paths.SERVICE_SOCKET
    (environment,) = values("zhcached.service", "Environment")
    assert f"ZHCACHE_HOME={paths.SERVICE_HOME}" in environment.split()
    assert f"ZHCACHE_SOCKET={paths.SERVICE_SOCKET}" in environment.split()
    assert values("zhcached.service", "StateDirectory") == [paths.SERVICE_HOME.name]
    assert values("zhcached.service", "ConfigurationDirectory") == [paths.SYSTEM_CONFIG.parent.name]


def test_socket_is_for_the_group_alone():
    assert values("zhcached.socket", "SocketMode") == ["0660"]
    assert values("zhcached.socket", "SocketGroup") == ["zhcache"]
    assert values("zhcached.socket", "Accept") == ["no"]


def test_workers_socket_is_where_the_daemon_looks_and_its_user_alone_may_ask():
    (listen,) = values("zhcached-workers.socket", "ListenStream")
    (environment,) = values("zhcached.service", "Environment")
    assert f"ZHCACHE_WORKERS={listen}" in environment.split()
    assert values("zhcached-workers.socket", "SocketMode") == ["0600"]
    (user,) = values("zhcached-workers.socket", "SocketUser")
    assert (
        [user] == values("zhcached-workers.service", "User") == values("zhcached.service", "User")
    )


def test_workers_may_read_where_the_store_keeps_weights(tmp_path):
    from zhcache import paths
    from zhcached.store.layout import Layout

    (command,) = values("zhcached-workers.service", "ExecStart")
    words = command.split()
    named = [Path(words[n + 1]) for n, word in enumerate(words) if word == "--read"]
    layout = Layout(paths.SERVICE_HOME)
    assert named == [layout.hub, layout.blobs.parent]


@pytest.mark.parametrize("unit", EVERY)
def test_unit_sets_each_directive_once(unit):
    lists = {"DeviceAllow", "SystemCallFilter", "Documentation"}
    seen = [(section, key) for section, key, _ in directives(unit) if key not in lists]
    assert len(seen) == len(set(seen))


def test_folders_belong_to_the_service_and_to_nobody_else():
    text = (UNITS / "zhcache.tmpfiles.conf").read_text("utf-8")
    lines = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    modes = {fields[1]: fields[2] for fields in lines}
    assert modes["/run/zhcache"] == modes["/var/lib/zhcache"] == "0750"
    assert all(int(mode, 8) & 0o007 == 0 for mode in modes.values())


@pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="systemd-sysusers is missing")
def test_account_is_made_by_sysusers(tmp_path):
    (tmp_path / "etc").mkdir()
    done = subprocess.run(
        ["systemd-sysusers", f"--root={tmp_path}", str(UNITS / "zhcache.sysusers.conf")],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    account = (tmp_path / "etc" / "passwd").read_text().strip().split(":")
    assert (account[0], account[5]) == ("zhcache", "/var/lib/zhcache")
    # A service account that nobody can log in to.
    assert account[6].endswith("nologin")


def test_units_hold_no_continued_or_stray_lines():
    for unit in [*UNITS.glob("*.service"), *UNITS.glob("*.socket")]:
        parser = configparser.RawConfigParser(strict=False, allow_no_value=False)
        parser.read_string(unit.read_text("utf-8"))
        assert "Unit" in parser.sections()


def test_daemon_starts_after_the_socket_that_it_asks_for_workers():
    # Wanted alone, both would start at once, and the first to ask would find nobody listening.
    for key in ("Wants", "After"):
        assert "zhcached-workers.socket" in " ".join(values("zhcached.service", key))
