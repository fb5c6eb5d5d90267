"""Watched folders over a real store and a real queue, in an event loop of their own."""

import asyncio
import hashlib
import json
import os
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from watchdog.observers import inotify_c

from harness.daemon import until
from harness.storekit import open_store
from zhcache.protocol.watch import WatchedFolder, WatchedModel
from zhcached.clock import SystemClock
from zhcached.config import WatchConfig
from zhcached.jobs.perform import Performer
from zhcached.jobs.queue import Jobs
from zhcached.watch.tamper import Guard
from zhcached.watch.watching import Watching

SETTLE_S = 0.1
POLL_S = 0.1


class Watched:
    """A daemon's parts that watch, with what a test asks of them."""

    def __init__(self, root: Path, config: WatchConfig) -> None:
        self.root = root
        self.store = open_store(root, SystemClock())
        self.first_job = 0
        self._config = config
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.do(self._start())

    async def _start(self) -> None:
        performer = Performer(self.store, None, None, None)
        self.jobs = Jobs(self.store.catalog, SystemClock(), performer.perform)
        self.watching = Watching(self.store, self.jobs, self._config, SystemClock())
        self.guard: Guard = self.watching.guard
        self.guard._rest_s, self.guard._sweep_s = 0.05, 60.0
        await self.watching.start()
        await self.guard.watching.wait()

    def do(self, coroutine) -> Any:
        """Runs it on the loop and returns what it gives."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(20)

    def call(self, function: Callable[[], Any]) -> Any:
        """Calls it on the loop."""

        async def run() -> Any:
            return function()

        return self.do(run())

    def close(self) -> None:
        """Ends everything, as the daemon does."""
        self.do(self.watching.stop())
        self.do(self.jobs.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self.store.close()

    def add(self, folder: Path, *, may_all: bool = True) -> WatchedFolder:
        """Watches a folder."""
        return self.do(self.watching.add(str(folder), may_all=may_all))

    def remove(self, folder: Path, *, may_all: bool = True) -> None:
        """Watches it no more."""
        self.do(self.watching.remove(str(folder), may_all=may_all))

    def folder(self, number: int = 0) -> WatchedFolder:
        """Returns how a folder stands."""
        return self.call(self.watching.all)[number]

    def models(self) -> dict[str, WatchedModel]:
        """Returns how each model stands, by its place."""
        return {model.where: model for model in self.folder().models}

    def wait(self, where: str, *states: str) -> WatchedModel:
        """Waits until a model stands so."""

        def stands() -> WatchedModel | None:
            model = self.models().get(where)
            return model if model is not None and model.state in states else None

        try:
            return until(stands, f"{where} is {states}", 15)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.folder()}") from None

    def jobs_done(self) -> int:
        """Returns how many jobs there were, of this test."""
        return self.jobs_count() - self.first_job

    def jobs_count(self) -> int:
        """Returns how many jobs there were."""
        return len(self.call(lambda: self.jobs.all(ended=True)))


@contextmanager
def watching(root: Path, *folders: Path, **config: Any) -> Iterator[Watched]:
    """Watches folders over a store at ``root``."""
    settings = {"settle": SETTLE_S, "poll": POLL_S, **config}
    watched = Watched(root, WatchConfig(**settings))
    try:
        for folder in folders:
            watched.add(folder)
        yield watched
    finally:
        watched.close()


def overflow(watched: Watched) -> None:
    """Has the kernel's thread see what it sees when its queue was full."""
    event = inotify_c.InotifyEvent(-1, inotify_c.InotifyConstants.IN_Q_OVERFLOW, 0, b"")
    for group in {place._group for place in _places(watched)}:
        group.is_overfull = False
    watched.watching._notices._fd.handle_event(event)


def _places(watched: Watched) -> list:
    watches = list(watched.watching._notices._fd._watch_for_wd.values())
    return [place for watch in watches for place in list(watch.callbacks.values())]


def weights(seed: int = 0, size: int = 64, gap: int = 0) -> bytes:
    """Returns a small safetensors file, whose header leaves out ``gap`` bytes at the start."""
    header = json.dumps({
        "__metadata__": {"format": "pt"},
        "w": {"dtype": "U8", "shape": [size - gap], "data_offsets": [gap, size]},
    }).encode()  # fmt: skip
    return struct.pack("<Q", len(header)) + header + bytes((seed + n) % 256 for n in range(size))


def pipeline(seed: int = 0) -> dict[str, bytes]:
    """Returns the files of a small pipeline."""
    index = {
        "_class_name": "Tiny",
        "unet": ["diffusers", "UNet2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "DDIMScheduler"],
    }
    return {
        "model_index.json": json.dumps(index).encode(),
        "unet/config.json": b"{}",
        "unet/diffusion_pytorch_model.safetensors": weights(seed, 100),
        "vae/config.json": b'{"a": 1}',
        "vae/diffusion_pytorch_model.safetensors": weights(seed + 1, 120),
        "scheduler/scheduler_config.json": b'{"b": 2}',
    }


def lay(folder: Path, files: dict[str, bytes]) -> Path:
    """Writes files into a folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def hub_cache(folder: Path, repo: str, files: dict[str, bytes], commit: str, ref="main") -> Path:
    """Writes a Hugging Face cache as huggingface_hub does, by relative links."""
    top = folder / ("models--" + repo.replace("/", "--"))
    for name, content in files.items():
        blob = top / "blobs" / hashlib.sha256(content).hexdigest()
        blob.parent.mkdir(parents=True, exist_ok=True)
        if not blob.exists():
            blob.write_bytes(content)
        link = top / "snapshots" / commit / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    if ref:
        (top / "refs").mkdir(exist_ok=True)
        (top / "refs" / ref).write_text(commit)
    return top
