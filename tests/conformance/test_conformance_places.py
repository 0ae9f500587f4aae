"""Where a pool may be made, and what a task may do."""

from __future__ import annotations

import multiprocessing
import threading
from multiprocessing.context import BaseContext
from multiprocessing.pool import Pool
from typing import Any

import pytest
from conformance_kinds import PoolMaker
from conformance_tasks import (
    LIMIT_S,
    PoolManager,
    fork_and_wait,
    map_on_own_pool,
    raise_keyboard_interrupt,
    raise_system_exit,
    send_map_on_own_pool,
    square,
)

# A pool that is made beside other threads may warn of that: here it is on purpose.
beside_threads = pytest.mark.filterwarnings("ignore")

SQUARES = [0, 1, 4, 9, 16]


@beside_threads
def test_made_off_the_main_thread(make_pool: PoolMaker, ctx: BaseContext) -> None:
    """A pool may be made, used and ended by any thread."""
    answers: list[Any] = []

    def work() -> None:
        with make_pool(2, context=ctx) as pool:
            answers.append(pool.map(square, range(5), 1))
        pool.join()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(LIMIT_S)
    assert answers == [SQUARES]


@beside_threads
def test_outlives_the_thread_that_made_it(make_pool: PoolMaker, ctx: BaseContext) -> None:
    """A pool works on when the thread that made it has ended."""
    made: list[Pool] = []
    thread = threading.Thread(target=lambda: made.append(make_pool(2, context=ctx)))
    thread.start()
    thread.join(LIMIT_S)
    assert made[0].map(square, range(5), 1) == SQUARES
    made[0].close()
    made[0].join()


def test_ended_by_another_thread(make_pool: PoolMaker) -> None:
    """A pool may be closed and joined by another thread than its maker."""
    pool = make_pool(2)
    result = pool.map_async(square, range(5), 1)

    def end() -> None:
        pool.close()
        pool.join()

    thread = threading.Thread(target=end)
    thread.start()
    thread.join(LIMIT_S)
    assert not thread.is_alive()
    assert result.get(0) == SQUARES


def test_two_pools_at_once(make_pool: PoolMaker, ctx: BaseContext) -> None:
    """Two pools of one process do not disturb each other."""
    first = make_pool(1, context=ctx)
    second = make_pool(1, context=ctx)
    results = [p.map_async(square, range(5), 1) for p in (first, second)]
    assert [r.get(LIMIT_S) for r in results] == [SQUARES, SQUARES]
    first.terminate()
    first.join()
    assert second.map(square, range(5)) == SQUARES


@pytest.mark.parametrize("code", [0, 3])
def test_a_task_may_fork(shared_pool: Pool, code: int) -> None:
    """A task may fork and wait for its child, and the pool goes on."""
    assert shared_pool.apply(fork_and_wait, (code,)) == code
    assert shared_pool.map(square, range(5)) == SQUARES


@beside_threads
@pytest.mark.parametrize("outer", ["fork", "spawn"])
def test_made_by_a_manager(kind: str, leak_check: None, outer: str) -> None:
    """A manager's server may make a pool; its proxy works as the pool does."""
    with PoolManager(ctx=multiprocessing.get_context(outer)) as manager:
        with manager.pool_of(kind, 2) as pool:
            assert pool.apply(square, (3,)) == 9
            assert pool.map(square, range(5)) == SQUARES
            assert pool.apply_async(square, (4,)).get(LIMIT_S) == 16
            assert list(pool.imap(square, range(5))) == SQUARES
            assert list(pool.starmap(pow, [(2, 3), (3, 2)])) == [8, 9]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_made_in_a_child_process(kind: str, leak_check: None, method: str) -> None:
    """An ordinary child process may make a pool."""
    assert answer_of_a_child(kind, method, daemon=False) == SQUARES


def test_made_in_a_daemonic_process(start_method: str, leak_check: None) -> None:
    """Ours may be made in a daemonic process, where stock refuses."""
    assert answer_of_a_child("glasspool", start_method, daemon=True) == SQUARES


def answer_of_a_child(kind: str, method: str, *, daemon: bool) -> Any:
    """Run a pool in a child process and return what it computed."""
    ctx = multiprocessing.get_context(method)
    reader, writer = ctx.Pipe(duplex=False)
    child = ctx.Process(
        target=send_map_on_own_pool, args=(writer, kind, method, list(range(5))), daemon=daemon
    )
    child.start()
    writer.close()
    with reader:
        assert reader.poll(LIMIT_S)
        answer = reader.recv()
    child.join(LIMIT_S)
    assert child.exitcode == 0
    return answer


def test_made_in_a_task(make_ours: PoolMaker, start_method: str) -> None:
    """A task may make a pool of ours, though its worker is daemonic; stock refuses."""
    pool = make_ours(2, context=multiprocessing.get_context(start_method))
    arguments = ("glasspool", start_method, list(range(5)))
    assert pool.apply(map_on_own_pool, arguments) == SQUARES
    assert pool.apply(square, (2,)) == 4


@pytest.mark.parametrize(
    ("function", "cause"),
    [(raise_keyboard_interrupt, KeyboardInterrupt), (raise_system_exit, SystemExit)],
)
def test_exit_of_a_task(make_ours: PoolMaker, function: Any, cause: type[BaseException]) -> None:
    """``sys.exit`` and Ctrl-C in a task are its error, a ``TaskExit``; stock loses the task."""
    from glasspool import TaskExit

    pool = make_ours(1)
    with pytest.raises(TaskExit) as caught:
        pool.apply(function)
    assert isinstance(caught.value.__cause__, cause)
    assert pool.apply(square, (2,)) == 4
