"""Executors that live for one test: deaths, cancelling, shutdown, the end of programs; on both kinds."""

from __future__ import annotations

import compileall
import concurrent.futures
import multiprocessing
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import executor_tasks as tasks
import pytest
from executor_kinds import ExecutorMaker, executor_class

from gates import Gate


@pytest.fixture
def make_executor(kind: str, leak_check: None) -> Iterator[ExecutorMaker]:
    """Return a callable that makes executors of the kind under test."""
    maker = ExecutorMaker(kind)
    yield maker
    maker.end()


CONSTRUCTORS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"max_workers": 0}, ValueError, "max_workers must be greater than 0"),
    ({"max_workers": -1}, ValueError, "max_workers must be greater than 0"),
    ({"initializer": 5}, TypeError, "initializer must be a callable"),
    ({"max_tasks_per_child": 0}, ValueError, "max_tasks_per_child must be >= 1"),
    ({"max_tasks_per_child": 1.5}, TypeError, "max_tasks_per_child must be an integer"),
    ({"no_such_keyword": 1}, TypeError, "unexpected keyword argument 'no_such_keyword'"),
]


@pytest.mark.parametrize(("keywords", "error", "message"), CONSTRUCTORS)
def test_bad_arguments_are_errors_of_the_constructor(
    kind: str, keywords: dict[str, Any], error: type[Exception], message: str
) -> None:
    """The same errors with the same words."""
    with pytest.raises(error, match=message):
        executor_class(kind)(mp_context=multiprocessing.get_context("spawn"), **keywords)


@pytest.mark.parametrize(
    ("function", "args"),
    [
        (tasks.unloadable, ()),
        (tasks.raise_bad_at_home, ()),
        (tasks.echo, (tasks.Unloadable(),)),
        (tasks.exit_hard, ()),
    ],
    ids=["result", "exception", "argument", "death"],
)
def test_what_cannot_be_rebuilt_is_a_broken_pool(
    make_executor: ExecutorMaker, function: Any, args: Any
) -> None:
    """What does not survive the way is a ``BrokenProcessPool``, as is the death of a worker."""
    error = make_executor(1).submit(function, *args).exception(30)
    assert isinstance(error, BrokenProcessPool)


def test_a_future_that_waits_is_cancelled_and_one_that_runs_is_not(
    make_executor: ExecutorMaker, forked_gate: Gate
) -> None:
    """What is cancelled never runs; callbacks and waiters are told of it."""
    executor = make_executor(1, **forked_gate.arguments)
    running = executor.submit(tasks.wait_for_gate, 7)
    assert forked_gate.started.acquire(timeout=30)
    assert running.running()
    assert not running.cancel()
    queued = [executor.submit(tasks.wait_for_gate, i) for i in range(20)]
    last = queued[-1]
    told = threading.Event()
    last.add_done_callback(lambda _: told.set())
    assert last.cancel()
    assert last.cancel()
    assert last.cancelled()
    assert last.done()
    assert not last.running()
    assert "state=cancelled" in repr(last)
    assert told.wait(30)
    with pytest.raises(CancelledError):
        last.result()
    with pytest.raises(CancelledError):
        last.exception()
    cancelled = [future for future in queued if future.cancel()]
    forked_gate.event.set()
    assert concurrent.futures.wait(queued, 30).not_done == set()
    assert running.result(30) == 7
    assert not running.cancel()
    assert len(cancelled) >= 17
    executor.shutdown()
    begun = 0
    while forked_gate.started.acquire(block=False):
        begun += 1
    assert begun == 20 - len(cancelled)


def test_a_closed_map_cancels_the_rest(make_executor: ExecutorMaker, forked_gate: Gate) -> None:
    """Calls that nobody will read are not begun."""
    executor = make_executor(1, **forked_gate.arguments)
    values = executor.map(tasks.wait_unless_first, range(50))
    assert next(values) == 0
    values.close()  # type: ignore[attr-defined]  # a generator, as the standard library's
    forked_gate.event.set()
    executor.shutdown()
    begun = 0
    while forked_gate.started.acquire(block=False):
        begun += 1
    assert begun < 50


def test_workers_start_with_the_first_call_and_have_run_the_initializer(
    make_executor: ExecutorMaker,
) -> None:
    """Before it there is no process; what programs look at is there."""
    executor: Any = make_executor(2, initializer=tasks.remember, initargs=(7,))
    assert executor._processes == {}
    assert executor._max_workers == 2
    assert executor._mp_context.get_start_method() == "fork"
    assert not executor._broken
    assert executor._executor_manager_thread is None
    assert executor.submit(tasks.recall).result(30) == 7
    assert len(executor._processes) == 2
    for pid, process in executor._processes.items():
        assert process.pid == pid
        assert process.is_alive()
    assert executor._executor_manager_thread.is_alive()
    executor.shutdown()
    assert executor._processes is None
    assert executor._executor_manager_thread is None


def test_shutdown_waits_for_work_and_callbacks(make_executor: ExecutorMaker) -> None:
    """It returns when all is done; then nothing can be submitted; it may be called again."""
    executor = make_executor(2)
    told: list[float] = []
    with executor as entered:
        assert entered is executor
        futures = [executor.submit(tasks.sleep, 0.02) for _ in range(6)]
        for future in futures:
            future.add_done_callback(lambda f: told.append(f.result()))
    assert all(future.done() for future in futures)
    assert told == [0.02] * 6
    for call in (executor.submit, executor.map):
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            call(tasks.square, (1,))
    executor.shutdown()
    executor.shutdown(wait=False, cancel_futures=True)


def test_shutdown_cancels_what_has_not_begun(
    make_executor: ExecutorMaker, forked_gate: Gate
) -> None:
    """``cancel_futures`` cancels what waits, and lets what runs end."""
    executor = make_executor(1, **forked_gate.arguments)
    running = executor.submit(tasks.wait_for_gate, 1)
    assert forked_gate.started.acquire(timeout=30)
    waiting = [executor.submit(tasks.wait_for_gate, i) for i in range(10)]
    executor.shutdown(wait=False, cancel_futures=True)
    forked_gate.event.set()
    assert running.result(30) == 1
    cancelled = 0
    for future in waiting:
        try:
            future.result(30)
        except CancelledError:
            cancelled += 1
    # The standard library's has handed two on, which it takes for running.
    assert cancelled >= 8


def test_shutdown_without_waiting_lets_the_work_end(make_executor: ExecutorMaker) -> None:
    """What was submitted runs, also if nothing refers to the executor any more."""
    executor = executor_class(make_executor.kind)(2, mp_context=multiprocessing.get_context("fork"))
    futures = [executor.submit(tasks.sleep, 0.02) for _ in range(6)]
    executor.shutdown(wait=False)
    del executor
    assert [future.result(30) for future in futures] == [0.02] * 6


def test_a_dropped_executor_ends_when_its_work_is_done(make_executor: ExecutorMaker) -> None:
    """Its workers leave without a word; what was submitted runs."""
    executor = executor_class(make_executor.kind)(2, mp_context=multiprocessing.get_context("fork"))
    values = executor.map(tasks.sleep, [0.02] * 6)
    del executor
    assert list(values) == [0.02] * 6


def test_a_failing_initializer_breaks_the_executor(make_executor: ExecutorMaker) -> None:
    """All futures, and all calls after that, end with ``BrokenProcessPool``."""
    executor: Any = make_executor(2, initializer=tasks.fail, initargs=("at the start",))
    assert isinstance(executor.submit(tasks.square, 2).exception(30), BrokenProcessPool)
    assert executor._broken
    with pytest.raises(BrokenProcessPool):
        executor.submit(tasks.square, 1)
    with pytest.raises(BrokenProcessPool):
        executor.map(tasks.square, [1])
    executor.shutdown()


def test_compileall_runs_on_it(
    make_executor: ExecutorMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``compile_dir(workers=2)`` finds the class under the standard library's name."""
    for number in range(4):
        (tmp_path / f"module_{number}.py").write_text(f"x = {number}\n")
    monkeypatch.setattr(concurrent.futures, "ProcessPoolExecutor", make_executor.executor_class)
    assert compileall.compile_dir(tmp_path, workers=2, quiet=1)
    assert len(list(tmp_path.glob("__pycache__/*.pyc"))) == 4


IMPORT = {
    "stock": "from concurrent.futures import ProcessPoolExecutor as Executor",
    "glasspool": "from glasspool import Executor",
}

PROGRAMS = {
    "left-alone": (
        "executor.submit(late, 'done')",
        "done\n",
        "",
    ),
    "shut-down-without-waiting": (
        "executor.submit(late, 'done')\n    executor.shutdown(wait=False)",
        "done\n",
        "",
    ),
    "submitted-at-the-end": (
        "executor.submit(int).result()\n    atexit.register(lambda: executor.submit(int))",
        "",
        "cannot schedule new futures after",
    ),
    "callback-at-the-end": (
        "executor.submit(int, 7).add_done_callback(lambda f: print(f.result()))",
        "7\n",
        "",
    ),
    "never-used": ("pass", "", ""),
    "tqdm": (
        "import concurrent.futures, tqdm.contrib.concurrent\n"
        "    concurrent.futures.ProcessPoolExecutor = Executor\n"
        "    tqdm.tqdm.monitor_interval = 0\n"
        "    process_map = tqdm.contrib.concurrent.process_map\n"
        "    print(process_map(abs, range(-3, 1), max_workers=2, chunksize=2, disable=True))",
        "[3, 2, 1, 0]\n",
        "",
    ),
    "forked": (
        "executor.submit(int).result()\n"
        "    pid = os.fork()\n"
        "    if pid:\n"
        "        os.waitpid(pid, 0)\n"
        "        print(executor.submit(int, 7).result())\n"
        "    else:\n"
        "        executor.shutdown(wait=False)",
        "7\n",
        "",
    ),
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_end_of_a_program(kind: str, program: str, tmp_path: Path) -> None:
    """What was submitted runs to its end, before the functions of ``atexit``; nobody complains."""
    if kind == "stock" and program in ("forked", "shut-down-without-waiting"):
        pytest.skip("the standard library's hangs, or loses the work (cpython#83386)")
    body, printed, complaint = PROGRAMS[program]
    text = f"""\
    import atexit, os, sys, time
    {IMPORT[kind]}
    def late(text):
        time.sleep(0.2)
        print(text, flush=True)
    if __name__ == "__main__":
        executor = Executor(2)
    """
    (tmp_path / "job.py").write_text(textwrap.dedent(text) + f"    {body}\n")
    done = subprocess.run(
        [
            sys.executable,
            *("-W", "error::ResourceWarning"),
            *("-W", "ignore::DeprecationWarning"),  # of the program's own fork
            "job.py",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stdout == printed, done.stderr
    assert complaint in done.stderr
    assert bool(complaint) == bool(done.stderr), done.stderr
