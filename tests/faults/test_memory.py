"""Memory and descriptors: of workers that take too much, and of a parent that must stay flat."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import subprocess
import sys
import time
from multiprocessing.context import BaseContext
from pathlib import Path

import flow_tasks as tasks
import pytest

import glasspool
from pools import LIMIT_S, wait_until

FORK = multiprocessing.get_context("fork")
MB = 1_000_000
RESULTS = int(os.environ.get("GLASSPOOL_TEST_IMAP_RESULTS", "150000"))
"""How many results the parent reads; CONTRIBUTING.md tells how to let it be 10 million."""

HERE = Path(__file__).parent


def own_bytes() -> int:
    """Return the resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def baseline(ctx: BaseContext) -> int:
    """Return how much a worker uses that has done nothing yet."""
    with glasspool.Pool(1, context=ctx) as pool:
        used = int(pool.apply(tasks.resident, (0,)))
    pool.join()
    return used


def test_a_worker_above_its_limit_is_replaced_after_its_task(ctx):
    """The task counts, nothing is lost, the worker leaves in an orderly way, and nobody calls it a death."""
    limit = baseline(ctx) + 60 * MB
    with glasspool.Pool(1, context=ctx, max_memory=limit) as pool:
        first = pool.apply(tasks.hoard, (0,))
        assert pool.apply(tasks.hoard, (100 * MB,)) == first
        assert pool.apply(tasks.hoard, (0,)) != first
        wait_until(lambda: len(pool.inspect().pools[0].ended) == 1, "the first one has left")
        ended = pool.inspect().pools[0].ended[0]
        assert (ended.pid, ended.state, ended.exitcode) == (first, "recycled", 0)
        assert ended.reason is not None
        assert "above max_memory=" in ended.reason
        stats = pool.stats()
        assert (stats["over_memory"], stats["deaths"], stats["lost"]) == (1, 0, 0)
    pool.join()


def test_recycling_under_load_loses_nothing():
    """Short tasks that leak: each runs once, through a row of workers."""
    limit = baseline(FORK) + 40 * MB
    with glasspool.Pool(2, context=FORK, max_memory=limit) as pool:
        pids = list(pool.imap_unordered(tasks.hoard, itertools.repeat(MB, 400), buffersize=None))
        assert len(pids) == 400
        assert len(set(pids)) >= 5
        stats = pool.stats()
        assert stats["done"] == 400
        assert stats["over_memory"] >= len(set(pids)) - 2
        assert (stats["deaths"], stats["lost"]) == (0, 0)
    pool.join()


def test_a_task_above_the_hard_limit_is_stopped(ctx):
    """``WorkerDied`` names the limit and what was used; others are unharmed, the pool goes on."""
    limit = baseline(ctx) + 60 * MB
    with glasspool.Pool(2, context=ctx, max_memory_hard=limit) as pool:
        greedy = pool.apply_async(tasks.hoard_and_stay, (200 * MB,))
        modest = pool.apply_async(tasks.hoard, (0,))
        with pytest.raises(glasspool.WorkerDied, match="above max_memory_hard=") as caught:
            greedy.get(LIMIT_S)
        assert "used " in caught.value.certificate.cause
        assert caught.value.certificate.signal == 9
        assert modest.get(LIMIT_S) > 0
        assert pool.map(abs, range(100)) == list(range(100))
        assert pool.stats()["over_memory"] == 1
    pool.join()


def test_what_a_task_leaves_is_not_the_next_ones_fault():
    """A worker that ends its task above the hard limit alone is replaced before the next one."""
    limit = baseline(FORK) + 60 * MB
    with glasspool.Pool(1, context=FORK, max_memory_hard=limit) as pool:
        pool._engine.handler.hard_watch = None  # the tasks are over before it looks
        assert len({pool.apply(tasks.hoard, (100 * MB,)) for _ in range(3)}) == 3
        stats = pool.stats()
        assert (stats["lost"], stats["over_memory"]) == (0, 3)
    pool.join()


def test_the_watch_rests_with_the_pool():
    """The timer of the hard limit exists only while tasks run."""
    with glasspool.Pool(2, context=FORK, max_memory_hard=10**12) as pool:
        watch = pool._engine.handler.hard_watch
        assert watch is not None
        pool.map(tasks.nap, range(100))
        wait_until(lambda: not watch.is_on and not watch._is_due, "the watch has ended")
        assert pool.apply(abs, (-1,)) == 1
    pool.join()


def test_waiting_arguments_are_counted():
    """``stats()['waiting_bytes']``: what ``apply_async`` has taken and no worker has."""
    with glasspool.Pool(1, context=FORK) as pool:
        gate = pool.apply_async(time.sleep, (0.3,))
        results = [pool.apply_async(len, (b"x" * 10_000,)) for _ in range(100)]
        wait_until(lambda: 900_000 < pool.stats()["waiting_bytes"] < 1_100_000, "they wait")
        gate.get(LIMIT_S)
        assert [result.get(LIMIT_S) for result in results] == [10_000] * 100
        assert pool.stats()["waiting_bytes"] == 0
    pool.join()


@pytest.mark.parametrize("how", ["imap", "imap_unordered"])
def test_the_parent_stays_flat_over_many_results(how):
    """What has been read leaves nothing behind, whatever the number."""
    with glasspool.Pool(2, context=FORK) as pool:
        values = getattr(pool, how)(abs, itertools.count())
        for _ in itertools.islice(values, 20_000):
            pass
        before = own_bytes()
        for _ in itertools.islice(values, RESULTS):
            pass
        grown = own_bytes() - before
        assert grown < 8 * MB, f"{grown / MB:.1f} MB more after {RESULTS} results"
        pool.terminate()
    pool.join()


def test_jobs_with_callables_of_their_own_leave_nothing_behind():
    """A lambda is sent for one job: neither the parent nor a worker keeps it, nor a pace, nor a place."""
    with glasspool.Pool(2, context=FORK) as pool:
        for number in range(150):
            assert pool.map(lambda value, n=number: value + n, [0]) == [number]
            assert list(pool.imap(lambda value, n=number: value + n, [0])) == [number]
            with pytest.raises(ZeroDivisionError):
                pool.map(lambda value: value, (1 // (2 - i) for i in range(5)))
            short = ShortOfItems()
            with pytest.raises(glasspool.GlasspoolError, match="fewer items"):
                pool.map(lambda value: value, short)
        assert pool.map(abs, range(100)) == list(range(100))
        wait_until(lambda: not pool._cache, "all jobs have ended")
        engine = pool._engine
        assert len(engine.collector.pace) <= 1
        assert len(engine.callables._by_number) == 1
        assert not engine.collector.feeds
        assert not engine.feeders
        for worker in engine.collector.workers.values():
            assert len(worker.known) <= 10
            assert len(worker.forget) <= 10
    pool.join()


class ShortOfItems:
    """A container that claims to have more items than it gives."""

    def __len__(self) -> int:
        return 3

    def __iter__(self):
        return iter([1, 2])


def test_many_large_values_under_a_small_limit_of_descriptors():
    """2,000 arrays as arguments, as unread results and as kept values, with 256 descriptors."""
    done = subprocess.run(
        [sys.executable, str(HERE / "many_arrays.py"), "fork"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(glasspool.__file__).parent.parent)},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "good\n", "")
