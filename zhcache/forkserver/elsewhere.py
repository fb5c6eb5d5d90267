"""Whether the user means another environment than the one this zhcache is installed in.

The forked process has this interpreter's packages. Where a virtual or conda environment is active,
or the script names one, and it is another, ``python script.py`` would find other packages.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from zhcache.errors import NotFound, UsageError

_ACTIVE = ("VIRTUAL_ENV", "CONDA_PREFIX")
_LONGEST_LINE = 4096


def check_environment(environ: Mapping[str, str], script: str | None) -> None:
    """Checks that what is active, or what the script names, is this interpreter's environment.

    Raises:
        UsageError: It is another one.
    """
    ours = os.path.realpath(sys.prefix)
    active = {name: os.path.realpath(v) for name in _ACTIVE if (v := environ.get(name))}
    if active and (ours not in active.values() or _first_on_path(environ, active) != ours):
        name, other = next((n, p) for n, p in active.items() if p != ours)
        raise UsageError(
            "{name} is {other}, but this zhcache is installed in {ours}",
            hint="install zhcache there (pip install 'zhcache[torch]'), or unset {name} to run the"
            " script in {ours}",
            name=name,
            other=other,
            ours=ours,
        )
    if script is not None and (other := _named_by(script)) and other != ours:
        raise UsageError(
            "{script} names the environment {other} in its first line, but this zhcache is"
            " installed in {ours}",
            hint="run it with {other}/bin/python, or install zhcache there",
            script=script,
            other=other,
            ours=ours,
        )


def check_packages() -> None:
    """Checks that there is something to import.

    Raises:
        NotFound: torch or diffusers is not installed.
    """
    from importlib.util import find_spec

    for name in ("torch", "diffusers"):
        if find_spec(name) is None:
            raise NotFound(
                "{name} is not installed in {prefix}",
                hint="pip install 'zhcache[torch]'",
                name=name,
                prefix=sys.prefix,
            )


def _first_on_path(environ: Mapping[str, str], active: dict[str, str]) -> str | None:
    """Returns the active environment whose programs come first; the only one if there is one."""
    if len(set(active.values())) == 1:
        return next(iter(active.values()))
    for entry in environ.get("PATH", "").split(os.pathsep):
        prefix = os.path.realpath(Path(entry).parent)
        if Path(entry).name == "bin" and prefix in active.values():
            return prefix
    return None


def _named_by(script: str) -> str | None:
    """Returns the environment whose interpreter the script's first line names, if it is one."""
    try:
        with Path(script).open("rb") as source:
            first = source.readline(_LONGEST_LINE)
    except (OSError, ValueError):
        return None
    words = os.fsdecode(first[2:]).split() if first.startswith(b"#!") else []
    if not words or not Path(words[0]).name.startswith("python"):
        return None
    prefix = Path(words[0]).parent.parent
    if (prefix / "pyvenv.cfg").is_file() or (prefix / "conda-meta").is_dir():
        return os.path.realpath(prefix)
    return None
