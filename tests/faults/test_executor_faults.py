"""Executors of ours that meet deaths, signals, races and forks."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import linecache
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import FrameType
from typing import Any

import executor_fault_tasks as tasks
import pytest

import glasspool
from gates import Gate

MakeExecutor = Callable[..., glasspool.Executor]


@pytest.fixture
def make_executor(ledger_check: None) -> Iterator[MakeExecutor]:
    """Return a callable that makes executors, under the program's start method, and ends them."""
    made: list[glasspool.Executor] = []

    def make(*args: Any, **kwds: Any) -> glasspool.Executor:
        made.append(glasspool.Executor(*args, **kwds))
        return made[-1]

    yield make
    while made:
        made.pop().shutdown(cancel_futures=True)


class Alarm(Exception):
    """Raised by a signal handler."""


def test_a_death_breaks_its_own_future_alone(make_executor: MakeExecutor) -> None:
    """Each future whose worker was killed has a certificate; all others have their values."""
    executor = make_executor(2)
    futures = [executor.submit(tasks.die_if, i, 10) for i in range(1, 41)]
    concurrent.futures.wait(futures, 30)
    for number, future in enumerate(futures, 1):
        if number % 10:
            assert future.result() == number
            continue
        error = future.exception()
        assert isinstance(error, glasspool.BrokenWorker)
        assert isinstance(error, BrokenProcessPool)
        assert isinstance(error, glasspool.WorkerDied)
        assert error.certificate.signal == signal.SIGKILL
        assert pickle.loads(pickle.dumps(error)).certificate == error.certificate
    assert not executor._broken
    assert executor.submit(tasks.square, 3).result(30) == 9


def test_a_map_goes_on_after_the_death_of_a_chunk(make_executor: MakeExecutor) -> None:
    """The iterator raises for the chunk that died, and a further map works."""
    executor = make_executor(2)
    with pytest.raises(glasspool.BrokenWorker) as died:
        list(executor.map(tasks.die_if, range(1, 9), [5] * 8, chunksize=2))
    assert died.value.certificate.task is not None
    assert died.value.certificate.task.items == 2
    assert "die_if" in died.value.certificate.task.function
    assert list(executor.map(tasks.square, range(3))) == [0, 1, 4]


def test_keywords_of_the_pool_hold(make_executor: MakeExecutor, tmp_path: Path) -> None:
    """``retries`` and ``timeout`` are the pool's; a chunk with a timeout travels item by item."""
    executor = make_executor(1, name="limited", retries=1, timeout=0.2)
    assert executor.submit(tasks.die_once, str(tmp_path / "seen")).result(30)
    error = executor.submit(tasks.sleep, 30).exception(30)
    assert type(error) is glasspool.TaskTimeout
    values = executor.map(tasks.sleep, [0, 30, 0], chunksize=3)
    assert next(values) == 0
    with pytest.raises(glasspool.TaskTimeout):
        next(values)
    assert executor.name == "limited"
    for keyword, value in (("timeout", -1), ("retries", "x"), ("threads", 0)):
        with pytest.raises((TypeError, ValueError)):
            glasspool.Executor(**{keyword: value})  # type: ignore[arg-type]


def test_workers_are_recycled_under_fork(make_executor: MakeExecutor) -> None:
    """``max_tasks_per_child`` works with fork, too, as ours is safe; it does not change the default."""
    assert make_executor(max_tasks_per_child=2)._mp_context is multiprocessing.get_context()
    executor = make_executor(1, multiprocessing.get_context("fork"), max_tasks_per_child=2)
    pids = list(executor.map(tasks.pid, range(6)))
    assert len(set(pids)) == 3


def _place(made_at: str) -> tuple[str, int]:
    file, _, line = made_at.rpartition(":")
    return file, int(line)


def test_the_roster_tells_that_it_is_an_executor(
    make_executor: MakeExecutor, forked_gate: Gate
) -> None:
    """``inspect`` has the kind, where it was made, and of each call and chunk the user's function."""
    executor = make_executor(1, name="seen", **forked_gate.arguments)
    assert glasspool.inspect(executor).pools == ()
    assert executor.stats() == {}
    future = executor.submit(tasks.wait_for_gate, 5)
    assert forked_gate.started.acquire(timeout=30)
    values = executor.map(tasks.square, range(4), chunksize=4)
    executor.submit(tasks.square, 1).cancel()  # when this returns, the pool has seen the chunk
    (pool,) = glasspool.inspect(executor).pools
    assert (pool.name, pool.kind) == ("seen", "glasspool.Executor")
    assert "glasspool.Executor(" in linecache.getline(*_place(pool.made_at)), "not its first call"
    assert [task.function.rpartition(".")[2] for task in pool.tasks] == ["wait_for_gate", "square"]
    assert [task.items for task in pool.tasks] == [1, 4]
    assert [one.name for one in glasspool.inspect().pools] == ["seen"]
    assert future.info.state == "running"
    assert executor.threads()
    forked_gate.event.set()
    assert list(values) == [0, 1, 4, 9]
    assert future.result(30) == 5
    assert future.info.state == "done"
    assert future.info.pid in (executor._processes or {})


def test_a_terminated_executor_breaks_what_runs_and_cancels_what_waits(
    make_executor: MakeExecutor, forked_gate: Gate
) -> None:
    """``kill_workers`` returns when they are gone; nobody waits for ever."""
    for name in ("terminate_workers", "kill_workers"):
        executor = make_executor(1, **forked_gate.arguments)
        running = executor.submit(tasks.wait_for_gate)
        assert forked_gate.started.acquire(timeout=30)
        waiting = executor.submit(tasks.wait_for_gate)
        getattr(executor, name)()
        assert isinstance(running.exception(10), BrokenProcessPool)
        assert waiting.cancelled()
        with pytest.raises(RuntimeError, match="after shutdown"):
            executor.submit(tasks.square, 1)


def test_callbacks_may_use_the_executor(make_executor: MakeExecutor) -> None:
    """In a callback one may submit, cancel, and wait for other futures; not for the executor's end."""
    executor = make_executor(2)
    told: dict[str, Any] = {}
    ended = threading.Event()

    def work(future: concurrent.futures.Future[int]) -> None:
        other = executor.submit(tasks.square, 4)
        other.add_done_callback(lambda _: None)
        told["other"] = other.result(30)
        executor.submit(tasks.square, 5).cancel()
        try:
            executor.shutdown()
        except glasspool.GlasspoolError as error:
            told["shutdown"] = error

    future = executor.submit(tasks.sleep, 0.05)
    future.add_done_callback(work)
    future.add_done_callback(lambda _: ended.set())
    assert ended.wait(30)
    assert told["other"] == 16
    assert "shutdown()" in str(told["shutdown"])


def test_ends_are_told_once_while_threads_wait_cancel_and_add_callbacks(
    make_executor: MakeExecutor,
) -> None:
    """Whoever comes in whatever moment: each callback runs once, each wait returns."""
    executor = make_executor(2)
    executor.submit(tasks.square, 0).result(30)
    called: list[int] = []
    results: list[int] = []

    def use(start: int) -> None:
        futures = {executor.submit(tasks.square, i): i for i in range(start, start + 200)}
        for number, future in enumerate(futures):
            future.add_done_callback(lambda f: called.append(id(f)))
            if number % 3 == 0:
                future.cancel()
        for future in concurrent.futures.as_completed(futures, 30):
            assert future.done()
            if not future.cancelled():
                assert future.result(0) == futures[future] ** 2
            results.append(futures[future])
        done, not_done = concurrent.futures.wait(futures, 30)
        assert (len(done), not_done) == (200, set())

    users = [threading.Thread(target=use, args=(1000 * n,)) for n in range(3)]
    for user in users:
        user.start()
    for user in users:
        user.join(60)
    executor.shutdown()
    assert len(results) == len(set(results)) == 600
    assert len(called) == 600


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_signal_handlers_that_raise_lose_nothing(make_executor: MakeExecutor) -> None:
    """Whatever the handler interrupts: what was submitted ends, and the executor goes on."""
    executor = make_executor(2)
    executor.submit(tasks.square, 0).result(30)
    futures: list[glasspool.Future[int]] = []
    deadline = time.monotonic() + 0.6

    def raise_alarm(number: int, frame: FrameType | None) -> None:
        if time.monotonic() < deadline:
            raise Alarm

    before = signal.signal(signal.SIGALRM, raise_alarm)
    try:
        number = 0
        while time.monotonic() < deadline:
            number += 1
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0002 + number % 17 * 0.0001)
                _use_until(deadline, executor, futures)
            except Alarm:
                continue
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(futures) > 20
    assert {future.result(10) for future in futures} == {9}
    assert executor.submit(tasks.square, 4).result(10) == 16


def _use_until(
    deadline: float, executor: glasspool.Executor, futures: list[glasspool.Future[int]]
) -> None:
    # The handler may raise where nobody can catch it, as in a callback of a weak reference.
    while time.monotonic() < deadline:
        futures.append(executor.submit(tasks.square, 3))
        futures[-1].add_done_callback(len_of)
        futures[-1].result(10)
        executor.submit(tasks.square, 3).cancel()
        concurrent.futures.wait(futures[-3:], 10)


def len_of(future: concurrent.futures.Future[Any]) -> int:
    """Do a little (a callback)."""
    return len(repr(future))


def test_a_handler_may_wait_for_a_future(make_executor: MakeExecutor) -> None:
    """A signal handler gets results while the main thread is anywhere in a call of the executor's."""
    executor = make_executor(2)
    executor.submit(tasks.square, 0).result(30)
    found: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        found.append(executor.submit(tasks.square, 5).result(10))

    before = signal.signal(signal.SIGALRM, handle)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.003)
        for _ in range(150):
            future = executor.submit(tasks.square, 3)
            future.add_done_callback(len_of)
            concurrent.futures.wait([future, executor.submit(tasks.square, 2)], 10)
            assert future.result(10) == 9
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert set(found) == {25}


def test_an_interrupt_ends_the_wait_and_not_the_work(
    make_executor: MakeExecutor, forked_gate: Gate
) -> None:
    """Ctrl-C in ``result()`` leaves the future and the executor as they are."""
    executor = make_executor(1, **forked_gate.arguments)
    future = executor.submit(tasks.wait_for_gate, 3)
    assert forked_gate.started.acquire(timeout=30)
    timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        future.result(30)
    timer.join(10)
    forked_gate.event.set()
    assert future.result(30) == 3


def test_it_works_in_a_worker(make_executor: MakeExecutor) -> None:
    """A call may use an executor of its own."""
    assert make_executor(1).submit(tasks.squares_here, 4).result(30) == [0, 1, 4, 9]


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
def test_a_fork_of_the_program_leaves_it_alone(make_executor: MakeExecutor) -> None:
    """In the child a call is refused, and shutdown does nothing; one not started yet is the child's."""
    executor, fresh = make_executor(1), make_executor(1)
    future = executor.submit(tasks.sleep, 0.3)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            try:
                executor.submit(tasks.square, 1)
            except glasspool.GlasspoolError:
                executor.shutdown()
                future.cancel()
                code = 0 if fresh.submit(tasks.square, 3).result(20) == 9 else 2
                fresh.shutdown()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert future.result(30) == 0.3
    assert fresh.submit(tasks.square, 4).result(30) == 16


def test_the_first_calls_of_many_threads_start_it_once(make_executor: MakeExecutor) -> None:
    """One pool is made, whoever comes first."""
    executor = make_executor(1, multiprocessing.get_context("forkserver"))
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        jobs = [threads.submit(executor.submit, tasks.square, i) for i in range(8)]
        assert [job.result(30).result(30) for job in jobs] == [i * i for i in range(8)]
    assert len(executor._processes or {}) == 1


@pytest.mark.one_python
def test_asyncio_tasks_are_cancelled_by_half(make_executor: MakeExecutor) -> None:
    """Awaiting tasks that are cancelled take their calls back; the others have their values."""
    executor = make_executor(2)

    async def main() -> list[Any]:
        loop = asyncio.get_running_loop()
        waiting = [loop.run_in_executor(executor, tasks.square, i) for i in range(1000)]
        for one in waiting[::2]:
            one.cancel()
        return await asyncio.gather(*waiting, return_exceptions=True)

    found = asyncio.run(main())
    assert found[1::2] == [i * i for i in range(1, 1000, 2)]
    assert all(isinstance(one, asyncio.CancelledError) for one in found[::2])


def test_a_bounded_map_draws_as_it_is_read(make_executor: MakeExecutor) -> None:
    """With ``buffersize`` an endless iterable may be mapped, and so much is drawn ahead."""
    executor = make_executor(2)
    drawn: list[int] = []

    def numbers() -> Iterator[int]:
        while True:
            drawn.append(len(drawn))
            yield drawn[-1]

    values = executor.map(tasks.square, numbers(), buffersize=3)
    assert len(drawn) == 3
    assert [next(values) for _ in range(5)] == [0, 1, 4, 9, 16]
    assert len(drawn) == 8
    values.close()  # type: ignore[attr-defined]  # a generator
    for size, error in ((0, ValueError), ("x", TypeError)):
        with pytest.raises(error):
            executor.map(tasks.square, [1], buffersize=size)  # type: ignore[arg-type]


def test_what_cannot_be_done_says_so(make_executor: MakeExecutor) -> None:
    """Executors and futures refuse to be pickled, and futures to be set by others."""
    executor = make_executor(1)
    future = executor.submit(tasks.square, 2)
    for one in (executor, future):
        with pytest.raises(TypeError, match="cannot be passed between processes"):
            pickle.dumps(one)
    for call in (
        functools.partial(future.set_result, 1),
        functools.partial(future.set_exception, None),
        future.set_running_or_notify_cancel,
    ):
        with pytest.raises(concurrent.futures.InvalidStateError):
            call()
    assert future.result(30) == 4
    assert "running" in repr(executor)
