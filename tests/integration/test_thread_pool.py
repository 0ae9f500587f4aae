"""``ThreadPool``: what it does beyond the standard library's, on real threads."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time

import pytest

import glasspool
from glasspool.observe import running
from glasspool.snapshot import HANDLER_ROLES

LIMIT_S = 30


@pytest.fixture
def make(leak_check):
    """Return a callable that makes pools of threads, and ends them with the test."""
    with contextlib.ExitStack() as ending:

        def make(*args, **keywords):
            pool = glasspool.ThreadPool(*args, **keywords)
            ending.callback(pool.join)
            ending.callback(pool.terminate)
            return pool

        yield make


class Blocked:
    """A task that blocks in C code until it is let go."""

    def __init__(self):
        self.entered = threading.Event()
        self._lock = threading.Lock()
        self._lock.acquire()

    def __call__(self):
        self.entered.set()
        with self._lock:
            return "done"

    def let_go(self):
        self._lock.release()


def spin(entered):
    """Run Python code until interrupted."""
    entered.set()
    while True:
        time.sleep(0)


def test_every_thread_is_named_by_its_role(make):
    """Each thread of the pool has its name in Python and for the system, and each duty is told."""
    pool = make(2, name="io")
    assert pool.map_async(abs, [-1], callback=str).get(LIMIT_S) == [1]
    mine = [thread for thread in pool.threads() if thread.pool == "io"]
    assert {role for thread in mine for role in thread.roles} == {
        *HANDLER_ROLES,
        "task",
        "callback",
    }
    lanes = [thread for thread in mine if "task" in thread.roles]
    assert [thread.name for thread in lanes] == ["io task-0", "io task-1"]
    assert all(thread.pid == os.getpid() and thread.daemon for thread in lanes)
    if sys.platform == "linux":
        assert all((thread.os_name or "").startswith("gp") for thread in mine)


def test_result_says_which_thread_ran_it(make):
    """``result.info`` has the thread that ran the task, as it calls itself."""
    pool = make(2)
    result = pool.apply_async(lambda: (threading.current_thread().name, threading.get_native_id()))
    name, native_id = result.get(LIMIT_S)
    thread = result.info.thread
    assert (thread.name, thread.native_id, thread.is_main) == (name, native_id, False)
    assert result.info.state == "done"
    assert result.info.pid == os.getpid()


def test_worker_tells_pool_and_slot(make):
    """``glasspool.worker()`` works in a task of a thread, too."""
    told = make(1, name="w").apply(glasspool.worker)
    assert (told.pool, told.slot, told.pid, told.attempt) == ("w", 0, os.getpid(), 1)
    assert glasspool.worker() is None


def test_running_task_is_in_the_roster(make):
    """The picture tells of each thread which task it runs, with arguments, and its stack."""
    pool, blocked = make(1), Blocked()
    result = pool.apply_async(blocked)
    assert blocked.entered.wait(LIMIT_S)
    (lane,) = [thread for thread in pool.inspect(stacks=True).threads if "task" in thread.roles]
    assert lane.task is not None
    assert lane.task.id == result.info.id
    assert "Blocked" in lane.task.function
    assert any(frame.function == "Blocked.__call__" for frame in lane.stack)
    assert result.info.state == "running"
    assert pool.stats()["running"] == 1
    assert pool.name in {one.name for one in glasspool.inspect().pools}
    blocked.let_go()
    assert result.get(LIMIT_S) == "done"


def test_pool_is_found_from_outside(make):
    """``ps`` lists the pool, and its picture is the program's own word."""
    pool = make(2, name="outside")
    (listed,) = [one for one in running.pools() if one.name == "outside"]
    assert (listed.kind, listed.pid, listed.size) == ("glasspool.ThreadPool", os.getpid(), 2)
    told = next(one for one in running.picture(os.getpid()).pools if one.name == "outside")
    assert told.kind == "glasspool.ThreadPool"
    assert sum("task" in thread.roles and thread.pool == "outside" for thread in told.threads) == 2
    assert pool.apply(abs, (-1,)) == 1


def test_timeout_raises_in_the_thread(make):
    """A task that runs Python code is stopped where it is, and its thread runs the next one."""
    pool, entered, seen = make(1), threading.Event(), []

    def task():
        try:
            spin(entered)
        finally:
            seen.append(threading.current_thread().name)

    with pytest.raises(glasspool.TaskTimeout, match="longer than its timeout") as caught:
        pool.apply(task, timeout=0.05)
    assert caught.value.stack[-1].function in ("spin", "Event.set")
    name = pool.apply(lambda: threading.current_thread().name)
    assert seen == [name], "the thread gave way, and is the same one"
    assert pool.stats()["timeout"] == 1
    assert pool.stats()["replaced"] == 0


def test_timeout_of_a_thread_that_does_not_give_way(make):
    """The caller is told at once; another thread takes the place, and the old one is shown as stuck."""
    pool, blocked = make(1, timeout_grace=0.05), Blocked()
    result = pool.apply_async(blocked, timeout=0.05)
    with pytest.raises(glasspool.TaskTimeout):
        result.get(LIMIT_S)
    assert result.info.state == "timeout"
    assert pool.apply(abs, (-3,)) == 3, "another thread has the place"
    stuck = [thread for thread in pool.threads() if "stuck in task" in thread.state]
    assert [thread.native_id for thread in stuck] == [result.info.thread.native_id]
    assert pool.stats()["stuck"] == 1
    blocked.let_go()
    for thread in threading.enumerate():
        if thread.native_id == stuck[0].native_id:
            thread.join(LIMIT_S)
    assert pool.apply(abs, (-4,)) == 4
    deadline = time.monotonic() + LIMIT_S
    while pool.stats()["stuck"]:  # it is the supervisor that sees that the thread has ended
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_timeout_of_one_item_leaves_the_others(make):
    """With a timeout each item of a map counts for itself."""
    pool, entered = make(2), threading.Event()
    results = pool.imap(lambda x: spin(entered) if x == 1 else x, range(4), timeout=0.1)
    assert next(results) == 0
    with pytest.raises(glasspool.TaskTimeout):
        next(results)
    assert list(results) == [2, 3]


def test_cancel(make):
    """What waits never begins, what runs is interrupted, and the pool goes on."""
    pool, entered, ran = make(1), threading.Event(), []
    first = pool.apply_async(spin, (entered,))
    second = pool.apply_async(ran.append, (1,))
    assert entered.wait(LIMIT_S)
    assert second.cancel()
    assert first.cancel()
    for result in (first, second):
        with pytest.raises(glasspool.TaskCancelled):
            result.get(LIMIT_S)
    assert pool.apply(abs, (-1,)) == 1
    assert ran == []
    assert not first.cancel()
    assert pool.stats()["cancelled"] == 2


def test_cancel_a_map(make):
    """A map's parts are ended, those that run too, and ``get`` raises at once."""
    pool, entered = make(2), threading.Event()
    job = pool.map_async(lambda _: spin(entered), range(50), 1)
    assert entered.wait(LIMIT_S)
    assert job.cancel()
    with pytest.raises(glasspool.TaskCancelled):
        job.get(LIMIT_S)
    assert pool.map(abs, [-1, -2]) == [1, 2]


def test_retries(make):
    """``retry_on`` runs a task again that raised; a timeout counts as one of its errors if it is named."""
    pool, tries = make(2), []

    def twice_wrong():
        tries.append(1)
        if len(tries) < 3:
            raise OSError("again")
        return "right"

    result = pool.apply_async(twice_wrong, retries=2, retry_on=OSError)
    assert result.get(LIMIT_S) == "right"
    assert result.info.attempts == 3
    entered = threading.Event()

    def slow_once():
        if not entered.is_set():
            spin(entered)
        return "quick"

    limits = {"timeout": 0.1, "retries": 1, "retry_on": glasspool.TaskTimeout}
    assert pool.apply(slow_once, **limits) == "quick"
    tries.clear()
    with pytest.raises(OSError, match="again"):
        pool.apply(twice_wrong, retries=1, retry_on=OSError)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()], ids=["exit", "interrupt"])
def test_exit_of_a_task_is_its_error(make, error):
    """``sys.exit()`` in a task ends neither the thread nor the program that asks for the result."""

    def leave():
        raise error

    pool = make(1)
    with pytest.raises(glasspool.TaskExit) as caught:
        pool.apply(leave)
    assert caught.value.__cause__ is error
    assert pool.apply(abs, (-1,)) == 1


def test_initializer_that_fails(make):
    """An initializer that raises in every thread fails the pool; calls say so, and do not hang."""

    def fail():
        raise ValueError("no such host")

    pool = make(2, fail)
    with pytest.raises(glasspool.InitializerFailed, match="no such host") as caught:
        pool.apply(abs, (-1,))
    assert isinstance(caught.value.__cause__, ValueError)
    with pytest.raises(glasspool.InitializerFailed):
        pool.apply_async(abs, (-1,)).get(LIMIT_S)
    pool.close()
    pool.join()


def test_terminate_ends_results_at_once(make):
    """After ``terminate`` no result is open: the standard library's ``get`` would wait for ever."""
    pool, blocked = make(1), Blocked()
    runs, waits = pool.apply_async(blocked), pool.map_async(abs, [-1, -2])
    results = pool.imap(abs, [-1])
    assert blocked.entered.wait(LIMIT_S)
    pool.terminate()
    for get in (runs.get, waits.get, lambda _: next(results)):
        with pytest.raises(glasspool.TaskCancelled):
            get(LIMIT_S)
    blocked.let_go()


def test_imap_is_bounded(make):
    """The iterable is drawn no further ahead than ``buffersize`` says, and all of it after ``close``."""
    pool, drawn = make(2), []

    def items():
        for number in range(100):
            drawn.append(number)
            yield number

    results = pool.imap(abs, items(), buffersize=5)
    assert next(results) == 0
    assert len(drawn) <= 7
    pool.close()
    assert list(results) == list(range(1, 100))


def test_resize(make):
    """More threads at once, fewer after what they run; the pool works on."""
    pool = make(1)
    pool.resize(3)
    gate = threading.Barrier(4)
    jobs = [pool.apply_async(gate.wait, (LIMIT_S,)) for _ in range(3)]
    gate.wait(LIMIT_S)
    assert sorted(job.get(LIMIT_S) for job in jobs) != []
    pool.resize(1)
    assert pool.map(abs, range(20), 1) == list(range(20))
    assert pool._processes == 1
    with pytest.raises(ValueError, match="at least 1"):
        pool.resize(0)


def test_drain_gives_back_what_was_not_begun(make):
    """``drain`` ends the pool gently, and returns the calls that no thread had begun."""
    pool, blocked = make(1), Blocked()
    runs = pool.apply_async(blocked)
    assert blocked.entered.wait(LIMIT_S)
    thing = object()
    waits = pool.apply_async(max, (thing,), {"key": id})

    def let_go_when_drained():
        waits.wait(LIMIT_S)
        blocked.let_go()

    other = threading.Thread(target=let_go_when_drained)
    other.start()
    (undone,) = pool.drain(LIMIT_S)
    other.join(LIMIT_S)
    assert undone.calls() == [(max, (thing,), {"key": id})]
    assert runs.get(LIMIT_S) == "done"


def test_calls_of_many_threads_and_cancels(make):
    """Each of many calls from many threads ends exactly once, some of them cancelled meanwhile."""
    pool, ends = make(3), []

    def submit(seed):
        for number in range(200):
            result = pool.apply_async(lambda x: x, (number,))
            if number % 7 == seed:
                result.cancel()
            try:
                ends.append(result.get(LIMIT_S) == number)
            except glasspool.TaskCancelled:
                ends.append(True)

    threads = [threading.Thread(target=submit, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    assert ends == [True] * 800
    stats = pool.stats()
    assert (stats["done"] + stats["cancelled"], stats["running"], stats["waiting"]) == (800, 0, 0)
    assert stats["submitted"] == 800


def test_what_cannot_be_had(make):
    """Wrong arguments are refused in the call, with what was wrong."""
    with pytest.raises(ValueError, match="timeout must be positive"):
        glasspool.ThreadPool(1, timeout=0)
    with pytest.raises(TypeError, match="retry_on"):
        glasspool.ThreadPool(1, retry_on=3)
    with pytest.raises(NotImplementedError, match="not recorded"):
        make(1).report()
