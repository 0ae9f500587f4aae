"""Timeouts, cancellation and retries: only the task concerned ends, soon, and exactly once.

The error is due 250 ms after the deadline; what is asserted leaves room for a loaded machine
(``bench/torture.py`` shows how long it takes).
"""

from __future__ import annotations

import math
import os
import pickle
import random
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import fault_tasks as tasks
import limit_tasks
import pytest

import glasspool
from gates import Gate
from pools import LIMIT_S, MakePool, check_ledger, wait_until

TIMEOUT_S = 0.25
SOON_S = 1.5
GRACE_S = 0.1

STUCK = (
    limit_tasks.sleep,
    limit_tasks.loop,
    limit_tasks.wait_for_a_lock,
    limit_tasks.loop_in_c,
    limit_tasks.catch_everything,
    limit_tasks.block_all_signals,
    limit_tasks.return_slowly,
)


def name_of(function: Callable[..., object]) -> str:
    """Return the name of a function, as the name of a test."""
    return function.__name__


def works(pool: glasspool.Pool, size: int) -> None:
    """Check that a pool has its size, runs tasks, and holds nothing."""
    assert pool.map(tasks.square, range(100), chunksize=1) == [i * i for i in range(100)]
    wait_until(lambda: pool.stats()["idle"] == size, f"{size} workers at rest")
    check_ledger(pool)


def ended(pool: glasspool.Pool, how: str) -> int:
    """Return how many tasks of a pool ended in one way."""
    return pool.stats()[how]


def spin_until(moment: float) -> None:
    """Wait awake: some microseconds are too short for a sleep."""
    while time.perf_counter() < moment:
        pass


# Timeouts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stuck", STUCK, ids=name_of)
def test_a_task_that_does_not_end(make_forked: MakePool, stuck: Callable[[], object]) -> None:
    """The caller has the error soon after the deadline, whatever holds the task; others are unharmed."""
    pool = make_forked(2, timeout_grace=GRACE_S)
    pool.map(tasks.square, range(8), chunksize=1)
    begun = time.monotonic()
    late = pool.apply_async(stuck, timeout=TIMEOUT_S)
    others = pool.map_async(tasks.square, range(50), chunksize=1)
    with pytest.raises(glasspool.TaskTimeout) as caught:
        late.get(LIMIT_S)
    took = time.monotonic() - begun
    assert TIMEOUT_S <= took < TIMEOUT_S + SOON_S
    assert isinstance(caught.value, TimeoutError)
    assert str(TIMEOUT_S) in str(caught.value)
    assert stuck.__name__ in str(caught.value)
    assert late.info.state == "timeout"
    assert others.get(LIMIT_S) == [i * i for i in range(50)]
    works(pool, 2)
    assert ended(pool, "timeout") == 1
    assert ended(pool, "lost") == 0


def test_the_c_loop_under_each_start_method(make: MakePool) -> None:
    """A worker that resists is replaced, however it was started, and is gone in the end."""
    pool = make(1, timeout_grace=GRACE_S)
    victim = pool.apply(tasks.pid)
    with pytest.raises(glasspool.TaskTimeout):
        pool.apply(limit_tasks.loop_in_c, timeout=TIMEOUT_S)
    works(pool, 1)
    assert pool.apply(tasks.pid) != victim
    wait_until(lambda: not Path(f"/proc/{victim}").exists(), "the old worker is gone")


def test_the_error_says_where_it_was_in_c(make_forked: MakePool) -> None:
    """Also inside a C call that holds the GIL: the worker is to be killed, so ``faulthandler`` may look."""
    pool = make_forked(1, timeout_grace=GRACE_S)
    with pytest.raises(glasspool.TaskTimeout) as caught:
        pool.apply(limit_tasks.loop_in_c, timeout=TIMEOUT_S)
    assert caught.value.stack is not None
    assert [frame.function for frame in caught.value.stack] == ["loop_in_c"]


def test_the_error_says_where_it_was(make_forked: MakePool) -> None:
    """The stack of the stuck task is on the error and in its traceback, without calls of ours."""
    pool = make_forked(1)
    with pytest.raises(glasspool.TaskTimeout) as caught:
        pool.apply(limit_tasks.stuck_at, (7, 7), timeout=TIMEOUT_S)
    error = caught.value
    assert error.stack is not None
    assert [frame.function for frame in error.stack] == ["stuck_at"]
    assert "stuck_at" in error.__notes__[0]
    assert pickle.loads(pickle.dumps(error)).stack == error.stack


@pytest.mark.parametrize("chunksize", [1, 4, None])
def test_only_one_item_of_a_chunk_is_late(make_forked: MakePool, chunksize: int | None) -> None:
    """A timeout counts for each item: the others of its chunk keep their results."""
    pool = make_forked(2)
    numbers = range(12)
    result = pool.map_async(limit_tasks.third_is_stuck, numbers, chunksize, timeout=TIMEOUT_S)
    with pytest.raises(glasspool.TaskTimeout):
        result.get(LIMIT_S)
    states = [info.state for info in result.info.tasks]
    assert states == ["done", "done", "done", "timeout"] + ["done"] * 8
    iterator = pool.imap(limit_tasks.third_is_stuck, numbers, chunksize or 3, timeout=TIMEOUT_S)
    values: list[Any] = []
    for _ in numbers:
        try:
            values.append(next(iterator))
        except glasspool.TaskTimeout:
            values.append("late")
    assert values == [0, 1, 2, "late", *range(4, 12)]
    pairs = [(3, value) for value in numbers]
    with pytest.raises(glasspool.TaskTimeout):
        pool.starmap(limit_tasks.stuck_at, pairs, chunksize, timeout=TIMEOUT_S)
    works(pool, 2)


def test_a_timeout_for_all_calls(make_forked: MakePool) -> None:
    """The pool's timeout holds for each call that names no other; infinity is none."""
    pool = make_forked(1, timeout=TIMEOUT_S)
    with pytest.raises(glasspool.TaskTimeout):
        pool.apply(limit_tasks.sleep)
    assert pool.apply(limit_tasks.last_for, (TIMEOUT_S * 1.5,), timeout=math.inf)
    assert pool.apply(limit_tasks.last_for, (TIMEOUT_S * 1.5,), timeout=LIMIT_S)


def test_waiting_is_not_running(make_forked: MakePool) -> None:
    """The time counts from the begin of the task, not from its submission."""
    pool = make_forked(1)
    results = [pool.apply_async(limit_tasks.last_for, (0.1,), timeout=TIMEOUT_S) for _ in range(5)]
    assert [result.get(LIMIT_S) for result in results] == [0.1] * 5


def test_tasks_that_last_about_as_long_as_they_may(make_forked: MakePool) -> None:
    """Whoever wins the race, each task ends once, as a value or as a timeout, and no other is hit."""
    pool = make_forked(2)
    limit_s = 0.003
    raced = [
        pool.apply_async(limit_tasks.last_for, (limit_s * share / 100,), timeout=limit_s)
        for share in range(60, 140)
    ]
    free = [pool.apply_async(tasks.square, (number,)) for number in range(200)]
    ends = {"done": 0, "timeout": 0}
    for result in raced:
        try:
            result.get(LIMIT_S)
            ends["done"] += 1
        except glasspool.TaskTimeout:
            ends["timeout"] += 1
    assert [result.get(LIMIT_S) for result in free] == [number**2 for number in range(200)]
    assert ended(pool, "timeout") == ends["timeout"]
    assert ended(pool, "done") == ends["done"] + 200
    works(pool, 2)


def test_many_resist_at_once(make_forked: MakePool) -> None:
    """While the old workers are on their way out, each slot has a new one that works."""
    pool = make_forked(2, timeout_grace=0.5)
    late = [pool.apply_async(limit_tasks.loop_in_c, timeout=0.1) for _ in range(8)]
    for result in late:
        with pytest.raises(glasspool.TaskTimeout):
            result.get(LIMIT_S)
    works(pool, 2)


@pytest.mark.parametrize(
    ("keyword", "value", "error"),
    [
        ("timeout", 0, ValueError),
        ("timeout", -1, ValueError),
        ("timeout", math.nan, ValueError),
        ("timeout", "soon", TypeError),
        ("timeout_grace", -1, ValueError),
        ("retries", -1, ValueError),
        ("retries", 1.5, TypeError),
        ("retry_on", "OSError", TypeError),
        ("retry_on", (OSError, 3), TypeError),
        ("start_timeout", 0, ValueError),
        ("stall_after", -3, ValueError),
        ("finalizer", 3, TypeError),
        ("max_memory", 0, ValueError),
        ("max_memory_hard", "1 GB", TypeError),
    ],
)
def test_bad_limits(
    make_forked: MakePool, keyword: str, value: Any, error: type[Exception]
) -> None:
    """The message names the argument; a pool that is there stays usable."""
    with pytest.raises(error, match=keyword):
        make_forked(1, **{keyword: value})
    if keyword in ("timeout", "retries", "retry_on"):
        pool = make_forked(1)
        for call in (pool.apply, pool.apply_async):
            with pytest.raises(error, match=keyword):
                call(tasks.square, (3,), **{keyword: value})
        for call in (pool.map, pool.map_async, pool.imap, pool.imap_unordered):
            with pytest.raises(error, match=keyword):
                call(tasks.square, [3], **{keyword: value})
        assert pool.apply(tasks.square, (3,)) == 9


# Cancellation -------------------------------------------------------------------------------------


def test_a_waiting_task_is_cancelled(make: MakePool, gate: Gate) -> None:
    """It never begins, though it may have been sent; the others run."""
    pool = make(1, **gate.arguments)
    first = pool.apply_async(tasks.started_then_wait)
    gate.wait_for_tasks()
    behind = [pool.apply_async(tasks.square, (number,)) for number in range(6)]
    assert behind[2].cancel()
    assert behind[5].cancel()
    for number in (2, 5):
        with pytest.raises(glasspool.TaskCancelled, match="before it began"):
            behind[number].get(LIMIT_S)
        assert behind[number].info.state == "cancelled"
    gate.open()
    first.get(LIMIT_S)
    assert [behind[number].get(LIMIT_S) for number in (0, 1, 3, 4)] == [0, 1, 9, 16]
    assert not behind[0].cancel()
    assert behind[0].get() == 0
    assert not behind[2].cancel()


@pytest.mark.parametrize("stuck", STUCK, ids=name_of)
def test_a_running_task_is_cancelled(make_forked: MakePool, stuck: Callable[[], object]) -> None:
    """It ends soon, whatever holds it, and calls its error callback."""
    pool = make_forked(2, timeout_grace=GRACE_S)
    errors: list[BaseException] = []
    result = pool.apply_async(stuck, error_callback=errors.append)
    wait_until(lambda: result.info.state == "running", "it runs")
    begun = time.monotonic()
    assert result.cancel()
    result.cancel()
    with pytest.raises(glasspool.TaskCancelled):
        result.get(LIMIT_S)
    assert time.monotonic() - begun < SOON_S
    assert [type(error) for error in errors] == [glasspool.TaskCancelled]
    works(pool, 2)
    assert ended(pool, "cancelled") == 1


def test_a_cancellation_in_the_moment_of_the_begin(make_forked: MakePool) -> None:
    """It is not lost where the task is taken back just as it seems to have begun."""
    pool = make_forked(2)
    for number in range(400):
        result = pool.apply_async(limit_tasks.sleep)
        spin_until(time.perf_counter() + number % 40 * 1e-5)
        result.cancel()
        with pytest.raises(glasspool.TaskCancelled):
            result.get(LIMIT_S)
    works(pool, 2)


def test_a_map_is_cancelled(make_forked: MakePool, forked_gate: Gate) -> None:
    """Its running items are interrupted, its waiting ones never begin; other jobs go on."""
    pool = make_forked(2, **forked_gate.arguments)
    result = pool.map_async(_ignore_and_wait, range(1000), chunksize=1)
    forked_gate.wait_for_tasks(2)
    other = pool.map_async(tasks.square, range(20))
    assert result.cancel()
    with pytest.raises(glasspool.TaskCancelled):
        result.get(LIMIT_S)
    assert other.get(LIMIT_S) == [i * i for i in range(20)]
    assert not forked_gate.started.acquire(timeout=0.05), "an item began after all"
    assert result.info.state == "cancelled"
    works(pool, 2)


def test_an_imap_is_cancelled(make_forked: MakePool, forked_gate: Gate) -> None:
    """What has arrived can be read, then comes the error, then the end."""
    pool = make_forked(2, **forked_gate.arguments)
    iterator = pool.imap(_wait_from_third_on, iter(range(1000)))
    assert [next(iterator), next(iterator)] == [0, 1]
    forked_gate.wait_for_tasks(2)
    assert iterator.cancel()
    with pytest.raises(glasspool.TaskCancelled):
        list(iterator)
    assert not iterator.cancel()
    works(pool, 2)


def _ignore_and_wait(value: int) -> int:
    return tasks.started_then_wait()


def _wait_from_third_on(value: int) -> int:
    return value if value < 2 else tasks.started_then_wait()


@pytest.mark.parametrize("seed", range(3))
def test_cancelling_at_random(make_forked: MakePool, seed: int) -> None:
    """Each task ends once: with its own value, or as cancelled; nothing is lost or run twice."""
    pool = make_forked(3)
    dice = random.Random(seed)
    results = [
        pool.apply_async(partial(limit_tasks.stuck_at, -1), (number,))
        if dice.random() < 0.5
        else pool.apply_async(limit_tasks.last_for, (number / 1e6,))
        for number in range(400)
    ]
    for result in dice.sample(results, 150):
        result.cancel()
    ends = {"done": 0, "cancelled": 0}
    for number, result in enumerate(results):
        try:
            assert result.get(LIMIT_S) in (number, number / 1e6)
            ends["done"] += 1
        except glasspool.TaskCancelled:
            ends["cancelled"] += 1
    assert {how: ended(pool, how) for how in ends} == ends
    works(pool, 3)


# Retries ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("way", "named"),
    [
        ("dies", ()),
        ("raises", OSError),
        ("exits", glasspool.TaskExit),
        ("exits", (KeyError, SystemExit)),
        ("is stuck", TimeoutError),
    ],
    ids=str,
)
def test_it_works_at_the_third_attempt(
    make: MakePool, tmp_path: Path, way: str, named: Any
) -> None:
    """What went wrong is tried anew, and the task learns which attempt it is."""
    pool = make(2)
    timeout = 0.5 if way == "is stuck" else math.inf
    result = pool.apply_async(
        limit_tasks.works_at_last,
        (way, 2, str(tmp_path)),
        retries=2,
        retry_on=named,
        timeout=timeout,
    )
    assert result.get(LIMIT_S) == 3
    assert result.info.attempts == 3
    assert result.info.state == "done"
    assert pool.apply(limit_tasks.attempt) == 1
    works(pool, 2)


def test_a_task_that_kills_each_worker(make_forked: MakePool, tmp_path: Path) -> None:
    """It is given up after so many attempts, and the certificate tells their number."""
    pool = make_forked(2, retries=2)
    with pytest.raises(glasspool.WorkerDied) as caught:
        pool.apply(limit_tasks.works_at_last, ("dies", 99, str(tmp_path)))
    assert caught.value.certificate.attempts == 3
    assert len(list(tmp_path.iterdir())) == 3
    works(pool, 2)
    assert pool.stats()["deaths"] == 3
    assert ended(pool, "lost") == 1


@pytest.mark.parametrize("named", [(), KeyError, glasspool.TaskTimeout], ids=str)
def test_errors_that_are_not_named(make_forked: MakePool, tmp_path: Path, named: Any) -> None:
    """A task's own error is its result at once, unless it was named."""
    pool = make_forked(1)
    arguments = ("raises", 9, str(tmp_path))
    with pytest.raises(FileNotFoundError):
        pool.apply(limit_tasks.works_at_last, arguments, retries=5, retry_on=named)
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(FileNotFoundError):
        pool.apply(limit_tasks.works_at_last, arguments, retries=1, retry_on=OSError)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_map_with_retries(make_forked: MakePool) -> None:
    """Workers that are killed cost a map with retries nothing but time."""
    pool = make_forked(3, retries=3)
    result = pool.map_async(tasks.square, range(3000), chunksize=10)
    # Each one once: a worker that was killed is listed until it has been buried.
    for victim in {process.pid for process in pool._pool if process.pid}:
        os.kill(victim, signal.SIGKILL)
    assert result.get(LIMIT_S) == [i * i for i in range(3000)]
    assert ended(pool, "lost") == 0
    works(pool, 3)
