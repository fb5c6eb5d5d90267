"""Where things are: the store root, the API socket, the configuration.

Pure functions of an environment mapping and a few existence checks; they create nothing. The
daemon and the client use the same ones, so that both mean the same place.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

SERVICE_HOME = Path("/var/lib/zhcache")
SERVICE_SOCKET = Path("/run/zhcache/api.sock")
SYSTEM_CONFIG = Path("/etc/zhcache/config.toml")


def store_root(environ: Mapping[str, str] | None = None) -> Path:
    """Returns the store root: ``ZHCACHE_HOME``, else the user's cache folder."""
    env = os.environ if environ is None else environ
    if explicit := env.get("ZHCACHE_HOME"):
        return Path(explicit).expanduser().absolute()
    if cache := env.get("XDG_CACHE_HOME"):
        return Path(cache) / "zhcache"
    return Path(env.get("HOME") or Path.home()) / ".cache" / "zhcache"


def socket_path(environ: Mapping[str, str] | None = None, home: Path | None = None) -> Path:
    """Returns the API socket's path, whether or not something listens there."""
    env = os.environ if environ is None else environ
    if explicit := env.get("ZHCACHE_SOCKET"):
        return Path(explicit).expanduser().absolute()
    if SERVICE_SOCKET.exists():
        return SERVICE_SOCKET
    if runtime := env.get("XDG_RUNTIME_DIR"):
        return Path(runtime) / "zhcache" / "api.sock"
    return (home or store_root(env)) / "api.sock"


def handover_path(api_socket: Path) -> Path:
    """Returns the path of the descriptor socket that stands beside the API socket."""
    return api_socket.with_name("handover.sock")


def config_paths(environ: Mapping[str, str] | None = None) -> list[Path]:
    """Returns the configuration files to read, each one overriding those before it."""
    env = os.environ if environ is None else environ
    if explicit := env.get("ZHCACHE_CONFIG"):
        return [Path(explicit).expanduser().absolute()]
    user = env.get("XDG_CONFIG_HOME")
    base = Path(user) if user else Path(env.get("HOME") or Path.home()) / ".config"
    return [SYSTEM_CONFIG, base / "zhcache" / "config.toml"]
