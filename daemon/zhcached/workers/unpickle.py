"""Reads one pickle of weights and sends its tensors as safetensors of the same names and dtypes.

Torch's ``weights_only`` unpickler knows a few classes and calls nothing else, but it believes what
a file claims of its sizes. So the archive is looked at first, memory is bounded while it is read,
and what came out is checked before anything is sent: plain tensors, no more of them than the file
can hold. The tensors stay in the mapped file; one that is no contiguous piece of it is copied in
steps. Names that share memory are written each for itself, so that no reader misses one.
"""

from __future__ import annotations

import contextlib
import re
import resource
import socket
import sys
import traceback
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from zhcache.errors import IntegrityError, UnsafeWeights, ZhcacheError
from zhcache.pipeline.refusals import is_no_memory
from zhcache.protocol import frames
from zhcache.protocol.conversion import Finished, TensorError, Unpickle
from zhcache.protocol.failure import to_info
from zhcache.protocol.residency import Failed
from zhcached.workers.outgoing import Outgoing, Told
from zhcached.workers.streaming import WHOLE, Streams
from zhcached.workers.tensors import MAX_HEADER, MAX_TENSORS, encoded

MAX_PICKLE = 32 * 2**20
"""Bytes of the pickle in an archive, which holds names and shapes alone."""

ALLOWANCE = 2**30
"""Bytes of memory that may be taken while a file is read, besides the mapping of it."""

COPIES = 2
"""So many times the file's bytes may be written: names may share their memory."""

STEP = 8 * 2**20
"""Bytes of a tensor that is no contiguous piece and is copied."""

_ZIP = b"PK\x03\x04"
_PROTOCOL = b"\x80"
_NAMES = {dtype: name for name, dtype in WHOLE.items()}
_REASON = re.compile(
    r"(?:WeightsUnpickler error:|Trying to load) (.*?)(?: was not an allowed global| Please|\n|$)"
)
_MAX_WORDS = 300


def run(line: socket.socket, request: Unpickle) -> None:
    """Answers ``request`` on ``line``. A front that closes the line has had enough."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        try:
            send(line, request, read(request))
        except ConnectionError:
            raise
        except ZhcacheError as error:
            frames.send(line, Failed(error=to_info(error)))
        except Exception as error:  # noqa: BLE001 - whatever torch raises is told, not lost
            traceback.print_exception(error, file=sys.stderr)
            frames.send(line, Failed(error=to_info(_defect(request.path, error))))


def read(request: Unpickle) -> dict[str, torch.Tensor]:
    """Returns a pickle's tensors by name, each within the mapped file.

    Raises:
        UnsafeWeights: It is not what ``torch.save`` makes of tensors, or wants too much memory.
        IntegrityError: It is no archive, or a damaged one.
    """
    with _bounded(request.size + ALLOWANCE):
        try:
            check_archive(request)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found: Any = torch.load(
                    request.blob, weights_only=True, mmap=True, map_location="cpu"
                )
            return checked(request, found)
        except ZhcacheError:
            raise
        except Exception as error:
            raise refused(request.path, _reason(error)) from error


def check_archive(request: Unpickle) -> None:
    """Checks the directory of the archive before torch believes it.

    Raises:
        UnsafeWeights: It is of the old format, compressed, or claims more than the file has.
        IntegrityError: There is none.
    """
    path, size = request.path, request.size
    with Path(request.blob).open("rb") as file:
        start = file.read(len(_ZIP))
    if start.startswith(_PROTOCOL):
        raise refused(path, "it has the format of torch before 1.6, which cannot be mapped")
    if start != _ZIP:
        raise unsound(path, "it is no archive of torch.save")
    try:
        with zipfile.ZipFile(request.blob) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError) as error:
        raise unsound(path, str(error)[:_MAX_WORDS]) from error
    if len(members) > MAX_TENSORS + 64 or len({m.filename for m in members}) != len(members):
        raise refused(path, f"its archive has {len(members)} members")
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise refused(path, "its archive is compressed, as torch.save never does it")
    if sum(member.file_size for member in members) > size:
        raise refused(path, "its archive claims more bytes than the file has")
    pickles = [m.file_size for m in members if m.filename.endswith("/data.pkl")]
    if len(pickles) != 1 or pickles[0] > MAX_PICKLE:
        raise refused(path, f"its archive has {len(pickles)} pickles of {sum(pickles)} bytes")


def checked(request: Unpickle, found: Any) -> dict[str, torch.Tensor]:
    """Returns what was unpickled, if it is names and plain tensors that the file can hold.

    Of a checkpoint the ``state_dict`` is taken, as every reader of one does.

    Raises:
        UnsafeWeights: It is something else.
    """
    path = request.path
    # Each is an object of its own: what holds itself must not keep us here.
    for _ in range(4):
        if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
            found = found["state_dict"]
    if not isinstance(found, Mapping) or not found or len(found) > MAX_TENSORS:
        raise refused(path, "it holds no names with tensors")
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in found.items():
        if not isinstance(name, str) or name == "__metadata__":
            raise refused(path, f"one of its names is {name!r:.100}")
        _check_plain(path, name, tensor)
        tensors[name] = tensor.detach()
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if total > COPIES * request.size:
        raise refused(path, f"its tensors claim {total} bytes, and it has {request.size}")
    return tensors


def _check_plain(path: str, name: str, tensor: Any) -> None:
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        raise refused(path, f"{name[:100]!r} is no tensor but {type(tensor).__name__}")
    if (
        tensor.layout != torch.strided
        or tensor.device.type != "cpu"
        or tensor.is_quantized
        or tensor.is_nested
        or tensor.is_neg()
        or tensor.dtype not in _NAMES
    ):
        kind = f"{tensor.dtype}, {tensor.layout}, {tensor.device}".replace("torch.", "")
        raise refused(path, f"{name[:100]!r} is a tensor that safetensors cannot hold: {kind}")


def send(line: socket.socket, request: Unpickle, tensors: Mapping[str, torch.Tensor]) -> None:
    """Sends the one file.

    Raises:
        UnsafeWeights: Its header would be too long, or a name is no text.
        OSError: The front is gone.
    """
    # Wide elements first, as safetensors itself does it, so that each tensor is aligned.
    wide = sorted(tensors.items(), key=lambda item: item[1].element_size(), reverse=True)
    described = [(name, _NAMES[one.dtype], tuple(one.shape), one.nbytes) for name, one in wide]
    try:
        head = encoded(described, {"format": "pt"})
    except UnicodeEncodeError as error:
        raise refused(request.path, "one of its names is no text") from error
    if len(head) > MAX_HEADER:
        raise refused(request.path, f"its names take {len(head)} bytes")
    out, told = Outgoing(line), Told(line)
    streams = Streams(out, told.reached)
    out.begin(request.output, len(head) + sum(size for *_, size in described))
    out.put(head)
    done = 0
    for _, tensor in wide:
        for piece in _pieces(tensor):
            streams.write(piece)
            done += piece.nbytes
            told.reached(min(done, request.size))
    out.end([_unchanged(name, dtype, size) for name, dtype, _, size in described])
    frames.send(line, Finished(tools={"torch": str(torch.__version__)}))


def _pieces(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yields a tensor's values in order, contiguous; copies in steps what is not."""
    if tensor.is_contiguous():
        yield tensor
        return
    row = tensor[0].numel() * tensor.element_size()
    if row > STEP:
        for part in tensor:
            yield from _pieces(part)
        return
    for part in tensor.split(max(1, STEP // max(1, row))):
        yield part.contiguous()


def _unchanged(name: str, dtype: str, size: int) -> TensorError:
    return TensorError(
        name=name,
        dtype_in=dtype,
        dtype_out=dtype,
        max_abs=0.0,
        relative=0.0,
        nonfinite_in=0,
        overflow=0,
        bytes=size,
    )


@contextlib.contextmanager
def _bounded(more: int) -> Iterator[None]:
    """Lets this process map ``more`` bytes than it has now, and no others."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    limits = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    bound = min([pages * resource.getpagesize() + more, *limits])
    resource.setrlimit(resource.RLIMIT_AS, (bound, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def refused(path: str, reason: str) -> UnsafeWeights:
    """Returns the error that a pickle is none that may be read."""
    return UnsafeWeights(
        "the pickle {path} is refused: {reason}",
        hint="nothing of it was kept; take another revision, or leave it out: --exclude '{path}'",
        path=path,
        reason=reason,
    )


def unsound(path: str, reason: str) -> IntegrityError:
    """Returns the error that a file is not what its name says."""
    return IntegrityError(
        "{path} is not a sound file of torch.save: {reason}",
        hint="it was published so: take another revision, or leave it out: --exclude '{path}'",
        path=path,
        reason=reason,
    )


def _defect(path: str, error: Exception) -> ZhcacheError:
    return ZhcacheError(
        "{component} cannot be converted: {kind}: {reason}",
        hint="this is a defect of zhcache: a report of it helps",
        component=path,
        kind=type(error).__name__,
        reason=str(error)[:_MAX_WORDS],
    )


def _reason(error: Exception) -> str:
    if is_no_memory(error):
        return "it wants more memory than a file of its size may"
    text = str(error).strip()
    if found := _REASON.search(text):
        text = found[1]
    return (text or type(error).__name__).splitlines()[0][:_MAX_WORDS]
