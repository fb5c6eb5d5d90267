"""What calls were seen to take brings what is reckoned nearer to the truth. Pure.

Two who say it: the daemon, of calls that its workers made, phase by phase; and a person, of a whole
call. The highest counts, never a mean, since a plan has to bear the worst of the calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from zhcache.placement.activation import Needs, Size
from zhcache.protocol.placement import SeenCall

LEAST = 0.5
"""What was seen lowers an estimate no further: the next call may come to other kernels."""

NEAR = 4.0
"""How many times the pixels of one size are those of another that says something of it.

What does not grow with an image is most of what a thumbnail takes.
"""


@dataclass(frozen=True, slots=True)
class Seen:
    """Bytes that a person says calls of a size took at most on a device, weights left out."""

    size: Size
    bytes: int


def corrected(reckoned: Needs, seen: Sequence[Seen], at: Mapping[Size, Needs]) -> Needs:
    """Returns what is reckoned, brought to what a person says.

    Which phase took it is not known. More than was reckoned for the worst of the calls raises all
    of them alike; less is what none of them can have taken more than.

    Args:
        reckoned: For the size that is asked for.
        seen: What calls took.
        at: What was reckoned for each size of ``seen``.
    """
    ratios = [each.bytes / max(_most(at[each.size]), 1) for each in seen]
    if not ratios:
        return reckoned
    by = max(*ratios, LEAST)
    most = math.ceil(_most(reckoned) * by)

    def phase(count: int) -> int:
        return math.ceil(count * by) if by > 1 else min(count, most)

    return replace(
        reckoned,
        step=phase(reckoned.step),
        decode=phase(reckoned.decode),
        decode_tiled=phase(reckoned.decode_tiled),
    )


def learned(
    asked: Size,
    calls: Sequence[SeenCall],
    needs: Callable[[Size], Needs],
    bare: Callable[[Size], Needs],
) -> tuple[Needs, list[SeenCall]]:
    """Returns what calls of a size take by what workers saw, and which of ``calls`` say so.

    Each phase by itself. Calls of the very size say it alone, else those of sizes that are near:
    what they took for what was reckoned for them. Text encoders are only ever raised, since the
    first step is in what was seen of them.

    Args:
        asked: The size.
        calls: What was seen.
        needs: Reckons for a size.
        bare: The same of prompts without any tokens: what is less than this is less for sure.
    """
    reckoned = needs(asked)
    whole, tiled = ([one for one in calls if one.is_tiled is each] for each in (False, True))
    of_steps, of_whole, of_tiled = (_telling(asked, one) for one in (calls, whole, tiled))

    def worst(ratios: Iterable[float]) -> float:
        return max(ratios, default=1.0)

    step = worst(
        _by(one.step, needs(size_of(one)).step, bare(size_of(one)).step) for one in of_steps
    )
    decode = worst(_by(one.decode, needs(size_of(one)).decode) for one in of_whole)
    in_tiles = worst(_by(one.decode, needs(size_of(one)).decode_tiled) for one in of_tiled)
    if not of_tiled:
        # It is the same autoencoder: what it takes more of, its tiles take more of.
        in_tiles = max(decode, 1.0)
    found = Needs(
        step=math.ceil(reckoned.step * step),
        decode=math.ceil(reckoned.decode * decode),
        decode_tiled=math.ceil(reckoned.decode_tiled * in_tiles),
        encode=max(reckoned.encode, *(one.encode for one in of_steps), 0),
    )
    return found, [one for one in calls if one in of_steps or one in of_whole or one in of_tiled]


def size_of(call: SeenCall) -> Size:
    """Returns the size of what a call made."""
    return Size(call.width, call.height, call.batch)


def _telling(asked: Size, calls: Sequence[SeenCall]) -> list[SeenCall]:
    """Returns those of ``calls`` that say something of calls of a size."""
    near = [one for one in calls if 1 / NEAR <= _pixels(size_of(one)) / _pixels(asked) <= NEAR]
    return [one for one in near if size_of(one) == asked] or near


def _by(seen: int, reckoned: int, least: int | None = None) -> float:
    """Returns by what an estimate of ``reckoned`` bytes is to be taken, 1 where it holds."""
    if seen >= reckoned:
        return seen / max(reckoned, 1)
    return min(max(seen / max(reckoned if least is None else least, 1), LEAST), 1.0)


def _pixels(size: Size) -> int:
    return size.width * size.height * size.batch


def _most(one: Needs) -> int:
    return max(one.step, one.decode)
