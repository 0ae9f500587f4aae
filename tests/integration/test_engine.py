"""The local engine with real processes: names, arguments, life, what a task and a result tell."""

from __future__ import annotations

import functools
import gc
import itertools
import multiprocessing
import os
import re
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import engine_tasks as tasks
import numpy as np
import psutil
import pytest

import glasspool
from gates import Gate
from glasspool.processors import usable_processors
from leaks import take
from pools import MakePool, wait_until

LIMIT_S = 30.0
HERE = Path(__file__).parent

fork_beside_threads = pytest.mark.filterwarnings(
    "ignore:.*multi-threaded, use of fork.*:DeprecationWarning"
)
"""For a test in which the user forks while a pool lives."""


def comm(native_id: int, pid: int | None = None) -> str:
    """Return the operating system's name of a thread."""
    path = f"/proc/{pid or os.getpid()}/task/{native_id}/comm"
    return Path(path).read_text().rstrip("\n")


def own_threads(pool: glasspool.Pool) -> dict[str, threading.Thread]:
    """Return the threads of this process that carry the pool's name, by the rest of their name."""
    prefix = f"{pool.name} "
    return {
        t.name.removeprefix(prefix): t for t in threading.enumerate() if t.name.startswith(prefix)
    }


def run_program(folder: Path, text: str, *args: str, limit_s: float = 60) -> str:
    """Run a program of its own in a fresh interpreter; return what it printed."""
    path = folder / "program.py"
    path.write_text(textwrap.dedent(text))
    root = HERE.parent.parent
    env = dict(os.environ, PYTHONPATH=os.pathsep.join([str(HERE), str(root / "src")]))
    done = subprocess.run(
        [sys.executable, str(path), *args],
        env=env,
        capture_output=True,
        text=True,
        timeout=limit_s,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# Names ------------------------------------------------------------------------------------------


def test_threads_have_names_in_python_and_for_the_system(make: MakePool) -> None:
    """From the start there are two threads, named by their roles, in both worlds."""
    pool = make(2)
    found = own_threads(pool)
    assert sorted(found) == ["task-handler+result-handler", "worker-handler"]
    number = pool._engine.number
    names = {role: thread.native_id for role, thread in found.items()}
    wait_until(
        lambda: comm(names["worker-handler"] or 0) == f"gp{number} workers", "name of the handler"
    )
    wait_until(
        lambda: comm(names["task-handler+result-handler"] or 0) == f"gp{number} tasks+res",
        "name of the collector",
    )
    assert all(thread.daemon for thread in found.values())
    assert threading.main_thread().name == "MainThread"


def test_the_callback_and_iterable_threads_come_when_needed(make_forked: MakePool) -> None:
    """A callback and an iterable each run on a thread of the pool with that name."""
    pool = make_forked(2)
    seen: dict[str, tuple[str, str]] = {}

    def note(role: str) -> None:
        seen[role] = (threading.current_thread().name, comm(threading.get_native_id()))

    def items() -> Iterator[int]:
        note("iterable")
        yield 1

    pool.apply_async(tasks.echo, (1,), callback=lambda value: note("callback")).get(LIMIT_S)
    assert list(pool.imap(tasks.echo, items())) == [1]
    number = pool._engine.number
    for role in ("callback", "iterable"):
        assert seen[role] == (f"{pool.name} {role}", f"gp{number} {role}")


def test_a_task_runs_in_the_named_main_thread(make: MakePool) -> None:
    """Python calls it MainThread, the system ``gpN wSS task``; there is no other thread."""
    pool = make(3)
    number = pool._engine.number
    wait_until(lambda: pool.stats()["idle"] == 3, "three workers at rest")
    pids = {process.pid for process in pool._pool}
    told = [pool.apply(tasks.who_runs_this) for _ in range(6)]
    for who in told:
        assert who["name"] == "MainThread"
        assert who["is_main"]
        assert who["pid"] in pids
        assert who["native_id"] == who["pid"]
        assert who["threads"] == 1
        match = re.fullmatch(rf"gp{number} w(\d\d) task", who["comm"])
        assert match
        assert int(match[1]) == who["worker"].slot < 3
    slots = {comm(pid, pid) for pid in pids if pid}
    assert slots == {f"gp{number} w{slot:02d} task" for slot in range(3)}


def test_the_default_size_is_what_may_be_used(make_forked: MakePool) -> None:
    """Without a number there are as many workers as processors that this process may use."""
    pool = make_forked()
    assert len(pool._pool) == pool._processes == usable_processors()


def test_two_pools_never_share_a_name(make_forked: MakePool) -> None:
    """A name that is taken gets a number; it is free again after the pool's end."""
    one, other = make_forked(1, name="cook"), make_forked(1, name="cook")
    assert one.name == "cook"
    assert other.name == "cook-2"
    one.terminate()
    one.join()
    assert make_forked(1, name="cook").name == "cook"
    unnamed = make_forked(1), make_forked(1)
    assert unnamed[0].name != unnamed[1].name
    assert all(re.fullmatch(r"glasspool-\d+", pool.name) for pool in unnamed)


_numbers = itertools.count()

# Arguments --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"processes": 0}, ValueError, "at least 1.*0"),
        ({"processes": -1}, ValueError, "at least 1.*-1"),
        ({"processes": "x"}, TypeError, "processes.*'x'"),
        ({"processes": 2.5}, TypeError, "processes.*2.5"),
        ({"maxtasksperchild": 0}, ValueError, "maxtasksperchild.*positive.*0"),
        ({"maxtasksperchild": -3}, ValueError, "maxtasksperchild.*positive.*-3"),
        ({"maxtasksperchild": "x"}, ValueError, "maxtasksperchild.*positive.*'x'"),
        ({"initializer": "x"}, TypeError, "initializer.*callable.*str"),
        ({"initializer": 7}, TypeError, "initializer.*callable.*int"),
        ({"initargs": 5}, TypeError, "iterable"),
        ({"engine": "moon"}, glasspool.EngineUnavailable, "'moon'.*local"),
        ({"engine": None}, glasspool.EngineUnavailable, "None.*local"),
        ({"name": ""}, ValueError, "name.*''"),
        ({"name": "a/b"}, ValueError, "name.*'a/b'"),
        ({"name": "x" * 65}, ValueError, "name"),
        ({"name": "a\nb"}, ValueError, "name"),
        ({"name": 7}, TypeError, "name.*int"),
        ({"nonsense": 1}, TypeError, "nonsense"),
    ],
    ids=lambda value: repr(value)[:40] if isinstance(value, dict) else "",
)
def test_bad_arguments_are_refused_and_leave_nothing(
    arguments: dict[str, Any], error: type[Exception], words: str
) -> None:
    """The error says what was given; no thread, process, descriptor, file or name stays."""
    before = take()
    name = f"refused {next(_numbers)}"
    with pytest.raises(error, match=words):
        glasspool.Pool(**{"processes": 1, "name": name, **arguments})
    assert take().beyond(before) == []
    with glasspool.Pool(1, name=name, context=multiprocessing.get_context("fork")) as pool:
        assert pool.name == name
    pool.join()


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_an_initializer_that_cannot_travel_is_refused(method: str) -> None:
    """Where the initializer is pickled, an error of that comes out of the constructor."""
    before = take()
    context = multiprocessing.get_context(method)
    with pytest.raises(TypeError, match=r"argument 1 of initargs"):
        glasspool.Pool(2, tasks.share, (threading.Lock(),), context=context, name="refused")
    wait_until(lambda: not take().beyond(before), "nothing left")


def test_a_lambda_may_initialise_under_fork(make_forked: MakePool) -> None:
    """Under fork initializer and arguments are inherited, not pickled."""
    lock = threading.Lock()
    pool = make_forked(2, lambda inherited: tasks.share(lock=inherited), (lock,))
    assert pool.apply(tasks.echo, (1,)) == 1


def test_the_pool_stays_usable_after_what_cannot_be_pickled(make: MakePool) -> None:
    """Each such call fails by itself; the next one works, and nothing is left open."""
    pool = make(2)
    lock = threading.Lock()
    for _ in range(3):
        with pytest.raises(TypeError, match="pickle"):
            pool.apply(tasks.echo, (lock,))
        with pytest.raises(TypeError, match="pickle"):
            pool.map(tasks.echo, [1, lock, 3], 1)
        with pytest.raises(TypeError, match="pickle"):
            list(pool.imap(tasks.echo, [1, lock]))
        with pytest.raises(TypeError, match="pickle"):
            pool.apply(functools.partial(tasks.echo, lock))
        with pytest.raises(TypeError, match="pickle"):
            pool.map(functools.partial(tasks.echo, lock), [1])
    assert pool.map(tasks.square, range(100)) == [i * i for i in range(100)]
    stats = pool.stats()
    assert stats["waiting"] == stats["sent"] == 0


# What a result and a task tell --------------------------------------------------------------------


def test_a_result_tells_who_ran_it(make: MakePool) -> None:
    """Process, thread, queue wait, run time, bytes: of a call that has ended."""
    pool = make(2)
    begun = time.time()
    result = pool.apply_async(tasks.who_runs_this)
    who = result.get(LIMIT_S)
    info = result.info
    assert info.state == "done"
    assert info.function == "engine_tasks.who_runs_this"
    assert info.pid == who["pid"]
    assert info.slot == who["worker"].slot
    assert info.id == who["worker"].task
    assert info.thread is not None
    assert info.thread.is_main
    assert info.thread.name == "MainThread"
    assert info.thread.ident == who["ident"]
    assert info.thread.native_id == who["native_id"]
    assert info.attempts == 1
    assert info.queue_wait_s is not None
    assert 0 <= info.queue_wait_s < LIMIT_S
    assert info.run_s is not None
    assert 0 < info.run_s < LIMIT_S
    assert info.argument_bytes
    assert info.result_bytes
    assert info.submitted_at is not None
    assert info.begun_at is not None
    assert info.ended_at is not None
    assert begun - 0.1 <= info.submitted_at <= info.begun_at <= info.ended_at <= time.time() + 0.1


def test_the_states_of_a_call(make: MakePool, gate: Gate) -> None:
    """Running while it runs, waiting while no worker is free, done or failed after it."""
    pool = make(1, **gate.arguments)
    first = pool.apply_async(tasks.wait_for, ("gate",))
    gate.wait_for_tasks()
    behind = [pool.apply_async(tasks.echo, (1,)), pool.apply_async(tasks.fail)]
    assert first.info.state == "running"
    assert first.info.pid == pool._pool[0].pid
    assert first.info.run_s is None
    assert {result.info.state for result in behind} <= {"waiting", "sent"}
    gate.open()
    with pytest.raises(ZeroDivisionError):
        behind[1].get(LIMIT_S)
    assert first.get(LIMIT_S) is None
    assert [r.info.state for r in (first, *behind)] == ["done", "done", "failed"]
    assert behind[0].info.queue_wait_s
    assert behind[0].info.queue_wait_s > 0


def test_a_cancelled_call_says_so(make_forked: MakePool, forked_gate: Gate) -> None:
    """After ``terminate`` the word is cancelled, of what ran and of what waited."""
    pool = make_forked(1, **forked_gate.arguments)
    results = [pool.apply_async(tasks.wait_for, ("gate",)) for _ in range(3)]
    forked_gate.wait_for_tasks()
    pool.terminate()
    pool.join()
    for result in results:
        with pytest.raises(glasspool.TaskCancelled):
            result.get(LIMIT_S)
        assert result.info.state == "cancelled"


def test_a_map_tells_of_its_chunks(make: MakePool) -> None:
    """The job's sums are those of its tasks, and each task says who ran it."""
    pool = make(2)
    job = pool.map_async(tasks.pid, range(10), chunksize=3)
    pids = job.get(LIMIT_S)
    info = job.info
    assert info.state == "done"
    assert info.function == "engine_tasks.pid"
    assert info.items == 10
    assert [task.items for task in info.tasks] == [3, 3, 3, 1]
    assert [task.index for task in info.tasks] == [0, 1, 2, 3]
    assert [task.pid for task in info.tasks] == pids[::3]
    assert all(task.job == info.job for task in info.tasks)
    assert all(task.thread is not None and task.thread.is_main for task in info.tasks)
    assert info.argument_bytes == sum(task.argument_bytes or 0 for task in info.tasks)
    failed = pool.map_async(tasks.fail, range(3), chunksize=1)
    with pytest.raises(ZeroDivisionError):
        failed.get(LIMIT_S)
    wait_until(failed.ready, "the whole job")
    assert failed.info.state == "failed"


def test_the_place_of_a_task(make: MakePool) -> None:
    """``glasspool.worker()`` names pool, slot, process and task inside, and is None elsewhere."""
    pool = make(2)
    who = pool.apply(tasks.who_runs_this)
    here = who["worker"]
    assert here.pool == pool.name
    assert here.pid == who["pid"]
    assert here.slot in (0, 1)
    assert here.function == "engine_tasks.who_runs_this"
    assert here.task >= 1
    assert glasspool.worker() is None
    inner = pool.apply(tasks.worker_in_thread)
    assert inner is not None
    assert inner.pool == pool.name
    assert pool.apply(tasks.worker_in_fork)


def test_a_callback_is_outside(make_forked: MakePool) -> None:
    """A callback runs in the parent, so it is in no worker."""
    pool = make_forked(1)
    seen: list[Any] = []
    pool.apply_async(tasks.echo, (1,), callback=lambda value: seen.append(glasspool.worker())).get(
        LIMIT_S
    )
    assert seen == [None]


# Replacement of workers ---------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 3])
def test_a_worker_leaves_after_its_number_of_tasks(make: MakePool, limit: int) -> None:
    """No process runs more tasks than allowed, all tasks run, and it is no death."""
    pool = make(2, maxtasksperchild=limit)
    pids = pool.map(tasks.pid, range(12), chunksize=1)
    assert len(pids) == 12
    counts = {pid: pids.count(pid) for pid in pids}
    assert max(counts.values()) <= limit
    assert len(counts) >= 12 / limit
    stats = pool.stats()
    assert stats["done"] == 12
    assert stats["deaths"] == stats["lost"] == 0
    assert pool.apply(tasks.echo, (5,)) == 5


def test_chunks_count_as_tasks(make_forked: MakePool) -> None:
    """A chunk of a map is one task, as in the standard library."""
    pool = make_forked(1, maxtasksperchild=2)
    pids = pool.map(tasks.pid, range(40), chunksize=10)
    assert len(set(pids)) == 2


def test_each_replacement_is_initialised_in_its_main_thread(
    make_forked: MakePool, tmp_path: Path
) -> None:
    """Every worker runs the initializer once, in its main thread, replacements too."""
    path = tmp_path / "who"
    pool = make_forked(2, tasks.thread_initializer, (str(path),), maxtasksperchild=1)
    pids = pool.map(tasks.pid, range(6), chunksize=1)
    lines = [line.split() for line in path.read_text().splitlines()]
    assert all(name == "MainThread" and pid == native for pid, name, native in lines)
    noted = [int(pid) for pid, _, _ in lines]
    assert len(set(noted)) == len(noted)
    assert set(pids) <= set(noted)


def test_no_fork_beside_threads_in_200_replacements(tmp_path: Path) -> None:
    """Neither 200 replacements nor a second pool warn of a fork, in parent, template or workers."""
    text = """
        import os, sys, warnings

        folder = sys.argv[1]

        def show(message, category, *more, **others):
            with open(f"{folder}/{os.getpid()}", "a") as file:
                file.write(f"{category.__name__}: {message}\\n")

        warnings.simplefilter("always")
        warnings.showwarning = show  # template and workers inherit it

        import glasspool
        import engine_tasks as tasks
        import multiprocessing

        ctx = multiprocessing.get_context("fork")
        with glasspool.Pool(2, maxtasksperchild=1, context=ctx) as pool:
            half = pool.map_async(tasks.pid, range(100), chunksize=1)
            pool.apply_async(tasks.echo, callback=print).get()
            with glasspool.Pool(2, maxtasksperchild=1, context=ctx) as other:
                assert other.map(tasks.square, range(20), 1) == [i * i for i in range(20)]
            other.join()
            rest = pool.map_async(tasks.pid, range(100), chunksize=1)
            pids = half.get(60) + rest.get(60)
        pool.join()
        assert len(set(pids)) == 200, len(set(pids))
        print("all", len(pids))
    """
    seen = tmp_path / "seen"
    seen.mkdir()
    assert "all 200" in run_program(tmp_path, text, str(seen))
    assert [file.read_text() for file in seen.iterdir()] == []


# Initializers that fail -----------------------------------------------------------------------------


def starts(path: Path) -> int:
    """Count the workers that noted their start."""
    return len(path.read_text().split()) if path.exists() else 0


def test_a_raising_initializer_reaches_the_caller(make: MakePool, tmp_path: Path) -> None:
    """Within two seconds, with the worker's traceback; and no worker starts after that."""
    path = tmp_path / "starts"
    begun = time.monotonic()
    pool = make(2, tasks.raising_initializer, (str(path),))
    result = pool.apply_async(tasks.echo, (1,))
    with pytest.raises(glasspool.InitializerFailed) as caught:
        result.get(LIMIT_S)
    took = time.monotonic() - begun
    text = str(caught.value)
    assert "LookupError: no configuration in this worker" in text
    assert "engine_tasks.py" in text
    assert "in raising_initializer" in text
    assert isinstance(caught.value.__cause__, LookupError)
    assert took < 2
    with pytest.raises(glasspool.InitializerFailed):
        pool.map(tasks.echo, [1, 2])
    with pytest.raises(glasspool.InitializerFailed):
        list(pool.imap(tasks.echo, [1, 2]))
    wait_until(lambda: pool.stats()["workers"] == 0, "the last worker is gone")
    count = starts(path)
    assert 2 <= count <= 8
    threading.Event().wait(0.5)  # it is the absence of starts that is looked for
    assert starts(path) == count
    pool.close()
    pool.join()


@pytest.mark.parametrize("how", ["os._exit", "kill", "sys.exit"])
def test_an_initializer_that_ends_the_process_reaches_the_caller(
    make: MakePool, tmp_path: Path, how: str
) -> None:
    """An exit instead of an exception is told as well, and does not go on for ever."""
    path = tmp_path / "starts"
    begun = time.monotonic()
    pool = make(2, tasks.exiting_initializer, (str(path), how))
    with pytest.raises(glasspool.InitializerFailed) as caught:
        pool.apply_async(tasks.echo, (1,)).get(LIMIT_S)
    assert time.monotonic() - begun < 2.5
    assert {"os._exit": "7", "kill": "SIGKILL", "sys.exit": "SystemExit"}[how] in str(caught.value)
    wait_until(lambda: pool.stats()["workers"] == 0, "the last worker is gone")
    count = starts(path)
    assert count <= 8
    threading.Event().wait(0.3)
    assert starts(path) == count


def test_one_failed_start_is_made_good(make: MakePool, tmp_path: Path) -> None:
    """If only one worker failed, it is started again, and no task ever hears of it."""
    path = tmp_path / "starts"
    pool = make(2, tasks.fail_once_initializer, (str(path),))
    assert pool.map(tasks.square, range(20)) == [i * i for i in range(20)]
    wait_until(lambda: starts(path) >= 3, "a start to make up for the failed one")
    wait_until(lambda: pool.stats()["idle"] == 2, "two workers at rest")


# The template -------------------------------------------------------------------------------------


def test_under_fork_the_parent_has_one_child(make_forked: MakePool) -> None:
    """That is the template, with one thread; the workers are its children."""
    me = psutil.Process()
    before = set(me.children())
    pool = make_forked(3, maxtasksperchild=1)
    pool.map(tasks.echo, range(9), chunksize=1)
    (template,) = set(me.children()) - before
    assert template.num_threads() == 1
    assert comm(template.pid, template.pid) == f"gp{pool._engine.number}-template"
    wait_until(
        lambda: {p.pid for p in template.children()} == {p.pid for p in pool._pool},
        "the template's children are the workers",
    )


def test_two_pools_stand_aside_for_a_third(make_forked: MakePool, forked_gate: Gate) -> None:
    """Making a pool disturbs no running call of the others, and their threads are back after it."""
    pools = [make_forked(2, **forked_gate.arguments) for _ in range(2)]
    waiting = [pool.apply_async(tasks.wait_for, ("gate", i)) for i, pool in enumerate(pools)]
    forked_gate.wait_for_tasks(2)
    running = [pool.map_async(tasks.square, range(2000), chunksize=1) for pool in pools]
    third = make_forked(2)
    assert third.map(tasks.square, range(10)) == [i * i for i in range(10)]
    for job in running:
        assert job.get(LIMIT_S) == [i * i for i in range(2000)]
    forked_gate.open()
    assert [result.get(LIMIT_S) for result in waiting] == [0, 1]
    for pool in pools:
        assert len(own_threads(pool)) == 2


# The user forks --------------------------------------------------------------------------------------


def in_child(act: Callable[[], object]) -> str:
    """Fork, act in the child, and return what became of it."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        said = b"nothing"
        try:
            said = f"returned {act()!r}".encode()
        except BaseException as error:
            said = f"{type(error).__name__}: {error}".encode()
        finally:
            os.write(write_end, said)
            os._exit(0)
    os.close(write_end)
    with open(read_end, "rb") as file:
        text = file.read().decode()
    os.waitpid(child, 0)
    return text


@fork_beside_threads
def test_in_a_fork_of_the_users_the_pool_is_foreign(make: MakePool, gate: Gate) -> None:
    """Every use in the child is a clear error, at once; the parent's pool never notices."""
    pool = make(2, **gate.arguments)
    waiting = pool.apply_async(tasks.wait_for, ("gate", "v"))
    gate.wait_for_tasks()
    uses: list[Callable[[], object]] = [
        lambda: pool.apply(tasks.echo, (1,)),
        lambda: pool.apply_async(tasks.echo, (1,)).get(5),
        lambda: pool.map(tasks.echo, [1, 2]),
        lambda: next(pool.imap(tasks.echo, [1])),
        lambda: pool.inspect(),
        lambda: pool.__enter__(),
    ]
    for use in uses:
        said = in_child(use)
        assert said.startswith("GlasspoolError"), said
        assert str(os.getpid()) in said
        assert pool.name in said
    assert in_child(lambda: waiting.get(1)).startswith(("GlasspoolError", "TimeoutError"))
    in_child(lambda: pool.terminate())
    in_child(lambda: pool.close())
    assert pool.apply(tasks.square, (7,)) == 49
    assert pool.map(tasks.square, range(50), chunksize=1) == [i * i for i in range(50)]
    gate.open()
    assert waiting.get(LIMIT_S) == "v"


@fork_beside_threads
def test_a_fork_may_drop_the_pool_and_open_files(make_forked: MakePool) -> None:
    """Dropping the foreign pool in the child closes nothing that the child has opened since."""
    holder = [make_forked(2)]
    pool = holder[0]
    pool.map(tasks.echo, range(10))

    def act() -> str:
        fds = [fd for _ in range(40) for fd in os.pipe()]
        engine = pool._engine
        holder.clear()
        for part in (engine.handler, engine.collector, engine.boxes, engine.board, engine):
            vars(part).clear()  # as the end of the interpreter does
        gc.collect()
        for fd in fds:
            os.fstat(fd)
        return "all open"

    assert in_child(act) == "returned 'all open'"
    assert pool.map(tasks.square, range(10)) == [i * i for i in range(10)]


@fork_beside_threads
def test_a_process_of_the_users_ends_in_peace(make_forked: MakePool, tmp_path: Path) -> None:
    """A ``Process`` that is forked while a pool lives may make a pool of its own, and end."""
    pool = make_forked(2)
    ctx = multiprocessing.get_context("fork")
    queue = ctx.SimpleQueue()

    def work() -> None:
        with glasspool.Pool(2, context=ctx) as own:
            queue.put((own.name, own.map(tasks.square, range(10))))
        own.join()

    job = pool.map_async(tasks.square, range(3000), chunksize=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        process = ctx.Process(target=work)
        process.start()
    name, values = queue.get()
    process.join(LIMIT_S)
    assert process.exitcode == 0
    assert values == [i * i for i in range(10)]
    assert name
    assert job.get(LIMIT_S) == [i * i for i in range(3000)]
    queue.close()


# At rest ---------------------------------------------------------------------------------------------


def activity(pool: glasspool.Pool) -> dict[tuple[int, int], tuple[int, int]]:
    """Return ticks used and voluntary switches of each thread of the pool's processes."""
    me = psutil.Process()
    found = {}
    for process in me.children(recursive=True):
        for thread in process.threads():
            found[process.pid, thread.id] = _activity(process.pid, thread.id)
    for thread in own_threads(pool).values():
        native = thread.native_id
        assert native is not None
        found[me.pid, native] = _activity(me.pid, native)
    return found


def _activity(pid: int, tid: int) -> tuple[int, int]:
    folder = Path(f"/proc/{pid}/task/{tid}")
    fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
    switches = re.search(
        r"^voluntary_ctxt_switches:\s+(\d+)", (folder / "status").read_text(), re.M
    )
    assert switches
    return int(fields[11]) + int(fields[12]), int(switches[1])


def test_a_pool_at_rest_does_nothing(make: MakePool) -> None:
    """In three seconds no thread of any process uses processor time or wakes up."""
    pool = make(2)
    pool.map(tasks.square, range(500), chunksize=1)
    pool.apply_async(tasks.echo, callback=lambda value: None).get(LIMIT_S)
    wait_until(lambda: pool.stats()["idle"] == 2, "two workers at rest")
    threading.Event().wait(0.3)
    before = activity(pool)
    threading.Event().wait(3)
    assert activity(pool) == before


# Who gets what, and when -----------------------------------------------------------------------------


def test_a_blocked_generator_disturbs_nobody(make: MakePool) -> None:
    """While one ``imap`` waits for its iterable, other calls, also another ``imap``, go on."""
    pool = make(2)
    go_on = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        assert go_on.wait(LIMIT_S)
        yield 2

    slow = pool.imap(tasks.square, items())
    assert slow.next(LIMIT_S) == 1
    assert pool.map(tasks.square, range(50), chunksize=1) == [i * i for i in range(50)]
    assert list(pool.imap_unordered(tasks.echo, [7])) == [7]
    assert pool.apply(tasks.echo, (3,)) == 3
    with pytest.raises(multiprocessing.TimeoutError):
        slow.next(0.05)
    go_on.set()
    assert list(slow) == [4]


def test_short_results_do_not_wait_for_a_long_task(make: MakePool, gate: Gate) -> None:
    """Short tasks and a long one that were sent together: the short ones' results come at once."""
    pool = make(1, **gate.arguments)
    pool.starmap(tasks.wait_if, [(i, -1) for i in range(1000)], chunksize=1)
    results = [pool.apply_async(tasks.wait_if, (i, 60)) for i in range(61)]
    gate.wait_for_tasks()
    begun = time.monotonic()
    assert [result.get(LIMIT_S)[0] for result in results[:60]] == list(range(60))
    assert time.monotonic() - begun < 2
    assert not results[60].ready()
    gate.open()
    assert results[60].get(LIMIT_S)[0] == 60


def test_tasks_behind_a_long_one_move_to_an_idle_worker(make: MakePool, gate: Gate) -> None:
    """Whatever was sent to a worker that is stuck in one task is run by the other."""
    pool = make(2, **gate.arguments)
    pool.starmap(tasks.wait_if, [(i, -1) for i in range(2000)], chunksize=1)
    results = [pool.apply_async(tasks.wait_if, (i, 20)) for i in range(400)]
    gate.wait_for_tasks()
    others = [result for i, result in enumerate(results) if i != 20]
    pids = {result.get(LIMIT_S)[1] for result in others}
    assert not results[20].ready()
    stuck_in = results[20].info.pid
    assert pids - {stuck_in}
    gate.open()
    assert results[20].get(LIMIT_S) == (20, stuck_in)
    stats = pool.stats()
    assert stats["waiting"] == stats["sent"] == 0
    assert stats["done"] == 2400


@pytest.mark.parametrize("round_", range(5))
def test_nothing_runs_twice_when_moved(
    make_forked: MakePool, forked_gate: Gate, tmp_path: Path, round_: int
) -> None:
    """However often tasks are moved between workers, each runs exactly once."""
    pool = make_forked(3, **forked_gate.arguments)
    path = tmp_path / "runs"
    calls = []
    for number in range(900):
        wait = 0.003 if number % 50 == round_ else 0.0
        calls.append(pool.apply_async(_append, (str(path), number, wait)))
    assert [call.get(LIMIT_S) for call in calls] == list(range(900))
    ran = [int(line) for line in path.read_text().split()]
    assert sorted(ran) == list(range(900))


def _append(path: str, number: int, wait_s: float) -> int:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, b"%d\n" % number)
    os.close(fd)
    if wait_s:
        tasks.spin(wait_s)
    return number


# Large values ---------------------------------------------------------------------------------------


def test_a_large_array_as_argument_and_result(make: MakePool) -> None:
    """64 MB go and come; the receiver may write, and the sender's stays as it was."""
    pool = make(2)
    array = np.arange(8_000_000, dtype="f8")
    result = pool.apply_async(tasks.fill, (array,))
    back = result.get(LIMIT_S)
    assert array[0] == 0
    assert back[0] == 99
    assert np.array_equal(back[1:], array[1:])
    back[1] = 5
    assert back[1] == 5
    assert result.info.argument_bytes is not None
    assert result.info.argument_bytes >= array.nbytes
    assert result.info.result_bytes is not None
    assert result.info.result_bytes >= array.nbytes
    assert pool.map(tasks.total, [array, array[:10]], chunksize=1) == [array.sum(), 45.0]


def test_many_large_arrays(make_forked: MakePool) -> None:
    """Arrays in both directions, in chunks and singly, keep their order."""
    pool = make_forked(2)
    arrays = [np.full(100_000, i, dtype="f8") for i in range(24)]
    for chunksize in (1, 5):
        got = pool.map(tasks.echo, arrays, chunksize)
        assert all(np.array_equal(one, other) for one, other in zip(got, arrays, strict=True))
    assert pool.map(tasks.large, [100_000] * 3, 1)[2][-1] == 99_999


def test_a_large_callable_and_large_items(make: MakePool) -> None:
    """A callable that nearly fills a message, and items that do: they are not joined in one."""
    pool = make(2)
    for own, other in itertools.product((100_000, 120_000, 500_000), (95_000, 120_000, 500_000)):
        function = functools.partial(tasks.lengths, b"x" * own)
        job = pool.map_async(function, [b"y" * other] * 3, 1)
        assert job.get(10) == [own + other] * 3
    assert pool.apply(tasks.echo, (1,)) == 1


def test_many_middling_values(make_forked: MakePool) -> None:
    """Values of every size around the borders of outbox, batch and message, side by side."""
    pool = make_forked(2)
    sizes = [n + d for n in (4096, 65_536, 98_304, 131_072, 196_608) for d in (-64, -1, 0, 1)]
    for chunksize in (1, 3):
        got = pool.map(tasks.echo, [b"z" * size for size in sizes], chunksize)
        assert [len(value) for value in got] == sizes


# The end ------------------------------------------------------------------------------------------------


def test_closing_while_a_map_is_fed(make: MakePool) -> None:
    """What was asked for before ``close`` runs to its end, also what had not been made yet."""
    pool = make(2)
    job = pool.map_async(len, [b"m" * 1_000_000] * 100, chunksize=1)
    lazy = pool.imap(tasks.square, (i for i in range(2000)))
    pool.close()
    with pytest.raises(ValueError, match="not running"):
        pool.apply(tasks.echo)
    pool.join()
    assert job.get(0) == [1_000_000] * 100
    assert list(lazy) == [i * i for i in range(2000)]


def test_terminating_while_a_generator_blocks(make: MakePool) -> None:
    """``terminate`` and ``join`` do not wait for it, and the reader gets an error."""
    pool = make(2)
    go_on = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        go_on.wait(LIMIT_S)
        yield 2

    try:
        values = pool.imap(tasks.echo, items())
        assert values.next(LIMIT_S) == 1
        begun = time.monotonic()
        pool.terminate()
        pool.join()
        assert time.monotonic() - begun < 5
        with pytest.raises(glasspool.TaskCancelled):
            values.next(LIMIT_S)
        with pytest.raises(StopIteration):
            values.next(LIMIT_S)
    finally:
        go_on.set()


def test_terminating_with_everything_under_way(make: MakePool, gate: Gate) -> None:
    """Every open result ends with ``TaskCancelled``, within seconds."""
    pool = make(2, **gate.arguments)
    results: list[Any] = [pool.apply_async(tasks.wait_for, ("gate",)) for _ in range(5)]
    results.append(pool.map_async(tasks.wait_for, ["gate"] * 10, chunksize=2))
    values = pool.imap_unordered(tasks.wait_for, ["gate"] * 10)
    gate.wait_for_tasks(2)
    begun = time.monotonic()
    pool.terminate()
    for result in results:
        with pytest.raises(glasspool.TaskCancelled):
            result.get(LIMIT_S)
    with pytest.raises(glasspool.TaskCancelled):
        values.next(LIMIT_S)
    pool.join()
    assert time.monotonic() - begun < 5
    pool._engine.collector.ledger.check()


def test_many_pools_at_once(make: MakePool) -> None:
    """Eight pools side by side: own names, own results, and all end."""
    pools = [make(2) for _ in range(8)]
    assert len({pool.name for pool in pools}) == 8
    jobs = [
        pool.map_async(functools.partial(tasks.add, i), range(50)) for i, pool in enumerate(pools)
    ]
    for number, job in enumerate(jobs):
        assert job.get(LIMIT_S) == [number + i for i in range(50)]
    for pool in pools:
        pool.close()
    for pool in pools:
        pool.join()


def test_pools_made_by_many_threads_at_once() -> None:
    """Each thread gets a pool that works, whatever the others do at that moment."""
    answers: dict[int, list[int]] = {}
    ctx = multiprocessing.get_context("fork")

    def work(number: int) -> None:
        with warnings.catch_warnings():
            with glasspool.Pool(2, context=ctx) as pool:
                answers[number] = pool.map(functools.partial(tasks.add, number), range(20))
            pool.join()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # threads beside a fork: that is what this is
        threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT_S)
            assert not thread.is_alive()
    assert answers == {i: [i + j for j in range(20)] for i in range(6)}


def test_a_dropped_pool_leaves_nothing(ctx: BaseContext) -> None:
    """Without ``close`` there is a ``ResourceWarning``, and after it no process or thread."""
    before = take()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        pool = glasspool.Pool(2, context=ctx)
        pool.map(tasks.square, range(20))
        pids = [process.pid for process in pool._pool]
        del pool
        gc.collect()
    assert [w.category for w in seen if w.category is ResourceWarning] == [ResourceWarning]
    wait_until(lambda: not take().beyond(before), "everything given back", 5)
    assert not any(psutil.pid_exists(pid) for pid in pids if pid)


def test_a_pool_whose_results_are_wanted_is_not_dropped(make_forked: MakePool) -> None:
    """An open result keeps its pool alive, also if nobody else does."""
    ctx = multiprocessing.get_context("fork")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        result = glasspool.Pool(1, context=ctx).apply_async(tasks.spin, (0.2,))
        gc.collect()
        assert result.get(LIMIT_S) > 0
        values = glasspool.Pool(1, context=ctx).imap(tasks.square, range(100))
        gc.collect()
        assert list(values) == [i * i for i in range(100)]
        gc.collect()


def test_closing_and_dropping_runs_everything(tmp_path: Path) -> None:
    """``imap_unordered(f, xs)`` unread, ``close()``, dropped: all of it runs."""
    path = tmp_path / "runs"
    pool = glasspool.Pool(2, context=multiprocessing.get_context("fork"))
    engine = pool._engine
    pool.imap_unordered(functools.partial(_append, str(path), wait_s=0.0), range(200))
    pool.close()
    del pool
    gc.collect()
    assert engine.done.wait(LIMIT_S)
    assert sorted(map(int, path.read_text().split())) == list(range(200))


def test_twice_is_no_error(make: MakePool) -> None:
    """``close``, ``terminate`` and ``join`` may be called again, in the usual orders."""
    pool = make(1)
    pool.close()
    pool.close()
    pool.join()
    pool.join()
    pool.terminate()
    pool.terminate()
    pool.join()
    with pytest.raises(ValueError, match="not running"):
        pool.map(tasks.echo, [1])


def test_the_file_and_the_socket_are_private(make_forked: MakePool, glasspool_dir: Path) -> None:
    """Others can neither read the scoreboard nor ask; both are gone after the pool."""
    pool = make_forked(1)
    files = list(glasspool_dir.glob(f"{pool.name}.{os.getpid()}.*"))
    assert sorted(file.suffix for file in files) == [".board", ".sock"]
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in files)
    assert glasspool_dir.stat().st_mode & 0o777 == 0o700
    pool.terminate()
    pool.join()
    assert not any(file.exists() for file in files)


def test_closing_with_a_context_manager_of_the_library(make_forked: MakePool) -> None:
    """``contextlib.closing`` lets the work end, ``with pool`` ends it now."""
    with closing(make_forked(2)) as pool:
        job = pool.map_async(tasks.square, range(500), chunksize=1)
    pool.join()
    assert job.get(0)[-1] == 499 * 499


def test_the_last_task_of_a_worker_may_take_long(monkeypatch) -> None:
    """A worker that is to leave after its task is not hurried while it runs it."""
    monkeypatch.setattr("glasspool.engines.local.workers.STOP_GRACE_S", 0.2)
    with glasspool.Pool(2, maxtasksperchild=1) as pool:
        assert pool.map(tasks.nap_and_echo, [1.0, 0.0, 0.0], 1) == [1.0, 0.0, 0.0]
        assert pool.stats()["deaths"] == 0


def test_many_large_values_go_both_ways(make: MakePool) -> None:
    """Full channels in both directions at once: the pool's threads never wait in a send."""
    pool = make(2)
    for item in (b"x" * 100_000, b"y" * 300_000):
        results = [pool.apply_async(tasks.echo, (item,)) for _ in range(300)]
        assert all(result.get(LIMIT_S) == item for result in results)
    pool.close()
    pool.join()
