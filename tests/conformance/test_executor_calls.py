"""What becomes of calls, on the standard library's executor and on ours."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import multiprocessing
import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, FIRST_EXCEPTION, Future
from concurrent.futures import ProcessPoolExecutor as StockExecutor
from concurrent.futures.process import _RemoteTraceback
from typing import Any

import executor_tasks as tasks
import pytest
from executor_kinds import executor_class

from leaks import nothing_left


@pytest.fixture(scope="module")
def shared_pool(kind: str, standing_processes: None) -> Iterator[StockExecutor]:
    """Return an executor of two workers that the tests of this module share, under fork."""
    context = multiprocessing.get_context("fork")
    check = nothing_left() if kind == "glasspool" else contextlib.nullcontext()
    with check, executor_class(kind)(2, context) as executor:
        yield executor


def test_a_call_gives_its_value_and_its_arguments_arrive(shared_pool: StockExecutor) -> None:
    """``submit`` passes all arguments on, also those called ``self`` and ``fn``."""
    assert shared_pool.submit(pow, 2, 8).result() == 256
    assert shared_pool.submit(tasks.product, 2, second=3, third=7).result() == 42
    future: Future[Any] = shared_pool.submit(tasks.echo, 1, [2], self=3, fn=4)
    assert future.result(30) == ((1, [2]), {"self": 3, "fn": 4})
    assert isinstance(future, Future)
    with pytest.raises(TypeError):
        shared_pool.submit(fn=pow)  # type: ignore[call-arg]


def test_what_a_call_raises_arrives_with_its_traceback_as_cause(shared_pool: StockExecutor) -> None:
    """The exception is the original, its cause the worker's traceback in the class of the library."""
    future = shared_pool.submit(tasks.fail, "here")
    error = future.exception(30)
    assert type(error) is ValueError
    assert error.args == ("here",)
    assert type(error.__cause__) is _RemoteTraceback
    assert "raise ValueError(value)" in str(error.__cause__)
    with pytest.raises(ValueError, match="here") as raised:
        future.result()
    assert raised.value is error


def test_exits_arrive_as_themselves(shared_pool: StockExecutor) -> None:
    """``SystemExit`` and ``KeyboardInterrupt`` of a call are its result, and harm nobody."""
    error = shared_pool.submit(tasks.leave, 3).exception(30)
    assert type(error) is SystemExit
    assert error.code == 3
    assert type(error.__cause__) is _RemoteTraceback
    assert type(shared_pool.submit(tasks.interrupt).exception(30)) is KeyboardInterrupt
    assert shared_pool.submit(tasks.square, 3).result(30) == 9


def test_what_cannot_be_pickled_is_the_error_of_its_future(shared_pool: StockExecutor) -> None:
    """Arguments, results and exceptions that refuse to be pickled end their own future alone."""
    for function, args in (
        (tasks.square, (tasks.Stays(),)),
        (tasks.stays, ()),
        (tasks.raise_stays, ()),
    ):
        error = shared_pool.submit(function, *args).exception(30)
        assert isinstance(error, pickle.PicklingError), error
        assert isinstance(error.__cause__, _RemoteTraceback) or "Stays" in str(error)
    assert shared_pool.submit(tasks.square, 3).result(30) == 9


def test_map_gives_values_in_order_whatever_the_chunks(shared_pool: StockExecutor) -> None:
    """``map`` takes several iterables; the shortest one ends it."""
    expected = [i**2 for i in range(10)]
    for chunksize in (1, 3, 10, 50):
        found = shared_pool.map(pow, range(10), [2] * 12, chunksize=chunksize)
        assert list(found) == expected
    assert list(shared_pool.map(tasks.square, [])) == []
    assert list(shared_pool.map(tasks.square)) == []
    with pytest.raises(ValueError, match=r"chunksize must be >= 1\."):
        shared_pool.map(tasks.square, [1], chunksize=0)


@pytest.mark.parametrize("chunksize", [1, 2])
def test_map_raises_what_an_item_raised_after_the_ones_before(
    shared_pool: StockExecutor, chunksize: int
) -> None:
    """The values before the failed item (its chunk) come; then the iterator ends with the error."""
    values = shared_pool.map(tasks.fail_at, range(6), [2] * 6, chunksize=chunksize)
    assert [next(values), next(values)] == [0, 1]
    with pytest.raises(ValueError, match="2") as raised:
        next(values)
    assert type(raised.value.__cause__) is _RemoteTraceback
    assert list(values) == []


def test_map_times_out_by_the_time_of_its_call(shared_pool: StockExecutor) -> None:
    """After ``timeout`` seconds the next value that is not there raises ``TimeoutError``."""
    values = shared_pool.map(tasks.sleep, [0, 0.4], timeout=0.1)
    assert next(values) == 0
    with pytest.raises(TimeoutError):
        next(values)


def test_map_draws_at_once_and_raises_what_its_iterable_raises(shared_pool: StockExecutor) -> None:
    """The iterables are used up when ``map`` returns; their errors are raised by it."""
    drawn: list[int] = []
    values = shared_pool.map(tasks.square, (drawn.append(i) or i for i in range(3)))
    assert drawn == [0, 1, 2]
    assert list(values) == [0, 1, 4]
    with pytest.raises(ZeroDivisionError):
        shared_pool.map(tasks.square, (1 // i for i in (1, 0)))


def test_waiting_for_many_futures(shared_pool: StockExecutor) -> None:
    """``wait`` and ``as_completed`` tell the ends of futures, also of several executors."""
    futures = [shared_pool.submit(tasks.square, i) for i in range(50)]
    assert {f.result() for f in concurrent.futures.as_completed(futures, 30)} == {
        i * i for i in range(50)
    }
    assert concurrent.futures.wait(futures, 30).not_done == set()
    slow = shared_pool.submit(tasks.sleep, 0.2)
    failed = shared_pool.submit(tasks.fail, 1)
    done, rest = concurrent.futures.wait([slow, failed], 30, FIRST_EXCEPTION)
    assert failed in done
    assert rest <= {slow}
    done, _ = concurrent.futures.wait(
        [slow, shared_pool.submit(tasks.square, 1)], 30, FIRST_COMPLETED
    )
    assert done
    with pytest.raises(TimeoutError):
        list(concurrent.futures.as_completed([shared_pool.submit(tasks.sleep, 0.2)], 0.01))
    with pytest.raises(TimeoutError):
        shared_pool.submit(tasks.sleep, 0.2).result(0.01)
    with pytest.raises(TimeoutError):
        shared_pool.submit(tasks.sleep, 0.2).exception(0)


def test_callbacks_run_in_their_order_and_find_the_future_done(
    shared_pool: StockExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    """One that raises is logged by ``concurrent.futures``, and the next one runs."""
    told: list[Any] = []
    ended = threading.Event()

    def tell(future: Future[int]) -> None:
        told.append((future.done(), future.result()))

    def fail(future: Future[int]) -> None:
        raise RuntimeError("in a callback")

    future = shared_pool.submit(tasks.sleep, 0.05)
    for callback in (tell, fail, tell, lambda _: ended.set()):
        future.add_done_callback(callback)
    with caplog.at_level(logging.ERROR, "concurrent.futures"):
        assert ended.wait(30)
    assert told == [(True, 0.05)] * 2
    assert "exception calling callback" in caplog.text
    assert "in a callback" in caplog.text
    future.add_done_callback(tell)
    assert len(told) == 3  # at once, in this thread


def test_states_as_programs_see_them(shared_pool: StockExecutor) -> None:
    """``repr``, ``done``, ``running`` and ``cancelled`` tell the truth at the end."""
    future = shared_pool.submit(tasks.square, 2)
    assert future.result(30) == 4
    assert (future.done(), future.running(), future.cancelled()) == (True, False, False)
    assert "state=finished returned int" in repr(future)
    failed = shared_pool.submit(tasks.fail, 2)
    assert failed.exception(30)
    assert "state=finished raised ValueError" in repr(failed)


def test_futures_work_in_an_event_loop(shared_pool: StockExecutor) -> None:
    """``run_in_executor`` and ``wrap_future`` give values and errors."""

    async def main() -> list[Any]:
        loop = asyncio.get_running_loop()
        first = await asyncio.gather(
            *(loop.run_in_executor(shared_pool, tasks.square, i) for i in range(5)),
            loop.run_in_executor(shared_pool, tasks.fail, "x"),
            return_exceptions=True,
        )
        return [*first, await asyncio.wrap_future(shared_pool.submit(tasks.square, 9))]

    *values, error, last = asyncio.run(main())
    assert values == [0, 1, 4, 9, 16]
    assert isinstance(error, ValueError)
    assert last == 81
