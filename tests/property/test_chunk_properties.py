"""Default chunks for any pace: they cover the items, none is empty, and they get small towards the end."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st
from strategies import paces

from glasspool import batching

MS = 1_000_000
lengths = st.integers(1, 5_000)
workers = st.integers(1, 300)


@given(length=st.integers(1, 10**9), workers=workers)
def test_the_standard_librarys_chunk(length: int, workers: int) -> None:
    """Four for each worker, as its ``_map_async`` counts them."""
    size, extra = divmod(length, workers * 4)
    assert batching.stock_chunk(length, workers) == size + bool(extra)


@given(length=lengths, workers=workers, seen=st.lists(paces, max_size=20), recalled=paces)
@example(length=1, workers=1, seen=[], recalled=0.0)
@example(length=5_000, workers=1, seen=[5e-324], recalled=5e-324)
def test_chunks_cover_the_items(
    length: int, workers: int, seen: list[float | None], recalled: float | None
) -> None:
    """Whatever is known, and however it changes: none is empty, and none larger than stock's."""
    most = batching.stock_chunk(length, workers)
    left, turn = length, 0
    while left:
        pace = seen[turn % len(seen)] if seen else None
        turn += 1
        if pace is None:
            size = batching.first_chunk(left, workers, most, recalled)
        else:
            size = batching.chunk(left, workers, most, pace)
        assert 1 <= size <= min(most, left)
        left -= size


@given(left=st.integers(1, 10**9), workers=workers, pace=st.floats(10 * MS, 1e15))
def test_long_items_travel_singly(left: int, workers: int, pace: float) -> None:
    """Nothing waits behind an item that is known to take long."""
    assert batching.chunk(left, workers, left, pace) == 1


@given(left=st.integers(1, 10**6), workers=workers, pace=st.floats(1, 1e15))
def test_the_last_chunks_are_small(left: int, workers: int, pace: float) -> None:
    """A chunk is half of a worker's even part, or lasts no longer than what is not worth a thought."""
    size = batching.chunk(left, workers, left, pace)
    assert size <= max(1, left // (2 * workers), batching.TAIL_NS / pace)


@given(left=st.integers(1, 10**6), workers=workers, pace=st.floats(1, 1e15))
def test_no_chunk_is_known_to_last_long(left: int, workers: int, pace: float) -> None:
    """So that a change of pace is followed."""
    size = batching.chunk(left, workers, left, pace)
    assert size == 1 or size * pace <= batching.MOST_CHUNK_NS


@given(left=st.integers(1, 10**6), workers=workers)
def test_before_anything_is_known_much_is_kept_back(left: int, workers: int) -> None:
    """All first chunks together leave more than half of the items for what will be known."""
    taken = 0
    for _ in range(workers):
        taken += batching.first_chunk(left - taken, workers, left, None) if left > taken else 0
    assert taken <= max(workers, left // 2)


@given(measured=st.lists(st.floats(0, 1e15), min_size=1, max_size=50))
def test_the_pace_stays_within_what_was_measured(measured: list[float]) -> None:
    """It lies between the least and the most of what it was made of."""
    pace: float | None = None
    for one in measured:
        pace = batching.new_item_pace(pace, one)
    assert pace is not None
    margin = 1e-9 * max(measured) + 1.0
    assert min(measured) - margin <= pace <= max(measured) + margin


def test_one_long_item_is_soon_forgotten() -> None:
    """A first item that took 300 ms, as it imported something, does not keep short ones apart."""
    pace = batching.new_item_pace(None, 300.0 * MS)
    for _ in range(14):
        pace = batching.new_item_pace(pace, 1_000.0)
    assert batching.chunk(100_000, 2, 12_500, pace) > 30


@given(workers=workers)
def test_every_worker_finds_another_chunk(workers: int) -> None:
    """More chunks than workers are made ahead, before and after something is known."""
    assert batching.most_unsent(workers, True) >= 2 * workers
    assert batching.most_unsent(workers, False) >= batching.most_unsent(workers, True)
