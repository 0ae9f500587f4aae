"""The shelf: what is put in is given out once, fits, and never becomes too much."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from glasspool.engines.local.shelf import LEAST_BYTES, Shelf

MOST, MOST_BYTES, PATIENCE = 4, 10_000_000, 5

sizes = st.integers(1, 12_000_000) | st.integers(900_000, 1_100_000)
steps = st.lists(st.tuples(st.booleans(), sizes), max_size=60)


@given(steps=steps)
def test_nothing_is_lost_or_given_out_twice(steps: list[tuple[bool, int]]) -> None:
    """Each item is on the shelf, was given out, or was let go; and there is never too much."""
    shelf: Shelf[tuple[int, int]] = Shelf(MOST, MOST_BYTES, PATIENCE)
    numbers = itertools.count()
    there: set[tuple[int, int]] = set()
    for is_put, size in steps:
        if is_put:
            item = (next(numbers), size)
            gone = shelf.put(item, size)
            there.add(item)
            assert len(set(gone)) == len(gone)
            assert there.issuperset(gone)
            there.difference_update(gone)
        else:
            taken = shelf.take(size)
            if taken is not None:
                there.remove(taken)
                assert size // 2 <= taken[1] <= 2 * max(size, LEAST_BYTES)
        assert len(shelf) == len(there) <= MOST
        assert shelf.size == sum(size for _, size in there) <= MOST_BYTES
    assert set(shelf.clear()) == there
    assert len(shelf) == 0


@given(capacities=st.lists(st.integers(1, 2_000_000), min_size=1, max_size=MOST), size=sizes)
def test_the_least_that_is_large_enough_is_taken(capacities: list[int], size: int) -> None:
    """A larger one only if none of similar size is large enough would be; else the largest."""
    shelf: Shelf[int] = Shelf(MOST, MOST_BYTES, PATIENCE)
    for capacity in capacities:
        assert shelf.put(capacity, capacity) == []
    fits = [each for each in capacities if size // 2 <= each <= 2 * max(size, LEAST_BYTES)]
    enough = [each for each in fits if each >= size]
    assert shelf.take(size) == (min(enough) if enough else max(fits, default=None))


def test_what_nobody_asks_for_is_let_go() -> None:
    """A program that has gone over to other sizes does not keep the old ones for ever."""
    shelf: Shelf[str] = Shelf(MOST, MOST_BYTES, PATIENCE)
    shelf.put("large", 5_000_000)
    for _ in range(PATIENCE + 1):
        assert shelf.take(1_000_000) is None
    assert shelf.put("small", 1_000_000) == ["large"]


def test_one_that_is_too_large_alone_drives_out_no_other() -> None:
    """It is let go itself."""
    shelf: Shelf[str] = Shelf(MOST, MOST_BYTES, PATIENCE)
    shelf.put("small", 1_000_000)
    assert shelf.put("huge", MOST_BYTES + 1) == ["huge"]
    assert shelf.take(1_000_000) == "small"
