"""Files as torch.save writes them and as it never does, and the real worker that reads them."""

from __future__ import annotations

import socket
import tempfile
import threading
import zipfile
from pathlib import Path

from harness.converted import Converted, take
from zhcache.protocol.conversion import Unpickle

NAME = "unet/diffusion_pytorch_model.bin"
MADE = "model.safetensors"


def asked(file: Path, size: int | None = None) -> Unpickle:
    size = file.stat().st_size if size is None else size
    return Unpickle(blob=str(file), size=size, path=NAME, output=MADE)


def answer(file: Path, target: Path) -> Converted:
    """Returns what the worker makes of ``file``, written into the folder ``target``.

    Raises:
        ZhcacheError: What the worker failed with.
    """
    from zhcached.workers import unpickle

    ours, theirs = socket.socketpair()

    def work() -> None:
        with theirs:
            unpickle.run(theirs, asked(file))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        with ours, tempfile.TemporaryDirectory() as nothing:
            return take(ours, Path(nothing), target)
    finally:
        thread.join()


def archive(file: Path, pickled: bytes, *, data: bytes = b"", **more: bytes) -> Path:
    """Writes an archive with this pickle and one storage, by hand."""
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("x/data.pkl", pickled)
        made.writestr("x/version", "3\n")
        made.writestr("x/data/0", data)
        for name, content in more.items():
            made.writestr(f"{name}.pkl", content)
    return file


def one_tensor(numel: int, shape: int) -> bytes:
    """Returns the pickle of ``{"a": tensor}``, whose storage and shape claim what they like."""

    def number(value: int) -> bytes:
        return b"J" + value.to_bytes(4, "little", signed=True)

    def text(word: bytes) -> bytes:
        return b"X" + len(word).to_bytes(4, "little") + word

    storage = b"(" + text(b"storage") + b"ctorch\nFloatStorage\n" + text(b"0") + text(b"cpu")
    return (
        b"\x80\x02}" + text(b"a") + b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage + number(numel) + b"tQK\x00" + number(shape) + b"\x85K\x01\x85\x89"
        + b"ccollections\nOrderedDict\n)RtRs."
    )  # fmt: skip
