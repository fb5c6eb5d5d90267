"""What goes wrong while a pipeline is read, as errors of zhcache.

The libraries raise whatever they please, about the snapshot's files and about the options alike.
Which of both it was is told by where it was raised: inside the functions that read one component
it is about the files, unless an option changed how those are read.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from zhcache.completeness import gaps
from zhcache.errors import Incomplete, IntegrityError, NoSpace, UsageError, ZhcacheError

MAX_WORDS = 2000
"""Characters of a foreign exception's text that are passed on."""

_NO_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    # More than there are addresses for.
    "storage size calculation overflowed",
)
# Of diffusers, of ``mapped``, of ``published`` and of ``attach``.
_READERS = frozenset({"load_sub_model", "plain", "published", "_over"})
_NAMED = 5


@contextlib.contextmanager
def told(
    folder: Path,
    options: Collection[str] = (),
    of_reading: Collection[str] = (),
    *,
    elsewhere: Collection[str] = (),
) -> Iterator[None]:
    """Makes errors of zhcache of what reading the pipeline in ``folder`` raises.

    Args:
        folder: The snapshot.
        options: Names of what the user passed on to ``from_pretrained``.
        of_reading: Those among the options there are that say how weights are read.
        elsewhere: Paths of files that ``folder`` lacks because they are had in another way.

    Raises:
        Incomplete: The snapshot lacks files that its index names.
        IntegrityError: The snapshot's files cannot be read, or do not fit each other.
        UsageError: The options are at fault, or this environment lacks what the pipeline needs.
        NoSpace: Memory ran out.
    """
    try:
        yield
    except ZhcacheError:
        raise
    except Exception as error:
        missing = _missing(folder, {*options, *(path.partition("/")[0] for path in elsewhere)})
        raise _own(error, folder, options, of_reading, missing) from error


def check_complete(folder: Path, modules: Mapping[str, Any]) -> None:
    """Refuses modules that have tensors without content: no file held them.

    Raises:
        IntegrityError: It names the component and the first of them.
    """
    for component, module in modules.items():
        # Whole pipelines have schedulers and tokenizers among their components.
        if not hasattr(module, "named_parameters"):
            continue
        empty = [name for name, one in module.named_parameters() if one.is_meta]
        empty += [name for name, one in module.named_buffers() if one.is_meta]
        if empty:
            raise IntegrityError(
                "the published weights of {component} in {folder} lack {count} tensors: {names}",
                hint="they were published so, `zhcache verify REPO` finds nothing: take another"
                " revision",
                component=component,
                folder=folder,
                count=len(empty),
                names=", ".join(empty[:_NAMED]) + (", ..." if empty[_NAMED:] else ""),
            )


def is_no_memory(error: BaseException) -> bool:
    """Whether memory ran out, of the machine or of a device."""
    import torch

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(
        words in str(error).lower() for words in _NO_MEMORY
    )


def _own(
    error: Exception,
    folder: Path,
    options: Collection[str],
    of_reading: Collection[str],
    missing: Sequence[str],
) -> ZhcacheError:
    values = {
        "folder": folder,
        "kind": type(error).__name__,
        "reason": str(error).strip()[:MAX_WORDS] or "it gave no reason",
    }
    if is_no_memory(error):
        return NoSpace(
            "there is no memory left to read the pipeline in {folder}: {reason}",
            hint="zhcache stop lets models go; zhcache ps lists them",
            **values,
        )
    if _is_of_format(error):
        return _unreadable(values)
    if unknown := _unknown_class(folder, options):
        return unknown
    if missing and not isinstance(error, ImportError):
        return Incomplete(
            "the pipeline in {folder} lacks {files}, which its index names",
            hint="`zhcache prefetch REPO` brings what was left out; where it brings nothing, it was"
            " published so: take another revision",
            files=", ".join(missing[:_NAMED]) + (", ..." if missing[_NAMED:] else ""),
            **values,
        )
    suspects = set(options)
    if _is_in_reader(error):
        suspects &= set(of_reading)
    # What is not installed is not there, whatever the options are.
    if suspects and not isinstance(error, ImportError):
        return UsageError(
            "the pipeline in {folder} cannot be made with {options}: {kind}: {reason}",
            hint="compare them with what the pipeline's class documents, or leave them out",
            options=", ".join(f"{name}=" for name in sorted(suspects)),
            **values,
        )
    if isinstance(error, (ImportError, AttributeError)):
        return UsageError(
            "the pipeline in {folder} needs what this environment lacks: {kind}: {reason}",
            hint="install or update the library it names, or take another revision",
            **values,
        )
    return _unreadable(values)


def _unreadable(values: Mapping[str, object]) -> IntegrityError:
    return IntegrityError(
        "the files of the pipeline in {folder} cannot be read: {kind}: {reason}",
        hint="`zhcache verify REPO` checks them; where it finds nothing they were published so:"
        " take another revision",
        **values,
    )


def _missing(folder: Path, replaced: Collection[str]) -> list[str]:
    """Returns the files that are missing, but for those of components that are ``replaced``.

    Asked only where reading has failed: libraries know of layouts that ``gaps`` does not.
    """
    return [path for path in gaps(folder) if path.partition("/")[0] not in replaced]


def _is_of_format(error: Exception) -> bool:
    """Tells whether a file is not of its own format, which no option changes."""
    from safetensors import SafetensorError

    return isinstance(error, (SafetensorError, json.JSONDecodeError, UnicodeDecodeError))


def _unknown_class(folder: Path, options: Collection[str]) -> UsageError | None:
    import diffusers

    from zhcache.pipeline.published import index

    if {"custom_pipeline", "trust_remote_code"} & set(options):
        return None
    name = index(folder).get("_class_name")
    if isinstance(name, str) and hasattr(diffusers, name):
        return None
    return UsageError(
        "diffusers {version} has no pipeline {name}",
        hint="update diffusers, or load it with its own library from zhcache.path(...)",
        version=diffusers.__version__,
        name=repr(name)[:80],
    )


def _is_in_reader(error: Exception) -> bool:
    at = error.__traceback__
    while at is not None:
        if at.tb_frame.f_code.co_name in _READERS:
            return True
        at = at.tb_next
    return False
