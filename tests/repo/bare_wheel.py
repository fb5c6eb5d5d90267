"""Installs the built wheel with its base dependencies alone and looks at what a user then has.

Run by ``make check``. Proves what the test suite cannot, because it runs beside every extra: that
the client works where torch and the daemon's libraries are absent.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import tomllib
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
INSTALL_LINE = "pip install 'zhcache[daemon]'"
MONITOR_LINE = "pip install 'zhcache[monitor]'"
PROBE = """
import importlib.util, sys
absent = ("torch", "diffusers", "transformers", "numpy", "aiohttp", "sqlite_utils")
found = [name for name in absent if importlib.util.find_spec(name)]
assert not found, f"a bare install brought {found}"
import zhcache
assert zhcache.ZhcacheError and zhcache.Client
loaded = sorted(name for name in absent if name in sys.modules)
assert not loaded, loaded
print("zhcache", zhcache.__version__)
"""


def run(*command: str | Path, expect: int = 0, **extra: str) -> str:
    """Returns what ``command`` printed; leaves with its output where its exit code is another."""
    # A path that leads back into the checkout would let the sources stand in for the wheel.
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=tempfile.gettempdir(),
        env={**env, "LC_ALL": "C.UTF-8", **extra},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode != expect:
        line = " ".join(str(part) for part in command)
        sys.exit(f"{line}\nleft with {done.returncode}, expected {expect}:\n{done.stdout}")
    return done.stdout


def main() -> None:
    """Builds, installs, looks."""
    with tempfile.TemporaryDirectory(prefix="zhcache-bare-") as folder:
        here = Path(folder)
        pip = (sys.executable, "-m", "pip")
        run(*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", here, ROOT)
        (wheel,) = here.glob("zhcache-*.whl")
        tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
        assert tops - {f"zhcache-{VERSION}.dist-info"} == {"zhcache", "zhcached"}, tops
        venv.create(here / "venv", with_pip=False, symlinks=True)
        python = here / "venv" / "bin" / "python"
        run(*pip, "--python", python, "install", "-q", "-c", ROOT / "constraints.txt", wheel)
        print(run(python, "-c", PROBE).strip())
        help_text = run(here / "venv" / "bin" / "zhcache", "--help")
        assert "prefetch" in help_text, help_text
        chinese = run(here / "venv" / "bin" / "zhcache", "--lang", "zh", "--help")
        assert any("\u4e00" <= char <= "\u9fff" for char in chinese), "the wheel has no catalogue"
        lacking = run(here / "venv" / "bin" / "zhcache", "eval", here, here, expect=2)
        assert "pip install 'zhcache[eval]'" in lacking, lacking
        prompts = (here / "venv" / "bin" / "zhcache", "prompt")
        assert run(*prompts, "generate", "1", "--seed", "1").strip(), "the wheel has no vocabulary"
        lacking = run(*prompts, "optimize", "\u732b", expect=2)
        assert "pip install 'zhcache[chinese]'" in lacking, lacking
        lacking = run(here / "venv" / "bin" / "zhcache", "monitor", "true", expect=2)
        assert MONITOR_LINE in lacking, lacking
        told = run(here / "venv" / "bin" / "zhcached", expect=5, ZHCACHE_HOME=str(here / "store"))
        assert INSTALL_LINE in told and len(told.strip().splitlines()) == 1, told
        assert not (here / "store").exists(), "zhcached without its libraries touched the store"
        print(f"bare wheel: {wheel.name} works, and zhcached says: {told.strip()}")


if __name__ == "__main__":
    main()
