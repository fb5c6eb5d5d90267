"""The folder that a training ends with: weights, description and card. Imports torch."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from zhcache.chinese.adapter import format as described
from zhcache.chinese.adapter.card import card
from zhcache.chinese.adapter.checkpoint import sync_folder
from zhcache.chinese.adapter.network import Student
from zhcache.chinese.adapter.student import Reader
from zhcache.errors import NoSpace


def write_weights(folder: Path, student: Student, reader: Reader, *, is_frozen: bool) -> None:
    """Writes encoder, tokenizer and resampler; float16 what was trained here.

    A frozen encoder is copied as it is: the store has its bytes once, whoever uses it.
    """
    from safetensors.torch import save_file

    folder.mkdir()
    encoder = folder / described.ENCODER
    if is_frozen and reader.folder is not None and (reader.folder / _BERT).is_file():
        encoder.mkdir()
        for name in ("config.json", _BERT):
            shutil.copyfile(reader.folder / name, encoder / name)
    else:
        reader.model.to(torch.float16).save_pretrained(encoder)
        reader.model.float()
    reader.tokenizer.save_pretrained(folder / described.TOKENIZER)
    measured = {name for name, _ in student.resampler.named_buffers()}
    save_file(
        {
            # Means of large models lie beyond what float16 can say.
            name: (tensor if name in measured else tensor.half()).contiguous().cpu()
            for name, tensor in student.resampler.state_dict().items()
        },
        folder / described.WEIGHTS,
    )


def write_description(folder: Path, about: described.Described, command: str) -> None:
    """Writes ``zhcache_adapter.json`` and the card."""
    (folder / described.FILE).write_bytes(described.written(about))
    (folder / described.CARD).write_text(card(about, command), encoding="utf-8")


def place(made: Path, target: Path) -> None:
    """Copies a finished folder to where the user wants it, whole or not at all.

    Raises:
        NoSpace: It cannot be written there.
    """
    scratch = target.with_name(f".{target.name}.part")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(made, scratch)
        scratch.rename(target)
        sync_folder(target.parent)
    except OSError as error:
        raise NoSpace(
            "{path} cannot be written: {reason}",
            hint="it is in the store; `zhcache adapter export` copies it to a folder",
            path=target,
            reason=error,
        ) from None


_BERT = "model.safetensors"
