"""``zhcached``: the daemon in the foreground."""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import sys
from importlib.util import find_spec
from pathlib import Path

from zhcache import paths
from zhcache.errors import ZhcacheError
from zhcache.protocol.ready import make_ready
from zhcached import libraries

NEEDS = ("aiohttp", "sqlite_utils", "structlog", "prometheus_client", "psutil")


def main(arguments: list[str] | None = None) -> None:
    """Runs the daemon; ends the process with the exit code of what went wrong."""
    options = _parser().parse_args(arguments)
    missing = [name for name in NEEDS if find_spec(name) is None]
    if missing:
        _say(f"zhcached needs {', '.join(missing)}: pip install 'zhcache[daemon]'")
        sys.exit(5)
    try:
        _run(options)
    except ZhcacheError as error:
        _say(f"zhcached: {error.message}")
        if error.hint:
            _say(f"  {error.hint}")
        sys.exit(error.exit_code)


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="zhcached", description="The daemon that keeps one verified copy of every model."
    )
    parser.add_argument("--home", type=Path, help="store root (ZHCACHE_HOME)")
    parser.add_argument("--socket", type=Path, help="API socket (ZHCACHE_SOCKET)")
    parser.add_argument("--config", type=Path, help="configuration file (ZHCACHE_CONFIG)")
    return parser


def _run(options: argparse.Namespace) -> None:
    # What is loaded stays: to look through it for garbage, again and again while it grows, is a
    # fifth of what loading takes, and would go on being looked through.
    gc.disable()
    libraries.load()
    from zhcached import app, config

    gc.freeze()
    gc.enable()
    if options.config is not None:
        os.environ["ZHCACHE_CONFIG"] = str(options.config)
    home = (options.home or paths.store_root()).absolute()
    socket_path = (options.socket or paths.socket_path(home=home)).absolute()
    # Nothing the daemon makes is for users outside its group; a stricter umask stays.
    os.umask(os.umask(0o077) | 0o027)
    make_ready()
    asyncio.run(app.serve(home, socket_path, config.load(paths.config_paths())))


if __name__ == "__main__":
    main()
