"""The errors that are told, against the same in float64 over the whole tensor."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zhcached.workers.differences import STEP, Differences, Work
from zhcached.workers.order import ordered
from zhcached.workers.schemes import Entry, Group
from zhcached.workers.tensors import BITS, size_of

WORK = Work()


def counted(source: torch.Tensor, made: torch.Tensor):
    differences = Differences(WORK)
    for at in range(0, source.numel(), STEP):
        differences.add(source[at : at + STEP], made[at : at + STEP])
    return differences.told("w", "F32", "F16", made.nbytes)


HALF, BRAIN = torch.float16, torch.bfloat16


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [(HALF, scale) for scale in (1e-30, 1e-12, 0.02, 1.0, 1e4)]
    + [(BRAIN, scale) for scale in (1e-30, 1e-12, 0.02, 1.0, 1e4, 1e18, 1e25)],
)
def test_norms_and_the_largest_difference(dtype: torch.dtype, scale: float) -> None:
    torch.manual_seed(int(-math.log10(scale)) + 40)
    source = torch.randn(3 * STEP + 17) * scale
    made = source.to(dtype)
    told = counted(source, made)
    exact = (made.double() - source.double()).abs()
    assert told.max_abs == exact.max().item()
    relative = exact.norm() / source.double().norm()
    assert told.relative == pytest.approx(relative.item(), rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.float8_e4m3fn])
def test_sources_of_other_widths(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    source = torch.randn(STEP + 3).to(dtype)
    made = source.to(torch.bfloat16)
    told = counted(source, made)
    exact = (made.double() - source.double()).abs()
    assert told.max_abs == exact.max().item()
    assert told.relative == pytest.approx((exact.norm() / source.double().norm()).item(), rel=1e-3)


def test_only_finite_values_count_for_the_errors() -> None:
    source = torch.tensor([1.0009765625 + 2**-12, 1e9, float("nan"), float("inf"), -2.0])
    made = source.half()
    told = counted(source, made)
    assert (told.nonfinite_in, told.overflow) == (2, 1)
    assert told.max_abs == 2**-12
    assert 0 < told.relative < 1e-3


def test_zeros_and_nothing_have_no_error() -> None:
    for count in (0, 5):
        told = counted(torch.zeros(count), torch.zeros(count, dtype=torch.float16))
        assert (told.max_abs, told.relative) == (0.0, 0.0)


entries = st.lists(
    st.tuples(st.sampled_from(sorted(BITS)), st.lists(st.integers(0, 5), max_size=3)),
    min_size=1,
    max_size=3,
)


@given(st.lists(entries, max_size=8))
@settings(deadline=None)
def test_every_tensor_lies_at_a_multiple_of_its_element(plan: list) -> None:
    groups = [
        Group(f"{number}", "quantize", tuple(
            Entry(f"{number}.{at}", dtype, (*shape, 4), f"{number}")
            for at, (dtype, shape) in enumerate(one)
        ))
        for number, one in enumerate(plan)
    ]  # fmt: skip
    at = 0
    seen: list[str] = []
    for piece in ordered(groups):
        for entry in piece.entries:
            assert at % max(1, BITS[entry.dtype] // 8) == 0
            at += size_of(entry.dtype, entry.shape)
            seen.append(entry.name)
    assert sorted(seen) == sorted(entry.name for group in groups for entry in group.entries)


def test_a_group_s_entries_lie_together_unless_they_would_put_others_out_of_place() -> None:
    def group(name: str, count: int) -> Group:
        small = Entry(f"{name}.q", "I8", (count,), name)
        return Group(name, "quantize", (small, Entry(f"{name}.s", "BF16", (1,), name)))

    names = [[e.name for e in piece.entries] for piece in ordered([group("a", 3), group("b", 4)])]
    assert names == [["a.s"], ["b.s", "b.q"], ["a.q"]]
