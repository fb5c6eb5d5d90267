"""Quantized schemes: which library makes which, what it needs, and what cannot be had.

Why these libraries: docs/decisions/0020-quantized-variants.md. They are imported where a scheme
is wanted and not before; the template that workers are forked from does without them.
"""

from __future__ import annotations

import importlib.util

from zhcache.errors import UsageError
from zhcache.pipeline.quantized import hushed
from zhcache.protocol.conversion import Part
from zhcached.workers.cast import Cast
from zhcached.workers.schemes import Quantizing

NEEDS = {"fp8": "torchao", "int8": "torchao", "int4": "sdnq"}
"""The package that makes each scheme; it also reads what was made."""

MIN_GROUP = 16
"""Smaller groups take more for their scales than for their weights."""


def check(part: Part) -> None:
    """Refuses a quantized part that cannot be had, before anything is read.

    Raises:
        UsageError: Its package is not installed here, or the part asks for what there is not.
    """
    package = NEEDS[part.scheme]
    if part.group_size is not None and (part.scheme != "int4" or part.group_size < MIN_GROUP):
        raise UsageError(
            "group_size = {size} means nothing to {scheme}",
            hint="int4 takes {least} and more; int8 and fp8 have a scale for each row",
            size=part.group_size,
            scheme=part.scheme,
            least=MIN_GROUP,
        )
    if importlib.util.find_spec(package) is None:
        raise UsageError(
            "{scheme} is made with {package}, which the environment of the workers lacks",
            hint="pip install 'zhcache[quant]' there",
            scheme=part.scheme,
            package=package,
        )


def scheme(part: Part) -> Quantizing:
    """Returns what a component becomes; ``part`` has one of the schemes of ``NEEDS``.

    Raises:
        UsageError: As ``check``.
    """
    check(part)
    casts = Cast("BF16")
    with hushed():
        if part.scheme == "int4":
            from zhcached.workers.sdnq_format import Sdnq

            return Sdnq(part.group_size, part.keep, casts)
        from zhcached.workers.torchao_format import TorchAo

        return TorchAo(part.scheme, part.keep, casts)
