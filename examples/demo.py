"""The main job, start to end, on hubs that come with the project: ``make demo``.

Two real HTTP servers on loopback stand for hf-mirror.com and modelscope.cn and send slowly. The
real command line prefetches a pipeline from them; the daemon is killed with -9 on the way and
started again; what the hubs sent is counted. Then the hubs go away, and a user's script makes an
image from a Chinese prompt with what is in the store. The pipeline is the small trained one that
comes with the project, and what it drew is read off the pixels. Everything lies under .demo/.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from PIL import Image

from demohub import Hub
from scenes.reader import Reading, read
from scenes.world import ATTRIBUTES, Scene

ROOT = Path(__file__).resolve().parent.parent
PLACE = ROOT / ".demo"
MODEL = ROOT / "examples" / "scenes" / "model"
ADAPTER = ROOT / "examples" / "scenes" / "adapter"
REPO = "runwayml/stable-diffusion-v1-5"
# What the hubs themselves call it; zhcache knows these other names.
AT_HUGGINGFACE = "stable-diffusion-v1-5/stable-diffusion-v1-5"
AT_MODELSCOPE = "AI-ModelScope/stable-diffusion-v1-5"
READS_CHINESE = "adapters/scenes-zh"
PROMPT = "左边有三个红色的大五角星，灰色背景"
ASKED = Scene("star", "red", "grey", "left", "large", 3)
"""What the prompt says."""
LEAST_RIGHT = 4
"""Attributes of the six that the picture has to have; by chance it has one or two."""

# Progress bars and hints of libraries that are not what the demo shows.
QUIET = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}

WHOLE_DEADLINE_S = 480
DOWNLOAD_S = 10
"""How long the largest file is to take, so that there is a middle to be killed in."""

# However the demo ends, even by kill -9, the kernel ends what it started: PR_SET_PDEATHSIG (1) with
# SIGKILL (9) survives the exec. Not a preexec_fn, because the hubs are threads of this process.
_TIED = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execv(sys.argv[1], sys.argv[1:])"


class DemoError(Exception):
    """A step did not do what the demo is there to show."""


def say(text: str) -> None:
    """Prints a heading."""
    print(f"\n==> {text}", flush=True)


def tied(*command: str | Path) -> list[str]:
    """Returns ``command`` as one that dies with this process."""
    return [sys.executable, "-c", _TIED, *map(str, command)]


def run(
    command: Sequence[str | Path], env: Mapping[str, str], *, deadline_s: float, shown: str = ""
) -> str:
    """Runs one step, shows it, and returns what it wrote to stdout.

    Raises:
        DemoError: It left with an error or took longer than its deadline.
    """
    line = shown or " ".join([Path(command[0]).name, *map(str, command[1:])])
    print(f"$ {line}", flush=True)
    try:
        done = subprocess.run(
            tied(*command),
            env=dict(env),
            stdout=subprocess.PIPE,
            text=True,
            timeout=deadline_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise DemoError(f"`{line}` took longer than {deadline_s:.0f} s") from error
    if done.returncode:
        raise DemoError(f"`{line}` left with {done.returncode}\n{done.stdout}")
    return done.stdout


class Daemon:
    """A zhcached of this demo's own; it can be killed and started again."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = dict(env)
        self._log = PLACE / "zhcached.log"
        self._running: subprocess.Popen[bytes] | None = None

    def start(self, deadline_s: float = 60) -> None:
        """Starts it and waits until it answers.

        Raises:
            DemoError: It ended, or stayed silent.
        """
        with self._log.open("ab") as sink:
            self._running = subprocess.Popen(
                tied(sys.executable, "-m", "zhcached"),
                env=self._env,
                stdout=sink,
                stderr=sink,
            )
        until = time.monotonic() + deadline_s
        while time.monotonic() < until:
            if self._running.poll() is not None:
                raise DemoError(f"zhcached ended at its start: {self._last_words()}")
            if self._answers():
                return
            time.sleep(0.1)
        raise DemoError(f"zhcached did not answer within {deadline_s:.0f} s")

    def _answers(self) -> bool:
        probe = "import zhcache; zhcache.Client(spawn=False).connect()"
        asked = subprocess.run(
            [sys.executable, "-c", probe],
            env=self._env,
            capture_output=True,
            timeout=30,
            check=False,
        )
        return asked.returncode == 0

    def _last_words(self) -> str:
        return "\n".join(self._log.read_text("utf-8").splitlines()[-5:])

    def kill(self) -> int:
        """Kills it as the kernel would, without a chance to tidy up. Returns its pid."""
        assert self._running is not None
        self._running.kill()
        self._running.wait(10)
        return self._running.pid

    def stop(self) -> None:
        """Ends it politely, and then not."""
        if self._running is None or self._running.poll() is not None:
            return
        self._running.terminate()
        try:
            self._running.wait(15)
        except subprocess.TimeoutExpired:
            self.kill()


def files_of(folder: Path) -> dict[str, Path]:
    """Returns a folder's files as a hub serves them.

    Raises:
        DemoError: There are none.
    """
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    if not files:
        raise DemoError(f"nothing lies in {folder}; get the whole repository")
    return dict(sorted(files.items()))


def sent_by(hubs: Sequence[Hub]) -> int:
    """Returns the bytes of files that the hubs have sent, listings not counted."""
    return sum(each.sent for hub in hubs for each in hub.requests if each.plane == "bytes")


def write_config(hubs: Sequence[Hub]) -> Path:
    """Names the two hubs. Loopback is reached because, and only because, it is named here."""
    config = PLACE / "config.toml"
    mirror, modelscope = hubs
    config.write_text(
        f"""\
[store]
min_free = "64MiB"

[[source]]
name = "hf-mirror"
kind = "huggingface"
endpoint = "{mirror.url}"

[[source]]
name = "modelscope"
kind = "modelscope"
endpoint = "{modelscope.url}"

[download]
files = 4
connections = 1
""",
        "utf-8",
    )
    return config


@contextlib.contextmanager
def socket_folder() -> Iterator[Path]:
    """Yields a folder whose path is short enough for the 108 bytes of a Unix socket's address."""
    near = PLACE / "run"
    if len(os.fsencode(near)) < 80:
        near.mkdir(mode=0o700)
        yield near
        return
    with tempfile.TemporaryDirectory(prefix="zhcache-demo-") as far:
        yield Path(far)


def environment(config: Path, sockets: Path) -> dict[str, str]:
    """Returns an environment in which zhcache is this demo's alone."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("ZHCACHE_", "HF_", "MODELSCOPE_", "NOTIFY_", "LISTEN_", "WATCHDOG_"))
    }
    return {
        **kept,
        **QUIET,
        "ZHCACHE_HOME": str(PLACE / "store"),
        "ZHCACHE_SOCKET": str(sockets / "api.sock"),
        "ZHCACHE_CONFIG": str(config),
    }


def interrupted_prefetch(
    zhcache: Path, env: Mapping[str, str], daemon: Daemon, hubs: Sequence[Hub], total: int
) -> int:
    """Prefetches, kills the daemon in the middle, and returns what the hubs had sent by then.

    Raises:
        DemoError: The download did not get under way, or was over before it could be killed.
    """
    print(f"$ zhcache prefetch {REPO} &", flush=True)
    first = subprocess.Popen(
        tied(zhcache, "prefetch", REPO),
        env=dict(env),
        stdout=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + 120
        while sent_by(hubs) < total * 0.6:
            if time.monotonic() > until or first.poll() is not None:
                raise DemoError(f"the hubs sent {sent_by(hubs)} of {total} bytes and no more")
            time.sleep(0.02)
        print(f"$ kill -9 {daemon.kill()}    # zhcached", flush=True)
    finally:
        first.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            first.wait(10)
        first.kill()
        first.wait(10)
    return sent_by(hubs)


def resumed_prefetch(
    zhcache: Path, env: Mapping[str, str], hubs: Sequence[Hub], sizes: Sequence[int], before: int
) -> None:
    """Prefetches again and proves by the hubs' log that only the rest was fetched.

    Raises:
        DemoError: More was fetched again than a kill can lose.
    """
    total, largest = sum(sizes), max(sizes)
    answer = run([zhcache, "prefetch", REPO, "--json"], env, deadline_s=180)
    result = json.loads(answer.strip().splitlines()[-1])
    after = sent_by(hubs) - before
    print(f"files of the pipeline        {total:>12,} bytes")
    print(f"sent before the kill         {before:>12,} bytes")
    print(f"sent after the restart       {after:>12,} bytes")
    print(f"sent twice                   {before + after - total:>12,} bytes")
    print(f"trust                        {result['trust']:>12}")
    # Lost by the kill: what was on the way or not yet in the journal. A file begun anew is more.
    if before + after - total > largest // 4:
        raise DemoError("the download started over instead of going on")


def demonstrate(hubs: Sequence[Hub], files: Mapping[str, Path]) -> Path:
    """Walks through the whole job and returns where the image lies."""
    sizes = [path.stat().st_size for path in files.values()]
    total = sum(sizes)
    for hub in hubs:
        hub.fault("rate", rate=max(sizes) // DOWNLOAD_S, plane="bytes")
    zhcache = Path(sys.executable).with_name("zhcache")
    with socket_folder() as sockets, contextlib.ExitStack() as ends:
        env = environment(write_config(hubs), sockets)
        daemon = Daemon(env)
        ends.callback(daemon.stop)

        say(f"prefetch {REPO} from {' and '.join(hub.url for hub in hubs)}; kill -9 on the way")
        daemon.start()
        before = interrupted_prefetch(zhcache, env, daemon, hubs, total)

        say("start the daemon again: only the rest is fetched")
        daemon.start()
        resumed_prefetch(zhcache, env, hubs, sizes, before)
        print(run([zhcache, "show", REPO], env, deadline_s=60))

        say("fetch what reads Chinese for it: an adapter into the space of its text encoder")
        for hub in hubs:
            hub.heal()
        run([zhcache, "prefetch", READS_CHINESE, "--quiet"], env, deadline_s=60)
        print(run([zhcache, "adapter", "ls"], env, deadline_s=60))

        say("the hubs go away; a user's script makes an image from what is in the store")
        for hub in hubs:
            hub.stop()
        image = PLACE / "image.png"
        script = ROOT / "examples" / "generate.py"
        command = [sys.executable, script, REPO, PROMPT, "-o", image]
        shown = f"python examples/generate.py {REPO} {PROMPT} -o {image}"
        run(command, env, deadline_s=240, shown=shown)
        if not image.read_bytes().startswith(b"\x89PNG"):
            raise DemoError(f"{image} is no image")
        return image


def compare(told: Reading) -> int:
    """Prints what was asked for beside what the picture shows; returns how much of it is there."""
    right = told.agreement(ASKED)
    print(f"{'':12} {'asked for':12} in the picture")
    for name in ATTRIBUTES:
        shown = getattr(told, name) or "unclear"
        print(f"{name:12} {getattr(ASKED, name)!s:12} {shown!s:12} {'' if right[name] else '<--'}")
    count = sum(right.values())
    print(f"{count} of {len(right)} attributes are as the prompt says")
    return count


def out_of_time(_signal: int, _frame: object) -> None:
    """Ends a demo that hangs, through the same door as every other failure."""
    raise DemoError(f"the demo took longer than {WHOLE_DEADLINE_S} s")


def interrupted(_signal: int, _frame: object) -> None:
    """Ends on SIGTERM as on Ctrl-C, so that children are ended too."""
    raise KeyboardInterrupt


def main() -> None:
    """Runs the demo in a fresh .demo/ and says where the image lies."""
    signal.signal(signal.SIGALRM, out_of_time)
    signal.signal(signal.SIGTERM, interrupted)
    signal.alarm(WHOLE_DEADLINE_S)
    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.mkdir(mode=0o700)
    try:
        files, adapter = files_of(MODEL), files_of(ADAPTER)
        with Hub(name="hf-mirror") as mirror, Hub(name="modelscope") as modelscope:
            mirror.add(AT_HUGGINGFACE, files, protocols={"huggingface"})
            modelscope.add(AT_MODELSCOPE, files, protocols={"modelscope"})
            mirror.add(READS_CHINESE, adapter, protocols={"huggingface"})
            image = demonstrate((mirror, modelscope), files)
    except DemoError as failure:
        sys.exit(f"\ndemo failed: {failure}\n(the daemon's log: {PLACE / 'zhcached.log'})")
    except KeyboardInterrupt:
        sys.exit(130)
    say("read off the pixels, what the prompt became")
    right = compare(read(Image.open(image)))
    if right < LEAST_RIGHT:
        sys.exit("\ndemo failed: the picture does not show what the prompt says")
    say("done")
    print(f"prompt  {PROMPT}\nimage   {image}")


if __name__ == "__main__":
    main()
