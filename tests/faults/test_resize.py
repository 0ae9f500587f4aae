"""Resizing under load, and pools of many workers."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import random
import signal
import threading
import time
from multiprocessing.context import BaseContext
from typing import Any

import fault_tasks as tasks
import pytest
from test_recycling import is_at_rest, running

import glasspool
from gates import Gate
from glasspool.engines.local import scoreboard, workers
from pools import LIMIT_S, wait_until


def test_up_and_down(ctx: BaseContext) -> None:
    """When the call returns the new workers have a process; those of the highest slots leave."""
    with running(1, ctx) as pool:
        pool.resize(3)
        assert len(pool._pool) == 3
        assert pool._processes == pool.inspect().pools[0].size == 3
        assert scoreboard.Board.open(pool._engine.board.file).header.size == 3
        wait_until(lambda: is_at_rest(pool, 3), "three workers at rest")
        kept = pool.inspect().workers[0].pid
        pool.resize(1)
        wait_until(lambda: is_at_rest(pool, 1), "one worker at rest")
        assert [w.pid for w in pool.inspect().workers] == [kept]
        pool.resize(1)
        assert pool.map(tasks.square, range(100), chunksize=1) == [i * i for i in range(100)]


def test_no_task_is_interrupted(forked_gate: Gate) -> None:
    """A worker that is one too many ends its task first; what it had not begun goes to others."""
    with running(3, **forked_gate.arguments) as pool:
        held = [pool.apply_async(tasks.started_then_wait) for _ in range(3)]
        forked_gate.wait_for_tasks(3)
        pool.resize(1)
        assert pool.stats()["busy"] == 3
        behind = pool.map_async(tasks.square, range(50), chunksize=1)
        forked_gate.open()
        assert len({result.get(LIMIT_S) for result in held}) == 3
        assert behind.get(LIMIT_S) == [i * i for i in range(50)]
        wait_until(lambda: is_at_rest(pool, 1), "one worker at rest")
        assert pool.stats()["deaths"] == 0


def test_unbegun_tasks_move(forked_gate: Gate) -> None:
    """Tasks that lie behind a long one at a worker that is to leave run elsewhere meanwhile."""
    with running(2, **forked_gate.arguments) as pool:
        assert pool.map(tasks.square, range(2000), chunksize=1)
        first = pool.apply_async(tasks.started_then_wait)
        forked_gate.wait_for_tasks()
        second = pool.map_async(tasks.square, range(2000), chunksize=1)
        pool.resize(1)
        if first.info.slot == 0:
            forked_gate.open()  # it stays; nobody else may run the others then
        assert second.get(LIMIT_S) == [i * i for i in range(2000)]
        forked_gate.open()
        first.get(LIMIT_S)


def test_a_worker_that_has_not_left_stays(forked_gate: Gate) -> None:
    """Made larger again in time, the pool keeps the workers that were to leave."""
    with running(2, **forked_gate.arguments) as pool:
        held = [pool.apply_async(tasks.started_then_wait) for _ in range(2)]
        forked_gate.wait_for_tasks(2)
        pids = {w.pid for w in pool.inspect().workers}
        pool.resize(1)
        pool.resize(2)
        forked_gate.open()
        assert {result.get(LIMIT_S) for result in held} == pids
        wait_until(lambda: is_at_rest(pool, 2), "two workers at rest")
        assert {w.pid for w in pool.inspect().workers} == pids


def test_a_worker_that_a_caller_uses(forked_gate: Gate) -> None:
    """A worker that runs a direct call leaves after it."""
    with running(2, **forked_gate.arguments) as pool:
        got: list[int] = []
        callers = [
            threading.Thread(target=lambda: got.append(pool.apply(tasks.started_then_wait)))
            for _ in range(2)
        ]
        for caller in callers:
            caller.start()
        forked_gate.wait_for_tasks(2)
        pool.resize(1)
        forked_gate.open()
        for caller in callers:
            caller.join(LIMIT_S)
        assert len(set(got)) == 2
        wait_until(lambda: is_at_rest(pool, 1), "one worker at rest")


def test_a_leaving_worker_dies() -> None:
    """Its task is lost; nobody replaces it."""
    with running(2) as pool:
        held = [pool.apply_async(tasks.sleep, (600,)) for _ in range(2)]
        wait_until(lambda: {result.info.slot for result in held} == {0, 1}, "both tasks run")
        pool.resize(1)
        leaving = next(i for i, result in enumerate(held) if result.info.slot == 1)
        victim = held[leaving].info.pid
        assert victim is not None
        os.kill(victim, signal.SIGKILL)
        with pytest.raises(glasspool.WorkerDied) as caught:
            held[leaving].get(LIMIT_S)
        assert caught.value.certificate.pid == victim
        wait_until(lambda: pool.stats()["workers"] == 1, "it is gone")
        pool.resize(2)
        assert pool.apply_async(tasks.pid).get(LIMIT_S) not in (victim, held[1 - leaving].info.pid)


def test_bad_sizes_and_pools_that_do_not_run() -> None:
    """What the constructor refuses is refused, and so is what there is no room for."""
    with running(1) as pool:
        for bad, error in ((0, ValueError), (-1, ValueError), ("2", TypeError), (None, TypeError)):
            with pytest.raises(error):
                pool.resize(bad)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"256 workers at most, not 257.*Pool\(65\)"):
            pool.resize(257)
        pool.close()
        with pytest.raises(ValueError, match="not running"):
            pool.resize(2)
        pool.join()
        with pytest.raises(ValueError, match="not running"):
            pool._engine.resize(2)


@pytest.mark.one_python
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("limit", [None, 1, 7])
def test_under_load_with_kills(seed: int, limit: int | None) -> None:
    """Whatever the size does, each task ends once, as its result or lost with its worker."""
    choose = random.Random(seed)
    with running(2, maxtasksperchild=limit) as pool:
        results = []
        kills = 0
        for step in range(12):
            results += [pool.apply_async(tasks.numbered, ((i, 10),)) for i in range(10)]
            pool.resize(choose.randrange(1, 7))
            results += [pool.apply_async(tasks.span, (0.003,)) for _ in range(4)]
            if step % 3 == 0:
                victims = [w.pid for w in pool._engine.handler.workers.copy().values() if w.pid]
                with contextlib.suppress(ProcessLookupError, IndexError):
                    os.kill(choose.choice(victims), signal.SIGKILL)
                    kills += 1
        lost = 0
        for result in results:
            try:
                result.get(LIMIT_S)
            except glasspool.WorkerDied:
                lost += 1
        assert lost <= kills
        stats = pool.stats()
        assert (stats["done"], stats["lost"]) == (len(results) - lost, lost)
        pool.resize(3)
        # A worker that has few tasks left may have its successor behind it: not counted as idle.
        wait_until(lambda: pool.stats()["idle"] == 3, "three workers at rest")
        wait_until(
            lambda: [w.slot for w in pool.inspect().workers if w.state == "idle"] == [0, 1, 2],
            "one worker in each slot",
        )
        pool._engine.collector.ledger.check()


def test_from_many_threads_at_once() -> None:
    """Calls from several threads do not disturb each other; the pool ends with one of their sizes."""
    with running(2) as pool:
        load = pool.map_async(tasks.span, [0.001] * 400, chunksize=1)
        barrier = threading.Barrier(4)

        def change(seed: int) -> None:
            choose = random.Random(seed)
            barrier.wait(LIMIT_S)
            for _ in range(15):
                pool.resize(choose.randrange(1, 6))

        threads = [threading.Thread(target=change, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT_S)
            assert not thread.is_alive()
        size = pool._processes
        assert len(load.get(LIMIT_S)) == 400
        wait_until(lambda: is_at_rest(pool, size), f"{size} workers at rest")


def test_from_a_callback() -> None:
    """A callback may change the size."""
    with running(1) as pool:
        done = threading.Event()
        failures: list[BaseException] = []

        def grow(value: Any) -> None:
            try:
                pool.resize(3)
            except BaseException as error:
                failures.append(error)
            done.set()

        pool.apply_async(tasks.pid, callback=grow)
        assert done.wait(LIMIT_S)
        assert not failures
        assert pool._processes == 3


@pytest.mark.parametrize("how", ["close", "terminate"])
@pytest.mark.parametrize("delay_s", [0.0, 0.002, 0.01])
def test_while_the_pool_ends(how: str, delay_s: float) -> None:
    """A call that meets the end of the pool returns, or says that the pool does not run."""
    pool = glasspool.Pool(2, context=multiprocessing.get_context("fork"))
    load = pool.map_async(tasks.square, range(300), chunksize=1)
    ends: list[str] = []

    def change() -> None:
        for size in (8, 1, 6, 2, 9):
            try:
                pool.resize(size)
                ends.append("done")
            except ValueError as error:
                ends.append(str(error))

    thread = threading.Thread(target=change)
    thread.start()
    time.sleep(delay_s)
    getattr(pool, how)()
    pool.join()
    thread.join(LIMIT_S)
    assert not thread.is_alive()
    assert set(ends) <= {"done", "Pool not running"}
    assert len(ends) == 5
    if how == "close":
        assert len(load.get(0)) == 300


def test_no_memory_for_one_more_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others work on, and the start is tried again until there is memory."""
    with running(2) as pool:
        wait_until(lambda: is_at_rest(pool, 2), "two workers at rest")
        full = threading.Event()
        full.set()
        reserve = os.posix_fallocate

        def refuse(fd: int, start: int, size: int) -> None:
            if full.is_set() and fd in (pool._engine.board.fd, pool._engine.boxes.fd):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            reserve(fd, start, size)

        monkeypatch.setattr(os, "posix_fallocate", refuse)
        pool.resize(14)  # there is memory for ten
        wait_until(lambda: is_at_rest(pool, 10), "ten workers at rest")
        assert pool.map(tasks.square, range(100), chunksize=1) == [i * i for i in range(100)]
        full.clear()
        wait_until(lambda: is_at_rest(pool, 14), "fourteen workers at rest")


def test_starts_wait_for_the_template(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many workers are wanted at once, only some requests are under way to the template."""
    monkeypatch.setattr(workers, "STARTS_AT_ONCE", 2)
    with running(9) as pool:
        pool.resize(16)
        assert pool.map(tasks.square, range(100), chunksize=1) == [i * i for i in range(100)]
        wait_until(lambda: is_at_rest(pool, 16), "sixteen workers at rest")


def descriptors() -> int:
    """Return how many descriptors this process has."""
    return len(os.listdir("/proc/self/fd"))


def test_three_descriptors_for_each_worker(ctx: BaseContext) -> None:
    """A worker costs the parent three descriptors at most, and still knows whether that lives."""
    with running(1, ctx) as pool:
        wait_until(lambda: is_at_rest(pool, 1), "one worker at rest")
        pool.apply(tasks.pid)
        before = descriptors()
        pool.resize(7)
        wait_until(lambda: is_at_rest(pool, 7), "seven workers at rest")
        wait_until(lambda: descriptors() <= before + 6 * 3, "pipes are closed")
        assert all(pool.map(tasks.has_parent, range(20), chunksize=1))
        pool.resize(1)
        wait_until(lambda: is_at_rest(pool, 1), "one worker at rest")
        wait_until(lambda: descriptors() <= before, "descriptors are closed")


@pytest.mark.one_python
def test_many_workers() -> None:
    """Two hundred workers: three descriptors each at most, tasks run, fifty kills cost fifty tasks."""
    size = 200
    before = descriptors()
    with running(size) as pool:
        wait_until(lambda: is_at_rest(pool, size), "all workers at rest")
        assert descriptors() - before <= 3 * size
        assert pool.map(tasks.square, range(2000), chunksize=1) == [i * i for i in range(2000)]
        seen = pool.inspect().workers
        assert [w.slot for w in seen] == list(range(size))
        results = [pool.apply_async(tasks.sleep, (0.5,)) for _ in range(size)]
        for worker in seen[::4]:
            os.kill(worker.pid, signal.SIGKILL)
        lost = 0
        for result in results:
            try:
                result.get(LIMIT_S)
            except glasspool.WorkerDied:
                lost += 1
        assert lost <= 50
        wait_until(lambda: is_at_rest(pool, size), "all workers at rest again")
        assert pool.stats()["deaths"] == 50
        pool.close()
        pool.join()
    assert descriptors() <= before
