"""How far a tensor is from what it was made of, counted while both are in the core's cache."""

from __future__ import annotations

import math

import torch

from zhcache.protocol.conversion import TensorError

STEP = 2**16
"""Elements that are dealt with at once: a quarter MiB of float32, a few of which a core's cache
holds. Measured with the reading and the sending: a fifth faster than four times as many."""

# Sums of squares beyond these lose digits in float32, or all of them; such pieces are summed wider.
_SMALL, _LARGE = 1e-16, 1e30
_DIGITS = 4


class Differences:
    """One tensor's, over its finite values that are still finite in what was made of it.

    The largest is exact for casts: it takes no more digits than the source has. Norms are summed in
    float32 within a step and in float64 over the steps, and told with four digits.

    Attributes:
        nan: How many values were NaN.
        nonfinite: How many were NaN or infinite.
        overflow: How many became infinite.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        self._largest = 0.0
        self._error = 0.0
        self._norm = 0.0
        self.nan = 0
        self.nonfinite = 0
        self.overflow = 0

    def add(self, source: torch.Tensor, made: torch.Tensor) -> None:
        """Counts a piece.

        Args:
            source: ``(n,)`` of any float dtype, n of at most ``STEP``.
            made: ``(n,)`` of any float dtype.
        """
        wide, difference = self._work.over(source)
        difference.copy_(made).sub_(wide)
        low, high = (bound.item() for bound in torch.aminmax(difference))
        if not (math.isfinite(low) and math.isfinite(high)):
            wide, difference = self._finite(wide, difference)
            low, high = (bound.item() for bound in torch.aminmax(difference))
        self._largest = max(self._largest, -low, high)
        norm = torch.dot(wide, wide).item()
        if not _SMALL < norm < _LARGE:
            wide, difference = wide.double(), difference.double()
            norm = torch.dot(wide, wide).item()
        self._norm += norm
        self._error += torch.dot(difference, difference).item()

    def look(self, source: torch.Tensor) -> None:
        """Counts what is not finite in a piece that stays as it is; arguments as ``add``."""
        wide, _ = self._work.over(source)
        low, high = (bound.item() for bound in torch.aminmax(wide))
        if not (math.isfinite(low) and math.isfinite(high)):
            self.nan += int(wide.isnan().sum())
            self.nonfinite += wide.numel() - int(wide.isfinite().sum())

    def told(self, name: str, dtype_in: str, dtype_out: str, size: int) -> TensorError:
        """Returns them for the report; ``size`` is the bytes of what was made."""
        relative = math.sqrt(self._error / self._norm) if self._norm else 0.0
        return TensorError(
            name=name,
            dtype_in=dtype_in,
            dtype_out=dtype_out,
            max_abs=self._largest,
            relative=float(f"{relative:.{_DIGITS}g}"),
            nonfinite_in=self.nonfinite,
            overflow=self.overflow,
            bytes=size,
        )

    def _finite(
        self, wide: torch.Tensor, difference: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Counts what is not finite, and returns both with zeros in its place."""
        was = wide.isfinite()
        # A difference is finite where both sides are, and only there.
        still = difference.isfinite()
        self.nan += int(wide.isnan().sum())
        self.nonfinite += int((~was).sum())
        self.overflow += int((was & ~still).sum())
        return wide.masked_fill(~still, 0.0), difference.masked_fill(~still, 0.0)


class Work:
    """Memory in which pieces are compared; one for a worker, used again and again."""

    def __init__(self) -> None:
        self._single = torch.empty(2, STEP, dtype=torch.float32)
        self._double = torch.empty(STEP, dtype=torch.float64)

    def over(self, source: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns ``source`` in a dtype that holds it exactly, and a place for differences.

        Both ``(n,)``, float64 where the source is, else float32; valid until the next call.
        """
        count = source.numel()
        if source.dtype == torch.float64:
            return source, self._double[:count]
        if source.dtype == torch.float32:
            return source, self._single[0, :count]
        return self._single[1, :count].copy_(source), self._single[0, :count]
