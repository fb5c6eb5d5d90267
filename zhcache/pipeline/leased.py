"""Ties a pipeline to its lease, so that the weights' files stay while the pipeline lives.

``with`` looks for ``__enter__`` on the type, and diffusers' types have none, so a pipeline gets a
subclass of its own class. The subclass carries the same name, module and signature: what
``save_pretrained`` writes as ``_class_name`` and what ``AutoPipeline`` looks up by name do not
change. The lease itself is kept beside the pipeline, not in it: copies and ``from_pipe`` kin are
plain pipelines without a lease. Rejected: methods put on ``diffusers.DiffusionPipeline``, which
would change every pipeline of the process, ours or not.
"""

from __future__ import annotations

import copyreg
import functools
import weakref
from typing import Any, cast

from zhcache.chinese import bound
from zhcache.chinese.reader import Reader
from zhcache.client import Client
from zhcache.errors import UsageError
from zhcache.lease import Lease
from zhcache.resident.standin import ResidentPipeline


class Held:
    """A lease and the client it was taken through.

    Both end together, at the latest when the pipeline is collected.
    """

    def __init__(self, client: Client, lease: Lease) -> None:
        self.lease = lease
        self._end = weakref.finalize(self, _end, client, lease)

    def end(self) -> None:
        """Ends both; a second call does nothing."""
        self._end()


def _end(client: Client, lease: Lease) -> None:
    lease.end()
    client.close()


_new = cast("Any", copyreg).__newobj__
_held: weakref.WeakKeyDictionary[Any, Held] = weakref.WeakKeyDictionary()
_kinds: dict[type, type] = {}


def bind(pipeline: Any, held: Held, reader: Reader) -> Any:
    """Returns ``pipeline``, now the owner of ``held``, its Chinese prompts read by ``reader``."""
    pipeline.__class__ = _leased_kind(type(pipeline))
    _held[pipeline] = held
    bound.bind(pipeline, reader)
    return pipeline


def release(pipe: object) -> None:
    """Ends the lease of a pipeline that ``load_pipeline`` returned; a second call does nothing.

    The pipeline itself goes on working: its weights are mapped, and a mapping outlives the name.

    Raises:
        UsageError: ``load_pipeline`` did not return it.
    """
    if isinstance(pipe, ResidentPipeline):
        pipe.release()
        return
    if type(pipe) not in _kinds.values():
        raise UsageError(
            "{kind} was not made by zhcache.load_pipeline, so it has no lease to release",
            kind=type(pipe).__name__,
        )
    held = _held.pop(pipe, None)
    if held is not None:
        held.end()
        bound.reader_of(pipe).close()


def _leased_kind(plain: type) -> type:
    if plain not in _kinds:
        _kinds[plain] = _make_kind(plain)
    return _kinds[plain]


def _make_kind(plain: type) -> type:
    def enter(self: object) -> object:
        return self

    def leave(self: object, *_: object) -> None:
        release(self)

    def reduce(self: object, protocol: Any) -> Any:
        # A copy has no lease, so it is what it would be without us.
        made, arguments, *rest = cast("Any", plain).__reduce_ex__(self, protocol)
        # pickle itself checks that what copyreg's makes is of the class of what it writes.
        made = object.__new__ if made is _new else made
        swapped = tuple(plain if part is type(self) else part for part in arguments)
        return (made, swapped, *rest)

    members: dict[str, Any] = {
        "__doc__": plain.__doc__,
        "__module__": plain.__module__,
        "__qualname__": plain.__qualname__,
        "__enter__": enter,
        "__exit__": leave,
        "__reduce_ex__": reduce,
        "__call__": bound.reading(cast("Any", plain).__call__),
        "chinese_report": property(lambda self: bound.reader_of(self).report),
        "using": _using,
    }
    fuse = getattr(plain, "fuse_lora", None)
    if fuse is not None:
        members["fuse_lora"] = _fusing(fuse)
    return type(plain.__name__, (plain,), members)


def _using(self: Any, class_name: str, **more: Any) -> Any:
    """Returns a pipeline of another class of diffusers over the same components.

    For instance ``pipe.using("StableDiffusionImg2ImgPipeline")``. It shares this one's lease and
    reads Chinese as this one does.

    Args:
        self: The pipeline that ``load_pipeline`` returned.
        class_name: A pipeline class of diffusers.
        **more: Components that this one does not have: ``controlnet=``.

    Raises:
        UsageError: There is no such class, it needs further components, or the lease has ended.
    """
    from zhcache.pipeline import spread
    from zhcache.pipeline.kin import pipeline_class, sibling

    held = _held.get(self)
    if held is None:
        raise UsageError("this pipeline was released", hint="load it again: zhcache.load_pipeline")
    made = spread.follow(self, sibling(pipeline_class(class_name), self, more))
    return bind(made, held, bound.reader_of(self))


def _fusing(fuse: Any) -> Any:
    """Returns a pipeline's ``fuse_lora`` that writes into no memory that is shared."""

    @functools.wraps(fuse)
    def fuse_lora(self: Any, *args: Any, **options: Any) -> Any:
        from zhcache.pipeline.private import before_fusing

        before_fusing(self)
        return fuse(self, *args, **options)

    return fuse_lora
