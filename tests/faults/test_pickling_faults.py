"""Faults of pickling: what is wrong with a value, at which station of its way.

Only the task concerned fails, with the original's type and message, and where it went wrong in the
worker, with the traceback there. No worker dies of it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.context import BaseContext
from typing import Any

import pickling_faults as values
import pytest
from pickling_faults import FAULTS, LARGE

import glasspool
from leaks import nothing_left
from pools import LIMIT_S

STORIES = {
    "fails while pickled": ("LookupError", "no way out", "__reduce__"),
    "fails while rebuilt": ("LookupError", "no way in", "break_down"),
    "too deep": ("RecursionError", "maximum recursion depth exceeded", ""),
    "unpicklable by design": ("TypeError", "lock", ""),
    "no room": ("OSError", "File too large", ""),
}
"""What an error has to tell: type, message, and the place in the traceback."""

STATIONS = ("function", "argument", "result", "exception")


@pytest.fixture(scope="module")
def shared_pool(ctx: BaseContext, standing_processes: None) -> Iterator[glasspool.Pool]:
    """Return a pool of one worker, which survives all of these faults."""
    with nothing_left():
        with glasspool.Pool(1, context=ctx) as pool:
            yield pool
        pool.join()


@contextlib.contextmanager
def a_surviving_worker(pool: glasspool.Pool) -> Iterator[None]:
    """Check that the block does the worker no harm."""
    before = pool.apply(values.pid)
    try:
        yield
    finally:
        pool.apply(values.make_room)
        values.make_room()
    assert pool.map(values.square, range(50), chunksize=1) == [i * i for i in range(50)]
    assert pool.apply(values.pid) == before
    assert pool.stats()["deaths"] == 0


def submit(pool: glasspool.Pool, station: str, fault: str) -> Any:
    """Make the call that has the fault at a station."""
    if station in ("result", "exception"):
        return pool.apply_async(values.return_or, (station, fault))
    value = FAULTS[fault](os.getpid())
    if fault == "no room":
        values.leave_no_room()
    try:
        if station == "function":
            return pool.apply_async(value)
        return pool.apply_async(values.take, (value,))
    finally:
        values.make_room()


def error_of(get: Callable[[], object]) -> BaseException:
    """Return the error that a call raises."""
    with pytest.raises(Exception) as caught:
        get()
    return caught.value


def check_error(error: BaseException, station: str, fault: str) -> None:
    """An error tells what went wrong, and where in the worker."""
    name, message, place = STORIES[fault]
    told = "".join(traceback.format_exception(error))
    assert message in str(error)
    if station == "exception":
        assert isinstance(error, glasspool.SerializationError)
        assert "Bad: ('it happened'" in str(error)
        assert "in fail" in str(error)
        assert name in str(error)
    elif station in ("function", "argument") and fault != "fails while rebuilt":
        assert name in {cls.__name__ for cls in type(error).__mro__}
    else:
        assert isinstance(error, glasspool.SerializationError)
        assert name in str(error)
        assert "Traceback" in told
        assert place in told


@pytest.mark.timeout(60)
@pytest.mark.parametrize("fault", STORIES)
@pytest.mark.parametrize("station", STATIONS)
def test_a_value_does_not_travel(shared_pool: glasspool.Pool, station: str, fault: str) -> None:
    """The one task fails and says why, before and after it others succeed; the worker lives."""
    with a_surviving_worker(shared_pool):
        before = [shared_pool.apply_async(values.square, (i,)) for i in range(5)]
        bad = submit(shared_pool, station, fault)
        after = [shared_pool.apply_async(values.square, (i,)) for i in range(5)]
        check_error(error_of(lambda: bad.get(LIMIT_S)), station, fault)
        assert not bad.successful()
        assert [r.get(LIMIT_S) for r in before + after] == [i * i for i in range(5)] * 2


@pytest.mark.timeout(60)
@pytest.mark.parametrize("fault", ["fails while pickled", "fails while rebuilt"])
@pytest.mark.parametrize("station", ["argument", "result", "exception"])
def test_an_item_does_not_travel(shared_pool: glasspool.Pool, station: str, fault: str) -> None:
    """In an imap the error stands in the place of its item; a map raises it."""
    items: list[Any] = [None, None, fault, None]
    function: Any = functools.partial(values.return_or, station)
    if station == "argument":
        items, function = [0, 1, FAULTS[fault](os.getpid()), 3], values.take
    with a_surviving_worker(shared_pool):
        iterator = shared_pool.imap(function, items)
        assert [iterator.next(LIMIT_S) for _ in range(2)] == [1, 1]
        check_error(error_of(lambda: iterator.next(LIMIT_S)), station, fault)
        assert iterator.next(LIMIT_S) == 1
        job = shared_pool.map_async(function, items, chunksize=1)
        check_error(error_of(lambda: job.get(LIMIT_S)), station, fault)


@pytest.mark.parametrize("station", STATIONS)
def test_large_values_travel(shared_pool: glasspool.Pool, station: str) -> None:
    """There is no limit of a message: three megabytes arrive at each station."""
    with a_surviving_worker(shared_pool):
        result = submit(shared_pool, station, "large")
        if station == "exception":
            with pytest.raises(values.Bad) as caught:
                result.get(LIMIT_S)
            assert len(caught.value.args[1].args[0]) == LARGE
        elif station == "result":
            assert len(result.get(LIMIT_S).args[0]) == LARGE
        else:
            assert result.get(LIMIT_S) == 1
