"""Recycling: workers that leave after a number of tasks, and are followed by workers that are warm."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import threading
from collections import deque
from collections.abc import Iterator
from multiprocessing.context import BaseContext
from typing import Any

import fault_tasks as tasks
import pytest

import glasspool
from gates import Gate
from pools import LIMIT_S, wait_until

MEGABYTE = 1 << 20


@contextlib.contextmanager
def running(size: int, ctx: BaseContext | None = None, **kwds: Any) -> Iterator[glasspool.Pool]:
    """Make a pool, under fork unless told otherwise, and see to its end."""
    ctx = ctx or multiprocessing.get_context("fork")
    pool = glasspool.Pool(size, context=ctx, **kwds)
    try:
        yield pool
    finally:
        pool.terminate()
        assert pool._engine.done.wait(LIMIT_S), f"{pool.name} does not end"
        pool.join()


def is_at_rest(pool: glasspool.Pool, size: int) -> bool:
    """Tell whether a pool has exactly its workers, and all of them have nothing to do."""
    stats = pool.stats()
    return stats["idle"] == stats["workers"] == size


def test_one_task_each_with_large_results(ctx: BaseContext, start_method: str) -> None:
    """Every task has a worker of its own, and every large result arrives."""
    count = {"fork": 100, "forkserver": 30, "spawn": 8}[start_method]
    with running(2, ctx, maxtasksperchild=1) as pool:
        seen = []
        for number, pid, body in pool.imap(tasks.numbered, [(i, MEGABYTE) for i in range(count)]):
            assert len(body) == MEGABYTE
            seen.append((number, pid))
        assert [number for number, _ in seen] == list(range(count))
        assert len({pid for _, pid in seen}) == count
        wait_until(lambda: is_at_rest(pool, 2), "two workers at rest")
        assert pool.stats()["deaths"] == 0


@pytest.mark.parametrize("limit", [1, 3, 50])
def test_no_more_tasks_at_once_than_workers(limit: int) -> None:
    """The next worker gets nothing to do before the one before it has done its last task."""
    with running(2, maxtasksperchild=limit) as pool:
        spans = pool.map(tasks.span, [0.01] * 60, chunksize=1)
        for begun, _, _ in spans:
            assert sum(b <= begun < e for b, e, _ in spans) <= 2
        shares = [pid for _, _, pid in spans]
        assert max(shares.count(pid) for pid in set(shares)) <= limit


def test_the_old_worker_stays_until_the_next_one_is_ready(forked_gate: Gate) -> None:
    """While the next worker runs its initializer, the old one is there; its result is not delayed."""
    with running(
        1,
        initializer=tasks.slow_initializer_from_second,
        initargs=(forked_gate.names, *forked_gate.values),
        maxtasksperchild=1,
    ) as pool:
        (old,) = pool.inspect().workers
        assert pool.apply_async(tasks.pid).get(LIMIT_S) == old.pid
        following = pool.apply_async(tasks.pid)
        forked_gate.wait_for_tasks()  # the next worker is in its initializer
        workers = pool.inspect().workers
        assert (workers[0].slot, workers[0].pid, workers[0].state) == (0, old.pid, "idle")
        assert [w.state for w in workers[1:]] == ["initializing"]
        assert not following.ready()
        forked_gate.open()
        assert following.get(LIMIT_S) != old.pid
        wait_until(lambda: old.pid not in {w.pid for w in pool.inspect().workers}, "it leaves")


def test_a_warm_worker_waits_for_its_turn(forked_gate: Gate) -> None:
    """The next worker is shown as spare while the old one runs its last task."""
    with running(1, maxtasksperchild=1, **forked_gate.arguments) as pool:
        first = pool.apply_async(tasks.started_then_wait)
        second = pool.apply_async(tasks.pid)
        forked_gate.wait_for_tasks()
        wait_until(
            lambda: [w.state for w in pool.inspect().workers] == ["busy", "spare"],
            "the next worker is ready",
        )
        spare = pool.inspect().workers[1]
        assert pool.stats()["idle"] == 0
        forked_gate.open()
        assert first.get(LIMIT_S) != spare.pid
        assert second.get(LIMIT_S) == spare.pid


def test_a_spare_worker_is_killed(forked_gate: Gate) -> None:
    """It costs no task: another one takes its place."""
    with running(1, maxtasksperchild=1, **forked_gate.arguments) as pool:
        first = pool.apply_async(tasks.started_then_wait)
        second = pool.apply_async(tasks.pid)
        forked_gate.wait_for_tasks()
        wait_until(lambda: len(pool.inspect().workers) == 2, "the next worker is there")
        wait_until(lambda: pool.inspect().workers[1].state == "spare", "it is ready")
        spare = pool.inspect().workers[1].pid
        os.kill(spare, signal.SIGKILL)
        wait_until(lambda: pool.stats()["deaths"] == 1, "its death is noted")
        forked_gate.open()
        assert first.get(LIMIT_S)
        assert second.get(LIMIT_S) != spare
        wait_until(lambda: is_at_rest(pool, 1), "one worker at rest")


def test_the_old_worker_is_killed_in_its_last_task(forked_gate: Gate) -> None:
    """Its task is lost; the worker that follows takes over, and no third one is started."""
    with running(1, maxtasksperchild=1, **forked_gate.arguments) as pool:
        first = pool.apply_async(tasks.started_then_wait)
        forked_gate.wait_for_tasks()
        wait_until(
            lambda: [w.state for w in pool.inspect().workers] == ["busy", "spare"],
            "the next worker is ready",
        )
        old, spare = (w.pid for w in pool.inspect().workers)
        os.kill(old, signal.SIGKILL)
        with pytest.raises(glasspool.WorkerDied):
            first.get(LIMIT_S)
        assert pool.apply_async(tasks.pid).get(LIMIT_S) == spare
        wait_until(lambda: is_at_rest(pool, 1), "one worker at rest")


def test_the_next_worker_fails_to_start(forked_gate: Gate) -> None:
    """The old worker leaves all the same, and a later attempt brings the next one."""
    with running(
        1,
        initializer=tasks.fail_second_initializer,
        initargs=(
            forked_gate.names,
            *forked_gate.values,
            multiprocessing.get_context("fork").Value("i"),
        ),
        maxtasksperchild=1,
    ) as pool:
        pids = [pool.apply_async(tasks.pid) for _ in range(4)]
        assert len({pid.get(LIMIT_S) for pid in pids}) == 4
        wait_until(lambda: is_at_rest(pool, 1), "one worker at rest")


def test_workers_are_killed_between_one_task_workers() -> None:
    """Every task ends once, as its result or as lost with its worker; the pool keeps its size."""
    count = 100
    choose = random.Random(12)
    with running(3, maxtasksperchild=1) as pool:
        results = [pool.apply_async(tasks.numbered, ((i, 100_000),)) for i in range(count)]
        for at in range(10, count, 10):
            results[at].wait(LIMIT_S)
            workers = list(pool._engine.handler.workers.copy().values())
            victim = choose.choice([w.pid for w in workers if w.pid])
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
        lost = 0
        for number, result in enumerate(results):
            try:
                assert result.get(LIMIT_S)[0] == number
            except glasspool.WorkerDied:
                lost += 1
        stats = pool.stats()
        assert (stats["done"], stats["lost"]) == (count - lost, lost)
        assert lost <= 9
        wait_until(lambda: is_at_rest(pool, 3), "three workers at rest")
        pool._engine.collector.ledger.check()


def test_slots_stay_unique_among_the_ready() -> None:
    """At any moment each slot has at most one worker that is idle or busy."""
    with running(3, maxtasksperchild=2) as pool:
        result = pool.map_async(tasks.span, [0.001] * 100, chunksize=1)
        looks = 0
        while not result.ready():
            slots = [w.slot for w in pool.inspect().workers if w.state in ("idle", "busy")]
            if len(set(slots)) != len(slots):
                slots = settled_slots(pool)
            assert sorted(set(slots)) == sorted(slots)
            looks += 1
        assert looks
        result.get(LIMIT_S)


def settled_slots(pool: glasspool.Pool) -> list[int]:
    """Return the slots as the collector knows them between two turns (a look takes a while)."""
    told: list[list[int]] = []
    done = threading.Event()

    def tell() -> None:
        workers = pool._engine.collector.workers.values()
        told.append([w.slot for w in workers if w.ready and w.serves and not w.stopping])
        done.set()

    pool._engine.collector.mailbox.put(tell)
    assert done.wait(LIMIT_S)
    return told[0]


def test_never_fewer_workers_than_slots() -> None:
    """Without deaths, whoever looks finds each slot with a worker that is ready."""
    with running(2, maxtasksperchild=1) as pool:
        wait_until(lambda: is_at_rest(pool, 2), "two workers at rest")
        result = pool.map_async(tasks.span, [0.001] * 80, chunksize=1)
        while not result.ready():
            assert sorted(settled_slots(pool)) == [0, 1]
        result.get(LIMIT_S)


def test_starts_wait_for_a_free_record() -> None:
    """Where the scoreboard has no room for one more, the start goes on as soon as it has."""
    with running(2, maxtasksperchild=1) as pool:
        wait_until(lambda: is_at_rest(pool, 2), "two workers at rest")
        handler = pool._engine.handler
        handler._free_records = deque([handler._fresh])  # one is left for those that follow
        handler._fresh = handler._recipe.boxes.count
        assert pool.map(tasks.square, range(60), chunksize=1) == [i * i for i in range(60)]
        handler._free_records.clear()
        assert pool.map(tasks.square, range(20), chunksize=1) == [i * i for i in range(20)]


@pytest.mark.parametrize("how", ["close", "terminate"])
def test_the_pool_ends_while_workers_follow_each_other(how: str) -> None:
    """Closing waits for the tasks; terminating does not; neither leaves a spare worker behind."""
    pool = glasspool.Pool(2, maxtasksperchild=1, context=multiprocessing.get_context("fork"))
    result = pool.map_async(tasks.square, range(60), chunksize=1)
    getattr(pool, how)()
    pool.join()
    if how == "close":
        assert result.get(0) == [i * i for i in range(60)]
    else:
        with contextlib.suppress(glasspool.TaskCancelled):
            result.get(0)
