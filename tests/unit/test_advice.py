"""Advice: each rule speaks where something can be won, and is silent where it only looks like it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from glasspool.observe.advice import advise
from glasspool.observe.records import Recording
from glasspool.snapshot import ThreadInfo, WorkerTime
from recordings import (
    BEGUN,
    MS,
    US,
    S,
    certificate,
    even_time,
    recording,
    row_of_tasks,
    span,
    task,
    worker,
)

PROCESSORS = 4
MEMORY = 16 * 10**9


def _names(*recordings: Recording) -> list[str]:
    return [one.name for one in advise(recordings, PROCESSORS, MEMORY)]


def _figure(name: str, *recordings: Recording) -> str:
    found = [one for one in advise(recordings, PROCESSORS, MEMORY) if one.name == name]
    assert len(found) == 1, found
    return found[0].figure


def test_a_healthy_pool_gets_no_advice() -> None:
    """Tasks of a good length that keep all workers busy: there is nothing to say."""
    assert _names(recording(row_of_tasks(4, 400, 20 * MS, 100 * US))) == []


def test_a_pool_without_tasks_gets_no_advice() -> None:
    """A pool that nobody used is no slow pool."""
    assert _names(recording([], lasted_ns=10 * S)) == []


# Chunks --------------------------------------------------------------------------------------------


def test_many_short_tasks() -> None:
    """The figure is what a task costs beside its running."""
    seen = recording(row_of_tasks(4, 24_000, 2 * US, 18 * US, submitted_ns=BEGUN))
    assert _names(seen) == ["chunks-too-small"]
    assert "24,000 tasks ran for 2 µs" in _figure("chunks-too-small", seen)
    assert "18 µs more" in _figure("chunks-too-small", seen)


def test_many_short_tasks_one_after_the_other() -> None:
    """A caller who waits for each of them keeps one worker at a time: only its time counts."""
    tasks = [
        task(at, at % 4, at * 50 * US, 2 * US, submitted_ns=BEGUN + at * 50 * US - 20 * US)
        for at in range(24_000)
    ]
    assert "20 µs more" in _figure("chunks-too-small", recording(tasks))


def test_short_tasks_of_which_the_ring_tells() -> None:
    """Where nobody knows when tasks were submitted, what lies between them tells the same."""
    tasks = row_of_tasks(4, 4000, 2 * US, 18 * US, submitted_ns=None, received_ns=None)
    seen = recording(tasks, source="ring", lost=100_000)
    assert "18 µs more" in _figure("chunks-too-small", seen)


@pytest.mark.parametrize(
    ("count", "run", "gap"),
    [(10_000, 100 * US, 10 * US), (500, 2 * US, 18 * US), (2_000, 20 * MS, 30 * MS)],
    ids=["little overhead", "few of them", "long ones"],
)
def test_no_shorter_than_they_should_be(count: int, run: int, gap: int) -> None:
    """Tasks that run much longer than they cost, few, or long ones, are not too short."""
    seen = recording(row_of_tasks(4, count, run, gap, submitted_ns=BEGUN))
    assert "chunks-too-small" not in _names(seen)


def test_short_tasks_that_come_slowly() -> None:
    """A program that submits a short task now and then is not told to make chunks."""
    tasks = [task(at, at % 4, at * 20 * MS, 5 * US) for at in range(1000)]
    assert _names(recording(tasks)) == []


# The iterable --------------------------------------------------------------------------------------


def _drawn(run: int, drawing: int, count: int = 100) -> Recording:
    """One task after the other, as the iterable gives them; each drawn for so long."""
    tasks = [task(at, at % 4, (at + 1) * drawing, run) for at in range(count)]
    spans = [span("iterable", at * drawing, drawing) for at in range(count)]
    return recording(tasks, spans=spans)


def test_workers_starved_by_the_iterable() -> None:
    """The iterable gives an item each 50 ms, which four workers do in a fifth of that."""
    seen = _drawn(10 * MS, 50 * MS)
    assert _names(seen) == ["starved-by-iterable"]
    assert "its thread drew items for 5.0 s" in _figure("starved-by-iterable", seen)


def test_an_iterable_that_keeps_up() -> None:
    """An iterable that is busy all the time while the workers are, too, is no bottleneck."""
    assert _names(_drawn(200 * MS, 50 * MS)) == []


def test_workers_that_wait_while_nothing_is_drawn() -> None:
    """Idle workers alone do not blame the iterable."""
    tasks = [task(at, at % 4, at * 50 * MS, 10 * MS) for at in range(100)]
    spans = [span("iterable", at * 50 * MS, MS) for at in range(100)]
    assert "starved-by-iterable" not in _names(recording(tasks, spans=spans))


# Callbacks -----------------------------------------------------------------------------------------


def _called_back(lasts: int, run: int, count: int = 100) -> Recording:
    tasks = row_of_tasks(4, count, run)
    spans, free = [], 0
    for one in tasks:
        begun = max(free, (one.ended_ns or 0) - BEGUN)
        spans.append(span("callback", begun, lasts, job=one.job, function="store"))
        free = begun + lasts
    return recording(tasks, spans=spans, lasted_ns=free)


def test_callbacks_that_block() -> None:
    """Callbacks take longer than the tasks: results wait for them."""
    seen = _called_back(50 * MS, 20 * MS)
    assert "callback-blocking" in _names(seen)
    assert "100 callbacks (store) took 5.0 s of 5.0 s" in _figure("callback-blocking", seen)


def test_callbacks_that_keep_up() -> None:
    """A callback thread that is busy, but makes nobody wait, is doing its work."""
    assert "callback-blocking" not in _names(_called_back(50 * MS, 200 * MS))


# Data ----------------------------------------------------------------------------------------------


def _moved(bytes_each: int, moving_s: float) -> Recording:
    times = [
        WorkerTime(waiting_s=0.1, receiving_s=moving_s / 2, running_s=2.0, sending_s=moving_s / 2)
    ] * 4
    tasks = row_of_tasks(4, 400, 20 * MS, 100 * US, result_bytes=bytes_each)
    return recording(tasks, times=times)


def test_pickling_dominates() -> None:
    """Megabytes are moved for longer than the function runs."""
    seen = _moved(5_000_000, 2.0)
    assert _names(seen) == ["pickling-dominates"]
    assert "8.0 s for pickling, sending and rebuilding (5 MB a task)" in _figure(
        "pickling-dominates", seen
    )


def test_small_messages_do_not_dominate() -> None:
    """Time spent on small messages is the cost of many tasks, not of their data."""
    assert "pickling-dominates" not in _names(_moved(200, 2.0))


def test_large_messages_that_take_little() -> None:
    """Large results that travel quickly are fine."""
    assert _names(_moved(5_000_000, 0.1)) == []


# Processors and memory -----------------------------------------------------------------------------


def _native(pid: int, cpu_s: float, count: int) -> tuple[ThreadInfo, ...]:
    return tuple(
        ThreadInfo(
            pid, "w", "python", pid + at, ("native",), "running", python=False, cpu_s=cpu_s,
            library="libopenblas.so",
        )
        for at in range(1, count + 1)
    )  # fmt: skip


def _with_threads(count: int, cpu_s: float, workers: int = 4) -> Recording:
    seen = recording(row_of_tasks(workers, 100 * workers, 100 * MS, MS), workers)
    assert seen.picture is not None
    told = tuple(
        replace(
            one,
            busy_s=10.0,
            cpu_s=(10.0 * PROCESSORS / workers) if cpu_s else 0.5,
            threads=(*one.threads, *_native(one.pid, cpu_s, count)),
        )
        for one in seen.picture.workers
    )
    return replace(seen, picture=replace(seen.picture, processes=told))


def test_native_threads_that_compete() -> None:
    """Four workers with four busy threads each, on four processors that they saturate."""
    seen = _with_threads(3, 2.5)
    assert _names(seen) == ["oversubscription"]
    assert "16 busy threads in 4 workers, 12 of them native (libopenblas.so)" in _figure(
        "oversubscription", seen
    )


def test_native_threads_that_stand_by() -> None:
    """Threads that a library started and that hardly run take nothing from anybody."""
    assert _names(_with_threads(8, 0.0)) == []


def test_more_workers_than_processors_that_wait() -> None:
    """Sixteen workers that mostly wait for a network do not compete."""
    assert _names(_with_threads(0, 0.0, workers=16)) == []


def test_more_workers_than_processors_that_compute() -> None:
    """Sixteen workers that compute all the time compete for four processors."""
    seen = _with_threads(0, 1.0, workers=16)
    assert _names(seen) == ["oversubscription"]


def test_memory() -> None:
    """Four workers with 4 GB each, on a machine with 16."""
    seen = recording(row_of_tasks(4, 400, 20 * MS))
    assert seen.picture is not None
    large = [worker(slot, even_time(2.0), rss_bytes=4 * 10**9) for slot in range(4)]
    assert _names(replace(seen, picture=replace(seen.picture, processes=tuple(large)))) == [
        "memory"
    ]


# Evenness ------------------------------------------------------------------------------------------


def test_uneven_work() -> None:
    """One task is left for the end, and three workers watch it."""
    tasks = [*row_of_tasks(4, 39, 100 * MS, job=1), task(40, 3, 900 * MS, 3 * S, job=1)]
    seen = recording(tasks)
    assert _names(seen) == ["uneven-work"]
    assert "the longest task took 3.0 s" in _figure("uneven-work", seen)


def test_many_jobs_with_even_ends() -> None:
    """That jobs follow each other, with a pause of the program's, is no uneven work."""
    tasks = [
        task(job * 40 + at, at % 4, job * 5 * S + at // 4 * 100 * MS, 100 * MS, job=job)
        for job in range(5)
        for at in range(40)
    ]
    assert _names(recording(tasks)) == []


def test_too_few_tasks() -> None:
    """Two chunks for four workers; there would be items for all."""
    seen = recording([task(at, at, 0, 3 * S, items=50, job=1) for at in range(2)])
    assert _names(seen) == ["too-few-tasks"]
    assert "2 tasks with 100 items for 4 workers" in _figure("too-few-tasks", seen)


def test_quick_workers_take_all() -> None:
    """That two of four workers were quick enough for all that came is no lack of tasks."""
    tasks = [task(at, at % 2, at * 20 * MS, 15 * MS) for at in range(100)]
    assert "too-few-tasks" not in _names(recording(tasks))


# Starting and dying --------------------------------------------------------------------------------


def _started(initializer_s: float, run_s: float) -> Recording:
    time = WorkerTime(start_s=0.1, initializer_s=initializer_s, running_s=run_s)
    tasks = [task(at, at, 0, int(run_s * S)) for at in range(4)]
    lasted = int((0.1 + initializer_s + run_s) * S)
    return recording(tasks, times=[time] * 4, lasted_ns=lasted, picture={"initializer": "load"})


def test_slow_start() -> None:
    """The initializer takes as long as the work."""
    seen = _started(3.0, 3.0)
    assert _names(seen) == ["slow-start"]
    assert "in load" in _figure("slow-start", seen)


def test_a_long_initializer_that_pays() -> None:
    """The same initializer before ten times as much work is worth it."""
    assert _names(_started(3.0, 30.0)) == []


def test_deaths() -> None:
    """A worker that died is told with what was lost, and with the advice of its certificate."""
    tasks = [
        *row_of_tasks(4, 100, 20 * MS),
        task(101, 1, 0, 0, status="lost", ended_ns=None, boxed_ns=None),
    ]
    seen = recording(tasks, deaths=(certificate(),))
    found = advise([seen], PROCESSORS, MEMORY)
    assert [one.name for one in found] == ["deaths"]
    assert found[0].what_to_do == "Look for who sent it."
    assert "1 worker died (most often: was killed by SIGKILL), 1 task was lost" in found[0].figure


def test_workers_replaced_on_purpose() -> None:
    """maxtasksperchild replaces workers: that is no death."""
    gone = worker(0, even_time(1.0), state="recycled", pid=990, reason="maxtasksperchild")
    seen = recording(row_of_tasks(4, 100, 20 * MS), picture={"ended": (gone,)})
    assert _names(seen) == []


def test_tasks_that_began_again() -> None:
    """Retries cost time even where nobody died."""
    tasks = row_of_tasks(4, 100, 20 * MS)
    tasks[5] = tasks[5]._replace(attempts=3)
    assert _names(recording(tasks)) == ["deaths"]


def test_a_queue_that_grows() -> None:
    """A thousand tasks with a megabyte each are submitted at once."""
    tasks = row_of_tasks(4, 1000, 20 * MS, submitted_ns=BEGUN, argument_bytes=1_000_000)
    seen = recording(tasks)
    assert _names(seen) == ["queue-grows"]
    assert "MB of arguments waited" in _figure("queue-grows", seen)


def test_a_long_queue_of_small_things() -> None:
    """A million small tasks that wait are no burden."""
    tasks = row_of_tasks(4, 1000, 20 * MS, submitted_ns=BEGUN, argument_bytes=100)
    assert _names(recording(tasks)) == []


def test_a_pool_in_a_loop() -> None:
    """The same line makes one pool after the other, and their starts add up."""
    assert "pools-again" in _names(*[_started(0.4, 1.0)] * 6)
    assert "pools-again" not in _names(*[_started(0.4, 1.0)] * 2)


@pytest.mark.parametrize("lost", [{"tasks": ()}, {"picture": None}, {"workers": ()}])
def test_what_is_not_known_breaks_no_rule(lost: dict[str, Any]) -> None:
    """A recording may lack its tasks, its picture or its workers."""
    seen = replace(recording(row_of_tasks(4, 100, 20 * MS)), **lost)
    assert isinstance(_names(seen), list)


def test_what_is_not_known_of_a_task_breaks_no_rule() -> None:
    """A task from a ring lacks what only the parent knows; one that was lost lacks its end."""
    bare = task(
        1, 0, 0, S, submitted_ns=None, received_ns=None, called_ns=None, boxed_ns=None, job=None
    )
    lost = task(2, 1, 0, S, status="lost", ended_ns=None)
    never = task(3, 0, 0, S, status="cancelled", begun_ns=None, ended_ns=None)
    never = never._replace(slot=None, pid=None)
    assert _names(recording([bare, lost, never], lasted_ns=S)) == ["too-few-tasks"]
