"""Progress, the pure part: how items are counted, how rates and words come about."""

from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import Any

import pytest

from glasspool import progress
from glasspool.engines.local import wire
from glasspool.engines.local.outcome import RAISED
from glasspool.errors import TaskCancelled, TaskTimeout, WorkerDied
from glasspool.progress import Pace, Running, Slow, State, Tally
from glasspool.snapshot import DeathCertificate

NOTHING = Running()


def ended(items: int = 1, kind: int = wire.OK, body: Any = b"") -> Any:
    """Return a task as the collector has it after its end."""
    return SimpleNamespace(items=items, ended_as=kind, outcome=(kind, body))


def told(item: int | None) -> bytes:
    """Return what a worker packs of an exception that an item raised."""
    return pickle.dumps(("ValueError", "no", "story", None, "", False, (), item))


def state(
    tally: Tally, *, running: Running = NOTHING, pace: Pace | None = None, now: float = 10.0
) -> State:
    """Return the state of a job that began at 0."""
    return progress.state("f", tally, pace or Pace(0.0), running, 0.0, now)


# Counting ----------------------------------------------------------------------------------------


def test_items_are_counted_and_not_chunks() -> None:
    """A chunk of ten that ended well is ten items done."""
    tally = Tally(12)
    tally.take([ended(10), ended(1, wire.OK_PLAIN), ended(1, wire.OK_SEGMENT)])
    assert (tally.done, tally.ended) == (12, 12)


@pytest.mark.parametrize(
    ("error", "where"),
    [
        (WorkerDied(DeathCertificate(1, 0, "died")), "lost"),
        (TaskCancelled(""), "cancelled"),
        (TaskTimeout(""), "timeout"),
        (ValueError("it cannot be pickled"), "failed"),
    ],
)
def test_ends_that_the_parent_decided_count_for_all_items(error: BaseException, where: str) -> None:
    """All items of a chunk whose worker died are lost, and so on."""
    tally = Tally(5)
    tally.take([ended(5, RAISED, error)])
    assert getattr(tally, where) == tally.ended == 5


def test_of_a_chunk_that_raised_each_item_has_its_own_end() -> None:
    """Those before are done, one has failed, those after were never called."""
    tally = Tally(10)
    tally.take([ended(10, wire.ERROR, told(3))])
    assert (tally.done, tally.failed, tally.skipped, tally.ended) == (3, 1, 6, 10)


@pytest.mark.parametrize("body", [told(None), pickle.dumps(("E", "", "", None, "", True, ()))])
def test_a_chunk_of_which_no_item_ran_has_failed_as_a_whole(body: bytes) -> None:
    """Its function could not be rebuilt, so none was called."""
    tally = Tally(4)
    tally.take([ended(4, wire.ERROR, body)])
    assert (tally.failed, tally.ended) == (4, 4)


def test_values_that_cannot_be_sent_have_failed() -> None:
    """All items of the chunk ran, and nobody has what they returned."""
    tally = Tally(4)
    tally.take([ended(4, wire.UNSENDABLE, b"?")])
    assert tally.failed == 4


def test_the_length_of_an_iterator_is_known_at_its_end() -> None:
    """Until then nobody knows of how many."""
    tally = Tally()
    drawn = tally.count(iter("abc"))
    assert (next(drawn), tally.total, tally.drawn) == ("a", None, 1)
    assert list(drawn) == ["b", "c"]
    assert tally.total == 3


def test_what_had_not_ended_when_the_job_was_cancelled_is_cancelled() -> None:
    """And nothing is counted after the end."""
    tally = Tally(10)
    tally.take([ended(4)])
    tally.end(TaskCancelled("by the user"))
    tally.take([ended(6)])
    assert (tally.done, tally.cancelled, tally.ended) == (4, 6, 10)
    assert tally.note == "cancelled"


def test_what_had_not_ended_when_the_iterable_raised_was_never_called() -> None:
    """The note says what it was."""
    tally = Tally(10)
    tally.take([ended(4)])
    tally.end(ValueError("in the iterable"))
    assert (tally.done, tally.skipped, tally.note) == (4, 6, "stopped by ValueError")


def test_a_job_ends_once() -> None:
    """Ctrl-C after the end changes nothing."""
    tally = Tally(1)
    tally.take([ended(1)])
    tally.end()
    tally.end(KeyboardInterrupt())
    assert (tally.done, tally.cancelled, tally.note) == (1, 0, "")


# Rates -------------------------------------------------------------------------------------------


def test_the_rate_is_that_of_the_last_half_minute() -> None:
    """A slow beginning is forgotten."""
    pace = Pace(0.0)
    for second in range(101):
        pace.rate(float(second), 0.0 if second <= 50 else (second - 50) * 10.0)
    assert pace.rate(101.0, 510.0) == pytest.approx(10.0, rel=0.05)


def test_long_items_have_a_rate_from_a_longer_time() -> None:
    """With an item every 100 s, the last 30 s often have none: half of the whole time counts."""
    pace = Pace(0.0)
    rates = [pace.rate(float(second), float(second // 100)) for second in range(0, 1000, 5)]
    assert all(rate is not None and 0.005 < rate < 0.015 for rate in rates[60:])


def test_the_time_to_go_counts_what_is_done_inside_of_tasks() -> None:
    """Two tasks that are half done are one item."""
    tally = Tally(4)
    tally.take([ended(1)])
    seen = state(tally, running=Running(2, 1.0))
    assert (seen.amount, seen.rate, seen.left_s) == (2.0, 0.2, 10.0)


def test_nothing_is_said_where_nothing_is_known() -> None:
    """No rate before the first end; no time to go without a length."""
    assert state(Tally(4)).left_s is None
    tally = Tally()
    tally.take([ended(7)])
    assert state(tally).left_s is None
    assert progress.line(state(tally)) == "f: 7, 42/min"


@pytest.mark.parametrize(
    ("per_s", "words"),
    [
        (12345.6, "12,346/s"),
        (9.94, "9.9/s"),
        (1.0, "1.0/s"),
        (0.5, "30/min"),
        (0.002, "7.2/h"),
        (None, ""),
    ],
)
def test_rates_have_the_unit_that_fits(per_s: float | None, words: str) -> None:
    """Slow things are told by the minute, or by the hour."""
    assert progress.rate(per_s) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0:00"),
        (51.4, "0:51"),
        (59.6, "1:00"),
        (3723, "1:02:03"),
        (90061, "1 d 01:01"),
        (None, ""),
    ],
)
def test_times_to_go_look_like_a_clock(seconds: float | None, words: str) -> None:
    """As tqdm has them."""
    assert progress.clock(seconds) == words


# Words -------------------------------------------------------------------------------------------


def test_a_line_tells_everything_once() -> None:
    """Percent, counts, troubles, running, rate, time to go."""
    tally = Tally(1000)
    tally.take([ended(300), ended(10, wire.ERROR, told(0))])
    line = progress.line(state(tally, running=Running(4)))
    assert line == "f: 31 % (310/1,000), 1 failed, 9 not run, 4 running, 31/s, 0:22 left"


def test_the_last_line_says_how_long_it_took() -> None:
    """And, if it ended before its time, why."""
    tally = Tally(10)
    tally.take([ended(4)])
    tally.end(KeyboardInterrupt())
    line = progress.line(state(tally, now=2.0))
    assert line == "f: 40 % (4/10), 6 cancelled, 2.0/s, in 2.0 s, interrupted"


def test_a_hundred_percent_is_said_only_of_what_is_done() -> None:
    """999 of 1000 are 99 %."""
    tally = Tally(1000)
    tally.take([ended(999)])
    assert progress.percent(state(tally)) == "99 %"
    assert progress.percent(state(Tally(0))) == "100 %"


def test_the_slowest_task_is_named_once_it_is_slow() -> None:
    """Or as soon as it says how far it is."""
    tally = Tally(10)
    assert progress.slowest(state(tally, running=Running(1, 0, Slow(2, 1.0, "f(7)")))) == ""
    slow = Slow(2, 75.0, "f(7)", 4, 10)
    assert (
        progress.slowest(state(tally, running=Running(1, 0.4, slow)))
        == "slowest: worker 2 for 1:15, 40 %, f(7)"
    )
    assert "12 done" in progress.slowest(state(tally, running=Running(1, 0, Slow(2, 1, "", 12))))


@pytest.mark.parametrize(
    ("done", "total"), [(1, 0), (1, None), (float("nan"), 2), (5, float("nan"))]
)
def test_what_a_task_says_of_itself_never_spoils_the_bar(done: Any, total: Any) -> None:
    """Nonsense counts for nothing, and too much for one item."""
    assert 0.0 <= progress.fraction(done, total) <= 1.0
    assert progress.fraction(7, 2) == 1.0
