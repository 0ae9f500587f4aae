"""Recordings of pools of this process: every task once, with true times; the same counts as the pool's."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections import Counter
from typing import Any

import pytest
import recording_tasks as tasks

import glasspool
from glasspool import registry
from glasspool.engines.local import journal
from glasspool.observe.recording import Recorder, record_all
from glasspool.observe.records import Recording, Span, TaskRecord
from pools import wait_until

FORK = multiprocessing.get_context("fork")
ENDS = ("done", "failed", "lost", "cancelled", "timeout")


def check_tasks(recording: Recording, counters: dict[str, int]) -> None:
    """Check that a whole recording has each task once, and that what it says of it can be true."""
    assert recording.lost == 0, recording.notes
    numbers = [task.task for task in recording.tasks]
    assert len(numbers) == len(set(numbers))
    assert Counter(task.status for task in recording.tasks) == Counter(
        {how: counters[how] for how in ENDS if counters[how]}
    )
    for task in recording.tasks:
        check_times(recording, task)


def check_times(recording: Recording, task: TaskRecord) -> None:
    """Check that what happened to a task is told in the order in which it happens."""
    row = [task.submitted_ns, task.sent_ns, task.begun_ns, task.called_ns, task.ended_ns]
    if task.status in ("done", "failed"):
        row += [task.boxed_ns, task.received_ns]
        if task.begun_ns is not None and task.slot is not None:
            assert task.pid in {worker.pid for worker in recording.workers}
            assert task.sent_ns is not None
    known = [moment for moment in row if moment is not None]
    assert known == sorted(known), task
    assert task.submitted_ns is not None
    assert task.received_ns is not None
    assert recording.begun_ns <= task.received_ns <= recording.ended_ns
    assert task.submitter is not None


def kinds(recording: Recording) -> dict[str, list[Span]]:
    """Sort the spans of a recording by what they are, and check that they can be true."""
    found: dict[str, list[Span]] = {}
    for span in recording.spans:
        assert recording.begun_ns <= span.begun_ns <= span.ended_ns <= recording.ended_ns
        found.setdefault(span.kind, []).append(span)
    return found


def do_everything(pool: glasspool.Pool, folder: Any) -> None:
    """Have tasks submitted in every way, and ended in every way."""
    for number in range(20):
        assert pool.apply(tasks.increment, (number,)) == number + 1
    burst = [pool.apply_async(tasks.increment, (number,)) for number in range(2000)]
    assert sum(result.get() for result in burst) == 2_001_000
    pool.map(tasks.increment, range(500), 1)
    pool.map(tasks.increment, range(5000))
    pool.starmap(tasks.increment, [(1,)] * 10, 3)
    assert list(pool.imap(tasks.increment, iter(range(30)), 4)) == list(range(1, 31))
    assert len(list(pool.imap_unordered(tasks.echo, [{"a": n} for n in range(30)]))) == 30
    pool.apply(tasks.echo, ({"key": [1, 2]},))
    pool.apply_async(lambda value: value, (1,)).get()
    with pytest.raises(LookupError):
        pool.apply(tasks.fail, (1,))
    with pytest.raises(LookupError):
        pool.map(tasks.fail, range(3), 1)
    with pytest.raises(TypeError):
        pool.apply_async(tasks.echo, (tasks.Unpicklable(),)).get()
    with pytest.raises(glasspool.WorkerDied):
        pool.apply(tasks.die)
    assert pool.apply(tasks.die_once, (str(folder),), retries=1) == 5
    assert pool.apply(tasks.fail_once, (str(folder),), retries=1, retry_on=LookupError) == 6
    with pytest.raises(glasspool.TaskTimeout):
        pool.apply(tasks.sleep, (30,), timeout=0.05)
    running = [pool.apply_async(tasks.sleep, (30,)) for _ in range(2)]
    waiting = pool.apply_async(tasks.sleep, (30,))
    wait_until(lambda: [r.info.state for r in running] == ["running"] * 2, "two tasks that run")
    for result in (waiting, *running):
        result.cancel()
        with pytest.raises(glasspool.TaskCancelled):
            result.get(10)


def test_every_task_is_in_it_once(make, tmp_path):
    """However it was submitted, however it ended; and the counts are the pool's."""
    pool = make(2)
    recorder = Recorder(pool._engine)
    do_everything(pool, tmp_path)
    check_tasks(recorder.so_far(), pool.stats())
    left = pool.apply_async(tasks.sleep, (30,))
    pool.terminate()
    pool.join()
    assert not left.info.run_s
    recording = recorder.stop()
    assert recorder.stop() is recording
    check_tasks(recording, pool.stats())
    check_lives(recording)
    by_state = {task.status: task for task in recording.tasks}
    assert by_state["lost"].begun_ns is not None
    assert by_state["lost"].ended_ns is not None
    run_s = (by_state["timeout"].ended_ns - by_state["timeout"].begun_ns) / 1e9
    assert 0.05 <= run_s < 5
    retried = [task for task in recording.tasks if task.function.endswith("_once")]
    assert [task.attempts for task in retried] == [2, 2]
    assert [task.status for task in retried] == ["done", "done"]


def check_lives(recording: Recording) -> None:
    """Check the lives of the workers of a pool that has ended, one of which was killed twice."""
    assert Counter(worker.ended_as for worker in recording.workers)["dead"] == 2
    assert len(recording.deaths) == 2
    assert {worker.slot for worker in recording.workers} == {0, 1}
    for worker in recording.workers:
        assert worker.started_ns is not None
        assert worker.ended_ns is not None
        assert recording.wall_ns
        life_s = (worker.ended_ns - worker.started_ns) / 1e9
        assert worker.time is not None
        assert worker.time.whole_s == pytest.approx(life_s, rel=0.05)
    assert recording.picture is not None
    assert recording.picture.name == recording.pool
    assert len(recording.picture.deaths) == 2


def test_what_threads_do_is_in_it(make_forked):
    """Pickling, drawing, callbacks and rebuilding: by which thread, for which task, for how long."""
    pool = make_forked(1)
    recorder = Recorder(pool._engine)
    done = threading.Event()
    value = {"a": list(range(2000))}
    with_callback = pool.apply_async(tasks.echo, (value,), callback=lambda _: done.set())
    assert with_callback.get(10) == value
    assert done.wait(10)
    failing = pool.apply_async(tasks.fail, (1,), error_callback=repr)
    with pytest.raises(LookupError):
        failing.get(10)
    assert list(pool.imap(tasks.increment, tasks.draw_slowly(5, 0.01))) == [1, 2, 3, 4, 5]
    pool.map(tasks.increment, tasks.draw_slowly(3, 0.01))
    recording = recorder.stop()
    spans = kinds(recording)
    me = threading.get_native_id()
    ((pickling, *_), (rebuilding, *_)) = spans["pickling"], spans["unpickling"]
    assert (pickling.native_id, pickling.thread) == (me, "MainThread")
    assert (rebuilding.thread, rebuilding.task) == (f"{pool.name} callback", pickling.task)
    assert pickling.function == recording.tasks[0].function == "recording_tasks.echo"
    assert pickling.task == recording.tasks[0].task
    callbacks = [span.function.rpartition(".")[2] for span in spans["callback"]]
    assert callbacks == ["<lambda>", "repr"]
    assert spans["callback"][0].thread == f"{pool.name} callback"
    drawn = [(span.ended_ns - span.begun_ns) / 1e9 for span in spans["iterable"]]
    assert len(drawn) == 6
    assert min(drawn) >= 0.01
    assert drawn[-1] >= 0.03
    assert {span.thread for span in spans["iterable"]} == {f"{pool.name} iterable", "MainThread"}


def test_arguments_are_short_texts(make_forked):
    """They are made of built-in types, and cut; very long ones are left out."""
    pool = make_forked(1)
    recorder = Recorder(pool._engine)
    pool.apply(tasks.echo, ("a" * 100,))
    pool.apply(tasks.echo, (7,))
    pool.apply(tasks.echo, ({"key": (1, 2)},))
    pool.apply(tasks.echo, (bytes(400_000),))
    pool.map(tasks.echo, ["x", "y", "z"], 3)
    shown = [task.arguments for task in recorder.stop().tasks]
    assert shown[0].startswith("('aaaa")
    assert "100 characters" in shown[0]
    assert shown[1:] == ["(7)", "({'key': (1, 2)})", None, "('x') and 2 more"]


def test_long_arguments_of_the_slowest(make_forked):
    """Of the tasks that ran longest, longer arguments are kept, too: these are asked for most."""
    pool = make_forked(1)
    recorder = Recorder(pool._engine)
    for number in range(journal.LONGEST + 6):
        pool.apply(tasks.echo, ([number] * 2000,))
    shown = [task.arguments for task in recorder.stop().tasks]
    assert sum(text is not None for text in shown) == journal.LONGEST
    assert all(text is None or text.startswith(f"([{at}, ") for at, text in enumerate(shown))


def test_a_recording_is_bounded(make_forked):
    """The newest are kept, and it is told how many are not."""
    pool = make_forked(1)
    recorder = Recorder(pool._engine, most=100)
    pool.map(tasks.increment, range(250), 1)
    recording = recorder.stop()
    assert (len(recording.tasks), recording.lost) == (100, 150)
    assert "150 tasks" in recording.notes[0]
    assert max(task.place for task in recording.tasks) == 249


def test_nothing_is_kept_before_and_after(make_forked):
    """A pool has a journal while somebody records it, and each gets what came in his time."""
    pool = make_forked(1)
    collector = pool._engine.collector
    pool.map(tasks.increment, range(10), 1)
    assert collector.journal is None
    first = Recorder(pool._engine)
    pool.map(tasks.increment, range(10), 1)
    second = Recorder(pool._engine)
    pool.map(tasks.increment, range(10), 1)
    assert len(first.stop().tasks) == 20
    assert collector.journal is not None
    pool.map(tasks.increment, range(10), 1)
    assert len(second.so_far().tasks) == 20
    pool.close()
    pool.join()
    recording = second.stop()
    assert len(recording.tasks) == 20
    assert recording.lost == 0
    assert collector.journal is None
    assert recording.ended_ns < time.monotonic_ns()


def test_each_of_several_recordings_has_the_last_picture(make_forked):
    """A pool that ends tells all who wait for it, also where one of them then waits no more."""
    pool = make_forked(1)
    recorders = [Recorder(pool._engine) for _ in range(3)]
    told = []
    forget = registry.on_shutdown(lambda picture, slowest: told.append(picture.name))
    pool.apply(tasks.increment, (1,))
    pool.close()
    pool.join()
    forget()
    assert told == [pool.name]
    states = [recorder.stop().picture.state for recorder in recorders]
    assert len(set(states)) == 1


def test_all_pools_of_the_process(make_forked):
    """Those that are there, and those that are made later, also when they end before."""
    there = make_forked(1, name="there")
    everything = record_all()
    there.apply(tasks.increment, (1,))
    with glasspool.Pool(1, context=FORK, name="later") as later:
        later.map(tasks.increment, range(5), 1)
    later.join()
    with glasspool.Pool(1, context=FORK, name="later") as again:
        again.map(tasks.increment, range(6), 1)
    again.join()
    assert [len(recording.tasks) for recording in everything.so_far()] == [1, 5, 6]
    recordings = everything.stop()
    assert [recording.pool for recording in recordings] == ["there", "later", "later"]
    assert [len(recording.tasks) for recording in recordings] == [1, 5, 6]
    assert [bool(recording.picture) for recording in recordings] == [True] * 3
    with glasspool.Pool(1, context=FORK) as unseen:
        unseen.apply(tasks.increment, (1,))
    unseen.join()
    assert len(everything.stop()) == 3
