"""Iterables that wait: what has been drawn is run at once, whatever the next item waits for."""

from __future__ import annotations

import multiprocessing
import queue
import threading
from collections.abc import Iterator

import pytest

import glasspool

LIMIT_S = 20.0
FORK = multiprocessing.get_context("fork")


@pytest.mark.parametrize("how", ["imap", "imap_unordered"])
@pytest.mark.parametrize("chunksize", [1, 3])
@pytest.mark.parametrize("items", [1, 2, 3, 6, 63, 100])
def test_an_iterable_that_waits_for_its_results(how, chunksize, items):
    """A source that gives the next items when the last ones are done, as a window does."""
    items = -(-items // chunksize) * chunksize  # a chunk is drawn whole
    room = threading.Semaphore(items)

    def numbers() -> Iterator[int]:
        for number in range(4 * items):
            if not room.acquire(timeout=LIMIT_S / 2):
                return
            yield number

    with glasspool.Pool(2, context=FORK) as pool:
        values = getattr(pool, how)(abs, numbers(), chunksize)
        seen = []
        for _ in range(4 * items):
            seen.append(values.next(LIMIT_S))
            room.release()
        assert sorted(seen) == list(range(4 * items))
    pool.join()


def test_an_iterable_that_reads_a_queue():
    """Each item's value comes before the next item is there."""
    source: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    with glasspool.Pool(2, context=FORK) as pool:
        values = pool.imap(abs, iter(source.get, None))
        for number in range(20):
            source.put(-number)
            assert values.next(LIMIT_S) == number
        source.put(None)
        assert list(values) == []
    pool.join()
