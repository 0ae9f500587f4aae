"""Back-pressure: how far ``imap`` is ahead of its reader, and what ends a feed that waits for him."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import flow_tasks as tasks
import pytest

import glasspool
from pools import LIMIT_S, wait_until

FORK = multiprocessing.get_context("fork")
HOW = ("imap", "imap_unordered")


class Source:
    """Endless numbers, and how many have been drawn."""

    def __init__(self, end: int | None = None) -> None:
        self.drawn = 0
        self._numbers = itertools.count() if end is None else iter(range(end))

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        number = next(self._numbers)
        self.drawn += 1
        return number


def wait_for_reader(pool: glasspool.Pool) -> None:
    """Wait until the feed waits for the reader and all that was drawn is done."""

    def rests() -> bool:
        states = [state for _, state in pool._engine.own_threads().values()]
        stats = pool.stats()
        waits = "waiting for the reader of your imap" in states
        return waits and stats["waiting"] == stats["sent"] == 0

    wait_until(rests, "the feed waits for the reader")


def has_no_feeder(pool: glasspool.Pool) -> bool:
    """Tell whether no thread runs an iterable."""
    return not pool._engine.feeders


@pytest.fixture
def pool(leak_check: None) -> Iterator[glasspool.Pool]:
    """Return a pool of two, and see it ended."""
    made = glasspool.Pool(2, context=FORK)
    yield made
    made.terminate()
    made.join()


@pytest.mark.parametrize("how", HOW)
def test_by_default_a_few_tasks_for_each_worker_are_ahead(pool, how):
    """Nothing read: four tasks for each worker are drawn. One more for each that is read."""
    source = Source()
    values = getattr(pool, how)(tasks.nap, source)
    wait_for_reader(pool)
    assert source.drawn == 8
    for read in range(1, 30):
        next(values)
        assert source.drawn <= 8 + read
    wait_for_reader(pool)
    assert 29 < source.drawn <= 8 + 29


def test_a_reader_who_does_not_read_is_no_stall(pool):
    """The pool has nothing to do then; it has when he reads on."""
    values = pool.imap(tasks.nap, Source())
    wait_for_reader(pool)
    assert not pool._engine.has_work()
    for _ in range(8):
        next(values)
    wait_for_reader(pool)
    assert pool._engine.collector.stall.watching


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(("buffersize", "chunksize"), [(1, 1), (3, 1), (2, 5), (50, 2)])
def test_a_number_bounds_the_tasks_ahead(pool, how, buffersize, chunksize):
    """At most so many chunks have been drawn whose results have not been read; all arrive."""
    count = 40 * chunksize
    source = Source(count)
    seen = []
    for value in getattr(pool, how)(abs, source, chunksize, buffersize=buffersize):
        chunks_read = len(seen) // chunksize + 1
        assert source.drawn <= (chunks_read + buffersize) * chunksize
        seen.append(value)
    assert sorted(seen) == list(range(count))


def test_one_who_reads_on_does_not_wait_for_the_feed(pool):
    """For short tasks the window opens with what has been read, and never beyond its bound."""
    source = Source(30_000)
    ahead = [source.drawn - value for value in pool.imap(abs, source)]
    assert max(ahead[:10]) <= 8 + 10
    assert 100 < max(ahead) <= 2048 + 1


@pytest.mark.parametrize("how", HOW)
def test_on_request_everything_is_drawn_at_once(pool, how):
    """``buffersize=None``: as in the standard library, nobody has to read."""
    source = Source(5000)
    values = getattr(pool, how)(abs, source, buffersize=None)
    wait_until(lambda: pool.stats()["done"] == 5000, "all have run")
    assert source.drawn == 5000
    assert sorted(values) == list(range(5000))


@pytest.mark.parametrize(
    ("wrong", "error"), [(0, ValueError), (-1, ValueError), ("all", TypeError), (1.5, TypeError)]
)
def test_a_wrong_size_is_an_error_of_the_call(pool, wrong, error):
    """Nothing is drawn then."""
    source = Source()
    with pytest.raises(error, match="buffersize"):
        pool.imap(abs, source, buffersize=wrong)
    assert not source.drawn


@pytest.mark.parametrize("how", HOW)
def test_after_close_everything_runs_unread(pool, how, tmp_path):
    """``imap(...); close(); join()``: all has run, and can still be read."""
    notes = tmp_path / "notes"
    values = getattr(pool, how)(tasks.note, [str(notes)] * 300, buffersize=2)
    pool.close()
    pool.join()
    assert notes.stat().st_size == 300
    assert list(values) == [None] * 300


def test_close_reaches_a_feed_that_waits(pool):
    """A feed that has waited for its reader for long goes on at ``close``."""
    source = Source(500)
    values = pool.imap_unordered(tasks.nap, source)
    wait_for_reader(pool)
    pool.close()
    pool.join()
    assert source.drawn == 500
    assert sorted(values) == list(range(500))


@pytest.mark.parametrize("how", HOW)
def test_when_the_iterator_is_dropped_the_rest_runs(pool, how, tmp_path):
    """Also without a ``close``; results are thrown away, and so are errors."""
    notes = tmp_path / "notes"
    values = getattr(pool, how)(tasks.note, iter([str(notes)] * 300), buffersize=2)
    wait_for_reader(pool)
    assert notes.stat().st_size == 2
    del values
    wait_until(has_no_feeder.__get__(pool), "all is drawn")
    wait_until(lambda: pool.stats()["done"] == 300, "all has run")
    assert notes.stat().st_size == 300
    assert not pool._cache


def test_errors_of_a_dropped_iterator_are_thrown_away(pool):
    """Of the tasks, and of the iterable; nobody is told, and the pool goes on."""
    told: list[object] = []

    def numbers() -> Iterator[int]:
        yield from range(20)
        raise RuntimeError("the iterable breaks")

    hook, threading.excepthook = threading.excepthook, told.append
    try:
        values = pool.imap(tasks.nap_unless_zero, numbers(), buffersize=1)
        wait_for_reader(pool)
        del values
        wait_until(lambda: not pool._cache, "the job has ended")
    finally:
        threading.excepthook = hook
    assert not told
    assert pool.stats()["failed"] == 1
    assert pool.map(abs, range(10)) == list(range(10))


def test_an_endless_iterable_that_nobody_reads_runs_until_terminate(pool):
    """The rest runs, and here the rest is endless; memory and the number of tasks stay bounded."""
    source = Source()
    values = pool.imap(tasks.nap, source)
    wait_for_reader(pool)
    del values
    wait_until(lambda: source.drawn > 200, "it goes on")
    pool.terminate()
    wait_until(has_no_feeder.__get__(pool), "its thread has ended")


@pytest.mark.parametrize("how", HOW)
def test_terminate_ends_a_feed_that_waits(pool, how):
    """The thread ends; what was done can be read, then the end is told."""
    values = getattr(pool, how)(tasks.nap, Source(), buffersize=3)
    wait_for_reader(pool)
    pool.terminate()
    wait_until(has_no_feeder.__get__(pool), "the thread of the iterable has ended")
    assert sorted(next(values) for _ in range(3)) == [0, 1, 2]
    with pytest.raises(glasspool.TaskCancelled):
        values.next(LIMIT_S)
    with pytest.raises(StopIteration):
        values.next(LIMIT_S)


def test_an_iterable_that_raises_behind_a_full_window(pool):
    """Its error comes in its turn, after the values that came before it."""

    def numbers() -> Iterator[int]:
        yield from range(10)
        raise LookupError("no more numbers")

    values = pool.imap(abs, numbers(), buffersize=2)
    wait_for_reader(pool)
    assert [next(values) for _ in range(10)] == list(range(10))
    with pytest.raises(LookupError, match="no more numbers"):
        values.next(LIMIT_S)
    assert list(values) == []


def test_an_iterable_that_calls_the_pool(pool):
    """It runs on a thread of its own, so it may wait for calls of the same pool."""

    def numbers() -> Iterator[int]:
        for number in range(50):
            yield pool.apply(abs, (-number,))
            assert pool.map(abs, [number]) == [number]

    assert list(pool.imap(abs, numbers(), buffersize=2)) == list(range(50))


def test_imaps_in_a_row(pool):
    """One reads the other: the last reader bounds them all."""
    source = Source()
    values = pool.imap(abs, pool.imap(abs, pool.imap(abs, source, buffersize=2), buffersize=2))
    assert list(itertools.islice(values, 100)) == list(range(100))
    assert source.drawn < 100 + 2048 + 10
    pool.terminate()


def test_several_readers_share_an_iterator(pool):
    """Each value is read once, whoever reads it."""
    values = pool.imap_unordered(abs, range(5000), buffersize=5)
    seen: list[list[int]] = [[], [], []]
    readers = [threading.Thread(target=lambda mine=mine: mine.extend(values)) for mine in seen]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(LIMIT_S)
        assert not reader.is_alive()
    assert sorted(itertools.chain(*seen)) == list(range(5000))


def test_next_with_a_timeout_beside_a_full_window(pool):
    """It times out as long as nothing comes, and has the value when it has come."""
    gate = threading.Event()

    def numbers() -> Iterator[int]:
        yield 0
        gate.wait(LIMIT_S)
        yield 1

    values = pool.imap(abs, numbers(), buffersize=1)
    assert values.next(LIMIT_S) == 0
    for _ in range(3):
        with pytest.raises(multiprocessing.TimeoutError):
            values.next(0.01)
    gate.set()
    assert values.next(LIMIT_S) == 1


@pytest.mark.parametrize("held", [True, False], ids=["held", "dropped"])
def test_the_program_ends_while_a_feed_is_under_way(held):
    """At the interpreter's exit, endless iterables stop nobody."""
    program = textwrap.dedent(
        f"""
        import itertools, glasspool
        pool = glasspool.Pool(2)
        values = pool.imap(abs, itertools.count())
        print(next(values), next(values))
        if not {held}:
            del values
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(glasspool.__file__).parent.parent)},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "0 1\n", "")


def test_cancel_ends_a_feed_and_what_it_had_just_made(pool):
    """Of what the feed made at that moment nothing runs, and the callable is not asked for again."""
    for number in range(30):
        values = pool.imap(lambda value, n=number: value + n, Source(), buffersize=None)
        assert next(values) == number
        assert values.cancel()
        with pytest.raises(glasspool.TaskCancelled):
            list(values)
        assert list(values) == []
        assert not values.cancel()
    wait_until(has_no_feeder.__get__(pool), "their threads have ended")
    wait_until(lambda: not pool._cache, "their tasks have ended")
    wait_until(lambda: not pool._engine.callables._by_number, "nobody asks for them any more")
    assert pool.map(abs, range(100)) == list(range(100))
    assert pool.stats()["deaths"] == 0
