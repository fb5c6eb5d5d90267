"""Converts one component's weights: reads, has its scheme make what is asked for, sends files.

One pass over each file. What turns up on the way, NaN or values too large for the new dtype, is
known only then: the file is taken back, planned anew with those modules left alone, and sent again.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from zhcache.errors import IntegrityError, NoSpace, UsageError, ZhcacheError
from zhcache.pipeline import skeleton
from zhcache.pipeline.quick import paused_collector
from zhcache.pipeline.refusals import MAX_WORDS, is_no_memory
from zhcache.protocol import frames
from zhcache.protocol.conversion import Convert, Finished, Part, Same, Small
from zhcache.protocol.failure import to_info
from zhcache.protocol.residency import Failed
from zhcached.workers import cast, matching, naming, shards
from zhcached.workers.outgoing import Told
from zhcached.workers.rewriting import Rewriting
from zhcached.workers.schemes import Group, Scheme, module_of
from zhcached.workers.streaming import FLOATS
from zhcached.workers.tensors import Header, TensorInfo, WeightsFile, size_of, unsound

MAX_CONFIG = 4 * 2**20
"""Bytes of a component's config.json."""

COMPUTED_IN = "BF16"
"""What a quantized component's other weights are in."""


def run(line: socket.socket, request: Convert) -> None:
    """Answers ``request`` on ``line``. A front that closes the line has had enough."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        try:
            convert(line, request)
        except ConnectionError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a library raises is told, not lost
            frames.send(line, Failed(error=to_info(_told(request, error))))


def convert(line: socket.socket, request: Convert) -> None:
    """Reads, plans and sends.

    Raises:
        ZhcacheError: The source is not sound, or cannot become what is asked for.
        OSError: The front is gone.
    """
    with contextlib.ExitStack() as held:
        work = _opened(request, held)
        _send_weights(line, work)
        _send_small(line, work)
    kept = {module_of(group.source): group.why for group in work.groups() if group.why}
    tools = {**skeleton.versions(), **work.scheme.tools()}
    frames.send(line, Finished(tools=tools, kept=kept))


@dataclass
class Work:
    """A component on its way.

    Attributes:
        sent: What was planned for each file when it was sent.
        wide: Modules that must stay as they are, and why.
    """

    request: Convert
    scheme: Scheme
    files: list[WeightsFile]
    headers: dict[str, Header]
    tensors: dict[str, TensorInfo]
    index: dict[str, Any] | None
    module: torch.nn.Module
    sent: dict[str, list[Group]] = field(default_factory=dict)
    wide: dict[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The component's."""
        return Path(self.request.folder) / self.request.component

    def groups(self) -> Iterator[Group]:
        """Yields what was planned for every tensor."""
        for groups in self.sent.values():
            yield from groups

    def plan(self) -> dict[str, list[Group]]:
        """Returns what becomes of each file's tensors.

        Raises:
            IntegrityError: What a tensor becomes would be called as another one is.
            UsageError: The scheme cannot be had for this component.
        """
        planned: dict[str, list[Group]] = {file.path: [] for file in self.files}
        names: set[str] = set()
        for group in self.scheme.plan(self.tensors, self.module, self.wide):
            path = self.tensors[group.source].file
            planned[path].append(group)
            for entry in group.entries:
                if entry.name in names:
                    raise unsound(path, f"{entry.name[:100]!r} would be there twice")
                names.add(entry.name)
        return planned

    def target(self, path: str) -> str:
        """Returns what a file of the source is called in the variant."""
        return self.request.rename.get(path, path)


def _opened(request: Convert, held: contextlib.ExitStack) -> Work:
    """Opens and checks everything, and builds the module without weights."""
    folder = Path(request.folder) / request.component
    if not request.weights:
        raise UsageError("{component} has no weights to convert", component=request.component)
    if request.index is None and len(request.weights) > 1:
        raise shards.needed(len(request.weights))
    files = [WeightsFile(folder, source.path, source.size) for source in request.weights]
    for file in files:
        held.callback(file.close)
    headers = {file.path: file.header() for file in files}
    tensors = shards.merged(headers)
    index = None
    if request.index is not None:
        index = shards.read(folder, request.index)
        shards.check(request.index, index, tensors)
    scheme = _scheme(request.part)
    module = _module(folder, request)
    return Work(request, scheme, files, headers, tensors, index, module)


def _scheme(part: Part) -> Scheme:
    if part.scheme in cast.DTYPES:
        return cast.Cast(cast.DTYPES[part.scheme], part.keep)
    from zhcached.workers import quantize

    return quantize.scheme(part)


def _module(folder: Path, request: Convert) -> torch.nn.Module:
    dtype = FLOATS[cast.DTYPES.get(request.part.scheme, COMPUTED_IN)]
    kind = skeleton.component_class(request.library, request.class_name)
    usual = torch.get_default_dtype()
    # transformers makes its modules so, and looks at the dtypes that came out; diffusers does not.
    torch.set_default_dtype(dtype if issubclass(kind, PreTrainedModel) else usual)
    try:
        with paused_collector():
            return skeleton.build(folder, request.library, request.class_name, dtype)
    finally:
        torch.set_default_dtype(usual)


def _send_weights(line: socket.socket, work: Work) -> None:
    told = Told(line)
    rewriting = Rewriting(line, work.scheme, told)
    planned = work.plan()
    matching.check(work.request.component, work.module, work.tensors)
    begun: set[str] = set()
    while path := next((path for path in planned if work.sent.get(path) != planned[path]), None):
        file, groups = next(file for file in work.files if file.path == path), planned[path]
        before = sum(one.size for one in work.files if one.path in work.sent)
        target = work.target(path)
        if path in work.sent and path in begun:
            rewriting.discard(target, "a module that it shares with another file stays as it was")
        begun.discard(path)
        if all(group.kind == "copy" for group in groups):
            work.sent[path] = groups
            frames.send(line, Same(path=path))
            continue
        begun.add(path)
        wide = rewriting.send(file, work.headers[path], groups, target, before)
        if not wide:
            work.sent[path] = groups
            told.reached(before + file.size, at_once=True)
            continue
        if wide.keys() <= work.wide.keys():
            raise _stubborn(work, wide)
        work.wide.update(wide)
        planned = work.plan()


def _stubborn(work: Work, wide: Mapping[str, str]) -> ZhcacheError:
    module, why = next(iter(wide.items()))
    return ZhcacheError(
        "{scheme} changes {module} of {component} though it must not: {why}",
        hint="this is a defect of zhcache: a report of it helps",
        scheme=work.request.part.scheme,
        module=module[:100],
        component=work.request.component,
        why=why,
    )


def _send_small(line: socket.socket, work: Work) -> None:
    """Sends what describes the weights: their index, and the configuration if that changes."""
    path = work.request.index
    if path is not None and work.index is not None:
        entries = [
            (entry, work.target(file))
            for file, groups in work.sent.items()
            for group in groups
            for entry in group.entries
        ]
        weight_map = {entry.name: Path(target).name for entry, target in entries}
        total = sum(size_of(entry.dtype, entry.shape) for entry, _ in entries)
        text = shards.written(work.index, weight_map, total)
        frames.send(line, Small(path=work.target(path), content=text))
    settings = work.scheme.config()
    if settings is not None:
        config = {**_config(work.folder), "quantization_config": settings}
        if naming.is_of_transformers(work.module):
            # What the other weights are read in where nothing is asked for.
            config.pop("torch_dtype", None)
            config["dtype"] = str(FLOATS[COMPUTED_IN]).removeprefix("torch.")
        # The front takes no NaN, which is none of JSON: said here, with the component.
        text = json.dumps(config, indent=2, sort_keys=True, allow_nan=False) + "\n"
        frames.send(line, Small(path="config.json", content=text))


def _config(folder: Path) -> dict[str, Any]:
    # It has been read once, to build the module.
    with (folder / "config.json").open("rb") as source:
        config: Any = json.loads(source.read(MAX_CONFIG).decode())
    if not isinstance(config, dict):
        raise IntegrityError(
            "{path} is no object",
            hint="`zhcache verify REPO` checks it; where it finds nothing it was published so: take"
            " another revision",
            path="config.json",
        )
    return config


def _told(request: Convert, error: Exception) -> ZhcacheError:
    if isinstance(error, ZhcacheError):
        if error.__cause__ is not None:
            traceback.print_exception(error.__cause__, file=sys.stderr)
        return error
    traceback.print_exception(error, file=sys.stderr)
    reason = str(error).strip()[:MAX_WORDS] or type(error).__name__
    if is_no_memory(error):
        return NoSpace(
            "there is no memory left to convert {component}: {reason}",
            hint="zhcache stop lets models go; zhcache ps lists them",
            component=request.component,
            reason=reason,
        )
    return ZhcacheError(
        "{component} cannot be converted: {kind}: {reason}",
        hint="`zhcache verify REPO` checks its files; try stock from_pretrained on that folder",
        component=request.component,
        kind=type(error).__name__,
        reason=reason,
    )
