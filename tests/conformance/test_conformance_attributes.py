"""What programs in the wild look at, inside and outside of tasks."""

from __future__ import annotations

import multiprocessing
import multiprocessing.pool
import os
import re
import threading
from multiprocessing.context import BaseContext
from multiprocessing.pool import Pool
from typing import Any

import pytest
from conformance_kinds import PoolMaker
from conformance_tasks import identity, run_child_process, square


class LastingProcess(multiprocessing.context.ForkProcess):
    """A process that is never daemonic, whatever it is told: the usual recipe."""

    @property
    def daemon(self) -> bool:
        """Say no."""
        return False

    @daemon.setter
    def daemon(self, value: bool) -> None:
        """Ignore the wish."""


class LastingContext(multiprocessing.context.ForkContext):
    """A context whose processes are not daemonic: the other usual recipe."""

    Process = LastingProcess


def lasting_pool(base: type[Pool]) -> type[Pool]:
    """Return a subclass whose workers are not daemonic."""

    class LastingPool(base):  # type: ignore[misc, valid-type]
        @staticmethod
        def Process(ctx: BaseContext, *args: Any, **kwds: Any) -> LastingProcess:
            return LastingProcess(*args, **kwds)

    return LastingPool


def test_is_a_pool(shared_pool: Pool) -> None:
    """The object is a ``multiprocessing.pool.Pool``."""
    assert isinstance(shared_pool, multiprocessing.pool.Pool)


def test_repr_of_a_pool(make_pool: PoolMaker) -> None:
    """``repr`` tells state and size."""
    pool = make_pool(3)
    assert "RUN" in repr(pool)
    assert re.search(r"\b3\b", repr(pool))
    pool.close()
    assert "CLOSE" in repr(pool)
    pool.join()


def test_name_of_a_worker(shared_pool: Pool, start_method: str) -> None:
    """A worker's process is named after its start method and counted."""
    prefix = {"fork": "Fork", "spawn": "Spawn", "forkserver": "ForkServer"}[start_method]
    assert re.search(rf"{prefix}PoolWorker-\d+$", shared_pool.apply(identity)["name"])


def test_identity_of_a_worker(shared_pool: Pool) -> None:
    """A worker's ``_identity`` ends in the number of its name."""
    seen = shared_pool.apply(identity)
    assert seen["identity"]
    assert seen["name"].endswith(f"-{seen['identity'][-1]}")


def test_identities_differ(shared_pool: Pool) -> None:
    """No two workers have the same name or identity: programs seed generators by it."""
    processes: Any = shared_pool._pool  # type: ignore[attr-defined]
    assert len({p.name for p in processes}) == 2
    assert len({p._identity for p in processes}) == 2
    seen = {s["pid"]: s["name"] for s in shared_pool.map(identity, range(20), 1)}
    assert seen.items() <= {(p.pid, p.name) for p in processes}


def test_a_worker_is_daemonic(shared_pool: Pool) -> None:
    """A worker's process is daemonic, seen from both sides."""
    assert shared_pool.apply(identity)["daemon"] is True
    assert all(p.daemon for p in shared_pool._pool)  # type: ignore[attr-defined]


def test_parent_of_a_worker(shared_pool: Pool) -> None:
    """``parent_process()`` in a task is the process that made the pool."""
    assert shared_pool.apply(identity)["parent_pid"] == os.getpid()


def test_pid_of_a_worker(shared_pool: Pool) -> None:
    """``current_process().pid`` in a task is the true one, and that of a worker of the pool."""
    seen = shared_pool.apply(identity)
    assert seen["pid"] == seen["os_pid"]
    assert seen["pid"] in {p.pid for p in shared_pool._pool}  # type: ignore[attr-defined]


def test_thread_of_a_task(shared_pool: Pool) -> None:
    """A task runs in its process's main thread, which has its usual name, and alone."""
    seen = shared_pool.apply(identity)
    assert seen["thread"] == "MainThread"
    assert seen["is_main"]
    assert seen["threads"] == 1


def test_active_children(shared_pool: Pool) -> None:
    """``active_children()`` has the workers."""
    children = {p.pid for p in multiprocessing.active_children()}
    assert {p.pid for p in shared_pool._pool} <= children  # type: ignore[attr-defined]


def test_processes_of_a_pool(shared_pool: Pool) -> None:
    """``_processes`` is the size, ``_pool`` a list of live processes with a pid."""
    pool: Any = shared_pool
    assert pool._processes == 2
    assert len(pool._pool) == 2
    assert all(isinstance(p.pid, int) for p in pool._pool)
    assert all(p.is_alive() for p in pool._pool)
    assert all(p.exitcode is None for p in pool._pool)
    assert all(isinstance(p.sentinel, int) for p in pool._pool)


def test_cache_is_empty_after_work(make_pool: PoolMaker) -> None:
    """``_cache`` holds what has not ended, so nothing at the end."""
    pool: Any = make_pool(2)
    result = pool.map_async(square, range(10))
    pool.imap_unordered(square, range(10))
    assert result.get(30) == [i * i for i in range(10)]
    pool.close()
    pool.join()
    assert len(pool._cache) == 0


def test_submitting_from_many_threads(shared_pool: Pool) -> None:
    """Threads may submit at once; each gets its own results."""
    wrong: list[Any] = []
    start = threading.Barrier(8)

    def work(base: int) -> None:
        start.wait(30)
        numbers = range(base, base + 40)
        wrong.extend(i for i in numbers if shared_pool.apply(square, (i,)) != i * i)
        if shared_pool.map(square, range(base), 3) != [i * i for i in range(base)]:
            wrong.append(base)

    threads = [threading.Thread(target=work, args=(100 * n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert wrong == []


def test_subclass_that_makes_its_own_processes(make_pool: PoolMaker) -> None:
    """A subclass may override ``Process``: here, so that tasks can start processes."""
    pool = make_pool(2, pool_class=lasting_pool(make_pool.pool_class))
    assert pool.apply(identity)["daemon"] is False
    assert pool.map(run_child_process, range(4), 1) == [0, 1, 4, 9]


def test_context_that_makes_its_own_processes(make_pool: PoolMaker) -> None:
    """A context may bring its own ``Process`` class, with the same effect."""
    pool = make_pool(2, context=LastingContext())
    assert pool.apply(identity)["daemon"] is False
    assert pool.map(run_child_process, range(4), 1) == [0, 1, 4, 9]


def test_daemonic_worker_starts_no_process(make_pool: PoolMaker) -> None:
    """A task of an ordinary pool may not start a process by ``multiprocessing``."""
    pool = make_pool(1)
    with pytest.raises(AssertionError, match="daemonic processes are not allowed"):
        pool.apply(run_child_process, (2,))
