"""Where the time of a worker goes, and how far a task says to be: as pictures tell it."""

from __future__ import annotations

import dataclasses
import itertools
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import time_tasks as tasks

import glasspool
from glasspool.engines.local.scoreboard import Board, process_start_ticks
from glasspool.observe import outside
from glasspool.snapshot import PoolInfo, ProcessInfo, WorkerTime
from pools import wait_until

PARTS = 0.05
"""The parts of a worker's time add up to its life as well as this."""

LATE_S = 0.09
"""So much later than it should a sleep may end on a busy machine."""

SLACK_S = 0.02
"""A process starts at a tick of 10 ms."""


def workers(pool: glasspool.Pool) -> dict[int, ProcessInfo]:
    """Return the workers of a pool, by pid."""
    return {worker.pid: worker for worker in pool.inspect().workers}


def the_worker(pool: glasspool.Pool) -> ProcessInfo:
    """Return the worker of a pool of one."""
    (worker,) = pool.inspect().workers
    return worker


def from_the_board(pool: glasspool.Pool) -> PoolInfo:
    """Return the picture that somebody takes who has only the scoreboard."""
    board = Board.open(Path(pool._engine.board.file))
    try:
        seen = outside.pool_of_board(board)
    finally:
        board.close()
    assert seen is not None
    return seen


def time_of(worker: ProcessInfo, taken_s: float | None = None) -> WorkerTime:
    """Return the account of a worker, which must add up to its life.

    Args:
        worker: As a picture tells it.
        taken_s: When it was about to be taken, by the clock of ``now_s``; None: just now, or a bit before.
    """
    spent = worker.time
    assert spent is not None
    assert all(part >= 0 for part in dataclasses.astuple(spent))
    started_s = process_start_ticks(worker.pid) / os.sysconf("SC_CLK_TCK")
    first = now_s() - LATE_S if taken_s is None else taken_s
    least, most = first - started_s, now_s() - started_s
    # The kernel counts from the end of the fork, which takes its time where the program is large.
    assert least * (1 - PARTS) - SLACK_S <= spent.whole_s <= most * (1 + PARTS) + LATE_S, spent
    return spent


def now_s() -> float:
    """Return the time since the machine was started, as the kernel counts the starts of processes."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def check_all(pool: glasspool.Pool) -> None:
    """Check that the parts add up, whoever looks."""
    for look in (lambda: pool.inspect().pools[0], lambda: from_the_board(pool)):
        begun_s = now_s()
        for worker in look().workers:
            time_of(worker, begun_s)


def test_the_parts_of_a_workers_time_add_up(make):
    """At rest, after short and long tasks, in the middle of one: each instant is in exactly one part."""
    pool = make(2)
    assert all(worker.time is not None for worker in pool.inspect().workers)
    wait_until(lambda: [w.state for w in pool.inspect().workers] == ["idle"] * 2, "workers at rest")
    check_all(pool)
    pool.map(tasks.increment, range(5000), 1)
    pool.map(tasks.increment, range(5000), 100)
    check_all(pool)
    pool.map(tasks.sleep, [0.05] * 8, 1)
    check_all(pool)
    for number in range(300):
        pool.apply(tasks.increment, (number,))
    check_all(pool)
    pool.map(tasks.give_back, [bytes(3_000_000)] * 4, 1)
    with pytest.raises(LookupError):
        pool.apply(tasks.sleep_and_raise, (0.02,))
    check_all(pool)
    running = pool.map_async(tasks.sleep, [0.3] * 2, 1)
    while not running.ready():
        check_all(pool)
        running.wait(0.05)
    check_all(pool)


def test_each_part_is_what_it_is_called(make):
    """Initializer, waiting, receiving, running and sending are told apart, also while they last."""
    pool = make(1, time.sleep, (0.1,))
    pool.apply(tasks.give_back, (tasks.SlowToMove(0, 0, os.getpid()),))  # imports what it needs
    pool.apply(tasks.sleep, (0.001,))
    wait_until(lambda: time_of(the_worker(pool)).sending_s > 0, "an account")
    before = time_of(the_worker(pool))
    assert before.initializer_s == pytest.approx(0.1, abs=LATE_S)
    slow = tasks.SlowToMove(0.2, 0.3, os.getpid())
    result = pool.apply_async(tasks.give_back, (slow,))
    seen: list[WorkerTime] = []
    while not result.ready():
        seen.append(time_of(the_worker(pool)))
        result.wait(0.02)
    pool.apply(tasks.sleep, (0.1,))
    spent = time_of(the_worker(pool))
    assert spent.receiving_s - before.receiving_s == pytest.approx(0.2, abs=LATE_S)
    assert spent.sending_s - before.sending_s == pytest.approx(0.3, abs=LATE_S)
    assert spent.running_s - before.running_s == pytest.approx(0.1, abs=LATE_S)
    assert spent.exit_s == 0.0
    for earlier, later in itertools.pairwise(seen):
        # What has been spent stays spent as what it was.
        assert later.receiving_s >= earlier.receiving_s - SLACK_S / 10
        assert later.sending_s >= earlier.sending_s - SLACK_S / 10
        assert later.running_s - before.running_s < LATE_S


def test_a_pool_at_rest_waits(make_forked):
    """What an idle worker does is waiting, and nothing else grows."""
    pool = make_forked(1)
    pool.apply(tasks.sleep, (0.01,))
    wait_until(lambda: time_of(the_worker(pool)).sending_s > 0, "an account")
    first = time_of(the_worker(pool))
    time.sleep(0.2)
    then = time_of(the_worker(pool))
    assert then.waiting_s - first.waiting_s == pytest.approx(0.2, abs=LATE_S)
    assert then.running_s == first.running_s
    assert then.start_s == first.start_s


def grave_of(pool: glasspool.Pool, pid: int) -> ProcessInfo:
    """Wait for the end of a worker, and return what the pool knows of it then."""

    def ended() -> list[ProcessInfo]:
        return [one for one in pool.inspect().pools[0].ended if one.pid == pid]

    wait_until(lambda: bool(ended()), "a worker that has ended")
    return ended()[0]


def test_a_worker_that_was_killed_keeps_its_account(make_forked):
    """What it did to its last moment is told, also when that was in the middle of a task."""
    pool = make_forked(1)
    begun = time.monotonic()
    (pid,) = workers(pool)
    result = pool.apply_async(tasks.sleep, (60.0,))
    wait_until(lambda: workers(pool)[pid].state == "busy", "a task that runs")
    wait_until(lambda: time.monotonic() - begun > 0.4, "some time")
    ran = time_of(workers(pool)[pid]).running_s
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(glasspool.WorkerDied):
        result.get(10)
    told = grave_of(pool, pid).time
    assert told is not None
    assert told.running_s == pytest.approx(ran, abs=LATE_S)
    assert told.exit_s == 0.0
    # Its life is what it was, and does not go on.
    assert grave_of(pool, pid).time == told


def test_a_worker_that_left_has_taken_time_to_leave(make_forked):
    """Exit functions are counted as the exit."""
    pool = make_forked(1, maxtasksperchild=1)
    pid = pool.apply(tasks.sleep_at_exit, (0.2,))
    told = grave_of(pool, pid).time
    assert told is not None
    assert told.exit_s == pytest.approx(0.2, abs=2 * LATE_S)
    assert told.running_s < SLACK_S


# Progress -----------------------------------------------------------------------------------------


def progress(pool: glasspool.Pool) -> list[Any]:
    """Return how far the running tasks say to be, as all pictures tell it."""
    picture = pool.inspect()
    of_threads = [t.task.progress for t in picture.threads if t.task is not None and t.is_main]
    open_tasks = [task.progress for task in picture.tasks if task.state == "running"]
    outside_tasks = [task.progress for task in from_the_board(pool).tasks]
    assert sorted(map(str, of_threads)) == sorted(map(str, open_tasks))
    assert sorted(map(str, of_threads)) == sorted(map(str, outside_tasks))
    return of_threads


def test_a_task_says_how_far_it_is(make, gate):
    """It stands in every picture, and at the result; with the task it goes."""
    pool = make(1, tasks.keep, gate.shared)
    for said in ((3, 10), (0.25, 1.0), (7, None), (0, 0)):
        result = pool.apply_async(tasks.report_and_wait, said)
        gate.wait_for_tasks(1)
        assert progress(pool) == [said]
        assert result.info.progress == said
        gate.event.semaphore.release()
        result.get(10)
        assert result.info.progress is None
    next_one = pool.apply_async(tasks.wait_at_gate)
    gate.wait_for_tasks(1)
    assert progress(pool) == [None]  # another task's word is never told for this one
    gate.event.semaphore.release()
    next_one.get(10)


def test_items_of_a_chunk_speak_for_themselves(make_forked, forked_gate):
    """What one item said is not told for the next."""
    pool = make_forked(1, tasks.keep, forked_gate.shared)
    result = pool.map_async(tasks.report_if_even, range(4), 4)
    for number in range(4):
        forked_gate.wait_for_tasks(1)
        assert progress(pool) == [(number, 10) if number % 2 == 0 else None]
        forked_gate.event.semaphore.release()
    result.get(10)


def test_a_fork_of_a_task_is_not_the_task(make_forked, forked_gate):
    """A process that a task forked says nothing for the task."""
    pool = make_forked(1, tasks.keep, forked_gate.shared)
    result = pool.apply_async(tasks.report_in_a_fork, (5,))
    forked_gate.wait_for_tasks(1)
    assert progress(pool) == [(5, None)]
    forked_gate.event.semaphore.release()
    result.get(10)


def test_threads_of_a_task_may_speak(make_forked, forked_gate):
    """Several at once do no harm."""
    pool = make_forked(1, tasks.keep, forked_gate.shared)
    result = pool.apply_async(tasks.report_from_threads, (500,))
    while not forked_gate.started.acquire(timeout=0.002):
        for task in pool.inspect().tasks:  # whole words only
            said = task.progress
            assert said is None or (said[0] < 500 or said == (500, 500))
    assert progress(pool) == [(500, 500)]
    forked_gate.event.semaphore.release()
    result.get(10)


def test_a_word_on_the_progress_costs_microseconds(make_forked):
    """It may be said in a loop."""
    assert min(make_forked(1).map(tasks.cost_of_reports, [2000] * 5, 1)) < 2e-5


BAD = [
    (("3", None), "TypeError: done must be a number, not str"),
    ((None, 3), "TypeError: done must be a number, not NoneType"),
    ((1, b"2"), "TypeError: total must be a number, not bytes"),
    ((-1, None), "ValueError: done must be 0 or more, not -1"),
    ((1, -2.5), "ValueError: total must be 0 or more, not -2.5"),
    ((float("nan"), None), "ValueError: done must be 0 or more, not nan"),
    ((1, float("inf")), "ValueError: total must be 0 or more, not inf"),
]


def test_bad_words_on_the_progress_are_refused(make_forked):
    """They raise in the task, and outside of one just the same."""
    pool = make_forked(1)
    for (done, total), error in BAD:
        assert pool.apply(tasks.refused, (done, total)) == error
        assert tasks.refused(done, total) == error


def test_outside_a_task_nothing_is_said():
    """The call returns quietly in any process that runs no task."""
    assert glasspool.report_progress(3, 4) is None
