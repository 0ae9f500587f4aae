"""What an executor's ``map`` has submitted, and the iterators over its values."""

from __future__ import annotations

import itertools
import os
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from glasspool.futures import Future, take_back

if TYPE_CHECKING:
    from glasspool.executor import Executor


class Results:
    """What ``map`` has submitted, and the iterators over its values."""

    def __init__(
        self,
        executor: weakref.ref[Executor],
        function: Callable[..., Any],
        chunksize: int,
        futures: deque[Future[Any]],
        items: Iterator[Any] | None,
        end: float | None,
    ) -> None:
        self._executor = executor  # not kept alive: one that is dropped ends when its work is done
        self._function = function
        self._chunksize = chunksize
        self._futures = futures
        self._items = items  # still to be drawn
        self._end = end

    def each(self) -> Iterator[Any]:
        """Yield the values."""
        futures, end = self._futures, self._end
        try:
            while futures:
                if self._items is not None:
                    self._submit_next(self._items)
                left = None if end is None else end - time.monotonic()
                yield self._next_value(left)  # who reads has the only reference
        finally:
            self._cancel()

    def _next_value(self, left: float | None) -> Any:
        # Taken out only now: if this raises, it is cancelled with the rest.
        value = self._futures[0].result(left)
        self._futures.popleft()
        return value

    def chained(self) -> Iterator[Any]:
        """Yield the values of chunks."""
        for values in self.each():
            values.reverse()
            while values:
                yield values.pop()

    def _submit_next(self, items: Iterator[Any]) -> None:
        executor = self._executor()
        if executor is not None:
            for item in itertools.islice(items, 1):
                self._futures.append(executor.submit_item(self._function, item, self._chunksize))

    def _cancel(self) -> None:
        """Cancel what has not begun; never waits, as the iterator may end in any thread."""
        calls = [future._call for future in self._futures]
        self._futures.clear()
        if calls and calls[0]._engine.pid == os.getpid():
            collector = calls[0]._engine.collector
            collector.mailbox.put(lambda: take_back(collector, calls))


def check_buffersize(buffersize: Any) -> None:
    """Check how many items of a map may be ahead of those that were read.

    Raises:
        TypeError: It is no integer.
        ValueError: It is below 1.
    """
    if buffersize is None:
        return
    if not isinstance(buffersize, int):
        raise TypeError("buffersize must be an integer or None")
    if buffersize < 1:
        raise ValueError("buffersize must be None or > 0")
