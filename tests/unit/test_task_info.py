"""What ``result.info`` tells, put together from hand-made facts."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from glasspool.engines.local import payload, wire
from glasspool.engines.local.outcome import RAISED
from glasspool.errors import TaskCancelled, TaskTimeout, WorkerDied
from glasspool.ledger import Held, Part, Task
from glasspool.results import AsyncResult, IMapIterator, IMapJob, MapResult, job_info, task_info
from glasspool.snapshot import DeathCertificate, TaskInfo

NOW = time.monotonic_ns()
SECOND = 1_000_000_000


def engine(**more: Any) -> Any:
    """Return as much of an engine as results ask for."""
    put: list[Any] = []
    mailbox = SimpleNamespace(put=put.append, items=put)
    facts: dict[str, Any] = {
        "collector": SimpleNamespace(workers={}, feeds={}, mailbox=mailbox, journal=None),
        "callables": SimpleNamespace(name=lambda number: f"function{number}"),
        "board": SimpleNamespace(entry=lambda record, seq: None, progress=lambda record, seq: None),
        "callers": {},
        "pid": os.getpid(),
        "before_waiting": lambda: None,
        "next_id": lambda: 77,
        "called_back": [],
        "outputs": None,
        "is_cluster": False,
        "forgotten": [],
    }
    facts.update(more)
    made = SimpleNamespace(**facts)
    made.call_back = made.called_back.append
    made.forget_callable = made.forgotten.append
    made.is_callback_thread = lambda: False
    return made


def a_task(job: Any = None, index: int = 0, items: int = 1) -> Task:
    """Return a task that was submitted a second ago."""
    if job is None:
        job = SimpleNamespace(job_id=5, function_name=lambda task: "work")
    return Part(9, job, index, items, 1, wire.SINGLE, b"12345", 5, NOW - SECOND)


def a_result(fake: Any, callback: Any = None) -> AsyncResult[Any]:
    """Return the result of an apply, which is its own task."""
    body = payload.dump((1,))
    pool: Any = SimpleNamespace()
    result: AsyncResult[Any] = AsyncResult(
        pool, fake, callback, None, 1, wire.APPLY, body, len(body)
    )
    result._function = "work"
    return result


def end_task(task: Task, worker: Any, begun: int, ended: int, size: int) -> Task:
    """Let a task have ended with a value of so many bytes, of which its job is told nothing."""
    task.owner = SimpleNamespace(
        job_id=5, function_name=lambda task: "work", settle_row=lambda tasks: None
    )
    task.settle(wire.OK, bytes(size), worker, begun, ended)
    return task


def a_worker(**more: Any) -> Any:
    """Return as much of a worker as results ask for."""
    facts: dict[str, Any] = {"pid": 4711, "slot": 2, "ident": 111, "native_id": 4711}
    facts |= {
        "record": 0,
        "held": None,
        "lanes": (),
        "thread_name": "MainThread",
        "runs_in_main": True,
        "node": None,
    }
    return SimpleNamespace(**{**facts, **more})


def test_a_waiting_task() -> None:
    """Nothing is known but the submission."""
    info = task_info(engine(), a_task())
    assert (info.id, info.job, info.function, info.state) == (9, 5, "work", "waiting")
    assert (info.pid, info.slot, info.thread, info.begun_at, info.run_s) == (None,) * 5
    assert info.argument_bytes == 5
    assert info.result_bytes is None
    assert info.attempts == 0
    ago_s = (time.monotonic_ns() - NOW) / SECOND + 1
    assert info.submitted_at == pytest.approx(time.time() - ago_s, abs=0.5)


def test_a_finished_task() -> None:
    """Who ran it, in which thread, how long it waited and ran, and how large its value was."""
    task = end_task(a_task(), a_worker(), NOW - SECOND // 2, NOW - SECOND // 4, 300)
    info = task_info(engine(), task)
    assert (info.state, info.pid, info.slot, info.attempts) == ("done", 4711, 2, 1)
    assert info.queue_wait_s == pytest.approx(0.5)
    assert info.run_s == pytest.approx(0.25)
    assert info.result_bytes == 300
    assert info.thread is not None
    assert info.thread.is_main
    assert (info.thread.ident, info.thread.native_id) == (111, 4711)
    assert info.thread.name == "MainThread"
    assert info.submitted_at is not None
    assert info.begun_at is not None
    assert info.ended_at is not None
    assert info.submitted_at < info.begun_at < info.ended_at


@pytest.mark.parametrize("is_running", [True, False])
def test_a_task_that_is_with_a_worker(is_running: bool) -> None:
    """The scoreboard says whether it has begun; until then it is only sent."""
    held = Held()
    worker = a_worker(held=held)
    task = a_task()
    task.holder, task.seq = held, 4
    entry = SimpleNamespace(begun_ns=NOW - SECOND // 2, lane=0) if is_running else None
    fake = engine(
        collector=SimpleNamespace(workers={3: worker}),
        board=SimpleNamespace(
            entry=lambda record, seq: entry, progress=lambda record, seq: (3.0, None)
        ),
    )
    info = task_info(fake, task)
    assert info.state == ("running" if is_running else "sent")
    assert info.progress == ((3.0, None) if is_running else None)
    assert info.pid == (4711 if is_running else None)
    assert info.ended_at is None
    assert info.run_s is None
    assert info.attempts == (1 if is_running else 0)


def ended(kind: int, body: Any, worker: Any) -> TaskInfo:
    """Return what is told of a call that was settled in this way."""
    result = a_result(engine())
    result.settle(kind, body, worker, 0 if worker is None else NOW - 10, 0)
    return result.info


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (ValueError("v"), "failed"),
        (WorkerDied(DeathCertificate(pid=12, slot=1, cause="x")), "lost"),
        (TaskCancelled("c"), "cancelled"),
        (TaskTimeout("t"), "timeout"),
    ],
    ids=["failed", "lost", "cancelled", "timeout"],
)
def test_the_words_for_a_bad_end(error: Exception, word: str) -> None:
    """Each way to end has its word."""
    info = ended(RAISED, error, None)
    assert info.state == word
    assert info.run_s is None


def test_a_lost_task_names_the_dead_worker() -> None:
    """The worker that had it is told, though nobody told its end."""
    error = WorkerDied(DeathCertificate(pid=4711, slot=2, cause="x"))
    info = ended(RAISED, error, a_worker())
    assert (info.state, info.pid, info.slot) == ("lost", 4711, 2)


@pytest.mark.parametrize("kind", [wire.ERROR, wire.EXIT, wire.UNSENDABLE])
def test_an_error_as_it_came_is_a_failure(kind: int) -> None:
    """The word does not wait until somebody asks for the error itself."""
    assert ended(kind, b"", a_worker()).state == "failed"


def test_a_job_adds_its_tasks_up() -> None:
    """Items, bytes and run times are sums; begin is the first, end the last."""
    tasks: list[Task | None] = [
        end_task(
            a_task(index=i, items=4),
            a_worker(pid=i),
            NOW - SECOND // 2 + i,
            NOW - SECOND // 4 + i,
            10,
        )
        for i in range(3)
    ]
    info = job_info(engine(), 5, True, None, tasks)
    assert (info.state, info.items, info.argument_bytes, info.result_bytes) == ("done", 12, 15, 30)
    assert info.run_s == pytest.approx(0.75)
    assert [task.pid for task in info.tasks] == [0, 1, 2]
    assert info.begun_at == min(task.begun_at for task in info.tasks if task.begun_at)
    assert info.ended_at == max(task.ended_at for task in info.tasks if task.ended_at)


def test_a_job_that_is_under_way() -> None:
    """Tasks that were not made yet are not counted; the job runs once one has begun."""
    assert job_info(engine(), 5, False, None, [None, None]).state == "waiting"
    assert job_info(engine(), 5, False, None, [a_task(), None]).state == "waiting"
    one = end_task(a_task(), a_worker(), NOW - 10, NOW, 0)
    info = job_info(engine(), 5, False, None, [one, None])
    assert info.state == "running"
    assert len(info.tasks) == 1
    assert info.ended_at is None
    assert job_info(engine(), 5, True, (RAISED, OSError()), [None]).state == "failed"


# Results that are settled by hand --------------------------------------------------------------


def settled(task: Task, value: Any) -> None:
    """Settle a task as the collector does."""
    task.settle(wire.OK, payload.dump(value), a_worker(), NOW - 10, NOW)


def test_an_async_result_is_ready_when_settled() -> None:
    """Before: not ready, ``successful`` raises. After: the value, as often as one asks."""
    result = a_result(engine())
    assert not result.ready()
    with pytest.raises(ValueError, match="not ready"):
        result.successful()
    with pytest.raises(multiprocessing.TimeoutError):
        result.get(0.01)
    settled(result, [42])
    assert result.ready()
    assert result.successful()
    assert result.get() is result.get(0)
    assert result._pool is None, "a finished result must not keep its pool"


def test_a_callback_comes_before_ready() -> None:
    """With a callback, the result is ready when that has run, also if it raised."""
    fake = engine()
    seen: list[Any] = []

    def callback(value: Any) -> None:
        seen.append((value, result.ready()))
        raise RuntimeError("reported, and no more")

    result = a_result(fake, callback)
    settled(result, 1)
    assert not result.ready()
    reported: list[threading.ExceptHookArgs] = []
    hook, threading.excepthook = threading.excepthook, reported.append  # type: ignore[assignment]
    try:
        fake.called_back[0].run_callback()
        assert not result.ready()
        fake.called_back[0].callback_returned()
    finally:
        threading.excepthook = hook
    assert seen == [(1, False)]
    assert result.ready()
    assert [type(args.exc_value) for args in reported] == [RuntimeError]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_a_map_result_joins_its_chunks_in_order(order: tuple[int, ...]) -> None:
    """Whatever the order of arrival, the values stand in the order of the items."""
    job: MapResult[int] = MapResult(SimpleNamespace(), engine(), None, None, 5, 2, False)  # type: ignore[arg-type]
    assert job._number_left == 3
    chunks = [[0, 1], [2, 3], [4]]
    for index in order:
        assert not job.ready()
        job._tasks[index] = task = a_task(job, index)
        settled(task, chunks[index])
    assert job.get() == [0, 1, 2, 3, 4]


def _append_value(job: MapResult[Any], got: list[Any]) -> None:
    got.append(job.get())


def test_two_threads_may_ask_for_the_values_of_a_map_at_once() -> None:
    """Each gets all of them, though the bytes that they are made of are dropped with the first."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(20):
            pool: Any = SimpleNamespace()
            job: MapResult[int] = MapResult(pool, engine(), None, None, 400, 1, True)
            for index in range(400):
                job._tasks[index] = task = a_task(job, index)
                settled(task, [index])
            got: list[Any] = []
            threads = [threading.Thread(target=_append_value, args=(job, got)) for _ in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(30)
            assert got == [[[index] for index in range(400)]] * 3
    finally:
        sys.setswitchinterval(before)


def test_a_map_of_nothing_is_ready_at_once() -> None:
    """No item, no task, no waiting."""
    job: MapResult[int] = MapResult(SimpleNamespace(), engine(), None, None, 0, 1, True)  # type: ignore[arg-type]
    assert job.ready()
    assert job.get(0) == []


def test_an_aborted_map_wakes_its_waiter() -> None:
    """The end of the pool reaches whoever waits, once; later chunks change nothing."""
    job: MapResult[int] = MapResult(SimpleNamespace(), engine(), None, None, 2, 1, True)  # type: ignore[arg-type]
    job.abort(TaskCancelled("the end"))
    job.abort(TaskCancelled("the end again"))
    settled(a_task(job, 0), 1)
    settled(a_task(job, 1), 2)
    with pytest.raises(TaskCancelled, match=r"the end$"):
        job.get(0)


def an_imap(is_ordered: bool, chunked: bool) -> tuple[IMapJob, IMapIterator[int]]:
    """Make the job of an ``imap`` and the iterator of its reader."""
    fake = engine()
    job = IMapJob(SimpleNamespace(), fake, is_ordered)  # type: ignore[arg-type]
    return job, IMapIterator(job, fake, chunked)


@pytest.mark.parametrize("is_ordered", [True, False])
def test_an_iterator_gives_each_value_once(is_ordered: bool) -> None:
    """Ordered: in the order of the items. Unordered: in the order of arrival. Then it ends."""
    job, values = an_imap(is_ordered, False)
    for index in (2, 0, 1):
        settled(a_task(job, index), index)
    job.set_length(3)
    assert job.taken == 0
    assert list(values) == ([0, 1, 2] if is_ordered else [2, 0, 1])
    assert job.taken == 3
    with pytest.raises(StopIteration):
        values.next(0)
    assert job._pool is None


def test_an_iterator_waits_no_longer_than_told() -> None:
    """What has not come by then can still be had later, and does not get lost."""
    job, values = an_imap(True, True)
    for _ in range(3):
        with pytest.raises(multiprocessing.TimeoutError):
            values.next(0.01)
    assert not job._latches
    settled(a_task(job, 0), [1, 2])
    assert [values.next(0), values.next(0)] == [1, 2]
    with pytest.raises(multiprocessing.TimeoutError):
        values.next(0)
    job.set_length(1)
    with pytest.raises(StopIteration):
        values.next(0)


def test_an_iterator_goes_on_after_an_error() -> None:
    """A failed item raises in its turn, and the next one follows."""
    job, values = an_imap(True, False)
    settled(a_task(job, 0), 0)
    job.settle_index(1, (RAISED, KeyError("one")))
    settled(a_task(job, 2), 2)
    job.set_length(3)
    assert values.next() == 0
    with pytest.raises(KeyError):
        values.next()
    assert values.next() == 2


def test_an_aborted_iterator_raises_once_and_ends() -> None:
    """After the error of the abort there is nothing more to wait for."""
    job, values = an_imap(True, False)
    settled(a_task(job, 0), 0)
    job.abort(TaskCancelled("the end"))
    assert values.next() == 0
    with pytest.raises(TaskCancelled):
        values.next(0)
    with pytest.raises(StopIteration):
        values.next(0)


@pytest.mark.parametrize("is_ordered", [True, False])
def test_a_dropped_iterator_leaves_nothing_behind(is_ordered: bool) -> None:
    """What nobody will read is forgotten; it counts as taken, so that the rest is drawn."""
    job, values = an_imap(is_ordered, False)
    mailbox = values._engine.collector.mailbox
    settled(a_task(job, 2), 2)
    settled(a_task(job, 0), 0)
    del values
    mailbox.items.pop()()
    assert job.is_dropped
    settled(a_task(job, 1), 1)
    job.settle_index(3, (RAISED, KeyError("nobody sees this")))
    assert (len(job._arrived), len(job._early), job.taken) == (0, 0, 4)
    job.set_length(4)
    assert job._pool is None
