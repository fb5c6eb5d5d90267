"""The way of tensors to a device: two buffers, of which one is on its way."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zhcached.workers import staging
from zhcached.workers.staging import Staging

SIZE = 4096


class SlowLink:
    """Copies at the last moment allowed, so that a buffer that is refilled too early shows."""

    def __init__(self, size: int = SIZE) -> None:
        self.flat = torch.full((size,), 255, dtype=torch.uint8)
        self.sent: list[tuple[int, int]] = []
        self._on_the_way: dict[int, tuple[int, torch.Tensor]] = {}

    def buffer(self, which: int, size_bytes: int) -> torch.Tensor:
        return torch.full((size_bytes,), 200 + which, dtype=torch.uint8)

    def send(self, which: int, offset: int, staged: torch.Tensor) -> None:
        assert which not in self._on_the_way, "sent from a buffer that is on its way"
        self._on_the_way[which] = (offset, staged)
        self.sent.append((offset, staged.numel()))

    def arrived(self, which: int) -> None:
        if which in self._on_the_way:
            offset, staged = self._on_the_way.pop(which)
            self.flat[offset : offset + staged.numel()].copy_(staged)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(staging, "BUFFER_BYTES", 100)
    monkeypatch.setattr(staging, "GAP_BYTES", 16)


@st.composite
def pieces(draw) -> list[tuple[int, bytes]]:
    """Tensors that do not overlap, at any places, in any order."""
    found, at = [], 0
    while at < SIZE - 300 and len(found) < 12:
        at += draw(st.integers(0, 60))
        text = draw(st.binary(max_size=250))
        found.append((at, text))
        at += len(text)
    return draw(st.permutations(found)) if draw(st.booleans()) else found


@given(pieces())
def test_staging_puts_every_byte_in_its_place(pieces):
    link = SlowLink()
    staged = Staging(link, SIZE)
    for offset, text in pieces:
        source = torch.tensor(list(text), dtype=torch.uint8)
        staged.put(offset, source)
        # It may be let go: what became of it must not matter.
        source.fill_(7)
    staged.flush()
    expected = torch.full((SIZE,), 255, dtype=torch.uint8)
    for offset, size in link.sent:
        # What was sent beside tensors is padding, and padding is zero.
        expected[offset : offset + size] = 0
    for offset, text in pieces:
        expected[offset : offset + len(text)] = torch.tensor(list(text), dtype=torch.uint8)
    assert torch.equal(link.flat, expected)


def test_staging_sends_neighbours_together():
    link = SlowLink()
    staged = Staging(link, SIZE)
    for offset in range(0, 96, 12):
        staged.put(offset, torch.ones(8, dtype=torch.uint8))
    staged.flush()
    assert link.sent == [(0, 92)]


def test_staging_cuts_what_is_larger_than_a_buffer():
    link = SlowLink()
    staged = Staging(link, SIZE)
    staged.put(10, torch.arange(250, dtype=torch.uint8))
    staged.flush()
    assert link.sent == [(10, 100), (110, 100), (210, 50)]


def test_staging_takes_small_memory_with_small_buffers():
    link = SlowLink(20)
    staged = Staging(link, 20)
    staged.put(0, torch.arange(20, dtype=torch.uint8))
    staged.flush()
    assert link.flat.tolist() == list(range(20))
