"""What a worker may touch: it parses files from strangers, so as little as torch can live with.

It reads its own programs and the store's weights, writes one folder that is deleted with it, and
reaches no network, no token and no other process. Everything here is done by the process to
itself, once, while it has one thread, and cannot be undone.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import re
import resource
import signal
import socket
import struct
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from zhcached.workers import landlock, seccomp

OOM_SCORE = 500
"""When memory runs out a worker goes before the daemon does, and before people's own programs."""

_PR_SET_PDEATHSIG, _PR_SET_NAME, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 15, 36, 38
_CAPABILITIES_V3 = 0x20080522
_CAPABILITIES = re.compile(r"^Cap(?:Inh|Prm|Eff):\s+([0-9a-f]+)$", re.MULTILINE)

SWITCH = "ZHCACHE_WORKER_SANDBOX"
"""``off`` leaves a worker open, for a driver that cannot live with this; ``doctor`` warns of it."""

# Where programs and drivers lie; what is not there is passed over. /proc and /sys: CUDA looks for
# cards, NUMA nodes and limits there. Nothing of a home folder, of /run, of /tmp or of /var.
_SYSTEM = ("/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/etc", "/opt", "/nix")
_KERNEL = ("/proc", "/sys", "/run/opengl-driver", "/run/nvidia")
# Not /dev as a whole: other programs' shared memory lies in /dev/shm.
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/urandom", "/dev/random", "/dev/dxg")
# This process's own alone. CUDA writes its threads' names there, and does not start if it cannot.
_THREADS = Path("/proc/self/task")
_MPS = "/tmp/nvidia-mps"  # noqa: S108 - NVIDIA's own default, CUDA_MPS_PIPE_DIRECTORY


def name(title: str) -> None:
    """Names this process, for ``ps`` and ``top``; the kernel keeps 15 bytes."""
    _prctl(_PR_SET_NAME, title.encode()[:15])


def die_with(parent: int) -> None:
    """Has the kernel kill this process when ``parent``, which made it, dies.

    Raises:
        OSError: The kernel refuses.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # It may have died before the kernel was told.
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def adopt_orphans() -> None:
    """Makes this process the parent of whatever its children leave behind.

    Raises:
        OSError: The kernel refuses.
    """
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def enter(scratch: Path, reads: Iterable[Path], *, may_meet: bool = False) -> list[str]:
    """Shuts this process in; returns what this kernel cannot keep it from, in words.

    Args:
        scratch: A folder of its own, the only one it may write to.
        reads: What it may read besides its own programs.
        may_meet: It is in a network of its own, whose loopback it may use.

    Raises:
        OSError: The kernel refuses what it says that it can do.
    """
    programs = _give_up_rights(scratch, _SYSTEM + _KERNEL)
    if os.environ.get(SWITCH) == "off":
        return [f"anything: {SWITCH} is off"]
    lacking: list[str] = []
    pipes = Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY") or _MPS)
    if landlock.version():
        _keep_threads()
        landlock.restrict(
            reads=[*programs, *reads],
            lists=[Path("/dev")],
            writes=[scratch],
            devices=[*map(Path, _DEVICES), *Path("/dev").glob("nvidia*"), _THREADS, pipes],
            may_meet=may_meet,
        )
    else:
        lacking.append("files: the kernel has no Landlock")
    if seccomp.is_known():
        seccomp.refuse(may_connect=pipes.exists(), may_meet=may_meet)
    else:
        lacking.append("the network: no filter of system calls is known here")
    # Something in this environment starts one with every interpreter.
    if (threads := len(list(Path("/proc/self/task").iterdir()))) > 1:
        lacking.append(f"what {threads - 1} older threads of it do")
    return lacking


def enter_networked(scratch: Path, reads: Iterable[Path]) -> list[str]:
    """Shuts in a process that has to reach other machines; returns what is left open, in words.

    Args:
        scratch: The only folder that it may write to; emptied by whoever made it.
        reads: What it may read besides its own programs.

    Raises:
        OSError: The kernel refuses what it says that it can do.
    """
    programs = _give_up_rights(scratch, _SYSTEM)
    lacking: list[str] = []
    if landlock.version():
        landlock.restrict(
            reads=[*programs, *reads],
            writes=[scratch],
            devices=map(Path, _DEVICES),
            may_meet=True,
        )
    else:
        lacking.append("files: the kernel has no Landlock")
    if seccomp.is_known():
        seccomp.refuse(may_connect=False, may_meet=True, more=[socket.AF_INET6])
    else:
        lacking.append("system calls: no filter of them is known here")
    return lacking


def _give_up_rights(scratch: Path, system: Iterable[str]) -> list[Path]:
    """Moves into ``scratch`` without rights; returns where programs and ``system`` lie."""
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    _offer_to_the_oom_killer()
    programs = _outermost([*map(Path, system), *_programs()])
    _live_in(scratch)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _drop_capabilities()
    return programs


def _keep_threads() -> None:
    """Keeps the kernel from making ``_THREADS`` anew, a file to which the rule would not apply."""
    os.open(_THREADS, os.O_PATH | os.O_CLOEXEC)


def _drop_capabilities() -> None:
    """Leaves a daemon that runs as root, against all advice, with workers that may nothing."""
    # A service's filter may refuse the call itself, as systemd's @privileged does.
    if not any(
        int(held, 16) for held in _CAPABILITIES.findall(Path("/proc/self/status").read_text())
    ):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = struct.pack("=Ii", _CAPABILITIES_V3, 0)
    if libc.capset(header, bytes(24)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _offer_to_the_oom_killer() -> None:
    score = Path("/proc/self/oom_score_adj")
    # Lowering it would need a privilege.
    if int(score.read_text("ascii")) < OOM_SCORE:
        score.write_text(str(OOM_SCORE), "ascii")


def _programs() -> Iterator[Path]:
    """Yields where this interpreter and its packages lie, and the libraries it was told of."""
    found = {*sys.path, *sysconfig.get_paths().values(), sys.prefix, sys.base_prefix}
    found.add(str(Path(sys.executable).resolve().parent))
    found |= {*os.environ.get("LD_LIBRARY_PATH", "").split(":")}
    # A package may be installed as a link to a folder that is nowhere on the path.
    for title, module in list(sys.modules.items()):
        if "." not in title and hasattr(module, "__path__"):
            found |= set(map(str, module.__path__))
    for each in found:
        if each.startswith("/"):
            yield Path(each)


def _outermost(paths: Iterable[Path]) -> list[Path]:
    """Drops what lies below another, and what would open the root or somebody's home."""
    try:
        home = Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        home = Path("/")
    kept: list[Path] = []
    for path in sorted({*paths} - {home, *home.parents}, key=lambda path: len(path.parts)):
        if not kept or not any(path.is_relative_to(outer) for outer in kept):
            kept.append(path)
    return kept


def _live_in(scratch: Path) -> None:
    """Sends everything that libraries write by themselves into ``scratch``."""
    os.chdir(scratch)
    for variable in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "CUDA_CACHE_PATH"):
        os.environ[variable] = str(scratch)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(scratch / "inductor")
    os.environ["TRITON_CACHE_DIR"] = str(scratch / "triton")
    tempfile.tempdir = None


def _prctl(option: int, value: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
