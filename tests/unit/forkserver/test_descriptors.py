"""Descriptors that cannot all be open are told before anything is imported for the script."""

import subprocess
import sys
from pathlib import Path

import pytest

EXEC = f"{sys.executable} -m zhcache exec -c pass"


@pytest.mark.parametrize(
    ("shell", "needed"), [("ulimit -n 20;", 24), ("exec 90>/dev/null; ulimit -n 100;", 113)]
)
def test_too_few_descriptors_are_a_usage_error_with_the_next_step(tmp_path, shell, needed):
    done = subprocess.run(
        ["bash", "-c", f"{shell} {EXEC}"],
        env={"XDG_RUNTIME_DIR": str(tmp_path), "LANG": "C.UTF-8", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert f"{needed} are needed" in done.stderr
    assert f"ulimit -n {needed}" in done.stderr
    assert list(Path(tmp_path).rglob("*.log")) == []
