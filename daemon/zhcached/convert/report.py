"""What is told of a variant in a file of its own: how it was made and how far it is from its base.

Its bytes follow from what it tells: no times, no names of machines.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from zhcache.protocol.conversion import Part, TensorError
from zhcache.protocol.variants import VariantPart
from zhcached.convert.plan import Plan, Work
from zhcached.convert.recipe import QUANTIZED
from zhcached.convert.runner import Converted

FORMAT = 1
MAX_REPORT = 16 * 2**20
"""Bytes of a report that is read; one of a model of 10,000 tensors has 3 MiB."""

_FLOATS = frozenset({"F16", "BF16", "F32", "F64"})


class ComponentReport(msgspec.Struct, frozen=True):
    """One component that was converted.

    ``max_abs`` and ``relative`` are the largest of its tensors', ``overflow`` and
    ``nonfinite_in`` their sums. ``kept`` says of modules that stayed wider why. ``same`` names
    files of weights that were what they should be already.
    """

    library: str
    class_name: str
    part: Part
    bytes_in: int
    bytes_out: int
    tools: dict[str, str]
    kept: dict[str, str]
    same: list[str]
    max_abs: float
    relative: float
    overflow: int
    nonfinite_in: int
    tensors: list[TensorError]


class Report(msgspec.Struct, frozen=True):
    """The whole file. ``taken`` names components whose published weights were taken over."""

    variant: str
    repo: str
    of: str
    recipe: str
    parts: dict[str, Part]
    inputs: dict[str, str]
    tools: dict[str, str]
    taken: list[str]
    components: dict[str, ComponentReport]
    format: int = FORMAT


def report(
    repo: str, of: str, plan: Plan, tools: Mapping[str, str], made: Mapping[str, Converted]
) -> bytes:
    """Returns the content of ``zhcache-variant.json``.

    Args:
        repo: The repository.
        of: The commit of the snapshot it was made of.
        plan: How it was made.
        tools: Versions on which its commit depends.
        made: What became of each component that was converted.
    """
    told = Report(
        variant=plan.name,
        repo=repo,
        of=of,
        recipe=plan.recipe,
        parts=plan.parts,
        inputs=plan.inputs,
        tools=dict(tools),
        taken=sorted(set(plan.parts) - set(made)),
        components={work.component: _component(work, made[work.component]) for work in plan.work},
    )
    return msgspec.json.format(msgspec.json.encode(told, order="sorted"), indent=1) + b"\n"


def parts(content: bytes) -> dict[str, VariantPart]:
    """Returns what a report says of each component that was converted, by name.

    Raises:
        msgspec.MsgspecError: It is no report.
    """
    told = msgspec.json.decode(content, type=Report)
    return {
        name: VariantPart(
            scheme=one.part.scheme,
            bytes_in=one.bytes_in,
            bytes_out=one.bytes_out,
            max_abs=one.max_abs,
            relative=one.relative,
            overflow=one.overflow,
            nonfinite_in=one.nonfinite_in,
            kept=one.kept,
        )
        for name, one in told.components.items()
    }


def doubts(content: bytes) -> list[str]:
    """Returns what whoever asks for a variant should hear, from its report.

    Raises:
        msgspec.MsgspecError: It is no report.
    """
    told = msgspec.json.decode(content, type=Report)
    found: list[str] = []
    for name, one in told.components.items():
        scheme, variant = one.part.scheme, told.variant
        wide = sorted(module for module, why in one.kept.items() if why.startswith("overflow"))
        if wide and scheme not in QUANTIZED:
            found.append(
                f"{variant} keeps {len(wide)} modules of {name} as published, such as {wide[0]}: "
                f"loaded as {scheme} some of their values are infinite; a wider variant holds them"
            )
        if one.nonfinite_in:
            found.append(f"{one.nonfinite_in} values of {name} were published as NaN or infinite")
        if scheme in QUANTIZED and _FLOATS.issuperset(each.dtype_out for each in one.tensors):
            found.append(f"nothing of {name} became {scheme} in {variant}; `zhcache show` says why")
    return found


def _component(work: Work, made: Converted) -> ComponentReport:
    tensors = sorted(
        (tensor for told in made.tensors.values() for tensor in told), key=lambda one: one.name
    )
    same = {file.path: file.size for file in work.weights.files}
    return ComponentReport(
        library=work.library,
        class_name=work.class_name,
        part=work.part,
        bytes_in=work.bytes,
        bytes_out=sum(made.files[path].size for path in made.tensors)
        + sum(same[f"{work.component}/{name}"] for name in made.same),
        tools=made.tools,
        kept=made.kept,
        same=made.same,
        max_abs=max((one.max_abs for one in tensors), default=0.0),
        relative=max((one.relative for one in tensors), default=0.0),
        overflow=sum(one.overflow for one in tensors),
        nonfinite_in=sum(one.nonfinite_in for one in tensors),
        tensors=tensors,
    )
