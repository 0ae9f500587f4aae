"""The roster against the operating system: every process, every thread, its role, state and task."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import queue
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import psutil
import pytest
import roster_tasks as tasks

import glasspool
from glasspool.observe import pyspy
from glasspool.snapshot import HANDLER_ROLES, PoolInfo, Snapshot, ThreadInfo, from_dict
from glasspool.views import table
from pools import wait_until

LIMIT_S = 30.0
SNAPSHOTS = 100
FORK = multiprocessing.get_context("fork")

ROLES = frozenset(
    (*HANDLER_ROLES, "main", "caller", "callback", "iterable", "logs", "user", "other-pool")
    + ("initializer", "task", "task-child", "inspector", "native")
    + ("template", "nanny", "fork-server", "resource-tracker", "manager")
)


@pytest.fixture
def no_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the package find no py-spy: what is seen then is seen without the right to trace."""
    monkeypatch.setattr(pyspy, "program", lambda: None)


@contextlib.contextmanager
def running(ctx: BaseContext, *args: Any, **kwds: Any) -> Iterator[glasspool.Pool]:
    """Make a pool and end it."""
    pool = glasspool.Pool(*args, context=ctx, **kwds)
    try:
        yield pool
    finally:
        pool.terminate()
        pool.join()


def ready(pool: glasspool.Pool) -> glasspool.Pool:
    """Wait until every worker is: the constructor waits for their processes only."""
    until(lambda: all(w.state == "idle" for w in pool.inspect().workers))
    return pool


def processes_by_psutil(method: str) -> dict[int, str]:
    """List the processes of the only pool of this process without glasspool's help.

    The fork server and the resource tracker live for all tests; they belong to a pool only under the
    start methods that use them.
    """
    found = {os.getpid(): "parent"}
    for process in psutil.Process().children(recursive=True):
        command = " ".join(process.cmdline())
        if "multiprocessing.resource_tracker" in command:
            kind, used_by = "resource-tracker", ("spawn", "forkserver")
        elif "multiprocessing.forkserver" in command and process.ppid() == os.getpid():
            kind, used_by = "fork-server", ("forkserver",)
        elif method == "fork" and process.ppid() == os.getpid():
            kind, used_by = "template", ("fork",)
        elif re.fullmatch(r"gp\d+ nanny", Path(f"/proc/{process.pid}/comm").read_text().strip()):
            kind, used_by = "nanny", ("spawn", "forkserver")
        else:
            kind, used_by = "worker", (method,)
        if method in used_by:
            found[process.pid] = kind
    return found


def threads_by_proc(pids: Any) -> set[tuple[int, int]]:
    """List the threads of processes as the kernel does; a process that has gone has none."""
    found = set()
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found |= {(pid, int(tid)) for tid in os.listdir(f"/proc/{pid}/task")}
    return found


def threads_of(seen: Snapshot | PoolInfo) -> set[tuple[int, int]]:
    """List the threads of a snapshot, and check that none is in it twice."""
    listed = [(t.pid, t.native_id) for t in seen.threads]
    assert len(listed) == len(set(listed))
    return set(listed)


def check_roles(seen: Snapshot | PoolInfo) -> None:
    """Each thread has roles, all of them known, and each handler role is held once."""
    for thread in seen.threads:
        assert thread.roles, thread
        assert set(thread.roles) <= ROLES, thread
    held = Counter(role for t in seen.threads for role in t.roles if role in HANDLER_ROLES)
    assert held == dict.fromkeys(HANDLER_ROLES, 1)


def only(threads: Any, role: str) -> ThreadInfo:
    """Return the one thread that has a role."""
    (found,) = [t for t in threads if role in t.roles]
    return found


def busy_worker(seen: Snapshot) -> Any:
    """Return the one worker that is busy."""
    (found,) = [w for w in seen.workers if w.state == "busy"]
    return found


def user_frames(thread: ThreadInfo) -> list[str]:
    """List the functions of the tests' tasks on a stack, outermost first."""
    return [f.function for f in thread.stack or () if f.file == tasks.__file__]


def until(condition: Callable[[], Any]) -> Any:
    """Wait for something that nobody announces."""
    deadline = time.monotonic() + LIMIT_S
    while not (told := condition()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.005)
    return told


# Against the operating system -------------------------------------------------------------------


def test_the_roster_is_what_the_system_lists(ctx, start_method, gate, no_reader):
    """100 pictures of a busy pool: exactly the kernel's threads, each with a role, all stacks."""
    with running(ctx, 4, tasks.keep, gate.shared) as pool:
        for job in (
            tasks.loop_in_python,
            tasks.sleep_again_and_again,
            tasks.start_threads,
            tasks.wait_at_gate,
        ):
            pool.apply_async(job)
        gate.wait_for_tasks(4)
        expected = processes_by_psutil(start_method)
        for _ in range(SNAPSHOTS):
            before = threads_by_proc(expected)
            seen = pool.inspect(stacks=True)
            after = threads_by_proc(expected)
            assert {p.pid: p.role for p in seen.processes} == expected
            assert before == threads_of(seen) == after
            check_roles(seen)
            check_all_stacks(seen)


def check_all_stacks(seen: Snapshot) -> None:
    """Each Python thread of parent and workers has a stack, and a task's is in its function."""
    for process in seen.processes:
        if process.role not in ("parent", "worker"):
            continue
        for thread in process.threads:
            assert thread.python, thread
            assert thread.stack, thread
            assert thread.evidence.source == "self"
            if thread.task is not None and "task" in thread.roles:
                assert thread.task.function.endswith(user_frames(thread)[0])


def test_threads_that_come_and_go(ctx, start_method, gate):
    """Threads and processes that begin and end meanwhile disturb nothing."""
    with running(ctx, 2, tasks.keep, gate.shared) as pool:
        results = [pool.apply_async(tasks.churn_threads), pool.apply_async(tasks.churn_processes)]
        gate.wait_for_tasks(2)
        pids = [p.pid for p in pool.inspect().processes]
        for number in range(SNAPSHOTS):
            before = threads_by_proc(pids)
            seen = pool.inspect(stacks=bool(number % 2))
            after = threads_by_proc(pids)
            listed = threads_of(seen)
            assert before & after <= listed
            assert not {t for t in listed - before if t in before}
            check_roles(seen)
        gate.open()
        for result in results:
            assert result.get(LIMIT_S) > 0


def test_an_idle_worker(ctx):
    """A worker at rest has no task, waits in the pool's own code, and says so."""
    with running(ctx, 2) as pool:
        seen = ready(pool).inspect(stacks=True)
        for worker in seen.workers:
            assert worker.state == "idle"
            (thread,) = worker.threads
            assert (thread.task, thread.is_main, thread.name) == (None, True, "MainThread")
            assert thread.stack
            assert thread.stack[-1].file.startswith(os.path.dirname(glasspool.__file__))


# What workers do --------------------------------------------------------------------------------


def test_a_task_that_sleeps_in_c(forked_gate, no_reader):
    """A C call that lets other threads run is interrupted, told and resumed: it is not shortened."""
    with running(FORK, 1, tasks.keep, forked_gate.shared) as pool:
        result = pool.apply_async(tasks.sleep_for, (0.5,))

        def frames() -> list[str]:
            return user_frames(only(pool.inspect(stacks=True).threads, "task"))

        until(frames)
        for _ in range(20):
            assert frames() == ["sleep_for"]
        assert not result.ready()
        assert result.get(LIMIT_S) >= 0.5


def test_a_task_that_holds_the_interpreter(forked_gate, no_reader):
    """A worker inside a C call that cannot be interrupted: no stack, and the reason; all else."""
    with running(FORK, 2, tasks.keep, forked_gate.shared) as pool:
        pool.apply_async(tasks.hold_the_interpreter)
        forked_gate.wait_for_tasks()

        def stuck() -> ThreadInfo | None:
            """It tells that it runs just before it gets stuck."""
            told = only(busy_worker(pool.inspect(stacks=True)).threads, "task")
            return told if told.stack is None else None

        thread = until(stuck)
        assert "C call" in thread.evidence.note
        assert thread.task.function == "roster_tasks.hold_the_interpreter"
        assert thread.evidence.source == "scoreboard"


def test_a_reader_from_outside_sees_into_c_calls(forked_gate):
    """With py-spy the stack is there all the same, and the roster says how it was got."""
    with running(FORK, 2, tasks.keep, forked_gate.shared) as pool:
        pool.apply_async(tasks.hold_the_interpreter)
        forked_gate.wait_for_tasks()
        pid = busy_worker(pool.inspect()).pid
        if pyspy.program() is None or pyspy.dump([pid])[pid].note:
            pytest.skip("py-spy is not installed, or not permitted here")

        def stuck() -> ThreadInfo | None:
            """It tells that it runs just before it gets stuck."""
            told = only(busy_worker(pool.inspect(stacks=True)).threads, "task")
            return told if told.evidence.source == "py-spy" else None

        thread = until(stuck)
        assert user_frames(thread) == ["hold_the_interpreter"]
        assert thread.ident


def test_a_task_s_thread_is_told_with_its_task(ctx, gate):
    """Threads that a task started are told from ours, with the task that made them."""
    with running(ctx, 2, tasks.keep, gate.shared) as pool:
        result = pool.apply_async(tasks.start_threads, (3,))
        gate.wait_for_tasks()
        for stacks in (False, True):
            worker = busy_worker(pool.inspect(stacks=stacks))
            children = [t for t in worker.threads if "task-child" in t.roles]
            assert [t.name for t in children] == ["kid-0", "kid-1", "kid-2"]
            assert [t.python for t in children] == [True] * 3
            assert [t.task.id if t.task else None for t in children] == [result.info.id] * 3
            assert {t.task.function for t in children} == {"roster_tasks.start_threads"}
            assert len(worker.threads) == 4
        native = sorted(t.native_id for t in children)
        assert [user_frames(t) for t in children] == [["wait_open"]] * 3
        gate.open()
        assert result.get(LIMIT_S) == native


def test_a_thread_that_outlives_its_task(forked_gate):
    """The thread is still told with the task that made it, which is not the one that runs."""
    with running(FORK, 1, tasks.keep, forked_gate.shared) as pool:
        made_by = pool.apply(tasks.leave_a_thread)
        pool.apply_async(tasks.wait_at_gate)
        forked_gate.wait_for_tasks()
        threads = pool.inspect(stacks=True).workers[0].threads
        assert only(threads, "task").task.id != made_by
        left = only(threads, "task-child")
        assert (left.name, left.task.id) == ("left behind", made_by)
        assert left.task.function == "roster_tasks.leave_a_thread"
        assert left.task.state != "running"


def test_native_threads(ctx, gate):
    """Threads that Python does not know are there, have the role native, and no stack."""
    with running(ctx, 1, tasks.keep, gate.shared) as pool:
        result = pool.apply_async(tasks.multiply)
        gate.wait_for_tasks()
        seen = [pool.inspect(stacks=stacks).workers[0] for stacks in (False, True)]
        gate.open()
        threads, pythons = result.get(LIMIT_S)
        if threads == pythons:
            pytest.skip("this NumPy multiplies on one thread here")
        for worker in seen:
            native = [t for t in worker.threads if t.roles == ("native",)]
            assert len(worker.threads) == threads
            assert len(native) == threads - pythons
            assert {(t.python, t.stack, t.ident) for t in native} == {(False, None, None)}


def test_the_initializer_is_told_with_its_thread_and_time(ctx):
    """Each worker tells which thread ran the initializer, when, and for how long."""
    begun = time.time()
    with running(ctx, 2, time.sleep, (0.05,)) as pool:
        seen = ready(pool).inspect()
        assert {pool_info.initializer for pool_info in seen.pools} == {"time.sleep"}
        for worker in seen.workers:
            told = worker.initializer
            assert (told.function, told.state) == ("time.sleep", "done")
            main = only(worker.threads, "initializer")
            assert main.is_main
            assert (told.thread.native_id, told.thread.ident) == (main.native_id, main.ident)
            assert (told.thread.name, told.thread.is_main) == ("MainThread", True)
            assert 0.05 <= told.run_s < 5
            assert told.begun_at is not None
            assert begun <= told.begun_at <= time.time() - told.run_s


def test_a_pool_without_initializer(ctx):
    """Nothing ran it: no thread has the role."""
    with running(ctx, 1) as pool:
        pool.apply(int)
        (worker,) = pool.inspect().workers
        assert worker.initializer is None or worker.initializer.state == "none"
        assert [t.roles for t in worker.threads] == [("task",)]


def test_a_pool_without_initializer_has_no_such_role_at_any_time(ctx):
    """Not while its workers start, either."""
    with running(ctx, 2) as pool:
        while True:
            seen = pool.inspect()
            assert "initializer" not in {role for t in seen.threads for role in t.roles}
            if all(worker.state == "idle" for worker in seen.workers):
                break


def test_a_worker_in_its_initializer(ctx, gate, no_reader):
    """A worker that is not ready yet is shown in the state that it is in, with its stack."""
    with running(ctx, 2, tasks.keep_slowly, gate.shared) as pool:
        gate.wait_for_tasks(2)
        for worker in pool.inspect(stacks=True).workers:
            assert worker.state == "initializing"
            assert (worker.initializer.state, worker.initializer.run_s) == ("running", None)
            thread = only(worker.threads, "initializer")
            assert user_frames(thread)[0] == "keep_slowly"
        gate.open()
        assert pool.apply(abs, (-1,)) == 1


# What the parent's threads do ---------------------------------------------------------------------


def test_the_handlers_have_names_and_states(ctx):
    """The pool's own threads: named in Python and for the system, with a state in words."""
    with running(ctx, 1, name="seen") as pool:
        pool.apply(int)
        seen = pool.inspect()
        (parent,) = [p for p in seen.processes if p.role == "parent"]
        ours = [t for t in parent.threads if t.pool == "seen"]
        assert {t.name for t in ours} == {"seen worker-handler", "seen task-handler+result-handler"}
        assert all(re.fullmatch(r"gp\d+ (workers|tasks\+res)", t.os_name) for t in ours)
        assert all(t.state and t.daemon and t.cpu_s is not None and t.ident for t in ours)
        main = only(parent.threads, "main")
        assert (main.is_main, main.native_id) == (True, os.getpid())
        assert main.state == "taking this snapshot"


def test_a_running_callback(forked_gate):
    """A callback that runs is told: on which thread, and of what."""
    seen: queue.SimpleQueue[Snapshot] = queue.SimpleQueue()
    with running(FORK, 1) as pool:
        pool.apply_async(
            abs, (-1,), callback=lambda value: seen.put(pool.inspect(stacks=True))
        ).wait(LIMIT_S)
        shown = seen.get(timeout=LIMIT_S)
        thread = only(shown.threads, "callback")
        assert (thread.name, thread.state) == (f"{pool.name} callback", "taking this snapshot")
        check_roles(shown)
        assert all(t.stack for w in shown.workers for t in w.threads)
        go, begun = threading.Event(), threading.Event()
        result = pool.apply_async(
            abs, (-1,), callback=lambda value: (begun.set(), go.wait(LIMIT_S))
        )
        assert begun.wait(LIMIT_S)
        thread = only(pool.inspect(stacks=True).threads, "callback")
        assert thread.state.startswith("running the callback of task")
        assert "abs" in thread.state
        assert any("<lambda>" in f.function for f in thread.stack)
        go.set()
        result.wait(LIMIT_S)
        until(lambda: only(pool.threads(), "callback").state == "waiting for a callback to run")


def test_a_running_iterable():
    """An iterable that is being drawn from is told: on which thread."""
    go, begun = threading.Event(), threading.Event()

    def numbers() -> Iterator[int]:
        yield 1
        begun.set()
        go.wait(LIMIT_S)
        yield 2

    with running(FORK, 1) as pool:
        values = pool.imap(abs, numbers())
        assert begun.wait(LIMIT_S)
        shown = pool.inspect(stacks=True)
        check_roles(shown)
        thread = only(shown.threads, "iterable")
        assert thread.name == f"{pool.name} iterable"
        assert thread.state == "running your iterable"
        assert re.fullmatch(r"gp\d+ iterable", thread.os_name)
        assert any(f.function.endswith("numbers") for f in thread.stack)
        go.set()
        assert list(values) == [1, 2]


WAYS_TO_WAIT: dict[str, Callable[[glasspool.Pool], Any]] = {
    "get": lambda pool: pool.apply_async(tasks.wait_at_gate).get(LIMIT_S),
    "wait": lambda pool: pool.apply_async(tasks.wait_at_gate).wait(LIMIT_S),
    "next": lambda pool: next(pool.imap(tasks.wait_at_gate, [1])),
    "apply": lambda pool: pool.apply(tasks.wait_at_gate),
    "map": lambda pool: pool.map(tasks.wait_at_gate, [1]),
    "map_async.get": lambda pool: pool.map_async(tasks.wait_at_gate, [1]).get(LIMIT_S),
    "join": lambda pool: (pool.apply_async(tasks.wait_at_gate), pool.close(), pool.join()),
}


@pytest.mark.parametrize("way", WAYS_TO_WAIT)
def test_a_caller_that_waits(way, forked_gate):
    """A thread of the user that waits in a call of the pool is a caller, and says in which."""
    with running(FORK, 1, tasks.keep, forked_gate.shared) as pool:
        caller = threading.Thread(target=WAYS_TO_WAIT[way], args=(pool,), name="mine", daemon=True)
        caller.start()
        forked_gate.wait_for_tasks()

        def waiting() -> ThreadInfo | None:
            (mine,) = [t for t in pool.threads() if t.name == "mine"]
            return mine if "caller" in mine.roles else None

        mine = until(waiting)
        assert mine.state.startswith("waiting in ")
        assert mine.native_id == caller.native_id
        assert re.match("python", mine.os_name) or mine.os_name == "mine"
        forked_gate.open()
        caller.join(LIMIT_S)
        assert not caller.is_alive()
        assert not [t for t in pool.threads() if "caller" in t.roles]


def test_the_user_s_threads_keep_their_names():
    """A thread that has nothing to do with the pool has the role user, and its own name."""
    go = threading.Event()
    with running(FORK, 1) as pool:
        mine = threading.Thread(target=go.wait, args=(LIMIT_S,), name="my own")
        mine.start()
        (told,) = [t for t in pool.threads() if t.name == "my own"]
        go.set()
        mine.join()
        assert told.roles == ("user",)
        assert (told.native_id, told.ident, told.pool) == (mine.native_id, mine.ident, None)


# What results tell --------------------------------------------------------------------------------


def test_a_result_knows_who_ran_it(ctx):
    """``info`` of an apply agrees with what the task found out itself."""
    begun = time.time()
    with running(ctx, 2) as pool:
        result = pool.apply_async(tasks.who_am_i)
        pid, name, ident, native = result.get(LIMIT_S)
        info = result.info
        assert (info.state, info.function, info.items, info.attempts) == (
            "done",
            "roster_tasks.who_am_i",
            1,
            1,
        )
        assert info.pid == pid
        assert (info.thread.name, info.thread.ident, info.thread.native_id) == (name, ident, native)
        assert info.thread.is_main
        assert begun <= info.submitted_at <= info.begun_at <= info.ended_at <= time.time()
        assert info.queue_wait_s >= 0
        assert info.run_s >= 0
        assert info.argument_bytes > 0
        assert info.result_bytes > 0
        assert pid in {w.pid for w in pool.inspect().workers}


def test_a_map_knows_who_ran_each_chunk(ctx):
    """``info.tasks`` of a map has its chunks, each with its process and thread."""
    with running(ctx, 2) as pool:
        result = pool.map_async(tasks.who_am_i, range(10), 3)
        values = result.get(LIMIT_S)
        info = result.info
        assert (info.state, info.items) == ("done", 10)
        assert [chunk.items for chunk in info.tasks] == [3, 3, 3, 1]
        assert [chunk.index for chunk in info.tasks] == [0, 1, 2, 3]
        for chunk, (pid, name, ident, native) in zip(info.tasks, values[::3], strict=True):
            assert (chunk.state, chunk.pid, chunk.thread.name) == ("done", pid, name)
            assert (chunk.thread.ident, chunk.thread.native_id) == (ident, native)
        assert len({chunk.id for chunk in info.tasks}) == 4


# Several pools, other places to look from ---------------------------------------------------------


def test_two_pools_at_once(ctx):
    """Each pool's picture has its own handlers; all pools together have each pool's."""
    with running(ctx, 1, name="one") as one, running(ctx, 1, name="two") as two:
        for pool in (ready(one), ready(two)):
            seen = pool.inspect(stacks=True)
            check_roles(seen)
            (worker,) = seen.workers
            assert worker.pid == pool.apply(os.getpid)
            mine = {t.pool for t in seen.threads if set(t.roles) & set(HANDLER_ROLES)}
            assert mine == {pool.name}
        both = glasspool.inspect(stacks=True)
        assert [pool.name for pool in both.pools] == ["one", "two"]
        assert len(both.workers) == 2
        held = Counter(
            (t.pool, role) for t in both.threads for role in t.roles if role in HANDLER_ROLES
        )
        assert held == {(pool, role): 1 for pool in ("one", "two") for role in HANDLER_ROLES}
        assert all(t.stack for w in both.workers for t in w.threads)


def test_no_pool_no_picture():
    """Without a pool there is nothing to show, which is no error."""
    seen = glasspool.inspect()
    assert (seen.pools, seen.processes, seen.tasks) == ((), (), ())
    assert str(seen).strip() == "no pools"


def test_a_look_from_another_thread(ctx):
    """Any thread may look: it is the one that takes the snapshot then."""
    seen: list[Snapshot] = []
    with running(ctx, 2) as pool:
        ready(pool)
        looker = threading.Thread(
            target=lambda: seen.append(pool.inspect(stacks=True)), name="looker"
        )
        looker.start()
        looker.join(LIMIT_S)
        (shown,) = seen
        check_roles(shown)
        assert all(t.stack for w in shown.workers for t in w.threads)
        (told,) = [t for t in shown.threads if t.name == "looker"]
        assert (told.roles, told.state) == (("user",), "taking this snapshot")


def test_two_threads_may_look_at_the_same_time(forked_gate, no_reader):
    """Each gets all stacks."""
    missing: list[str] = []

    def look() -> None:
        for _ in range(50):
            shown = pool.inspect(stacks=True)
            missing.extend(
                f"{t.name} {t.evidence.note}"
                for w in shown.workers
                for t in w.threads
                if not t.stack
            )

    with running(FORK, 2, tasks.keep, forked_gate.shared) as pool:
        for _ in range(2):
            pool.apply_async(tasks.wait_at_gate)
        forked_gate.wait_for_tasks(2)
        lookers = [threading.Thread(target=look) for _ in range(3)]
        for looker in lookers:
            looker.start()
        for looker in lookers:
            looker.join(LIMIT_S)
        assert missing == []


def test_a_look_from_inside_a_task(ctx):
    """A task may make a pool and look at it; its own pool is its parent's business."""
    with running(ctx, 1, name="outer") as pool:
        assert pool.apply(tasks.look_at_nothing) == 0
        here, roles, without = pool.apply(tasks.look_from_inside)
        assert (here.pool, here.slot) == ("outer", 0)
        assert here.function == "roster_tasks.look_from_inside"
        assert without == ()
        assert {role for each in roles for role in each} >= {"main", *HANDLER_ROLES}


# Life of a pool -----------------------------------------------------------------------------------


def test_workers_that_die_meanwhile(ctx):
    """Pictures of a pool whose workers die and are replaced: never an error, never a nameless role."""
    with running(ctx, 2) as pool:
        for _ in range(5):
            victim = pool.apply(os.getpid)
            result = pool.apply_async(tasks.die)
            while not result.ready():
                check_roles(pool.inspect(stacks=True))
            with pytest.raises(glasspool.WorkerDied):
                result.get(LIMIT_S)
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
            for _ in range(5):
                seen = pool.inspect(stacks=True)
                check_roles(seen)
                (told,) = seen.pools
        assert told.deaths
        assert {death.cause for death in told.deaths} <= {
            "exited with code 3",
            "was killed by SIGKILL",
        }
        assert told.ended
        assert pool.apply(abs, (-1,)) == 1


def test_pictures_while_workers_are_recycled(ctx):
    """Workers that leave on purpose are no deaths, and are shown as long as they live."""
    with running(ctx, 2, maxtasksperchild=2) as pool:
        result = pool.map_async(abs, range(20), 1)
        while not result.ready():
            check_roles(pool.inspect(stacks=True))
        assert result.get(LIMIT_S) == list(range(20))
        assert pool.inspect().pools[0].deaths == ()


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
def test_a_pool_that_is_being_made(ctx):
    """Looks from another thread while the constructor runs, and right after it."""
    stop = threading.Event()
    errors: list[BaseException] = []
    method = ctx.get_start_method()

    def look() -> None:
        try:
            while not stop.is_set():
                for pool in glasspool.inspect(stacks=True).pools:
                    if pool.state == "running":  # in the end the handlers go one by one
                        check_roles(pool)
        except BaseException as error:
            errors.append(error)

    looker = threading.Thread(target=look, name="looker")
    looker.start()
    try:
        warned = pytest.warns(glasspool.ForkWarning, match="looker")
        with warned if method == "fork" else contextlib.nullcontext():
            pool = glasspool.Pool(2, context=ctx)
        try:
            seen = pool.inspect(stacks=True)
            assert {w.state for w in seen.workers} <= {"starting", "idle", "initializing"}
            assert len(seen.workers) == 2
            check_roles(seen)
        finally:
            pool.terminate()
            pool.join()
    finally:
        stop.set()
        looker.join(LIMIT_S)
    assert errors == []


@pytest.mark.parametrize("end", ["close", "terminate"])
def test_a_pool_that_has_ended(ctx, end):
    """A picture of it can be taken at any time, and says that it has ended."""
    pool = glasspool.Pool(2, context=ctx)
    pool.apply(int)
    getattr(pool, end)()
    for _ in range(20):
        str(pool.inspect(stacks=True))
    pool.join()
    seen = pool.inspect(stacks=True)
    assert (seen.pools[0].state, seen.workers) == ("ended", ())
    assert pool.threads()
    assert pool.stats()["done"] == 1
    str(seen)


def test_a_failing_initializer():
    """A pool that gives up says why."""
    with running(FORK, 1, tasks.fail) as pool:
        with pytest.raises(glasspool.InitializerFailed):
            pool.apply(int)
        (told,) = pool.inspect(stacks=True).pools
        assert told.state == "failed"
        assert any("on purpose" in note for note in told.notes)


# As text and as plain values ------------------------------------------------------------------------


@pytest.mark.parametrize("stacks", [False, True])
def test_there_and_back(ctx, gate, stacks):
    """``to_dict`` and ``to_json`` lose nothing."""
    with running(ctx, 2, tasks.keep, gate.shared) as pool:
        pool.apply_async(tasks.start_threads)
        pool.map_async(tasks.wait_at_gate, range(6), 2)
        gate.wait_for_tasks(2)
        seen = pool.inspect(stacks=stacks)
        assert from_dict(seen.to_dict()) == seen
        assert from_dict(json.loads(seen.to_json())) == seen
        plain = json.loads(seen.to_json())
        assert plain["schema"] == 1
        assert {
            "name", "ident", "native_id", "roles", "state", "python", "task", "stack", "evidence"
        } <= set(plain["pools"][0]["processes"][0]["threads"][0])  # fmt: skip


def test_printed_at_80_columns(ctx, gate, monkeypatch):
    """Folded or not, no line is longer than the terminal is wide, and each worker is there."""
    monkeypatch.setenv("COLUMNS", "80")
    with running(ctx, 4, tasks.keep, gate.shared) as pool:
        idle = ready(pool).inspect()
        pool.apply_async(tasks.start_threads)
        gate.wait_for_tasks()
        for seen in (idle, pool.inspect(stacks=True)):
            for fold in (True, False):
                text = table.snapshot_text(seen, fold=fold)
                assert max(map(len, text.splitlines())) <= 80
                for role in HANDLER_ROLES:
                    assert role in text
            assert str(seen) == table.snapshot_text(seen)
        folded, unfolded = (table.snapshot_text(idle, fold=fold) for fold in (True, False))
        assert len(folded.splitlines()) < len(unfolded.splitlines())
        for worker in idle.workers:
            assert str(worker.pid) in unfolded


# ``glasspool.inspect`` ------------------------------------------------------------------------------


def test_a_stock_pool_by_the_same_door():
    """The same call looks at the standard library's pool."""
    with FORK.Pool(2) as pool:
        pool.map(abs, range(4))
        seen = glasspool.inspect(pool)
        assert [told.kind for told in seen.pools] == ["multiprocessing.Pool"]
        check_roles(seen)
        pool.close()
        pool.join()


def test_a_pool_by_the_pid_of_its_process(ctx):
    """The own pid, and a worker's, lead to the pool."""
    with running(ctx, 2, name="by pid") as pool:
        for pid in (os.getpid(), ready(pool).apply(os.getpid)):
            seen = glasspool.inspect(pid, stacks=True)
            assert [told.name for told in seen.pools] == ["by pid"]
            check_roles(seen)
            assert len(seen.workers) == 2


@pytest.mark.parametrize("nonsense", ["text", 1.5, True, object(), [1], glasspool.Pool])
def test_what_is_no_pool(nonsense):
    """A TypeError says what would be right."""
    with pytest.raises(TypeError, match=r"pool, a pid or None"):
        glasspool.inspect(nonsense)


@pytest.mark.parametrize("pid", [0, -1, 2**22 + 1, 2**40])
def test_a_pid_that_is_none(pid):
    """A LookupError."""
    with pytest.raises(LookupError, match="no such process"):
        glasspool.inspect(pid)


PROGRAM = """
    import multiprocessing, sys, time, glasspool
    if __name__ == "__main__":
        context = multiprocessing.get_context(sys.argv[1])
        with glasspool.Pool(2, context=context, name="far away") as pool:
            while any(worker.state != "idle" for worker in pool.inspect().workers):
                pass
            result = pool.apply_async(time.sleep, (600,))
            while not pool.stats()["running"]:
                pass
            print("ready", flush=True)
            if sys.argv[2] == "waits":
                sys.stdin.readline()
            else:
                sum(range(10**12))
"""


@contextlib.contextmanager
def another_program(tmp_path: Path, method: str, how: str) -> Iterator[int]:
    """Run a program with a pool until the block ends."""
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(PROGRAM))
    process = subprocess.Popen(
        [sys.executable, str(path), method, how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "ready\n"
        yield process.pid
    finally:
        for each in (*psutil.Process(process.pid).children(recursive=True), process):
            each.kill()
        process.communicate(timeout=LIMIT_S)
        for left in Path(os.environ["GLASSPOOL_DIR"]).glob(f"*.{process.pid}.*"):
            left.unlink(missing_ok=True)


def test_another_process_by_its_pid(tmp_path, start_method):
    """A program that can answer gives its own word on everything."""
    with another_program(tmp_path, start_method, "waits") as pid:
        seen = glasspool.inspect(pid, stacks=True)
        (pool,) = seen.pools
        assert (pool.name, pool.pid, pool.notes) == ("far away", pid, ())
        check_roles(seen)
        assert threads_of(seen) == threads_by_proc([p.pid for p in seen.processes])
        (parent,) = [p for p in seen.processes if p.role == "parent"]
        assert all(t.stack for p in (parent, *seen.workers) for t in p.threads)


def test_another_process_whose_main_thread_is_stuck(tmp_path, start_method):
    """With the interpreter held by a C call, scoreboard and system tell: same threads, same roles."""
    with another_program(tmp_path, start_method, "hangs") as pid:
        # It says that it is ready just before it holds the interpreter.
        wait_until(lambda: glasspool.inspect(pid).pools[0].notes != (), "it does not answer")
        seen = glasspool.inspect(pid)
        (pool,) = seen.pools
        assert (pool.name, pool.pid, pool.start_method) == ("far away", pid, start_method)
        assert "did not answer" in pool.notes[0]
        check_roles(seen)
        assert threads_of(seen) == threads_by_proc([p.pid for p in seen.processes])
        assert sorted(w.state for w in seen.workers) == ["busy", "idle"]
        assert [t.function for t in seen.tasks] == ["time.sleep"]
        expected = {
            "fork": {"parent", "template", "worker"},
            "spawn": {"parent", "resource-tracker", "nanny", "worker"},
            "forkserver": {"parent", "fork-server", "resource-tracker", "nanny", "worker"},
        }
        assert {p.role for p in seen.processes} == expected[start_method]


# Looking does no harm -------------------------------------------------------------------------------


@pytest.mark.one_python
def test_a_thousand_pictures_disturb_nothing(ctx):
    """Looked at 1,000 times with stacks, every task returns what it returns when nobody looks."""
    expected = [function(*args) for function, args in tasks.JOBS]
    with running(ctx, 4) as pool:
        rounds = [[pool.apply_async(function, args) for function, args in tasks.JOBS]]
        sleeps = [pool.apply_async(tasks.sleep_for, (0.2,)) for _ in range(4)]
        programs = [pool.apply_async(tasks.run_program, (0.1,)) for _ in range(4)]
        numbers = pool.map_async(abs, range(-20_000, 0))
        for number in range(1000):
            check_roles(pool.inspect(stacks=True))
            if number % 20 == 0:
                rounds.append([pool.apply_async(function, args) for function, args in tasks.JOBS])
        for row in rounds:
            assert [result.get(LIMIT_S) for result in row] == expected
        assert min(sleep.get(LIMIT_S) for sleep in sleeps) >= 0.2
        for program in programs:
            printed, took_s = program.get(LIMIT_S)
            assert printed == "ran"
            assert took_s >= 0.1
        assert numbers.get(LIMIT_S) == list(range(20_000, 0, -1))
        counted = pool.stats()
        assert (counted["lost"], counted["deaths"], counted["failed"]) == (0, 0, 0)
