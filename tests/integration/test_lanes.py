"""``Pool(threads=m)``: each worker runs m tasks at once, in lanes that the roster tells apart."""

from __future__ import annotations

import itertools
import os
import threading
import time

import lane_tasks as tasks
import pytest

import glasspool
from gates import Gate
from glasspool.engines.local import scoreboard as sb
from glasspool.observe import outside
from glasspool.observe.recording import Recorder
from glasspool.observe.records import TaskRecord
from glasspool.observe.rings import Rings
from glasspool.snapshot import ThreadInfo
from pools import LIMIT_S, MakePool, wait_until

LANES = 3


def lanes_of(pool: glasspool.Pool) -> list[ThreadInfo]:
    """Return the threads of a pool's workers that run tasks."""
    workers = pool.inspect().workers
    return [thread for worker in workers for thread in worker.threads if "task" in thread.roles]


def test_tasks_run_in_all_lanes_at_once_and_each_is_told_where(make: MakePool, gate: Gate) -> None:
    """Results, errors, the place of each task, the initializer's and the roster, with every start method."""
    initargs = gate.arguments["initargs"]
    pool = make(2, tasks.prepare, initargs, threads=LANES, name="laned")
    results = [pool.apply_async(tasks.wait_and_tell_where) for _ in range(2 * LANES)]
    gate.wait_for_tasks(2 * LANES)
    gate.open()
    places = [result.get(LIMIT_S) for result in results]
    assert len(set(places)) == 2 * LANES
    assert not any(is_main for *_, is_main in places)
    for result, (pid, name, ident, native_id, _) in zip(results, places, strict=True):
        thread = result.info.thread
        assert thread is not None
        assert (thread.name, thread.ident, thread.native_id) == (name, ident, native_id)
        assert not thread.is_main
        assert result.info.pid == pid
    assert {name for _, name, *_ in places} == {
        f"laned w{slot:02d} lane-{lane}" for slot in range(2) for lane in range(LANES)
    }
    seen = {(t.pid, t.name, t.ident, t.native_id, t.is_main) for t in lanes_of(pool)}
    assert seen == set(places)
    assert pool.apply(tasks.initialized)[-1], "the initializer runs in the main thread"
    assert pool.map(tasks.square, range(1000)) == [n * n for n in range(1000)]
    assert sorted(pool.imap_unordered(tasks.square, range(50))) == [n * n for n in range(50)]
    with pytest.raises(LookupError, match="7"):
        pool.apply(tasks.refuse, (7,))
    blob = bytes(range(256)) * 2000
    assert pool.map(tasks.give_back, [blob] * 8, 1) == [blob] * 8
    pool.close()
    pool.join()
    assert pool.stats()["deaths"] == 0


def test_eight_naps_on_two_workers_of_four_lanes_overlap(make_forked: MakePool) -> None:
    """Tasks that wait do so at the same time; nothing waits for a lane while one is free."""
    pool = make_forked(2, threads=4)
    wait_until(lambda: pool.stats()["idle"] == 2, "workers that are ready")
    begun = time.monotonic()
    results = [pool.apply_async(tasks.nap, (0.4,)) for _ in range(8)]
    assert [result.get(LIMIT_S) for result in results] == [0.4] * 8
    assert time.monotonic() - begun < 1.6, "two at a time they would take so long"
    infos = [result.info for result in results]
    assert max(i.begun_at or 0.0 for i in infos) < min(i.ended_at or 0.0 for i in infos)


def test_the_roster_tells_which_lane_is_at_what(make_forked: MakePool, forked_gate: Gate) -> None:
    """State, task, progress and stack of each lane; the main thread hands out and runs nothing."""
    pool = make_forked(1, threads=LANES, **forked_gate.arguments)
    results = [pool.apply_async(tasks.tell_and_wait, (number,)) for number in (1, 2)]
    forked_gate.wait_for_tasks(2)
    (worker,) = pool.inspect(stacks=True).workers
    assert worker.state == "busy"
    main = next(thread for thread in worker.threads if thread.is_main)
    assert main.roles == ("initializer", "dispatcher")
    assert main.task is None
    lanes = [thread for thread in worker.threads if "task" in thread.roles]
    busy = {lane.task.id: lane for lane in lanes if lane.task is not None}
    assert set(busy) == {result.info.id for result in results}
    for number, result in enumerate(results, 1):
        lane = busy[result.info.id]
        assert lane.task is not None
        assert lane.task.progress == (number, 10.0)
        assert lane.state.startswith("in lane_tasks.tell_and_wait")
        assert lane.stack is not None
        assert "tell_and_wait" in [frame.function for frame in lane.stack]
        assert (lane.os_name or "").startswith("gp")
        assert result.info.thread is not None
        assert result.info.thread.native_id == lane.native_id
        assert result.info.progress == (number, 10.0)
    idle = [lane for lane in lanes if lane.task is None]
    assert [lane.state for lane in idle] == ["idle"]
    assert pool.stats()["running"] == 2
    assert worker.time is not None
    assert worker.time.waiting_s > 0 < worker.time.running_s
    forked_gate.open()
    told = [result.get(LIMIT_S) for result in results]
    assert told == [
        (number, result.info.id, "lane_tasks.tell_and_wait")
        for number, result in enumerate(results, 1)
    ]


@pytest.mark.one_python
def test_lanes_are_told_from_outside(make_forked: MakePool, forked_gate: Gate) -> None:
    """Another process reads from the scoreboard what each lane runs."""
    pool = make_forked(1, threads=LANES, **forked_gate.arguments)
    results = [pool.apply_async(tasks.wait_at_gate, (number,)) for number in range(2)]
    forked_gate.wait_for_tasks(2)
    board = sb.Board.open(pool._engine.board.path)
    try:
        seen = outside.pool_of_board(board)
        assert seen is not None
        assert outside.counts(board)[:2] == (1, 0)
    finally:
        board.close()
    threads = [t for p in seen.processes if p.role == "worker" for t in p.threads]
    running = {t.task.id for t in threads if t.task is not None and "task" in t.roles}
    assert running == {result.info.id for result in results}
    assert [t.name for t in threads if t.roles == ("task",)] == [
        f"{pool.name} w00 lane-{lane}" for lane in range(LANES)
    ]
    forked_gate.open()
    assert [result.get(LIMIT_S) for result in results] == [0, 1]


@pytest.mark.one_python
def test_a_thread_of_a_task_belongs_to_the_task_of_its_lane(
    make_forked: MakePool, forked_gate: Gate
) -> None:
    """Who started a thread is known, also when several lanes start some at once."""
    pool = make_forked(1, threads=2, **forked_gate.arguments)
    results = {name: pool.apply_async(tasks.start_a_thread, (name,)) for name in ("one", "two")}
    forked_gate.wait_for_tasks(2)
    children: dict[str, ThreadInfo] = {}

    def are_noted() -> bool:
        children.update((t.name, t) for t in pool.threads() if t.roles == ("task-child",))
        return set(children) == set(results)

    wait_until(are_noted, "threads that are noted")
    for name, result in results.items():
        maker = children[name].task
        assert maker is not None
        assert maker.id == result.info.id
    forked_gate.open()
    assert [result.get(LIMIT_S) for result in results.values()] == ["one", "two"]


@pytest.mark.one_python
def test_one_lane_is_the_main_thread(make_forked: MakePool) -> None:
    """threads=1 is a pool as it always was: no other thread, and callers may have workers."""
    pool = make_forked(1, threads=1)
    pid, name, _, native_id, is_main = pool.apply(tasks.where)
    assert (name, is_main) == ("MainThread", True)
    assert native_id == pid
    assert pool._engine.board.lanes == 0
    assert [t.name for t in lanes_of(pool)] == ["MainThread"]


def test_what_waits_behind_long_tasks_goes_to_free_lanes(
    make_forked: MakePool, forked_gate: Gate
) -> None:
    """A lane that is free gets what other lanes, or another worker, have not begun."""
    pool = make_forked(2, threads=2, **forked_gate.arguments)
    pool.map(tasks.square, range(2000), 1)  # so short that many travel together
    long = [pool.apply_async(tasks.wait_at_gate, (number,)) for number in range(3)]
    forked_gate.wait_for_tasks(3)
    short = [pool.apply_async(tasks.square, (number,)) for number in range(200)]
    assert [result.get(LIMIT_S) for result in short] == [n * n for n in range(200)]
    assert not any(result.ready() for result in long)
    forked_gate.open()
    assert [result.get(LIMIT_S) for result in long] == [0, 1, 2]


@pytest.mark.one_python
def test_a_worker_with_lanes_is_replaced_after_its_tasks(make_forked: MakePool) -> None:
    """maxtasksperchild counts the tasks of all lanes of a worker; nothing is lost or done twice."""
    pool = make_forked(2, threads=3, maxtasksperchild=5)
    places = pool.map(tasks.where_and, range(43), 1)
    assert [number for number, _ in places] == list(range(43))
    by_worker: dict[int, int] = {}
    for _, pid in places:
        by_worker[pid] = by_worker.get(pid, 0) + 1
    assert max(by_worker.values()) <= 5
    assert pool.stats()["deaths"] == 0


@pytest.mark.one_python
def test_resize_drain_and_restart_with_lanes(make_forked: MakePool, forked_gate: Gate) -> None:
    """A smaller pool ends what its lanes run; a drained one does not begin what waits."""
    pool = make_forked(3, threads=2, **forked_gate.arguments)
    running = [pool.apply_async(tasks.wait_at_gate, (number,)) for number in range(6)]
    forked_gate.wait_for_tasks(6)
    pool.resize(1)
    waiting = [pool.apply_async(tasks.square, (number,)) for number in range(5)]
    undone = threading.Thread(target=pool.drain)
    undone.start()
    wait_until(lambda: all(result.ready() for result in waiting), "what waits is put aside")
    forked_gate.open()
    undone.join(LIMIT_S)
    assert [result.get(LIMIT_S) for result in running] == list(range(6))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process")
def test_a_copy_that_a_lane_forks_ends_with_its_task(make_forked: MakePool) -> None:
    """A fork in a lane has no other lane; it ends where the task does, and gives no result."""
    pool = make_forked(1, threads=4)
    assert pool.map(tasks.fork_and_return, range(20), 1) == list(range(20))
    assert pool.stats()["done"] == 20
    assert pool.stats()["deaths"] == 0


@pytest.mark.one_python
def test_a_recording_has_a_track_for_each_lane(make_forked: MakePool) -> None:
    """Each recorded task says which lane ran it; two of one lane never overlap."""
    pool = make_forked(1, threads=4)
    recorder = Recorder(pool._engine)
    pool.map(tasks.nap, [0.005] * 40, 1)
    pool.map(tasks.square, range(300), 1)
    recording = recorder.stop()
    assert recording.lost == 0
    by_lane: dict[int, list[TaskRecord]] = {}
    for task in recording.tasks:
        by_lane.setdefault(task.lane, []).append(task)
    assert sum(len(done) for done in by_lane.values()) == 340
    assert set(by_lane) == set(range(4))
    for done in by_lane.values():
        done.sort(key=lambda task: task.begun_ns or 0)
        assert all(a.ended_ns <= b.begun_ns for a, b in itertools.pairwise(done))  # type: ignore[operator]


@pytest.mark.one_python
def test_a_watch_sees_each_task_of_the_lanes_once(make_forked: MakePool, forked_gate: Gate) -> None:
    """Short tasks that overtake long ones are read at once, the long ones when they have ended."""
    pool = make_forked(1, threads=3, **forked_gate.arguments)
    rings = Rings(sb.Board.open(pool._engine.board.path), pool.name)
    try:
        long = [pool.apply_async(tasks.wait_at_gate, (number,)) for number in range(2)]
        forked_gate.wait_for_tasks(2)
        pool.map(tasks.square, range(300), 1)
        first = rings.drain()
        assert (len(first.records), first.lost) == (300, 0)
        forked_gate.open()
        assert [result.get(LIMIT_S) for result in long] == [0, 1]
        second = rings.drain()
        assert {one.task for one in second.records} == {result.info.id for result in long}
        assert second.lost == 0
        third = rings.drain()
        assert (third.records, third.lost) == ([], 0)
    finally:
        rings.close()


def test_threads_must_be_a_number_that_a_worker_can_have() -> None:
    """What is wrong is said, and what to do."""
    with pytest.raises(ValueError, match="threads must be 1 or more, not 0"):
        glasspool.Pool(1, threads=0)
    with pytest.raises(ValueError, match="500 at most"):
        glasspool.Pool(1, threads=501)
    with pytest.raises(TypeError, match="threads must be an integer"):
        glasspool.Pool(1, threads="2")  # type: ignore[arg-type]
