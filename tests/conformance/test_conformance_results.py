"""What a result object and a result iterator do while the work runs, and after."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Iterator
from multiprocessing.context import BaseContext
from multiprocessing.pool import Pool
from typing import Any

import pytest
from conformance_kinds import PoolMaker
from conformance_tasks import (
    Oops,
    bump,
    enter_and_wait,
    fail,
    fail_at_three,
    set_shared,
    square,
    wait_for_shared,
    wait_if_zero,
)

LIMIT_S = 30
SHORT_S = 0.05


class Gated:
    """A pool whose tasks wait until the test opens the gate."""

    def __init__(self, make_pool: PoolMaker, ctx: BaseContext, processes: int = 2) -> None:
        self.gate = ctx.Event()
        self.pool = make_pool(processes, initializer=set_shared, initargs=(self.gate,), context=ctx)

    def open(self) -> None:
        """Let all tasks go on."""
        self.gate.set()


@pytest.fixture
def gated(make_pool: PoolMaker, one_ctx: BaseContext) -> Iterator[Gated]:
    """Return a gated pool under fork."""
    gated = Gated(make_pool, one_ctx)
    yield gated
    vars(gated).clear()  # pytest keeps the object for longer than the leak check likes


def test_get_times_out_then_succeeds(make_pool: PoolMaker, ctx: BaseContext) -> None:
    """``get(timeout)`` raises ``multiprocessing.TimeoutError``, and can be called again."""
    gated = Gated(make_pool, ctx)
    result = gated.pool.apply_async(wait_for_shared, (5,))
    with pytest.raises(multiprocessing.TimeoutError):
        result.get(SHORT_S)
    with pytest.raises(multiprocessing.TimeoutError):
        result.get(timeout=0)
    gated.open()
    assert result.get(LIMIT_S) == 5


def test_map_get_times_out_then_succeeds(gated: Gated) -> None:
    """So does ``get`` of a map."""
    result = gated.pool.map_async(wait_for_shared, range(6), 1)
    with pytest.raises(multiprocessing.TimeoutError):
        result.get(SHORT_S)
    gated.open()
    assert result.get(LIMIT_S) == list(range(6))


def test_wait_and_ready(gated: Gated) -> None:
    """``wait`` returns None when its time is over and when the result is there; ``ready`` says."""
    result = gated.pool.apply_async(wait_for_shared)
    assert result.wait(SHORT_S) is None
    assert not result.ready()
    gated.open()
    assert result.wait(LIMIT_S) is None
    assert result.ready()


def test_successful(gated: Gated) -> None:
    """``successful`` raises ValueError before the end, then says whether there was an error."""
    good = gated.pool.apply_async(wait_for_shared)
    bad = gated.pool.apply_async(fail, (1,))
    with pytest.raises(ValueError, match="not ready"):
        good.successful()
    gated.open()
    good.wait(LIMIT_S)
    bad.wait(LIMIT_S)
    assert good.successful()
    assert not bad.successful()


def test_number_left(gated: Gated) -> None:
    """``_number_left`` of a map counts its chunks that have not ended."""
    result: Any = gated.pool.map_async(wait_for_shared, range(8), 2)
    assert result._number_left == 4
    gated.open()
    result.wait(LIMIT_S)
    assert result._number_left == 0


def test_failing_map_ends_with_its_last_chunk(make_pool: PoolMaker, one_ctx: BaseContext) -> None:
    """A map with an error is ready only when all its other chunks have ended."""
    count = one_ctx.Value("i", 0)
    pool = make_pool(2, initializer=set_shared, initargs=(count,))
    result = pool.map_async(fail_at_three, range(20), 1)
    result.wait(LIMIT_S)
    assert not result.successful()
    assert count.value == 19


def test_callback(shared_pool: Pool) -> None:
    """The callback is called once, with the value, before the result is ready."""
    seen: list[int] = []
    result = shared_pool.apply_async(square, (3,), callback=seen.append)
    result.wait(LIMIT_S)
    assert seen == [9]


def test_map_callback(shared_pool: Pool) -> None:
    """The callback of a map is called once, with the whole list."""
    seen: list[list[int]] = []
    shared_pool.map_async(square, range(4), 1, callback=seen.append).wait(LIMIT_S)
    assert seen == [[0, 1, 4, 9]]


def test_starmap_callback(shared_pool: Pool) -> None:
    """The callback of ``starmap_async`` is called once, with the whole list."""
    seen: list[list[int]] = []
    shared_pool.starmap_async(pow, [(2, 3), (3, 2)], callback=seen.append).wait(LIMIT_S)
    assert seen == [[8, 9]]


def test_error_callback(shared_pool: Pool) -> None:
    """On an error the error callback is called, once, and the other is not."""
    values: list[Any] = []
    errors: list[BaseException] = []
    result = shared_pool.apply_async(
        fail, (4,), callback=values.append, error_callback=errors.append
    )
    result.wait(LIMIT_S)
    assert values == []
    assert [type(e) for e in errors] == [Oops]
    assert errors[0].args == (4, "word")


def test_map_error_callback(shared_pool: Pool) -> None:
    """The error callback of a map is called once, however many items fail."""
    values: list[Any] = []
    errors: list[BaseException] = []
    result = shared_pool.map_async(
        fail, range(6), 1, callback=values.append, error_callback=errors.append
    )
    result.wait(LIMIT_S)
    assert values == []
    assert [type(e) for e in errors] == [Oops]


def test_callbacks_in_order_of_completion(make_pool: PoolMaker) -> None:
    """Callbacks run in the order in which the tasks ended, one at a time."""
    pool = make_pool(1)
    seen: list[int] = []
    threads = set()

    def note(value: int) -> None:
        threads.add(threading.get_ident())
        seen.append(value)

    for i in range(50):
        pool.apply_async(square, (i,), callback=note)
    pool.close()
    pool.join()
    assert seen == [i * i for i in range(50)]
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_join_waits_for_callbacks(make_pool: PoolMaker) -> None:
    """After ``close`` and ``join`` every callback has returned."""
    pool = make_pool(2)
    seen: list[int] = []
    for i in range(200):
        pool.apply_async(square, (i,), callback=seen.append)
    pool.close()
    pool.join()
    assert sorted(seen) == [i * i for i in range(200)]


def test_callback_may_submit(make_pool: PoolMaker) -> None:
    """A callback may submit more work."""
    pool = make_pool(2)
    later: list[Any] = []
    done = threading.Event()

    def submit_more(value: int) -> None:
        later.append(pool.apply_async(square, (value,)))
        done.set()

    pool.apply_async(square, (3,), callback=submit_more)
    assert done.wait(LIMIT_S)
    assert later[0].get(LIMIT_S) == 81


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_iterator_protocol(shared_pool: Pool, method: str) -> None:
    """A result iterator is its own iterator, and stays at its end."""
    results = getattr(shared_pool, method)(square, [3])
    assert iter(results) is results
    assert next(results) == 9
    for _ in range(3):
        with pytest.raises(StopIteration):
            next(results)


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_iterator_next_times_out(gated: Gated, method: str) -> None:
    """``next`` takes a time limit, after which the same item can be asked for again."""
    results = getattr(gated.pool, method)(wait_for_shared, [7])
    with pytest.raises(multiprocessing.TimeoutError):
        results.next(timeout=SHORT_S)
    gated.open()
    assert results.next(timeout=LIMIT_S) == 7
    with pytest.raises(StopIteration):
        results.next(timeout=LIMIT_S)


def test_chunked_iterator_next_times_out(make_ours: PoolMaker, one_ctx: BaseContext) -> None:
    """Ours has ``next(timeout)`` on a chunked iterator too, where stock gives a generator."""
    gated = Gated(make_ours, one_ctx)
    results: Any = gated.pool.imap(wait_for_shared, range(5), 2)
    with pytest.raises(multiprocessing.TimeoutError):
        results.next(timeout=SHORT_S)
    gated.open()
    assert [results.next(timeout=LIMIT_S) for _ in range(5)] == list(range(5))
    with pytest.raises(StopIteration):
        results.next(timeout=LIMIT_S)


def test_imap_unordered_does_not_wait_for_the_slowest(gated: Gated) -> None:
    """``imap_unordered`` gives what is finished while an earlier item still runs."""
    results = gated.pool.imap_unordered(wait_if_zero, range(6))
    early = [results.next(timeout=LIMIT_S) for _ in range(5)]
    assert sorted(early) == [1, 2, 3, 4, 5]
    gated.open()
    assert list(results) == [0]


def test_imap_gives_first_results_before_the_last_item_is_drawn(make_pool: PoolMaker) -> None:
    """``imap`` gives a result while its iterable has not ended."""
    pool = make_pool(2)
    first_read = threading.Event()

    def items() -> Any:
        yield 1
        assert first_read.wait(LIMIT_S)
        yield 2

    results = pool.imap(square, items())
    assert next(results) == 1
    first_read.set()
    assert list(results) == [4]


@pytest.mark.parametrize(
    "finish", [lambda pool: None, lambda pool: pool.close()], ids=["open", "closed"]
)
def test_unread_results_do_no_harm(make_pool: PoolMaker, finish: Callable[[Pool], None]) -> None:
    """Results that nobody reads do not stop the pool."""
    pool = make_pool(2)
    for i in range(100):
        pool.apply_async(square, (i,))
    last = pool.apply_async(square, (5,))
    finish(pool)
    assert last.get(LIMIT_S) == 25


def test_unread_iterator_runs_everything(make_pool: PoolMaker, one_ctx: BaseContext) -> None:
    """``imap_unordered``, ``close``, ``join`` with no reader runs every item."""
    count = one_ctx.Value("i", 0)
    pool = make_pool(2, initializer=set_shared, initargs=(count,))
    pool.imap_unordered(bump, range(500))
    pool.close()
    pool.join()
    assert count.value == 500


def test_iterator_read_after_join(make_pool: PoolMaker) -> None:
    """Results are kept for who reads them after ``join``."""
    pool = make_pool(2)
    results = pool.imap(square, range(300))
    pool.close()
    pool.join()
    assert list(results) == [i * i for i in range(300)]


def test_results_read_after_join(make_pool: PoolMaker) -> None:
    """``close`` and ``join`` let all that was submitted end well."""
    pool = make_pool(2)
    results = [pool.apply_async(square, (i,)) for i in range(100)]
    mapped = pool.map_async(square, range(100))
    pool.close()
    pool.join()
    assert all(r.ready() for r in results)
    assert mapped.get(0) == [r.get(0) for r in results]


def test_terminate_ends_unfinished_results(make_ours: PoolMaker, one_ctx: BaseContext) -> None:
    """Ours makes unfinished results ready with an error when terminated; stock leaves them."""
    entered, gate = one_ctx.Event(), one_ctx.Event()
    pool = make_ours(1, initializer=set_shared, initargs=((entered, gate),))
    running = pool.apply_async(enter_and_wait)
    waiting = pool.map_async(square, range(10), 1)
    assert entered.wait(LIMIT_S)
    pool.terminate()
    pool.join()
    for result in (running, waiting):
        assert result.ready()
        assert not result.successful()
        with pytest.raises(Exception, match="terminate"):
            result.get(0)
