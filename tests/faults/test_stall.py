"""The stall watch: a pool that has work and does not move says why, once, as a warning."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from multiprocessing.context import BaseContext
from typing import Any

import pytest
import stall_tasks as tasks

import glasspool

AFTER_S = 0.4
LIMIT_S = 30.0
NOT_S = 2.5 * AFTER_S
"""So long a test waits for a warning that must not come."""

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def stalls() -> Iterator[queue.Queue[warnings.WarningMessage]]:
    """Collect stall warnings, whichever thread issues them."""
    found: queue.Queue[warnings.WarningMessage] = queue.Queue()

    def show(message, category, filename, lineno, file=None, line=None):
        assert category is glasspool.StallWarning
        found.put(warnings.WarningMessage(message, category, filename, lineno))

    with warnings.catch_warnings():
        warnings.simplefilter("always", glasspool.StallWarning)
        warnings.showwarning = show
        yield found


class Held:
    """A lock of multiprocessing that this process holds until the test lets it go."""

    def __init__(self, ctx: BaseContext) -> None:
        self.lock: Any = ctx.Lock()
        self.lock.acquire()

    def release(self) -> None:
        """Let all go who wait for the lock."""
        self.lock.release()


@pytest.fixture
def held() -> Iterator[Held]:
    """Hold a lock that workers under fork inherit."""
    lock = Held(FORK)
    yield lock
    del lock.lock  # or the fixture would keep its mapping alive until after the leak check


@contextlib.contextmanager
def pool_of(*args, **kwds) -> Iterator[glasspool.Pool]:
    """Make a pool whose stall watch is impatient, and see it ended."""
    pool = glasspool.Pool(*args, **{"stall_after": AFTER_S, "context": FORK, **kwds})
    try:
        yield pool
    finally:
        pool.terminate()
        pool.join()


def told(stalls, words: str) -> str:
    """Return the text of the next warning that has these words.

    On a busy machine there may be others before it: nothing moves while nobody gets the processor.
    """
    deadline = time.monotonic() + LIMIT_S
    while True:
        text = str(stalls.get(timeout=max(0.0, deadline - time.monotonic())).message)
        if words in text:
            return text


def test_a_task_that_waits_is_named_with_its_place(ctx, stalls):
    """Which worker, which task, since when, where, in the first lines; then the roster with stacks."""
    held = Held(ctx)
    with pool_of(2, tasks.keep, (held.lock,), context=ctx) as pool:
        result = pool.apply_async(tasks.take, (3,))
        head, finding, *roster = told(stalls, "uses no processor time").splitlines()
        assert head.startswith(f"nothing has moved in {pool.name} for ")
        task = result.info
        assert (
            f"worker {task.slot} (pid {task.pid}) has run task {task.id} (stall_tasks.take) for "
            in finding
        )
        assert "waits for the lock `_kept" in finding
        assert "stall_tasks.py" in finding
        assert "take" in "\n".join(roster)
        assert "stall-watch" not in "\n".join(roster)
        held.release()
        assert result.get(LIMIT_S) == 3


def test_it_is_shown_where_the_pool_was_made(held, stalls):
    """As any warning, with file and line of the program."""
    with pool_of(1, tasks.keep, (held.lock,)) as pool:
        result = pool.apply_async(tasks.take)
        warning = stalls.get(timeout=LIMIT_S)
        assert warning.filename == __file__
        assert pool._engine.made_at == f"{__file__}:{warning.lineno}"
        held.release()
        result.get(LIMIT_S)


def test_it_is_told_once_for_each_stall(held, stalls):
    """Silence follows, until something has moved and the pool stalls again."""
    with pool_of(2, tasks.keep, (held.lock,)) as pool:
        first = pool.apply_async(tasks.take)
        told(stalls, "(stall_tasks.take)")
        with pytest.raises(queue.Empty):
            stalls.get(timeout=NOT_S)
        pool.apply_async(tasks.square, (2,)).get(LIMIT_S)
        told(stalls, "(stall_tasks.take)")
        held.release()
        first.get(LIMIT_S)


def test_more_work_is_no_movement(held, stalls):
    """A program that goes on handing tasks in to a pool that stands still is told."""
    with pool_of(1, tasks.keep, (held.lock,)) as pool:
        results = [pool.apply_async(tasks.take, (0,))]
        while stalls.empty():
            results.append(pool.apply_async(tasks.take, (len(results),)))
            time.sleep(AFTER_S / 10)
        assert "nothing has moved" in told(stalls, " waiting")
        held.release()
        assert [r.get(LIMIT_S) for r in results] == list(range(len(results)))


def test_a_direct_call_is_watched_too(held, stalls):
    """``apply``, which talks to its worker without the pool's threads, is no exception."""
    with pool_of(1, tasks.keep, (held.lock,)) as pool:
        pool.apply(tasks.square, (1,))  # from now on the worker is idle, and can be lent
        caller = threading.Thread(target=pool.apply, args=(tasks.take,))
        caller.start()
        told(stalls, "(stall_tasks.take)")
        held.release()
        caller.join(LIMIT_S)


def test_an_initializer_that_hangs_is_named(held, stalls):
    """Not a task, but what keeps all of them waiting."""
    with pool_of(1, tasks.keep_and_take, (held.lock,)) as pool:
        result = pool.apply_async(tasks.square, (3,))
        text = told(stalls, "has run the initializer stall_tasks.keep_and_take for ")
        assert "worker 0" in text
        held.release()
        assert result.get(LIMIT_S) == 9


def test_a_callback_that_blocks_is_named(stalls):
    """Workers are idle, all tasks done: the result waits for its callback."""
    gate = threading.Event()
    with pool_of(2) as pool:
        result = pool.apply_async(tasks.square, (2,), callback=lambda value: gate.wait(LIMIT_S))
        words = f"the callback of task {result.info.id} (stall_tasks.square) has run for "
        text = told(stalls, words)
        assert "Event.wait" in text
        gate.set()
        assert result.get(LIMIT_S) == 4


def test_an_iterable_that_blocks_is_named(stalls):
    """The workers wait for the user's own iterable: told with its place."""
    gate = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        gate.wait(LIMIT_S)
        yield 2

    with pool_of(2) as pool:
        results = pool.imap(tasks.square, items())
        text = told(stalls, "your iterable has blocked for ")
        assert "the workers wait for it" in text
        assert "items" in text
        gate.set()
        assert list(results) == [1, 4]


def test_a_stopped_worker_is_named(stalls):
    """A process that somebody stopped (SIGSTOP) says nothing: the operating system does."""
    with pool_of(1) as pool:
        pool.apply(tasks.square, (1,))
        [process] = pool._pool
        os.kill(process.pid, signal.SIGSTOP)
        result = pool.apply_async(tasks.square, (2,))
        assert f"kill -CONT {process.pid}" in told(stalls, "kill -CONT")
        os.kill(process.pid, signal.SIGCONT)
        assert result.get(LIMIT_S) == 4


def test_a_lock_held_at_the_fork_is_named(stalls):
    """The hang that the fork warning foretold: the lock, the place, and the thread that held it."""
    taken, stop = threading.Event(), threading.Event()

    def hold() -> None:
        with tasks.LOCK:
            taken.set()
            stop.wait(LIMIT_S)

    holder = threading.Thread(target=hold, name="the-holder")
    holder.start()
    assert taken.wait(LIMIT_S)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", glasspool.ForkWarning)
            warnings.simplefilter("ignore", DeprecationWarning)  # the interpreter's, from 3.12 on
            pool = glasspool.Pool(2, context=FORK, stall_after=AFTER_S)
        pool.apply_async(tasks.take_local)
        text = told(stalls, "waits for the lock `LOCK` at ")
        pool.terminate()
        pool.join()
    finally:
        stop.set()
        holder.join()
    assert "`with LOCK:`" in text
    assert "inherited locked at the fork" in text
    assert "the-holder" in text.splitlines()[1]


def test_a_long_task_that_computes_is_no_stall(stalls):
    """Who uses the processor moves."""
    with pool_of(1, stall_after=2 * AFTER_S) as pool:
        pool.apply_async(tasks.compute, (5 * AFTER_S,)).get(LIMIT_S)
        assert not [w for w in stalls.queue if "(stall_tasks.compute)" in str(w.message)]


def test_none_is_never(held, stalls):
    """``stall_after=None`` switches the watch off."""
    with pool_of(1, tasks.keep, (held.lock,), stall_after=None) as pool:
        result = pool.apply_async(tasks.take)
        with pytest.raises(queue.Empty):
            stalls.get(timeout=NOT_S)
        held.release()
        result.get(LIMIT_S)


def test_a_warning_that_is_an_error_stops_nothing(held, monkeypatch):
    """With ``-W error`` it is reported as any error of a thread, and the pool goes on."""
    reported: queue.Queue[threading.ExceptHookArgs] = queue.Queue()
    monkeypatch.setattr(threading, "excepthook", reported.put)
    with warnings.catch_warnings():
        warnings.simplefilter("error", glasspool.StallWarning)
        with pool_of(1, tasks.keep, (held.lock,)) as pool:
            result = pool.apply_async(tasks.take, (5,))
            assert reported.get(timeout=LIMIT_S).exc_type is glasspool.StallWarning
            held.release()
            assert result.get(LIMIT_S) == 5
            assert pool.map(tasks.square, range(3)) == [0, 1, 4]
