"""Conversions that run at once: so many in the whole daemon, watched until the last has ended."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

import structlog

from zhcache.errors import Cancelled
from zhcached.convert.runner import Conversion, Converted, T

TICK_S = 0.2


class Places:
    """Places for workers that convert. Thread-safe.

    Args:
        count: How many there are.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._free = threading.BoundedSemaphore(count)

    def run(
        self,
        conversions: Sequence[Conversion[T]],
        ended: Callable[[T, Converted], None],
        show: Callable[[], None],
    ) -> list[tuple[T, Converted]]:
        """Returns what each has become; the first error ends the others.

        Args:
            conversions: What is to be done, in this order.
            ended: Called with each that is done, in a thread of its own.
            show: Called every now and then, in the caller's; what it raises ends the work.

        Raises:
            ZhcacheError: As ``Conversion.run`` does.
        """
        stop = threading.Event()
        context = structlog.contextvars.get_contextvars()

        def one(conversion: Conversion[T]) -> tuple[T, Converted]:
            structlog.contextvars.bind_contextvars(**context)
            while not self._free.acquire(timeout=TICK_S):
                if stop.is_set():
                    raise Cancelled("the job was cancelled")
            try:
                converted = conversion.run()
                ended(conversion.work, converted)
            finally:
                self._free.release()
            return conversion.work, converted

        with ThreadPoolExecutor(self._count, "convert") as pool:
            running = [pool.submit(one, conversion) for conversion in conversions]
            try:
                pending = set(running)
                while pending:
                    show()
                    over, pending = wait(pending, TICK_S, FIRST_COMPLETED)
                    for future in over:
                        future.result()
                show()
                return [future.result() for future in running]
            except BaseException:
                stop.set()
                for future in running:
                    future.cancel()
                for conversion in conversions:
                    conversion.abandon()
                raise
