"""What the daemon loads of libraries, and what it leaves out."""

from __future__ import annotations

import os
import subprocess
import sys

LOOK = """
import os, sys
before = dict(os.environ)
from zhcached import libraries
libraries.load()
assert dict(os.environ) == before, "the environment is as it was"
assert "structlog" in sys.modules and "aiohttp" in sys.modules
assert "rich" not in sys.modules
import rich
import aiohttp.connector
assert not aiohttp.connector._SSL_CONTEXT_VERIFIED.get_ca_certs()
"""


def test_what_is_not_used_is_not_loaded_and_can_be_later():
    for more in ({}, {"SSL_CERT_FILE": "/etc/ssl/own.pem"}):
        environ = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | more
        subprocess.run([sys.executable, "-c", LOOK], env=environ, check=True)
