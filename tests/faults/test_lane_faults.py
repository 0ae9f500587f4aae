"""Workers with lanes: what happens in one lane ends one task, and what ends a worker is told of each."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import Counter

import lane_fault_tasks as tasks
import pytest

import glasspool
from gates import Gate
from glasspool import TaskCancelled, TaskTimeout, WorkerDied
from glasspool.engines.local import laned
from pools import LIMIT_S, MakePool, check_ledger, wait_until

LANES = 4
TIMEOUT_S = 0.2
NOBODY = (1 << 22) + 1  # no process has this number


def pid_of(pool: glasspool.Pool) -> int:
    """Return the process of a pool's first worker."""
    pid = pool._pool[0].pid
    assert pid is not None
    return pid


def test_a_kill_loses_the_tasks_of_all_lanes_and_says_so(make: MakePool, gate: Gate) -> None:
    """Each task that had begun ends with a certificate of its own; what had not begun runs elsewhere."""
    pool = make(1, threads=LANES, **gate.arguments)
    results = [pool.apply_async(tasks.wait_at_gate, (number,)) for number in range(LANES)]
    gate.wait_for_tasks(LANES)
    behind = [pool.apply_async(tasks.pid_of, (number,)) for number in range(20)]
    first = pid_of(pool)
    os.kill(first, signal.SIGKILL)
    for result in results:
        with pytest.raises(WorkerDied) as caught:
            result.get(LIMIT_S)
        certificate = caught.value.certificate
        assert certificate is not None
        assert certificate.task is not None
        assert certificate.task.id == result.info.id
        assert certificate.task.thread is not None
        assert "lane-" in certificate.task.thread.name
        assert certificate.others_lost == LANES - 1
        assert "3 other tasks were lost with it" in str(caught.value)
        assert result.info.thread == certificate.task.thread
    lanes = {r.info.thread.name for r in results if r.info.thread is not None}
    assert len(lanes) == LANES
    pids = {result.get(LIMIT_S) for result in behind}
    assert first not in pids
    stats = pool.stats()
    assert (stats["lost"], stats["deaths"], stats["done"]) == (LANES, 1, 20)


@pytest.mark.one_python
def test_each_lost_task_has_its_own_retries(make_forked: MakePool) -> None:
    """A death counts as an attempt of every task that had begun, and of no other."""
    pool = make_forked(1, tasks.prepare, (LANES,), threads=LANES)
    results = [
        pool.apply_async(tasks.die_at_first, (number,), retries=number % 2)
        for number in range(LANES)
    ]
    behind = [pool.apply_async(tasks.pid_of, (number,)) for number in range(3)]
    for number, result in enumerate(results):
        if number % 2:
            assert result.get(LIMIT_S) == (number, 2)
        else:
            with pytest.raises(WorkerDied):
                result.get(LIMIT_S)
    assert len({result.get(LIMIT_S) for result in behind}) == 1
    assert all(result.info.attempts == 1 for result in behind)


def test_a_timeout_raises_in_its_lane(make: MakePool, gate: Gate) -> None:
    """The task has its error with the stack of its own lane; its worker and the other lanes go on."""
    pool = make(1, threads=LANES, **gate.arguments)
    others = [pool.apply_async(tasks.wait_at_gate, (number,)) for number in range(LANES - 1)]
    gate.wait_for_tasks(LANES - 1)
    before = pid_of(pool)
    for _ in range(2):
        with pytest.raises(TaskTimeout) as caught:
            pool.apply_async(tasks.loop, timeout=TIMEOUT_S).get(LIMIT_S)
        assert caught.value.stack is not None
        assert [frame.function for frame in caught.value.stack] == ["loop"]
    cancelled = pool.apply_async(tasks.loop)
    wait_until(lambda: cancelled.info.state == "running", "a task that runs")
    cancelled.cancel()
    with pytest.raises(TaskCancelled):
        cancelled.get(LIMIT_S)
    gate.open()
    assert [result.get(LIMIT_S) for result in others] == list(range(LANES - 1))
    assert pool.apply(tasks.pid_of, (0,)) == before


def test_a_lane_in_c_costs_the_worker_but_no_other_task(
    make_forked: MakePool, forked_gate: Gate
) -> None:
    """What other lanes run is let finish; new tasks go to the next worker; then the old one is killed."""
    pool = make_forked(1, threads=LANES, timeout_grace=0.05, **forked_gate.arguments)
    others = [pool.apply_async(tasks.wait_at_gate, (number,)) for number in range(LANES - 2)]
    forked_gate.wait_for_tasks(LANES - 2)
    another = pool.apply_async(tasks.block)
    before = pid_of(pool)
    blocked = pool.apply_async(tasks.block, timeout=TIMEOUT_S)
    behind = [pool.apply_async(tasks.pid_of, (number,)) for number in range(10)]
    with pytest.raises(TaskTimeout, match=r"timeout of 0\.2 s"):
        blocked.get(LIMIT_S)
    pids = {result.get(LIMIT_S) for result in behind}
    assert before not in pids, "it gets nothing more"
    assert not any(result.ready() for result in others)
    another.cancel()
    with pytest.raises(TaskCancelled):
        another.get(LIMIT_S)
    forked_gate.open()
    assert [result.get(LIMIT_S) for result in others] == list(range(LANES - 2))
    wait_until(lambda: pool.stats()["replaced"] == 1, "the end of the old worker")
    assert pool.stats()["deaths"] == 0


@pytest.mark.one_python
def test_a_lane_that_gives_way_late_lets_its_worker_leave_in_order(
    make_forked: MakePool, forked_gate: Gate
) -> None:
    """It has been replaced already, and is not killed."""
    pool = make_forked(1, threads=2, timeout_grace=LIMIT_S, **forked_gate.arguments)
    other = pool.apply_async(tasks.wait_at_gate, (5,))
    forked_gate.wait_for_tasks()
    assert forked_gate.token.acquire(timeout=LIMIT_S)
    blocked = pool.apply_async(tasks.block_until_told, timeout=TIMEOUT_S)
    with pytest.raises(TaskTimeout):
        blocked.get(LIMIT_S)
    wait_until(lambda: pool.stats()["workers"] == 2, "the next worker")
    forked_gate.token.release()
    forked_gate.open()
    assert other.get(LIMIT_S) == 5
    wait_until(lambda: pool.stats()["replaced"] == 1, "the end of the old worker")
    assert [grave.exitcode for grave in pool._engine.graves] == [0]


@pytest.mark.one_python
def test_what_does_not_finish_in_time_is_lost_and_says_why(
    make_forked: MakePool, forked_gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other lanes have so long and not longer; the certificate names the task that did not let go."""
    monkeypatch.setattr(laned, "FINISH_S", 0.2)
    pool = make_forked(1, threads=2, timeout_grace=0.05, **forked_gate.arguments)
    other = pool.apply_async(tasks.wait_at_gate, (5,))
    forked_gate.wait_for_tasks()
    blocked = pool.apply_async(tasks.block, timeout=TIMEOUT_S)
    with pytest.raises(TaskTimeout):
        blocked.get(LIMIT_S)
    with pytest.raises(
        WorkerDied, match=f"because task {blocked.info.id} in its lane . did not let go"
    ):
        other.get(LIMIT_S)
    assert pool.apply(tasks.pid_of, (0,))


@pytest.mark.parametrize("naps", [False, True], ids=["bytecode", "naps"])
def test_an_exception_never_hits_another_task(make_forked: MakePool, naps: bool) -> None:
    """Tasks that last about as long as their timeout end once each; tasks beside them are never hit."""
    limit_s, chance = 0.01, random.Random(7)
    pool = make_forked(2, threads=LANES)
    timed, free = [], []
    for number in range(240):
        if number % 3 == 2:
            free.append((number, pool.apply_async(tasks.last, (number, limit_s, naps))))
        else:
            lasts_s = limit_s * chance.uniform(0.7, 1.1)
            one = pool.apply_async(tasks.last, (number, lasts_s, naps), timeout=limit_s)
            timed.append((number, one))
    assert all(result.get(LIMIT_S) == number for number, result in free)
    ends: Counter[str] = Counter()
    for number, result in timed:
        try:
            assert result.get(LIMIT_S) == number
            ends["done"] += 1
        except TaskTimeout:
            ends["timeout"] += 1
    stats = pool.stats()
    assert stats["timeout"] == ends["timeout"] > 0
    assert stats["done"] == ends["done"] + len(free)
    assert stats["failed"] == stats["lost"] == stats["deaths"] == 0
    check_ledger(pool)


@pytest.mark.one_python
def test_cancelled_while_they_begin_and_end(make_forked: MakePool) -> None:
    """Cancelling at any moment ends each task once, as a result or as cancelled."""
    pool = make_forked(2, threads=LANES)
    chance = random.Random(3)
    results = [pool.apply_async(tasks.last, (n, 0.002, False)) for n in range(300)]
    for number, result in enumerate(results):
        if chance.random() < 0.5:
            result.cancel()
        if number % 40 == 0:
            result.wait(LIMIT_S)
    ends: Counter[str] = Counter()
    for number, result in enumerate(results):
        try:
            assert result.get(LIMIT_S) == number
            ends["done"] += 1
        except TaskCancelled:
            ends["cancelled"] += 1
    stats = pool.stats()
    assert (stats["done"], stats["cancelled"]) == (ends["done"], ends["cancelled"])
    assert stats["deaths"] == stats["replaced"] == 0
    assert pool.map(tasks.pid_of, range(50), 1)


@pytest.mark.one_python
def test_timeouts_with_retries_run_again_and_end_once(make_forked: MakePool) -> None:
    """What ran out of time may be tried anew, in another lane perhaps; its late end counts for nothing."""
    pool = make_forked(1, threads=LANES)
    results = [
        pool.apply_async(
            tasks.last, (n, 0.011, n % 2 == 0), timeout=0.01, retries=3, retry_on=TaskTimeout
        )
        for n in range(60)
    ]
    ends: Counter[str] = Counter()
    for number, result in enumerate(results):
        try:
            assert result.get(LIMIT_S) == number
            ends["done"] += 1
        except TaskTimeout:
            assert result.info.attempts == 4
            ends["timeout"] += 1
    stats = pool.stats()
    assert (stats["done"], stats["timeout"]) == (ends["done"], ends["timeout"])
    assert stats["failed"] == stats["lost"] == 0


@pytest.mark.one_python
def test_kills_at_any_moment_lose_nothing(make_forked: MakePool) -> None:
    """Workers that are killed again and again: each task ends exactly once, with its own value."""
    pool = make_forked(2, threads=LANES)
    results = [pool.apply_async(tasks.last, (n, 0.005, True), retries=50) for n in range(400)]
    chance = random.Random(1)
    for at in range(0, 400, 40):
        results[at].wait(LIMIT_S)
        victim = chance.choice(pool._pool)
        with contextlib.suppress(ProcessLookupError):  # it has been killed already
            os.kill(victim.pid or NOBODY, signal.SIGKILL)
    assert [result.get(LIMIT_S) for result in results] == list(range(400))
    assert pool.stats()["done"] == 400


def test_terminate_with_all_lanes_busy(make: MakePool, gate: Gate) -> None:
    """The pool ends soon, whatever its lanes are at."""
    pool = make(2, threads=LANES, **gate.arguments)
    results = [pool.apply_async(tasks.wait_at_gate, (n,)) for n in range(3 * LANES)]
    gate.wait_for_tasks(2 * LANES)
    begun = time.monotonic()
    pool.terminate()
    pool.join()
    assert time.monotonic() - begun < 5
    for result in results:
        with pytest.raises(TaskCancelled):
            result.get(LIMIT_S)
