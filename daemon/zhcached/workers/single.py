"""Takes one component out of a checkpoint that holds a whole model, and sends it.

Names and cuts are diffusers' own; what came out is held against the module that its configuration
makes, tensor by tensor, before anything is sent. Bytes are read from the descriptor in steps.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from zhcache.errors import UsageError, ZhcacheError
from zhcache.pipeline import skeleton
from zhcache.pipeline.quick import paused_collector
from zhcache.protocol import frames
from zhcache.protocol.conversion import Extract, Finished, TensorError
from zhcache.protocol.failure import to_info
from zhcache.protocol.names import printable
from zhcache.protocol.residency import Failed
from zhcached.workers import naming
from zhcached.workers.differences import Differences, Work
from zhcached.workers.outgoing import Outgoing, Told
from zhcached.workers.single_parts import Part, Parts, converted, of_component
from zhcached.workers.streaming import FLOATS, Streams, whole
from zhcached.workers.tensors import BITS, WeightsFile, encoded, unsound

_MAX_WORDS = 300
_TABLES = ("position_ids", "logit_scale", "text_projection", "text_projection.weight", "attn_mask")
"""What a text encoder's class may have no place for: it counts positions by itself, and projects
only where its pipeline wants that."""

_UNREAD_VAE = ("first_stage_model.loss.", "first_stage_model.model_ema.")
_LAST_OPEN_CLIP = "transformer.resblocks.23."
"""Stable Diffusion 2 reads the layer before the last. Source: ``SD_2_TEXT_ENCODER_KEYS_TO_IGNORE``
of diffusers 0.42."""


def run(line: socket.socket, request: Extract, fds: Sequence[int]) -> None:
    """Answers ``request`` on ``line``; closes ``fds``. A front that hangs up has had enough."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        try:
            fd, *more = fds
            frames.close_all(more)
            extract(line, request, fd)
        except ConnectionError:
            raise
        except ZhcacheError as error:
            frames.send(line, Failed(error=to_info(error)))
        except Exception as error:  # noqa: BLE001 - whatever a library raises is told, not lost
            traceback.print_exception(error, file=sys.stderr)
            frames.send(line, Failed(error=to_info(_defect(request, error))))


def extract(line: socket.socket, request: Extract, fd: int) -> None:
    """Reads, converts, checks and sends.

    Raises:
        UsageError: The checkpoint is not of the model whose configuration it is to have.
        IntegrityError: It is not sound.
        OSError: The front is gone.
    """
    file = WeightsFile.opened(fd, request.name, request.size)
    try:
        parts = of_component(request, file.header().tensors)
        folder = Path(request.folder) / request.component
        with paused_collector():
            module = skeleton.build(
                folder, request.library, request.class_name, torch.get_default_dtype()
            )
        try:
            made = converted(request, parts, module)
        except KeyError as error:
            raise _unlike(request, f"it has no {error}") from error
        except ValueError as error:
            raise _unlike(request, str(error)[:_MAX_WORDS]) from error
        made = checked(request, parts, made, module)
        _send(line, request, file, made)
    finally:
        file.close()
    frames.send(line, Finished(tools=skeleton.versions()))


def checked(
    request: Extract, parts: Parts, made: Parts, module: torch.nn.Module
) -> dict[str, Part]:
    """Returns what the module has a place for, if that is all of it and all that there is.

    Raises:
        UsageError: A tensor has another shape, is missing, or has no place.
    """
    own = module.state_dict()
    names = naming.own_names(module, made, may_fuse=True)
    kept: dict[str, Part] = {}
    for key, part in made.items():
        if names[key] not in own:
            if not key.endswith(_TABLES):
                raise _unlike(request, f"{request.component} has no {key[:100]}")
            continue
        shape = list(own[names[key]].shape)
        if list(part.shape) != shape:
            raise _unlike(
                request, f"{key} of {request.component} is {list(part.shape)}, not {shape}"
            )
        kept[key] = part
    there = {names[key] for key in kept}
    if lacking := sorted(n for n in own if n not in there and not n.endswith(_TABLES[:1])):
        raise _unlike(
            request,
            f"{lacking[0]} of {request.component} is missing, one of {len(lacking)}",
        )
    used = {part.info.name for part in kept.values()}
    for name in (part.info.name for part in parts.values()):
        if name not in used and not _is_unread(request, name):
            raise _unlike(request, f"{request.component} has no place for {name[:100]}")
    return kept


def _is_unread(request: Extract, name: str) -> bool:
    if request.way == "vae":
        return name.startswith(_UNREAD_VAE)
    last = request.prefix + _LAST_OPEN_CLIP
    return request.way != "unet" and (name.endswith(_TABLES) or name.startswith(last))


def _send(line: socket.socket, request: Extract, file: WeightsFile, made: Parts) -> None:
    # Wide elements first, so that each tensor is aligned, and otherwise as they lie in the file.
    ordered = sorted(made.items(), key=lambda one: (-BITS[one[1].info.dtype], one[1].info.start))
    described = [(key, part.info.dtype, part.shape, part.bytes) for key, part in ordered]
    head = encoded(described, {"format": "pt"})
    out, told = Outgoing(line), Told(line)
    done = 0
    streams = Streams(out, lambda _: None)
    out.begin(request.output, len(head) + sum(size for *_, size in described))
    out.put(head)
    errors: list[TensorError] = []
    for key, part in ordered:
        info = part.info
        if part.is_turned:
            try:
                turned = whole(file, info).T.contiguous()
            except KeyError as error:
                raise unsound(file.path, f"{info.name[:100]!r} cannot be turned") from error
            streams.write(turned)
            seen = streams.compare(turned, turned) if info.dtype in FLOATS else None
        else:
            seen = streams.copy(file, info)
        seen = seen or Differences(Work())
        errors.append(seen.told(key, info.dtype, info.dtype, part.bytes))
        done += part.bytes
        told.reached(min(done, request.bytes))
    out.end(errors)


def _unlike(request: Extract, reason: str) -> UsageError:
    return UsageError(
        "{file} does not fit the configuration of {like}: {reason}",
        hint="name the model that it was made from: --like OWNER/NAME",
        file=printable(request.name),
        like=request.like,
        reason=reason,
    )


def _defect(request: Extract, error: Exception) -> ZhcacheError:
    values: Mapping[str, str] = {
        "component": f"{request.component} of {request.name}",
        "kind": type(error).__name__,
        "reason": str(error)[:_MAX_WORDS],
    }
    return ZhcacheError(
        "{component} cannot be converted: {kind}: {reason}",
        hint="this is a defect of zhcache: a report of it helps",
        **values,
    )
