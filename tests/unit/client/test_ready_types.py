"""Threads that decode a type for the first time at the same moment: msgspec alone crashes there."""

import subprocess
import sys

RACE = """
import sys, threading
import msgspec
from zhcache.protocol.ready import make_ready

SOURCE = '''
from __future__ import annotations
import msgspec
class Part(msgspec.Struct):
    x: int
    y: list[str] = []
class Whole(msgspec.Struct):
    a: int
    b: str
    c: tuple[Part, ...] = ()
    d: dict[str, Part] = {}
'''
BODY = b'{"a":1,"b":"x","c":[{"x":1}],"d":{"k":{"x":2}}}'
sys.setswitchinterval(1e-6)
made = 0
for number in range(400):
    module = type(sys)(f"zhcache.made_{number}")
    sys.modules[module.__name__] = module
    exec(SOURCE, vars(module))
    made += make_ready()
    gate = threading.Barrier(4)
    def decode():
        gate.wait()
        assert msgspec.json.decode(BODY, type=module.Whole).d["k"].x == 2
    threads = [threading.Thread(target=decode) for _ in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
assert made >= 800, made
print("sound", make_ready())
"""

ALL = """
import importlib, pkgutil
import zhcached
from zhcached import __main__, app
from zhcache.protocol.ready import make_ready
assert make_ready() > 100
for module in pkgutil.walk_packages(zhcached.__path__, "zhcached."):
    # Workers are processes of their own, with one thread that speaks.
    if ".workers" not in module.name:
        importlib.import_module(module.name)
print("new", make_ready())
"""


def run(script):
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
    return done.stdout.split()


def test_types_that_were_made_ready_are_decoded_by_all_threads_at_once():
    assert run(RACE) == ["sound", "0"]


def test_no_type_of_the_daemon_is_imported_after_its_start():
    assert run(ALL) == ["new", "0"]


def test_types_of_a_user_are_not_touched():
    script = (
        "import msgspec\n"
        "class Theirs(msgspec.Struct):\n    x: 'Unknown'\n"
        "from zhcache.channel import Channel\n"
        "from pathlib import Path\n"
        "Channel(Path('/nowhere'))\n"
        "from zhcache.protocol.ready import make_ready\n"
        "print('new', make_ready())\n"
    )
    assert run(script) == ["new", "0"]
