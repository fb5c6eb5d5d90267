"""Chinese prompts of a pipeline in this process: its class's call reads them first.

The reader is kept beside the pipeline, as its lease is: copies are plain pipelines.
"""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Callable
from typing import Any

from zhcache.chinese.own import readings
from zhcache.chinese.reader import Reader

_readers: weakref.WeakKeyDictionary[Any, Reader] = weakref.WeakKeyDictionary()


def bind(pipeline: Any, reader: Reader) -> None:
    """Has ``reader`` read what ``pipeline``, of a class whose call is ``reading``, is asked."""
    _readers[pipeline] = reader


def reader_of(pipeline: Any) -> Reader:
    """Returns a pipeline's reader; one that reads nothing where it was never bound."""
    return _readers.get(pipeline) or Reader(None, "", "")


def reading(call: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a pipeline class's ``__call__`` that reads Chinese texts before ``call`` runs."""
    signature = inspect.signature(call)

    @functools.wraps(call)
    def read(self: Any, *args: Any, **kwargs: Any) -> Any:
        reader = reader_of(self)
        given = _named(signature, (self, *args), kwargs)
        if given is None:
            reader.forget()
            return call(self, *args, **kwargs)
        prepared = reader.prepare(type(self).__name__, given, raw=False)
        if prepared is None:
            reader.add_own(given, readings(self, given, None))
            return call(self, *args, **kwargs)
        arguments = prepared.arguments
        reader.add_own(arguments, readings(self, arguments, prepared.conditions))
        if prepared.conditions is not None:
            from zhcache.chinese.embeds import apply

            arguments = apply(self, arguments, prepared.conditions)
        return call(self, **arguments)

    return read


def _named(
    signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any] | None:
    """Returns all arguments by name, ``self`` left out; None where they are not those of a call."""
    try:
        given = dict(signature.bind(*args, **kwargs).arguments)
    except TypeError:
        # The pipeline's own error says more.
        return None
    of_self, *parameters = signature.parameters.values()
    del given[of_self.name]
    for one in parameters:
        if one.kind is inspect.Parameter.VAR_KEYWORD:
            given |= given.pop(one.name, {})
        if one.kind is inspect.Parameter.VAR_POSITIONAL and given.pop(one.name, ()):
            return None
    return given
