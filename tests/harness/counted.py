"""Bytes of the tensors that live at once while a module runs on torch's meta device.

Nothing is computed and nothing takes memory, so that modules of any size can be counted. Attention
is counted as fused kernels do it: its result, without its scores.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Counted(TorchDispatchMode):
    """Counts storages that were made since it was entered; ``peak`` is the most at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._held: Counter[int] = Counter()
        self._old: set[int] = set()

    def leave_out(self, tensors: Iterator[torch.Tensor]) -> None:
        """Has tensors that were there before not counted."""
        self._old = {one.untyped_storage()._cdata for one in tensors}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for one in tree_leaves(out):
            if isinstance(one, torch.Tensor):
                self._take(one)
        return out

    def _take(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._old:
            return
        if not self._held[key]:
            self.now += size
            self.peak = max(self.peak, self.now)
        self._held[key] += 1
        weakref.finalize(tensor, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._held[key] -= 1
        if not self._held[key]:
            self.now -= size


@contextmanager
def fused() -> Iterator[None]:
    """Has attention give its result alone, as a fused kernel."""

    def attend(query, key, value, *args, **kwargs):
        shape = (*query.shape[:-1], value.shape[-1])
        return torch.empty(shape, dtype=query.dtype, device=query.device)

    with patch("torch.nn.functional.scaled_dot_product_attention", attend):
        yield


def peak(module: torch.nn.Module, call: Callable[[], object]) -> int:
    """Returns the most bytes that ``call`` has beside the module's own and its arguments."""
    counted = Counted()
    counted.leave_out(iter([*module.parameters(), *module.buffers()]))
    with torch.no_grad(), fused(), counted:
        call()
    return counted.peak
