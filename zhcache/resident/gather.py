"""The results of a call's parts as the result of the call, in the images' order."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from zhcache.resident.result import Result
from zhcache.resident.values import Unread


def gathered(results: Sequence[Any]) -> Any:
    """Returns one result of several: of each field the lists, arrays or tensors one after another.

    Args:
        results: ``Result`` or tuples, all alike.
    """
    first = results[0]
    if not isinstance(first, Result):
        return tuple(joined(values) for values in zip(*results, strict=True))
    fields = {name: joined([one.raw(name) for one in results]) for name in first.names}
    return Result(first.class_name, fields)


def joined(values: Sequence[Any]) -> Any:
    """Returns what several parts have in one field.

    Lists follow one another, arrays and tensors along their first dimension. What all have alike,
    None for instance, is itself. What is of no such kind is a list with an entry for each part.
    """
    first = values[0]
    if isinstance(first, Unread):
        return first
    if all(isinstance(one, list) for one in values):
        return [item for one in values for item in one]
    if isinstance(first, tuple) and all(
        isinstance(one, tuple) and len(one) == len(first) for one in values
    ):
        return tuple(joined(each) for each in zip(*values, strict=True))
    # A value of theirs can only be there if somebody imported them already.
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    if torch is not None and all(isinstance(one, torch.Tensor) and one.ndim for one in values):
        return torch.cat(list(values))
    if numpy is not None and all(isinstance(one, numpy.ndarray) and one.ndim for one in values):
        return numpy.concatenate(values)
    is_plain = all(one is None or isinstance(one, (bool, int, float, str)) for one in values)
    if is_plain and all(one == first for one in values):
        return first
    return list(values)
