"""How a pool begins and ends: its arguments, its initializer, its last words."""

from __future__ import annotations

import gc
import multiprocessing
import pickle
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.context import BaseContext
from multiprocessing.pool import Pool
from typing import Any

import conformance_tasks
import pytest
from conformance_kinds import PoolMaker
from conformance_tasks import (
    count_and_meet,
    enter_and_wait,
    get_shared,
    lock_shared,
    pid_of,
    put_in_shared,
    set_shared,
    square,
)

LIMIT_S = 30
SOON_S = 10

SUBMISSIONS: dict[str, Callable[[Pool], Any]] = {
    "apply": lambda pool: pool.apply(square, (1,)),
    "apply_async": lambda pool: pool.apply_async(square, (1,)),
    "map": lambda pool: pool.map(square, [1]),
    "map_async": lambda pool: pool.map_async(square, [1]),
    "starmap": lambda pool: pool.starmap(square, [(1,)]),
    "starmap_async": lambda pool: pool.starmap_async(square, [(1,)]),
    "imap": lambda pool: pool.imap(square, [1]),
    "imap_unordered": lambda pool: pool.imap_unordered(square, [1]),
}


@pytest.mark.parametrize("end", ["close", "terminate"])
@pytest.mark.parametrize("method", SUBMISSIONS)
def test_submit_after_the_end(make_pool: PoolMaker, method: str, end: str) -> None:
    """A closed or terminated pool refuses work."""
    pool = make_pool(1)
    getattr(pool, end)()
    with pytest.raises(ValueError, match="Pool not running"):
        SUBMISSIONS[method](pool)
    pool.join()


def test_join_before_close(make_pool: PoolMaker) -> None:
    """``join`` needs ``close`` or ``terminate`` before it."""
    pool = make_pool(1)
    with pytest.raises(ValueError, match="still running"):
        pool.join()
    assert pool.apply(square, (2,)) == 4


@pytest.mark.parametrize("first", ["close", "terminate"])
@pytest.mark.parametrize("second", ["close", "terminate"])
def test_ending_twice(make_pool: PoolMaker, first: str, second: str) -> None:
    """A pool may be closed, terminated and joined more than once, in any order."""
    pool = make_pool(2)
    assert pool.map(square, range(3)) == [0, 1, 4]
    getattr(pool, first)()
    getattr(pool, second)()
    pool.join()
    pool.join()
    getattr(pool, second)()
    pool.join()


def test_terminate_with_work_pending(make_pool: PoolMaker, ctx: BaseContext) -> None:
    """``terminate`` waits neither for what runs nor for what waits."""
    entered, gate = ctx.Event(), ctx.Event()
    pool = make_pool(2, initializer=set_shared, initargs=((entered, gate),), context=ctx)
    results = [pool.apply_async(enter_and_wait) for _ in range(300)]
    assert entered.wait(LIMIT_S)
    begun = time.monotonic()
    pool.terminate()
    pool.join()
    assert time.monotonic() - begun < SOON_S
    assert len(results) == 300


def test_terminate_an_idle_pool(make_pool: PoolMaker, ctx: BaseContext) -> None:
    """A pool that never worked ends at once too."""
    pool = make_pool(2, context=ctx)
    pool.terminate()
    pool.join()


def test_close_and_join_an_idle_pool(make_pool: PoolMaker, ctx: BaseContext) -> None:
    """A pool that never worked can be closed and joined."""
    pool = make_pool(2, context=ctx)
    pool.close()
    pool.join()


def test_context_manager(make_pool: PoolMaker, one_ctx: BaseContext) -> None:
    """A pool is its own context manager; leaving it terminates."""
    entered, gate = one_ctx.Event(), one_ctx.Event()
    begun = time.monotonic()
    with make_pool(1, initializer=set_shared, initargs=((entered, gate),)) as pool:
        pool.apply_async(enter_and_wait)
        assert entered.wait(LIMIT_S)
    pool.join()
    assert time.monotonic() - begun < SOON_S
    with pytest.raises(ValueError, match="Pool not running"):
        pool.apply_async(square, (1,))


def test_context_manager_returns_the_pool(make_pool: PoolMaker) -> None:
    """``with`` gives the pool itself."""
    pool = make_pool(1)
    with pool as entered:
        assert entered is pool


def test_context_manager_needs_a_running_pool(make_pool: PoolMaker) -> None:
    """A closed pool cannot be entered."""
    pool = make_pool(1)
    pool.close()
    with pytest.raises(ValueError, match="Pool not running"):
        pool.__enter__()
    pool.join()


def test_workers_are_gone_after_join(make_pool: PoolMaker) -> None:
    """After ``join`` no worker is alive, and each has an exit code."""
    pool: Any = make_pool(2)
    workers = list(pool._pool)
    assert all(w.is_alive() for w in workers)
    assert all(w.exitcode is None for w in workers)
    pool.close()
    pool.join()
    assert not any(w.is_alive() for w in workers)
    assert all(w.exitcode is not None for w in workers)


def test_never_closed(make_pool: PoolMaker) -> None:
    """A pool that is forgotten while it runs gives a ResourceWarning."""
    held = [make_pool.pool_class(1, context=multiprocessing.get_context("fork"))]
    assert held[0].apply(square, (2,)) == 4
    with pytest.warns(ResourceWarning, match="unclosed running"):
        forget(held)


def forget(held: list[Pool]) -> None:
    """Drop the last reference to what a list holds."""
    held.clear()
    gc.collect()


def test_cannot_be_pickled(make_pool: PoolMaker) -> None:
    """A pool refuses to be pickled."""
    with pytest.raises(NotImplementedError, match="cannot be passed between processes or pickled"):
        pickle.dumps(make_pool(1))


@pytest.mark.parametrize("processes", [0, -1])
def test_size_below_one(make_pool: PoolMaker, processes: int) -> None:
    """A size below 1 is refused."""
    with pytest.raises(ValueError, match="at least 1"):
        make_pool(processes)


@pytest.mark.parametrize("initializer", [5, "word", ()], ids=repr)
def test_initializer_not_callable(make_pool: PoolMaker, initializer: Any) -> None:
    """An initializer that cannot be called is refused."""
    with pytest.raises(TypeError, match="callable"):
        make_pool(1, initializer=initializer)


@pytest.mark.parametrize("limit", [0, -1, "x", 1.5])
def test_bad_maxtasksperchild(make_pool: PoolMaker, limit: Any) -> None:
    """``maxtasksperchild`` is None or a whole number above 0."""
    with pytest.raises(ValueError, match="maxtasksperchild"):
        make_pool(1, maxtasksperchild=limit)


def test_positional_arguments(make_pool: PoolMaker) -> None:
    """The arguments have their places: size, initializer, its arguments, task limit."""
    pool = make_pool(1, set_shared, ("word",), 100)
    assert pool.apply(get_shared) == "word"


def test_default_size(make_pool: PoolMaker) -> None:
    """Without a size a pool has at least one worker."""
    pool: Any = make_pool()
    assert pool._processes >= 1
    assert len(pool._pool) == pool._processes


def test_initializer(make_pool: PoolMaker, ctx: BaseContext) -> None:
    """The initializer runs in each worker, with its arguments, before any task."""
    pool = make_pool(2, set_shared, (("a", 1),), context=ctx)
    assert pool.map(get_shared, range(8), 1) == [("a", 1)] * 8
    assert conformance_tasks.shared is None, "it did not run here"


def test_initializer_runs_once_per_worker(make_pool: PoolMaker, ctx: BaseContext) -> None:
    """The constructor starts all workers, and each runs the initializer, with no task sent."""
    count, barrier = ctx.Value("i", 0), ctx.Barrier(4)
    pool = make_pool(3, count_and_meet, (count, barrier), context=ctx)
    barrier.wait(LIMIT_S)
    assert pool.map(square, range(10), 1) == [i * i for i in range(10)]
    assert count.value == 3


def test_initializer_takes_a_lock(make_pool: PoolMaker, ctx: BaseContext) -> None:
    """A lock can be handed to the workers through the initializer."""
    lock = ctx.Lock()
    pool = make_pool(2, set_shared, (lock,), context=ctx)
    with lock:
        result = pool.map_async(lock_shared, range(4), 1)
        assert not result.ready()
    assert result.get(LIMIT_S) == [0, 1, 2, 3]


def test_initializer_takes_a_queue(make_pool: PoolMaker, ctx: BaseContext) -> None:
    """A queue can be handed to the workers through the initializer."""
    queue = ctx.Queue()
    pool = make_pool(2, set_shared, (queue,), context=ctx)
    pool.map(put_in_shared, range(6))
    assert sorted(queue.get(timeout=LIMIT_S) for _ in range(6)) == list(range(6))
    queue.close()
    queue.join_thread()


def test_initializer_may_be_a_lambda_under_fork(make_pool: PoolMaker) -> None:
    """Under fork the initializer and its arguments are inherited, whatever they are."""
    local = {"function": lambda: "inherited"}
    pool = make_pool(2, lambda value: set_shared(value["function"]()), (local,))
    assert pool.map(get_shared, range(4), 1) == ["inherited"] * 4


def test_globals_are_inherited_under_fork(
    make_pool: PoolMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under fork a worker sees the parent's globals as they were when the pool was made."""
    monkeypatch.setattr(conformance_tasks, "shared", "before")
    pool = make_pool(1)
    monkeypatch.setattr(conformance_tasks, "shared", "after")
    assert pool.apply(get_shared) == "before"


def test_maxtasksperchild(make_pool: PoolMaker, ctx: BaseContext) -> None:
    """A worker ends after that many tasks, and another takes its place."""
    pool = make_pool(2, maxtasksperchild=3, context=ctx)
    per_pid = Counter(pool.map(pid_of, range(18), 1))
    assert sum(per_pid.values()) == 18
    assert max(per_pid.values()) <= 3
    assert len(per_pid) >= 6


def test_maxtasksperchild_counts_chunks(make_pool: PoolMaker) -> None:
    """A chunk counts as one task."""
    pids = make_pool(2, maxtasksperchild=1).map(pid_of, range(12), 4)
    assert [len(set(pids[i : i + 4])) for i in (0, 4, 8)] == [1, 1, 1]
    assert len(set(pids)) == 3


def test_replacements_are_initialised(make_pool: PoolMaker, ctx: BaseContext) -> None:
    """Each replacement runs the initializer too."""
    pool = make_pool(1, set_shared, ("word",), maxtasksperchild=1, context=ctx)
    assert pool.map(get_shared, range(4), 1) == ["word"] * 4
