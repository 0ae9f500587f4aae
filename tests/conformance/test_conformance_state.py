"""What a task may not leave behind for the next, and what the parent's objects keep."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from multiprocessing.pool import Pool
from typing import Any

import pytest
from conformance_tasks import Counting, as_bytes, count_in, same


def callables() -> list[Any]:
    """Return callables that count their own calls."""
    return [Counting().run, Counting(), functools.partial(count_in, [0])]


@pytest.mark.parametrize("which", range(3), ids=["method", "instance", "partial"])
def test_state_does_not_leak_between_tasks(shared_pool: Pool, which: int) -> None:
    """Each task has the callable as it was submitted."""
    assert shared_pool.map(callables()[which], [1, 1, 1, 1], 1) == [1, 1, 1, 1]


@pytest.mark.parametrize("which", range(3), ids=["method", "instance", "partial"])
def test_state_is_shared_within_a_chunk(shared_pool: Pool, which: int) -> None:
    """The items of one chunk share one copy of the callable, as they travel together."""
    assert shared_pool.map(callables()[which], [1] * 6, 3) == [1, 2, 3, 1, 2, 3]


@pytest.mark.parametrize("which", range(3), ids=["method", "instance", "partial"])
def test_state_does_not_leak_between_jobs(shared_pool: Pool, which: int) -> None:
    """Nor does it leak from one call to the next."""
    function = callables()[which]
    assert [shared_pool.apply(function, (1,)) for _ in range(6)] == [1] * 6


def test_the_parents_object_is_read_at_each_call(shared_pool: Pool) -> None:
    """A change made in the parent between two calls is seen by the second."""
    counting = Counting()
    assert shared_pool.apply(counting.run, (1,)) == 1
    counting.calls = 10
    assert shared_pool.apply(counting.run, (1,)) == 11
    assert shared_pool.map(counting.run, [1, 1], 1) == [11, 11]
    assert counting.calls == 10, "a task works on a copy"


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_iterable_that_fills_one_buffer_again_and_again(shared_pool: Pool, method: str) -> None:
    """An item is taken as it is when it is drawn, so a generator may use its buffer again."""

    def items() -> Iterator[bytearray]:
        buffer = bytearray(8)
        for i in range(50):
            buffer[:] = bytes([i]) * 8
            yield buffer

    results = getattr(shared_pool, method)(as_bytes, items())
    assert sorted(results) == [bytes([i]) * 8 for i in range(50)]


def test_arguments_are_copies(shared_pool: Pool) -> None:
    """What a task does to its argument is not seen by the caller."""
    items: list[int] = [1]
    assert shared_pool.apply(list.append, (items, 2)) is None
    assert items == [1]


def test_an_object_given_twice_is_one_object_in_its_task(shared_pool: Pool) -> None:
    """Arguments of one call that are one object stay one object."""
    shared: list[int] = []
    first, second = shared_pool.apply(same, ((shared, shared),))
    assert first is second
    assert shared_pool.apply(is_same, (shared, shared))


def is_same(a: object, b: object) -> bool:
    """Say whether two arguments are one object."""
    return a is b
