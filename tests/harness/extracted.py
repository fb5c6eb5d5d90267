"""One component taken out of a checkpoint by the real worker in this process."""

from __future__ import annotations

import json
import os
import socket
import tempfile
import threading
from pathlib import Path

from safetensors.numpy import load_file

from harness import ldm
from harness.converted import Converted, take
from zhcache.protocol.conversion import Extract

UNET = ("unet", "model.diffusion_model.", "unet")
VAE = ("vae", "first_stage_model.", "vae")
MADE = "made.safetensors"

Piece = tuple[str, str, str]
"""Component, what its keys begin with, how they are laid out."""


def pieces(text: dict[str, tuple[str, str]]) -> list[Piece]:
    """Returns the components of a kind, one of ``ldm.SD1`` and the like."""
    return [UNET, VAE, *((component, *how) for component, how in text.items())]


def extract(file: Path, like: Path, piece: Piece, target: Path) -> Converted:
    """Returns what the worker makes of a component, with configurations in ``like``.

    Raises:
        ZhcacheError: What the worker failed with.
    """
    from zhcached.workers import single

    ours, theirs = socket.socketpair()
    fd = os.open(file, os.O_RDONLY)

    def work() -> None:
        with theirs:
            single.run(theirs, asked(file, like, piece), [fd])

    thread = threading.Thread(target=work)
    thread.start()
    try:
        with ours, tempfile.TemporaryDirectory() as nothing:
            return take(ours, Path(nothing), target)
    finally:
        thread.join()


def asked(file: Path, like: Path, piece: Piece) -> Extract:
    component, prefix, way = piece
    library, class_name = json.loads((like / "model_index.json").read_text())[component]
    return Extract(
        name=file.name,
        size=file.stat().st_size,
        folder=str(like),
        like="demo/base",
        component=component,
        library=library,
        class_name=class_name,
        way=way,
        prefix=prefix,
        bytes=file.stat().st_size,
        output=MADE,
    )


def assert_same(made: Path, original: Path) -> None:
    """Every tensor of a file is the other's: name, dtype and bytes."""
    found, wanted = load_file(made), load_file(original)
    if original.parent.name.startswith("text_encoder"):
        wanted = ldm.published(wanted)
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype, name
        assert found[name].tobytes() == tensor.tobytes(), name
