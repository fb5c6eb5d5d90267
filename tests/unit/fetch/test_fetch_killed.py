"""A process killed in the middle: the next one asks only for what was not durable."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from demohub import Hub
from harness.fetchkit import MIB, long_content, offer
from harness.storekit import promise_of
from zhcached.store.flushing import SYNC_BYTES

REPO = "lab/tiny"
BUFFER = MIB

CHILD = r"""
import os
import sys
from harness.fetchkit import Fetching, long_content, offer
from harness.storekit import open_store
from zhcached.clock import SystemClock
from zhcached.config import DownloadConfig

root, url, size, connections = sys.argv[1:]
store = open_store(__import__("pathlib").Path(root), SystemClock())
fetching = Fetching(store, config=DownloadConfig(connections=int(connections)))
fetching.control.on_bytes = lambda source, count: os.write(1, b"%d\n" % count)
fetching.obtain(long_content(int(size)), [offer("hub", url)])
os.write(1, b"done\n")
"""


@pytest.mark.crash
@pytest.mark.parametrize("connections", [1, 4])
def test_resume_refetches_only_what_was_not_durable_after_sigkill(tmp_path, connections):
    size = 96 * MIB
    content = long_content(size)
    with Hub() as hub:
        hub.add(REPO, {"model.safetensors": content})
        hub.fault("rate", rate=(120 if connections == 1 else 40) * MIB)
        url = f"{hub.url}/{REPO}/resolve/main/model.safetensors"
        received = killed_after(70 * MIB, tmp_path / "store", url, size, connections)
        hub.heal()
        hub.clear_log()
        came, again, stored = finished(tmp_path / "store", url, content)
    assert came.fetched["hub"] == again
    lost = again - (size - received)
    # What was written and not journaled yet, and for each connection what it had just been told.
    assert lost <= connections * (SYNC_BYTES + BUFFER)
    assert again < size
    assert stored == content


def killed_after(count, root: Path, url, size, connections):
    """Runs a download in a process, kills it, returns how many bytes it had reported."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(root), url, str(size), str(connections)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    received = 0
    try:
        for line in child.stdout:
            assert line.strip() != "done", "it ended before it could be killed"
            received += int(line)
            if received >= count:
                break
        child.send_signal(signal.SIGKILL)
        # Lines still in the pipe are bytes it had received as well.
        received += sum(int(line) for line in child.stdout)
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    assert received >= count
    return received


def finished(root, url, content):
    from harness.fetchkit import Fetching
    from harness.storekit import open_store
    from zhcached.clock import SystemClock

    store = open_store(root, SystemClock())
    fetching = Fetching(store)
    ingest = store.intake.begin(promise_of(content), "job")
    missing = ingest.missing().total
    ingest.close()
    came = fetching.obtain(content, [offer("hub", url)])
    stored = fetching.blob(came)
    fetching.close()
    store.close()
    return came, missing, stored
