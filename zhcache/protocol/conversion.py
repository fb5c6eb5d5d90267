"""What is said between the daemon and a worker that converts one component's weights.

The front sends ``Convert``. The worker answers with the component's new files, one after the other:
``Begin``, then ``Chunk`` by ``Chunk``, each followed on the line by as many raw bytes as it says,
then ``End``. It writes nothing but the line. ``Finished`` or ``Failed`` is its last word; the front
cancels by closing the line. All paths are below the component's folder. ``Unpickle`` and
``Extract`` are answered in the same words.
"""

from __future__ import annotations

from typing import Literal

from zhcache.protocol.messages import Message
from zhcache.protocol.residency import Event, Failed

CHUNK = 8 * 2**20
"""Bytes that may follow one ``Chunk``."""

MAX_SMALL = 8 * 2**20
"""Bytes of text in one ``Small``: with its escapes it has to fit into a frame."""

SchemeName = Literal["fp32", "fp16", "bf16", "fp8", "int8", "int4"]


class Part(Message):
    """What a component becomes.

    ``group_size`` is that of ``int4``, None is the scheme's own. ``keep`` names modules that stay
    in the wider dtype besides those their class keeps: dotted names or ``fnmatch`` patterns.
    """

    scheme: SchemeName
    group_size: int | None = None
    keep: list[str] = []


class Source(Message):
    """One file of weights that is read, and its size."""

    path: str
    size: int


class Convert(Event):
    """Front to worker, its first frame: convert one component of the snapshot in ``folder``.

    ``weights`` are its files in the order of the shards; ``index`` names the shard index, if there
    is one. ``rename`` maps a source's name to the plain name its output has, where the two differ.
    """

    folder: str
    component: str
    library: str
    class_name: str
    part: Part
    weights: list[Source]
    index: str | None = None
    rename: dict[str, str] = {}


class Unpickle(Event):
    """Front to worker, its first frame: send the tensors of a pickle as safetensors.

    ``blob`` is the file, of ``size`` bytes; ``path`` is what its repository calls it, for messages,
    ``output`` what ``Begin`` calls the file that is made, the only one.
    """

    blob: str
    size: int
    path: str
    output: str


class Extract(Event):
    """Front to worker, its first frame: send one component of a checkpoint that holds all of them.

    A descriptor beside it is of the checkpoint, ``size`` bytes, which its owner calls ``name``. The
    component's keys begin with ``prefix`` and take ``bytes``; ``way`` is how they are laid out:
    ``unet`` and ``vae`` as in latent diffusion, ``clip`` as in transformers, ``open_clip`` with
    attention in one piece. Its configuration lies in ``folder`` below the component's name, taken
    from the repository ``like``. ``output`` is what ``Begin`` calls the file, the only one.
    """

    name: str
    size: int
    folder: str
    like: str
    component: str
    library: str
    class_name: str
    way: Literal["unet", "vae", "clip", "open_clip"]
    prefix: str
    bytes: int
    output: str


class Same(Event):
    """This file of weights needs no change: its blob is taken as it is."""

    path: str


class Begin(Event):
    """An output file of exactly ``size`` bytes follows in chunks."""

    path: str
    size: int


class Chunk(Event):
    """The next ``size`` bytes of the file that was begun; they follow on the line, raw."""

    size: int


class Discard(Event):
    """The file begun or ended under this path is not wanted; it comes again."""

    path: str
    reason: str


class TensorError(Message):
    """How far one tensor is from what it was made of.

    Over its finite values, ``max_abs`` is the largest difference and ``relative`` the norm of all
    differences to that of the tensor; ``bytes`` is what it takes now. ``overflow`` counts finite
    values that became infinite.
    """

    name: str
    dtype_in: str
    dtype_out: str
    max_abs: float
    relative: float
    nonfinite_in: int
    overflow: int
    bytes: int


class End(Event):
    """The file that was begun is whole."""

    path: str
    tensors: list[TensorError]


class Small(Event):
    """A whole file of text: the component's ``config.json``, or its shard index."""

    path: str
    content: str


class Worked(Event):
    """How many bytes of the weights have been read and dealt with."""

    bytes_done: int


class Finished(Event):
    """All files have been sent.

    ``kept`` says of each module that stayed in a wider dtype why: ``overflow in fp16``, ``NaN``,
    ``class keeps it in float32``, ``asked``.
    """

    tools: dict[str, str] = {}
    kept: dict[str, str] = {}


FromConvertWorker = Same | Begin | Chunk | Discard | End | Small | Worked | Finished | Failed
