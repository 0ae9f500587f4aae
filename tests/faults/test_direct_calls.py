"""Direct calls: a caller and an idle worker talk past the collector, and sometimes wait by trying.

Whether they try depends on what was measured, so here some pools are told to do it always.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import fault_tasks as tasks
import pytest

import glasspool
from glasspool.engines.local.waiting import ASLEEP, BOTH, Trying
from pools import MakePool, wait_until

LIMIT_S = 30.0
LOOK_S = 1.0


class Always(Trying):
    """Caller and worker wait by trying in each call, however it goes."""

    is_on = True

    def who(self, pause_ns: int, busy: int) -> int:
        """Say: both."""
        return BOTH


class Never(Trying):
    """Nobody waits by trying."""

    def who(self, pause_ns: int, busy: int) -> int:
        """Say: nobody."""
        return ASLEEP


def ready(pool: glasspool.Pool, how: type[Trying]) -> glasspool.Pool:
    """Wait for the workers, and say how calls are waited for."""
    size = pool._processes
    wait_until(lambda: pool.stats()["idle"] == size, f"{size} workers at rest")
    pool._engine.collector.lender._trying = how(lambda: 2)
    return pool


@pytest.fixture(params=[Always, Never], ids=["trying", "asleep"])
def pool(request: pytest.FixtureRequest, make_forked: MakePool) -> glasspool.Pool:
    """A pool of two."""
    return ready(make_forked(2), request.param)


def at_work(pool: glasspool.Pool) -> list[int]:
    """Return the pids of the workers that have said hello, and not left."""
    workers = pool._engine.handler.workers.copy().values()
    return [worker.pid for worker in workers if worker.ready]


def times_run(pid: int, tid: int) -> tuple[int, int]:
    """Return how often a thread was switched to, and its processor time in ns (see test_idle)."""
    folder = Path(f"/proc/{pid}/task/{tid}")
    switches = sum(
        int(line.split()[1])
        for line in (folder / "status").read_text().splitlines()
        if "ctxt_switches" in line
    )
    return switches, int((folder / "schedstat").read_text().split()[0])


def test_all_kinds_of_values(pool: glasspool.Pool) -> None:
    """Plain ones and others, large ones in shared memory, errors: as they always are."""
    for value in range(300):
        assert pool.apply(tasks.square, (value,)) == value * value
        assert pool.apply(dict, ([("a", value)],), {"b": 2}) == {"a": value, "b": 2}
    text = bytes(300_000)
    for _ in range(20):
        assert pool.apply(len, (text,)) == len(text)
        assert pool.apply(bytes, (300_000,)) == text
        with pytest.raises(ZeroDivisionError):
            pool.apply(divmod, (1, 0))
    assert pool.apply(eval, ("[i for i in range(3)]",)) == [0, 1, 2]
    stats = pool.stats()
    assert (stats["done"], stats["failed"], stats["waiting"], stats["sent"]) == (641, 20, 0, 0)


def test_a_row_of_calls_stays_with_one_worker(pool: glasspool.Pool) -> None:
    """It is awake, and knows the callable; the other one sleeps."""
    assert len({pool.apply(os.getpid) for _ in range(50)}) == 1


def test_callers_beside_each_other_and_a_map(pool: glasspool.Pool) -> None:
    """Each gets his own results, while workers go back and forth between them and the collector."""
    wrong: list[int] = []

    def call(first: int) -> None:
        values = range(first, first + 300)
        wrong.extend(i for i in values if pool.apply(tasks.square, (i,)) != i * i)

    callers = [threading.Thread(target=call, args=(1000 * i,)) for i in range(3)]
    for caller in callers:
        caller.start()
    for _ in range(5):
        assert pool.map(tasks.square, range(500), 1) == [i * i for i in range(500)]
    for caller in callers:
        caller.join(LIMIT_S)
    assert not wrong


def test_an_idle_worker_tells_its_stacks(pool: glasspool.Pool) -> None:
    """Nobody listens to it after a direct call, until somebody asks."""
    for _ in range(20):
        assert pool.apply(tasks.square, (3,)) == 9
        seen = pool.inspect(stacks=True)
        threads = [t for p in seen.processes if p.role == "worker" for t in p.threads]
        assert [t.evidence.source for t in threads] == ["self", "self"]
        assert all(t.stack for t in threads)


def test_a_worker_tells_its_stacks_between_calls(pool: glasspool.Pool) -> None:
    """While it goes from caller to caller, whoever has it hears what it says."""
    over = threading.Event()

    def call() -> None:
        while not over.is_set():
            pool.apply(tasks.square, (3,))

    caller = threading.Thread(target=call)
    caller.start()
    try:
        for _ in range(30):
            seen = pool.inspect(stacks=True)
            threads = [t for p in seen.processes if p.role == "worker" for t in p.threads]
            assert [t.evidence.source for t in threads] == ["self", "self"]
    finally:
        over.set()
        caller.join(LIMIT_S)


def test_an_idle_worker_dies_after_a_call(pool: glasspool.Pool) -> None:
    """Its end is told although nobody listens to it; the next calls do not meet it."""
    for deaths in range(1, 4):
        pid = pool.apply(os.getpid)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda deaths=deaths: pool.stats()["deaths"] == deaths, "the death is known")
        wait_until(lambda: pool.stats()["idle"] == 2, "two workers at rest")
        assert {pool.apply(os.getpid) for _ in range(5)} != {pid}


def test_a_worker_dies_at_any_moment_of_a_call(pool: glasspool.Pool) -> None:
    """The call has its value, or says that the worker died; nothing hangs."""
    over = threading.Event()
    ends: list[object] = []

    def call() -> None:
        while not over.is_set():
            try:
                ends.append(pool.apply(tasks.square, (3,)))
            except glasspool.WorkerDied as error:
                ends.append(error.certificate.signal)

    caller = threading.Thread(target=call)
    caller.start()
    try:
        for deaths in range(1, 11):
            wait_until(lambda: len(at_work(pool)) == 2, "two workers have begun")
            os.kill(at_work(pool)[deaths % 2], signal.SIGKILL)
            wait_until(lambda deaths=deaths: pool.stats()["deaths"] == deaths, "it is buried")
    finally:
        over.set()
        caller.join(LIMIT_S)
    assert set(ends) <= {9, signal.SIGKILL}
    assert pool.apply(tasks.square, (4,)) == 16


def test_a_stopped_worker_is_not_waited_for(pool: glasspool.Pool) -> None:
    """The caller tries, sleeps, and gives the call up to another worker."""
    pid = pool.apply(os.getpid)
    os.kill(pid, signal.SIGSTOP)
    try:
        assert pool.apply(tasks.square, (5,)) == 25
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: pool.stats()["idle"] == 2, "two workers at rest")


def test_after_a_row_of_calls_all_sleep(make_forked: MakePool) -> None:
    """A tenth of a millisecond after the last call nobody tries any more: no switches, no time."""
    pool = ready(make_forked(4), Always)
    for value in range(500):
        assert pool.apply(abs, (-value,)) == value
    mine = threading.get_native_id()
    threads = [(t.pid, t.native_id) for t in pool.threads() if t.native_id != mine]
    assert len(threads) >= 4 + 2
    time.sleep(0.6)  # what a pool loads 0.25 s after its start, it has loaded then
    before = {thread: times_run(*thread) for thread in threads}
    time.sleep(LOOK_S)
    for thread, (switches, cpu_ns) in before.items():
        now, cpu_now_ns = times_run(*thread)
        assert now - switches <= 1, thread
        assert cpu_now_ns - cpu_ns < 1_000_000, thread
