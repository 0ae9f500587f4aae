"""Batching at chosen numbers: what users meet."""

from __future__ import annotations

import pytest

from glasspool import batching

MS = 1_000_000


@pytest.mark.parametrize(
    ("pace_ns", "held", "room"),
    [
        (None, 0, 1),  # nobody knows yet: one, and see
        (None, 1, 0),
        (100, 0, batching.MAX_HELD),  # a hundred nanoseconds: all that is allowed
        (10_000, 0, 101),  # ten microseconds: a millisecond ahead
        (5 * MS, 0, 2),  # some milliseconds: the next one lies ready
        (5 * MS, 1, 1),
        (5 * MS, 2, 0),
        (50 * MS, 0, 1),  # long: singly
        (50 * MS, 1, 0),
    ],
)
def test_room(pace_ns: float | None, held: int, room: int) -> None:
    """Short tasks share a message, middling ones wait behind one, long ones travel singly."""
    assert batching.room(pace_ns, held) == room


def test_the_last_tasks_are_spread() -> None:
    """With as many tasks as workers, each gets one, and nobody two."""
    assert batching.share(4, 4) == 1
    assert batching.share(8, 4) == 1
    assert batching.share(80, 4) == 10


def test_a_long_task_changes_the_pace_soon() -> None:
    """One long task after many short ones is enough to stop prefetching by the hundred."""
    pace = batching.new_pace(1000.0, 100.0 * MS)
    assert batching.room(pace, 0) == 1
    for _ in range(60):
        pace = batching.new_pace(pace, 1000.0)
    assert batching.room(pace, 0) > 100


def test_what_is_worth_taking_back() -> None:
    """Work of unknown length is, a few short tasks are not."""
    assert batching.worth_taking_back(None, 1)
    assert not batching.worth_taking_back(1000.0, 10)
    assert batching.worth_taking_back(1000.0, 200)
