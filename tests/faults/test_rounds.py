"""Rounds (``run_on_all``): every worker, whenever it comes, makes each call once, whatever happens."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import round_tasks as tasks

import glasspool
from pools import LIMIT_S, MakePool, wait_until

only_fork = pytest.mark.parametrize("start_method", ["fork"], indirect=True, scope="session")


def all_noted(pool: glasspool.Pool) -> dict[int, tuple[object, ...]]:
    """Return what was called in each worker, asked by tasks until each has answered."""
    told: dict[int, tuple[object, ...]] = {}

    def is_complete() -> bool:
        told.update(pool.map(tasks.noted, range(50), chunksize=1))
        return {process.pid for process in pool._pool} <= told.keys()

    wait_until(is_complete, "an answer of each worker")
    return told


def test_present_and_future_workers_call_it_once(make: MakePool) -> None:
    """Those who are there return their values by slot; those who come later call it before their tasks."""
    pool = make(2, tasks.note_at_start)
    pids = pool.run_on_all(tasks.note, "a", marked=True)
    assert pids == [process.pid for process in pool._pool]
    assert len(pool.run_on_all(tasks.note, "b")) == 2
    pool.resize(3)
    with pytest.raises(glasspool.WorkerDied):
        pool.apply(tasks.kill_me)
    assert len(pool.run_on_all(lambda: tasks.note("c"))) == 3
    assert set(all_noted(pool).values()) == {("initializer", "a", "b", "c")}


def test_large_arguments_and_values_travel(make: MakePool) -> None:
    """What does not fit into a message does, in both directions."""
    pool = make(1)
    assert pool.run_on_all(len, bytes(3_000_000)) == [3_000_000]
    assert len(pool.run_on_all(tasks.large, 3_000_000)[0]) == 3_000_000


@only_fork
def test_replacements_of_recycled_workers_call_it(make: MakePool) -> None:
    """Each new worker of a pool with ``maxtasksperchild`` makes the rounds before its first task."""
    pool = make(2, maxtasksperchild=2)
    pool.run_on_all(tasks.note, "a")
    assert set(dict(pool.map(tasks.noted, range(20), chunksize=1)).values()) == {("a",)}


@only_fork
def test_a_busy_worker_calls_it_after_its_task_and_stops_nobody(
    make: MakePool, tmp_path: Path
) -> None:
    """The others go on with tasks while one is awaited."""
    pool = make(2)
    busy = pool.apply_async(tasks.touch_and_wait, (str(tmp_path),))
    wait_until((tmp_path / "running").exists, "the task runs")
    told: list[int] = []
    thread = threading.Thread(target=lambda: told.extend(pool.run_on_all(tasks.note, "a")))
    thread.start()
    free, noted = pool.apply(tasks.noted)
    while not noted:
        free, noted = pool.apply_async(tasks.noted).get(LIMIT_S)
    assert noted == ("a",)
    assert not told
    (tmp_path / "go").touch()
    assert busy.get(LIMIT_S) != free
    thread.join(LIMIT_S)
    assert set(told) == {free, busy.get()}


@only_fork
def test_callers_that_are_lent_workers_do_not_miss_it(make: MakePool) -> None:
    """Direct calls before, beside and after it: each worker makes each call once, in order."""
    pool = make(2)
    ended = threading.Event()

    def call() -> None:
        while not ended.is_set():
            assert pool.apply(abs, (-1,)) == 1

    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for index in range(50):
            assert len(set(pool.run_on_all(tasks.note, index))) == 2
    finally:
        ended.set()
        for thread in threads:
            thread.join(LIMIT_S)
    assert set(all_noted(pool).values()) == {tuple(range(50))}


@only_fork
def test_the_replacement_of_one_that_died_of_it_calls_it(make: MakePool, tmp_path: Path) -> None:
    """A death is not the end of the call."""
    pool = make(2)
    assert pool.run_on_all(tasks.die_once, str(tmp_path)) == ["alive", "alive"]
    assert pool.apply(abs, (-2,)) == 2


@only_fork
def test_what_it_raises_is_raised_and_later_workers_are_spared(make: MakePool) -> None:
    """A call that failed is not made by workers that come later."""
    pool = make(2)
    with pytest.raises(LookupError, match="no such thing"):
        pool.run_on_all(tasks.raise_lookup)
    with pytest.raises(glasspool.TaskExit):
        pool.run_on_all(tasks.exit_with, 3)
    with pytest.raises(glasspool.SerializationError):
        pool.run_on_all(threading.Lock)
    with pytest.raises(glasspool.WorkerDied):
        pool.apply(tasks.kill_me)
    assert pool.map(abs, [-1, -2]) == [1, 2]
    with pytest.raises(TypeError, match="takes a callable, not int"):
        pool.run_on_all(3)  # type: ignore[arg-type]


@only_fork
def test_a_failure_in_a_later_worker_is_one_of_the_initializer(
    make: MakePool, tmp_path: Path
) -> None:
    """A worker that cannot make a round has failed to start; when none can, the pool says so."""
    path = tmp_path / "needed"
    path.touch()
    pool = make(1)
    pool.run_on_all(tasks.fail_unless, str(path))
    path.unlink()
    with pytest.raises(glasspool.WorkerDied):
        pool.apply(tasks.kill_me)
    with pytest.raises(glasspool.InitializerFailed, match=r"fail_unless \(of run_on_all\)") as info:
        pool.apply(abs, (1,))
    assert isinstance(info.value.__cause__, LookupError)


@only_fork
def test_a_call_that_ends_every_process_ends(make: MakePool) -> None:
    """Each replacement dies of it, too: the caller is told, and not left alone."""
    pool = make(1)
    with pytest.raises(glasspool.InitializerFailed, match=r"while it ran round_tasks\.leave"):
        pool.run_on_all(tasks.leave)


@only_fork
def test_whoever_waits_is_told_of_the_end_of_the_pool(make: MakePool, tmp_path: Path) -> None:
    """``close`` lets it be done; ``terminate`` ends the wait."""
    told: list[object] = []
    for end in ("close", "terminate"):
        folder = tmp_path / end
        folder.mkdir()
        pool = make(1)

        def call(pool: glasspool.Pool = pool, folder: Path = folder) -> None:
            try:
                told.append(pool.run_on_all(tasks.touch_and_wait, str(folder)))
            except ValueError as error:
                told.append(error)

        thread = threading.Thread(target=call)
        thread.start()
        wait_until((folder / "running").exists, "it runs")
        getattr(pool, end)()
        if end == "close":
            (folder / "go").touch()
            pool.join()
        thread.join(LIMIT_S)
        assert not thread.is_alive()
        with pytest.raises(ValueError, match="not running"):
            pool.run_on_all(tasks.noted)
    assert isinstance(told[0], list)
    assert isinstance(told[1], ValueError)


@only_fork
def test_a_smaller_pool_is_not_waited_for(make: MakePool, tmp_path: Path) -> None:
    """A worker that leaves for a smaller pool owes nobody anything."""
    pool = make(2)
    tasks_ = [pool.apply_async(tasks.touch_and_wait, (str(tmp_path),)) for _ in range(2)]
    wait_until(lambda: pool.stats()["running"] == 2, "both run")
    told: list[int] = []
    thread = threading.Thread(target=lambda: told.extend(pool.run_on_all(tasks.note, "a")))
    thread.start()
    wait_until(lambda: pool._engine.collector.rounds.is_under_way, "it waits")
    pool.resize(1)
    (tmp_path / "go").touch()
    thread.join(LIMIT_S)
    assert not thread.is_alive()
    assert len(told) in (1, 2)
    assert [task.get(LIMIT_S) for task in tasks_]


@only_fork
def test_workers_with_lanes_make_rounds(make: MakePool) -> None:
    """Beside the tasks of the lanes; a worker that joins makes them before its first task."""
    pool = make(1, threads=2)
    results = [pool.apply_async(tasks.noted) for _ in range(20)]
    assert len(pool.run_on_all(tasks.note, "a")) == 1
    pool.resize(2)
    assert len(pool.run_on_all(tasks.note, "b")) == 2
    assert set(all_noted(pool).values()) == {("a", "b")}
    assert all(result.get(LIMIT_S) for result in results)
