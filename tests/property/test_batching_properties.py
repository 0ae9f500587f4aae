"""Batching for any pace: never too much with one worker, and never nothing while there is work."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st
from strategies import paces

from glasspool import batching
from glasspool.engines.local import scoreboard as sb


@given(pace=paces, held=st.integers(0, batching.MAX_HELD))
@example(pace=0.0, held=0)
@example(pace=5e-324, held=0)
def test_a_worker_never_holds_too_much(pace: float | None, held: int) -> None:
    """What a worker holds and may still be given is never more than its ring of records keeps."""
    room = batching.room(pace, held)
    assert held + max(0, room) <= batching.MAX_HELD < sb.RING


@given(pace=paces)
@example(pace=5e-324)
def test_an_idle_worker_always_gets_something(pace: float | None) -> None:
    """A worker that holds nothing has room for a task, whatever the tasks last."""
    assert batching.room(pace, 0) >= 1


@given(pace=st.floats(1, 1e15), slower=st.floats(1, 1000), held=st.integers(0, 900))
def test_longer_tasks_travel_in_smaller_company(pace: float, slower: float, held: int) -> None:
    """The longer tasks last, the fewer a worker is given ahead."""
    assert batching.room(pace * slower, held) <= batching.room(pace, held)


@given(waiting=st.integers(1, 100_000), workers=st.integers(0, 300))
def test_shares_cover_everything(waiting: int, workers: int) -> None:
    """Shares are taken until nothing waits: each is at least one task, and never more than wait."""
    left, portions = waiting, 0
    while left:
        portion = batching.share(left, workers)
        assert 1 <= portion <= left
        left -= portion
        portions += 1
    assert portions <= waiting


@given(waiting=st.integers(1, 100_000), workers=st.integers(2, 300))
def test_a_share_leaves_enough_for_the_others(waiting: int, workers: int) -> None:
    """No worker takes more than half of its even part, rounded up."""
    assert batching.share(waiting, workers) <= -(-waiting // workers)


@given(pace=paces, held=st.integers(0, batching.MAX_HELD), lanes=st.integers(1, 500))
def test_no_lane_is_left_without_a_task(pace: float | None, held: int, lanes: int) -> None:
    """A worker may be given as many tasks as it has lanes free, and never more than its ring keeps."""
    room = batching.room_in_lanes(pace, held, lanes)
    assert room >= lanes - held
    assert held + max(0, room) <= batching.MAX_HELD
    assert max(0, batching.room_in_lanes(pace, held, 1)) == max(0, batching.room(pace, held))


@given(waiting=st.integers(1, 100_000), workers=st.integers(1, 300), free=st.integers(-900, 500))
def test_a_share_for_lanes_leaves_enough_for_the_others(
    waiting: int, workers: int, free: int
) -> None:
    """A worker takes at least one task, for its free lanes its even part, and never more than that."""
    share = batching.share_in_lanes(waiting, workers, free)
    even = -(-waiting // workers)
    assert 1 <= min(free, even) <= share <= even or free < 1 <= share <= even


@given(measured=st.lists(st.floats(0, 1e15), min_size=1, max_size=50))
def test_the_pace_stays_within_what_was_measured(measured: list[float]) -> None:
    """An average lies between the least and the most of what it averages."""
    pace: float | None = None
    for one in measured:
        pace = batching.new_pace(pace, one)
    assert pace is not None
    margin = 1e-9 * max(measured)
    assert min(measured) - margin <= pace <= max(measured) + margin


def test_a_clock_too_coarse_for_the_tasks_does_no_harm() -> None:
    """Tasks that seem to last no time at all, however many, leave a pace that can be used."""
    pace: float | None = 1e6
    for _ in range(5000):
        pace = batching.new_pace(pace, 0.0)
        assert batching.room(pace, 0) >= 1


@given(pace=paces, unbegun=st.integers(0, 900))
def test_nothing_is_not_worth_taking_back(pace: float | None, unbegun: int) -> None:
    """Only what exists is taken back, and of long tasks every single one."""
    worth = batching.worth_taking_back(pace, unbegun)
    assert not (worth and unbegun == 0)
    if unbegun and (pace is None or pace >= batching.STEAL_NS):
        assert worth


@given(
    pace=paces,
    workers=st.integers(1, 300),
    taken=st.integers(0, 10**9),
    task_bytes=st.floats(0, 1e12),
)
@example(pace=5e-324, workers=1, taken=10**9, task_bytes=0.0)
def test_the_window_is_bounded_and_never_shut(
    pace: float | None, workers: int, taken: int, task_bytes: float
) -> None:
    """Each worker has its few tasks ahead of the reader; more only of short and small ones."""
    least = batching.AHEAD_TASKS * workers
    window = batching.window(pace, workers, taken, task_bytes)
    assert least <= window <= max(least, batching.MOST_AHEAD)
    assert window <= least + taken
    if pace is None or pace >= 1_000_000:
        assert window == least
    assert window == least or window * task_bytes <= batching.AHEAD_BYTES
    assert 0 <= batching.refill_at(window) < window


@given(window=st.integers(1, 1_000_000))
def test_a_reader_who_reads_on_always_wakes_the_feed(window: int) -> None:
    """A full window is refilled at the latest when all of it has been taken."""
    assert 0 <= batching.refill_at(window) < window
