"""Pools in tasks: another pool works and dies with its parent; the own one is an error, never a hang."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import select
import signal
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import nested_tasks as tasks
import pytest

import glasspool

LIMIT_S = 30.0

FORK = multiprocessing.get_context("fork")


@contextlib.contextmanager
def ending(pool: glasspool.Pool) -> Iterator[glasspool.Pool]:
    """See a pool ended with the test."""
    try:
        yield pool
    finally:
        pool.terminate()
        pool.join()


@pytest.fixture
def own() -> Iterator[glasspool.Pool]:
    """Return a pool of one worker that its tasks can reach."""
    with ending(tasks.KnownPool(1, context=FORK)) as pool:
        yield pool
        tasks.pools.clear()


@pytest.mark.parametrize("how", tasks.USES)
def test_a_task_that_uses_its_own_pool_gets_an_error(own, how):
    """And no hang; it says what to do, and the pool goes on."""
    with pytest.raises(glasspool.GlasspoolError) as caught:
        own.apply_async(tasks.use, (how,)).get(LIMIT_S)
    assert f"this is a worker of {own.name} (slot 0, " in str(caught.value)
    assert "would wait for itself" in str(caught.value)
    assert own.apply(tasks.square, (3,)) == 9


@pytest.fixture
def other() -> Iterator[glasspool.Pool]:
    """Return a pool whose workers have inherited results of another one that will not come."""
    gate = FORK.Event()
    with ending(glasspool.Pool(1, context=FORK, initializer=gate.wait)) as first:
        tasks.results += [
            first.apply_async(tasks.square, (1,)),
            first.map_async(tasks.square, range(3)),
            first.imap(tasks.square, range(3)),
        ]
        tasks.pools.append(first)
        with warnings.catch_warnings():
            # The thread that fed the imap may still be about to end.
            warnings.simplefilter("ignore", glasspool.ForkWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            second = glasspool.Pool(1, context=FORK)
        with ending(second):
            yield second
        tasks.results.clear()
        tasks.pools.clear()
        gate.set()
        first.terminate()
    del first, gate


@pytest.mark.parametrize("how", tasks.WAITS)
def test_an_inherited_result_is_not_waited_for(other, how):
    """Nobody would ever fill the copy that a worker has: an error, and not a hang."""
    with pytest.raises(glasspool.GlasspoolError, match="has only inherited a copy"):
        other.apply_async(tasks.wait, (how,)).get(LIMIT_S)


@pytest.mark.parametrize("how", ["apply", "map", "imap", "stats"])
def test_an_inherited_pool_is_not_used(other, how):
    """The pool of another process, with its name and what to do."""
    with pytest.raises(glasspool.GlasspoolError, match="has only inherited a copy") as caught:
        other.apply_async(tasks.use, (how,)).get(LIMIT_S)
    assert tasks.pools[0].name in str(caught.value)


def test_a_fork_of_the_users_does_not_wait_either():
    """A child of ``os.fork`` that waits for a result of its parent's pool gets the error."""
    gate = FORK.Event()
    with ending(glasspool.Pool(1, context=FORK, initializer=gate.wait)) as pool:
        result = pool.apply_async(tasks.square, (1,))
        children = FORK.Process(target=child_that_waits, args=(result,))
        children.start()
        children.join(LIMIT_S)
        assert children.exitcode == 7
        gate.set()
        assert result.get(LIMIT_S) == 1


def child_that_waits(result: glasspool.AsyncResult[int]) -> None:
    """Leave with code 7 if waiting is an error that says what is wrong."""
    try:
        result.get()
    except glasspool.GlasspoolError as error:
        os._exit(7 if "is a fork of it" in str(error) else 8)


def test_what_cannot_travel_says_what_to_do(ctx):
    """A pool or a result among the arguments: stock's kind of error, with a hint."""
    with ending(glasspool.Pool(1, context=ctx)) as pool:
        with pytest.raises(
            NotImplementedError, match=r"cannot be passed .* as an attribute of self"
        ):
            pool.apply_async(tasks.square, (pool,)).get(LIMIT_S)
        result = pool.apply_async(tasks.square, (2,))
        assert result.get(LIMIT_S) == 4
        for unfit in (result, pool.map_async(tasks.square, [1]), pool.imap(tasks.square, [1])):
            with pytest.raises(TypeError, match="results of a pool cannot be passed"):
                pickle.dumps(unfit)
            with pytest.raises(TypeError, match="results of a pool cannot be passed"):
                pool.apply_async(tasks.square, (unfit,)).get(LIMIT_S)


METHODS = ("fork", "spawn", "forkserver")


@pytest.mark.parametrize("outer", METHODS)
def test_a_pool_inside_a_task_works_and_leaves_no_orphan(outer, tmp_path):
    """Under each pair of start methods; SIGKILL of the outer worker ends the inner pool within 2 s."""
    with ending(glasspool.Pool(3, context=multiprocessing.get_context(outer))) as pool:
        stay = {}
        for inner in METHODS:
            folder = tmp_path / inner
            folder.mkdir()
            os.mkfifo(folder / "told")
            stay[inner] = pool.apply_async(tasks.pool_in_task, (inner, str(folder)))
        watched = {inner: open_all(tmp_path / inner) for inner in METHODS}
        for inner, (told, pidfds) in watched.items():
            os.kill(stay[inner].info.pid, signal.SIGKILL)
            with pytest.raises(glasspool.WorkerDied):
                stay[inner].get(LIMIT_S)
            assert_end(pidfds, time.monotonic() + 2.0)
            told.close()


def open_all(folder: Path):
    """Wait for the inner pool of a task, and open a pidfd for each of its processes."""
    told = open(folder / "told", "rb")  # noqa: SIM115  # it ends with the outer worker
    return told, [os.pidfd_open(int(pid)) for pid in (folder / "pids").read_text().split()]


def assert_end(pidfds: list[int], deadline: float) -> None:
    """Each process ends before the deadline."""
    for pidfd in pidfds:
        assert select.select([pidfd], [], [], max(0.0, deadline - time.monotonic()))[0]
        os.close(pidfd)
