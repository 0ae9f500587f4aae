"""The fault matrix: whatever a worker dies of, at whatever moment of its life, with each start method.

A *moment* sets the scene; in it an *accident* happens to one worker; one checker says what has to be
true after each of them. Only the task concerned ends with an error, within a second, every other
one has its result, and the pool goes on with all its workers.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import fault_moments as moments
import psutil
import pytest
from fault_moments import FAULTS, LARGE, Accident

import glasspool
from gates import Gate
from pools import MakePool, check_ledger, wait_until

LIMIT_S = 30.0
START_METHODS = ("fork", "spawn", "forkserver")
NOTICED_S = 1.0
"""So soon after a death everybody who waits for the dead worker's task knows."""

FATAL = {
    "SIGKILL": (signal.SIGKILL, -signal.SIGKILL),
    "SIGSEGV": (signal.SIGSEGV, -signal.SIGSEGV),
    "os._exit": (None, moments.EXIT_CODE),
}
"""The faults that end a process, with the signal and the exit code on the certificate."""

WORDS = {"SIGKILL": "SIGKILL", "SIGSEGV": "SIGSEGV", "os._exit": f"code {moments.EXIT_CODE}"}
"""What the certificate's cause says of them."""

LOST = "lost"
"""The task concerned ends as ``WorkerDied``."""
SAFE = "safe"
"""It has its result: it was not begun, or was finished."""
EITHER = "either"
"""That depends on how far it was; but it ends."""


class Scene(NamedTuple):
    """A pool in which an accident happens or is about to.

    ``concerned`` is the task that it happens to, None if it happens to a worker without one.
    ``end`` tells what becomes of it if the worker dies.
    """

    pool: glasspool.Pool
    concerned: Any
    end: str


# Moments ------------------------------------------------------------------------------------------


def starting(make: MakePool, gate: Gate, accident: Accident) -> Scene:
    """The process has just begun to be."""
    moments.DoomedPool.accident = accident
    pool = make(2, pool_class=moments.DoomedPool, **gate.arguments)
    return Scene(pool, None, SAFE)


def in_the_initializer(make: MakePool, gate: Gate, accident: Accident) -> Scene:
    """The worker runs the user's initializer."""
    return Scene(make(2, accident.happen), None, SAFE)


def idle(make: MakePool, gate: Gate, accident: Accident) -> Scene:
    """The worker waits for a task; a thread that a task left behind goes wrong."""
    pool = make(2, **gate.arguments)
    assert pool.apply_async(moments.later, (accident,)).get(LIMIT_S) == 1
    gate.open()
    return Scene(pool, None, SAFE)


def receiving(make: MakePool, gate: Gate, accident: Accident) -> Scene:
    """A task of 50 MB is on its way to a worker that has been stopped, and has not begun."""
    pool = make(2, **gate.arguments)
    blocked = pool.apply_async(moments.wait)
    gate.wait_for_tasks()
    (victim,) = {process.pid for process in pool._pool} - {blocked.info.pid}
    pool.apply(moments.take)  # it is the only idle one, so it is ready now
    os.kill(victim, signal.SIGSTOP)
    concerned = pool.apply_async(moments.take, (bytearray(LARGE),))
    wait_until(lambda: pool.stats()["sent"] == 2, "the task is on its way")
    end_from_outside(accident, victim)
    gate.open()
    assert blocked.get(LIMIT_S) == 1
    return Scene(pool, concerned, SAFE)


def unpickling(make: MakePool, gate: Gate, accident: Accident, size: int = 0) -> Scene:
    """The worker rebuilds the arguments."""
    pool = make(2, **gate.arguments)
    values = (bytearray(size), moments.Trap(accident))
    return Scene(pool, pool.apply_async(moments.take, values), LOST)


def unpickling_much(make: MakePool, gate: Gate, accident: Accident) -> Scene:
    """The worker rebuilds arguments of 50 MB."""
    return unpickling(make, gate, accident, LARGE)


def running(make: MakePool, gate: Gate, accident: Accident) -> Scene:
    """The worker runs the function."""
    pool = make(2, **gate.arguments)
    return Scene(pool, pool.apply_async(accident.happen), LOST)


def pickling(make: MakePool, gate: Gate, accident: Accident, size: int = 0) -> Scene:
    """The worker pickles the result."""
    pool = make(2, **gate.arguments)
    return Scene(pool, pool.apply_async(moments.mine, (accident, size)), LOST)


def pickling_much(make: MakePool, gate: Gate, accident: Accident) -> Scene:
    """The worker pickles a result of 50 MB."""
    return pickling(make, gate, accident, LARGE)


def boxing_much(make: MakePool, gate: Gate, accident: Accident) -> Scene:
    """The kernel copies a result of 50 MB into shared memory."""
    pool = make(2, **gate.arguments)
    return Scene(pool, pool.apply_async(moments.load, (accident,)), EITHER)


def sending(make: MakePool, gate: Gate, accident: Accident) -> Scene:
    """The worker waits in a send, because nobody takes its results in."""
    pool = make(1, **gate.arguments)
    size = 100_000
    # So short that the pool sends some of them ahead.
    pool.map(moments.wait_or_give, [-1] * 300, chunksize=1)
    results = [pool.apply_async(moments.wait_or_give, (n,)) for n in [0, *[size] * 8]]
    wait_until(lambda: pool.stats()["sent"] > 6, "some large ones are behind the first")
    gate.wait_for_tasks(301)
    with the_collector_away(pool):
        gate.open()
        gate.wait_for_tasks(2)
        victim = pool._pool[0].pid
        wait_until(lambda: is_blocked(victim), "it waits in a send")
        process = psutil.Process(victim)
        end_from_outside(accident, victim)
        psutil.wait_procs([process], timeout=LIMIT_S)
    lost = 0
    for result in results:
        with contextlib.suppress(glasspool.WorkerDied):
            result.get(LIMIT_S)
            continue
        lost += 1
    assert lost <= 1, "a death costs at most the one task that was begun"
    return Scene(pool, None, SAFE)


def leaving(make: MakePool, gate: Gate, accident: Accident) -> Scene:
    """The worker has had its number of tasks, and runs its exit functions."""
    pool = make(2, maxtasksperchild=40)
    concerned = pool.apply_async(moments.at_exit, (accident,))
    concerned.wait(LIMIT_S)

    def has_left() -> bool:
        pool.map(moments.square, range(20), chunksize=1)  # until it has had its number, too
        return accident.has_happened

    wait_until(has_left, "the worker has left")
    return Scene(pool, concerned, SAFE)


MOMENTS: dict[str, Callable[[MakePool, Gate, Accident], Scene]] = {
    function.__name__: function
    for function in (
        starting,
        in_the_initializer,
        idle,
        receiving,
        unpickling,
        unpickling_much,
        running,
        pickling,
        pickling_much,
        boxing_much,
        sending,
        leaving,
    )
}
FROM_OUTSIDE = ("receiving", "sending")
"""Moments in which the worker itself can do nothing any more: only signals come from outside."""

OF_THE_PROCESS = ("starting", "in_the_initializer", "idle", "running", "leaving")
"""Moments that differ between processes that were started in different ways."""


def end_from_outside(accident: Accident, victim: int) -> None:
    """Send the signal of the accident to a worker, which may have been stopped."""
    assert accident.mark(victim)
    os.kill(victim, moments.SIGNALS[accident.fault])
    with contextlib.suppress(ProcessLookupError):  # it has gone already
        os.kill(victim, signal.SIGCONT)


@contextlib.contextmanager
def the_collector_away(pool: glasspool.Pool) -> Iterator[None]:
    """Keep the thread that takes results in from doing so."""
    collector = pool._engine.collector
    collector.mailbox.put(collector.park)
    pool._engine.threads["task-handler+result-handler"].join(LIMIT_S)
    try:
        yield
    finally:
        pool._engine.resume()


def is_blocked(pid: int) -> bool:
    """Tell whether the main thread of a worker sleeps in a call to the kernel."""
    with open(f"/proc/{pid}/stat", errors="replace") as stat:
        return stat.read().rpartition(")")[2].split()[0] == "S"


# The checker --------------------------------------------------------------------------------------


def check(scene: Scene, accident: Accident) -> None:
    """The task concerned has its end, every other task its result, and the pool goes on."""
    pool = scene.pool
    others = pool.map_async(moments.square, range(100), chunksize=1)
    if scene.concerned is not None:
        scene.concerned.wait(LIMIT_S)
        assert scene.concerned.ready()
        now = time.time()
        if accident.has_happened and scene.end != SAFE:
            assert now - accident.time < NOTICED_S
        check_end(scene.concerned, scene.end, accident)
    if accident.fault == "closed descriptors":
        others.wait(LIMIT_S)  # a worker that can send no more notices with its next task
    else:
        assert others.get(LIMIT_S) == [i * i for i in range(100)]
    wait_until(lambda: accident.has_happened, "it has happened")
    goes_on(pool)


def check_end(result: Any, end: str, accident: Accident) -> None:
    """A result has ended in the right way, with the whole story if its worker died."""
    error = error_of(result)
    if error is None:
        assert end != LOST or accident.fault == "closed descriptors"
    elif isinstance(error, glasspool.WorkerDied):
        assert end != SAFE
        certificate = error.certificate
        assert certificate.pid == accident.victim
        check_story(certificate, result)
        if accident.fault in FATAL:
            assert (certificate.signal, certificate.exitcode) == FATAL[accident.fault]
            assert WORDS[accident.fault] in certificate.cause
        else:
            assert accident.fault == "closed descriptors"
    else:
        # No death: what went wrong is the error of the task, by name.
        assert accident.fault not in FATAL
        if accident.fault == "memory limit":
            assert "MemoryError" in f"{type(error)} {error}"
        else:
            assert isinstance(error, glasspool.SerializationError)


def check_story(certificate: glasspool.DeathCertificate, result: Any) -> None:
    """The certificate says what happened to whom, and the task tells the same."""
    assert certificate.task is not None
    assert certificate.task.id == result.info.id
    assert certificate.task.function.startswith("fault_moments.")
    assert certificate.attempts == 1
    assert result.info.state == "lost"
    assert result.info.pid == certificate.pid


def error_of(result: Any) -> BaseException | None:
    """Return the error with which a result has ended, None if it has a value."""
    try:
        assert result.get(0)
    except (MemoryError, glasspool.GlasspoolError) as error:
        return error
    return None


def goes_on(pool: glasspool.Pool) -> None:
    """A pool runs 200 tasks with all its workers."""
    size = pool._processes
    assert pool.map(moments.square, range(200), chunksize=1) == [i * i for i in range(200)]
    wait_until(lambda: pool.stats()["idle"] == size, f"{size} workers at rest")
    stats = pool.stats()
    assert stats["waiting"] == stats["sent"] == 0
    assert stats["lost"] <= 1
    check_ledger(pool)


def cases() -> Iterator[Any]:
    """Yield every case: all of them run every day under fork, some under the other start methods."""
    for method, moment, fault in itertools.product(START_METHODS, MOMENTS, FAULTS):
        if moment in FROM_OUTSIDE and fault not in moments.SIGNALS:
            continue
        everyday = {
            "fork": True,
            "spawn": fault == "SIGKILL" or moment == "running",
            "forkserver": fault == "SIGKILL" and moment in OF_THE_PROCESS,
        }
        marks = () if everyday[method] else pytest.mark.whole_matrix
        yield pytest.param(method, moment, fault, marks=marks, id=f"{method}-{moment}-{fault}")


@pytest.mark.parametrize(("start_method", "moment", "fault"), [*cases()], indirect=["start_method"])
@pytest.mark.timeout(60)
def test_a_fault_at_a_moment(
    make: MakePool, gate: Gate, tmp_path: Any, moment: str, fault: str
) -> None:
    """Only the task concerned is affected; nobody waits for ever; the pool goes on."""
    accident = Accident(fault, str(tmp_path / "token"))
    scene = MOMENTS[moment](make, gate, accident)
    check(scene, accident)
