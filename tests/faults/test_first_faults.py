"""The first faults: whatever a task, a worker or the parent dies of, nobody waits for ever.

Each test has a deadline of its own where the rule says so; a test that hangs fails with all stacks.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.pool
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fault_tasks as tasks
import psutil
import pytest

import glasspool
from gates import Gate
from pools import MakePool, wait_until

LIMIT_S = 30.0
HERE = Path(__file__).parent


def works(pool: glasspool.Pool, size: int) -> None:
    """Check that a pool runs 1,000 tasks, with all its workers."""
    assert pool.map(tasks.square, range(1000), chunksize=1) == [i * i for i in range(1000)]
    wait_until(lambda: pool.stats()["idle"] == size, f"{size} workers at rest")
    stats = pool.stats()
    assert stats["waiting"] == stats["sent"] == 0
    pool._engine.collector.ledger.check()


def died_of(result: Any, limit_s: float = LIMIT_S) -> glasspool.DeathCertificate:
    """Return the certificate with which a result ends."""
    with pytest.raises(glasspool.WorkerDied) as caught:
        result.get(limit_s)
    certificate = caught.value.certificate
    assert caught.value.args == (certificate,)
    return certificate


# A worker dies ------------------------------------------------------------------------------------


def test_an_idle_worker_is_killed(make: MakePool) -> None:
    """It is replaced, and no task ever hears of it."""
    pool = make(2)
    pool.map(tasks.square, range(20))
    wait_until(lambda: pool.stats()["idle"] == 2, "two workers at rest")
    for _ in range(3):
        victim = pool._pool[0].pid
        assert victim is not None
        os.kill(victim, signal.SIGKILL)
        assert pool.apply_async(tasks.square, (9,)).get(5) == 81
        wait_until(
            lambda victim=victim: victim not in {p.pid for p in pool._pool},
            "it is gone",  # type: ignore[misc]
        )
        works(pool, 2)
    assert pool.stats()["lost"] == 0


@pytest.mark.parametrize("round_", range(5))
def test_workers_are_killed_at_any_moment(make_forked: MakePool, round_: int) -> None:
    """Whatever a worker was doing: each task has its result, or died; nothing hangs."""
    pool = make_forked(3)
    results = [pool.apply_async(tasks.square, (i,)) for i in range(3000)]
    for _ in range(4):
        victims = [process.pid for process in pool._pool if process.pid]
        with contextlib.suppress(ProcessLookupError, IndexError):
            os.kill(victims[round_ % len(victims)], signal.SIGKILL)
        results[750 * _].wait(LIMIT_S)
    lost = 0
    for number, result in enumerate(results):
        try:
            assert result.get(LIMIT_S) == number * number
        except glasspool.WorkerDied:
            lost += 1
    assert lost <= 4, "a death costs one task at most"
    assert pool.stats()["lost"] == lost
    works(pool, 3)


def test_all_workers_are_killed_at_once(make: MakePool, gate: Gate) -> None:
    """Each running task ends with its own certificate, and the pool goes on with new workers."""
    pool = make(3, **gate.arguments)
    lost = [pool.apply_async(tasks.started_then_wait) for _ in range(3)]
    gate.wait_for_tasks(3)
    behind = [pool.apply_async(tasks.square, (i,)) for i in range(50)]
    victims = {process.pid for process in pool._pool}
    for pid in victims:
        os.kill(pid or 0, signal.SIGKILL)
    begun = time.monotonic()
    assert {died_of(result, 5).pid for result in lost} == victims
    assert time.monotonic() - begun < 1
    assert [result.get(LIMIT_S) for result in behind] == [i * i for i in range(50)]
    works(pool, 3)


def test_workers_are_killed_in_start_after_start(make_forked: MakePool, tmp_path: Path) -> None:
    """A pool that has worked goes on after more than three of them in a row."""
    pool = make_forked(1, tasks.die_between, (str(tmp_path / "starts"), 2, 5))
    victim = pool.apply(tasks.pid)
    os.kill(victim, signal.SIGKILL)
    assert pool.apply_async(tasks.square, (3,)).get(LIMIT_S) == 9
    works(pool, 1)


def test_an_exit_in_a_task(make: MakePool) -> None:
    """``os._exit`` is a death with an exit code."""
    pool = make(2)
    certificate = died_of(pool.apply_async(tasks.exit_at_once, (42,)))
    assert (certificate.exitcode, certificate.signal) == (42, None)
    assert "42" in str(glasspool.WorkerDied(certificate))
    certificate = died_of(pool.apply_async(tasks.exit_at_once, (0,)))
    assert certificate.exitcode == 0
    works(pool, 2)


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGABRT, signal.SIGHUP, signal.SIGUSR1], ids=lambda n: n.name
)
def test_a_signal_in_a_task(make_forked: MakePool, number: signal.Signals) -> None:
    """A signal that ends the worker is named."""
    pool = make_forked(2)
    certificate = died_of(pool.apply_async(tasks.kill_self, (number,)))
    assert certificate.signal == number
    assert number.name in certificate.cause
    works(pool, 2)


def test_a_death_that_is_told_before_the_caller_has_told(make_forked: MakePool) -> None:
    """The worker's end may be seen when its caller has let go of it, and has not been heard."""
    pool = make_forked(1)
    works(pool, 1)
    collector = pool._engine.collector
    [worker] = collector.workers.values()
    began = threading.Event()

    def bury_between() -> None:
        began.set()
        wait_until(
            lambda: worker.exitcode is not None and not collector.lender.is_lending,
            "the worker is gone, and its caller has seen it",
        )
        collector.bury(worker)

    collector.mailbox.put(bury_between)
    assert began.wait(LIMIT_S)
    with pytest.raises(glasspool.WorkerDied):
        pool.apply(tasks.kill_self, (signal.SIGKILL,))
    works(pool, 1)


def test_a_death_in_the_middle_of_a_map(make: MakePool) -> None:
    """The job raises ``WorkerDied`` once all its other chunks have run."""
    pool = make(2)
    job = pool.starmap_async(tasks.exit_if, [(i, 50) for i in range(100)], chunksize=1)
    certificate = died_of(job)
    assert certificate.exitcode == 3
    assert certificate.task is not None
    assert certificate.task.index == 50
    wait_until(lambda: pool.stats()["sent"] + pool.stats()["waiting"] == 0, "all has ended")
    stats = pool.stats()
    assert (stats["done"], stats["lost"]) == (99, 1)
    assert job.info.state == "lost"
    assert [task.state for task in job.info.tasks].count("done") == 99
    works(pool, 2)


def test_a_death_in_the_middle_of_an_imap(make_forked: MakePool) -> None:
    """The iterator raises in the place of the lost item, and goes on."""
    pool = make_forked(2)
    values = pool.imap(_exit_at_five, range(10))
    got: list[Any] = []
    while True:
        try:
            got.append(values.next(LIMIT_S))
        except StopIteration:
            break
        except glasspool.WorkerDied as error:
            got.append(error.certificate.exitcode)
    assert got == [0, 1, 4, 9, 16, 3, 36, 49, 64, 81]
    works(pool, 2)


def _exit_at_five(value: int) -> int:
    return tasks.exit_if(value, 5)


def test_a_finished_task_is_not_lost_with_its_worker(make_forked: MakePool) -> None:
    """Results that were boxed but not yet told when the worker died count as done."""
    pool = make_forked(1)
    pool.map(tasks.square, range(2000), chunksize=1)  # so that many travel together
    results = [pool.apply_async(tasks.exit_if, (i, 40)) for i in range(80)]
    ends: list[Any] = []
    for result in results:
        try:
            ends.append(result.get(LIMIT_S))
        except glasspool.WorkerDied:
            ends.append("died")
    assert ends == [i * i if i != 40 else "died" for i in range(80)]
    works(pool, 1)


def test_a_death_beside_a_child_that_holds_the_channel(make: MakePool) -> None:
    """A process that the task forked holds our descriptors: the death is noticed all the same."""
    pool = make(2)
    begun = time.monotonic()
    with _no_fork_warning():
        certificate = died_of(pool.apply_async(tasks.fork_and_die), 5)
    assert time.monotonic() - begun < 3  # the process may still be starting
    assert certificate.signal == signal.SIGKILL
    works(pool, 2)


@contextlib.contextmanager
def _no_fork_warning() -> Iterator[None]:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def test_a_task_closes_all_descriptors_and_stays(make: MakePool) -> None:
    """The worker is lost with that task, and only with that."""
    pool = make(2)
    result = pool.apply_async(tasks.close_all_and_wait)
    with pytest.raises(glasspool.WorkerDied):
        result.get(10)
    works(pool, 2)


def test_deaths_in_a_row(make_forked: MakePool) -> None:
    """Forty deaths one after the other, and as many at once: each has its certificate."""
    pool = make_forked(2)
    for code in range(1, 21):
        assert died_of(pool.apply_async(tasks.exit_at_once, (code,))).exitcode == code
    results = [pool.apply_async(tasks.exit_at_once, (code,)) for code in range(20)]
    assert [died_of(result).exitcode for result in results] == list(range(20))
    works(pool, 2)


# The template dies ----------------------------------------------------------------------------------


def template_of(pool: glasspool.Pool) -> int:
    """Return the pid of the pool's template."""
    return int(pool._engine.handler.starter.template.pid)  # type: ignore[union-attr]


@pytest.mark.filterwarnings("ignore::glasspool.registry.ForkWarning", "ignore::DeprecationWarning")
def test_the_template_is_killed(make_forked: MakePool, forked_gate: Gate) -> None:
    """What ran is lost with its workers, what waited runs, and the pool has its size again."""
    pool = make_forked(2, **forked_gate.arguments)
    running = [pool.apply_async(tasks.started_then_wait) for _ in range(2)]
    forked_gate.wait_for_tasks(2)
    behind = [pool.apply_async(tasks.square, (i,)) for i in range(10)]
    os.kill(template_of(pool), signal.SIGKILL)
    begun = time.monotonic()
    for result in running:
        assert "template" in died_of(result, 5).cause
    assert time.monotonic() - begun < 2
    assert [result.get(LIMIT_S) for result in behind] == [i * i for i in range(10)]
    works(pool, 2)


@pytest.mark.filterwarnings("ignore::glasspool.registry.ForkWarning", "ignore::DeprecationWarning")
def test_an_idle_pool_loses_its_template(make_forked: MakePool) -> None:
    """The workers go with it, and others do the work."""
    pool = make_forked(2)
    pids = pool.map(tasks.pid, range(2), chunksize=1)
    os.kill(template_of(pool), signal.SIGKILL)
    wait_until(lambda: not any(map(_is_alive, pids)), "its workers are gone", 2)
    assert pool.map(tasks.square, range(4)) == [0, 1, 4, 9]
    works(pool, 2)


def _is_alive(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def test_a_stopped_worker_does_not_keep_tasks(make_forked: MakePool) -> None:
    """What was sent to a worker that does not begin it is taken back for another one."""
    pool = make_forked(2)
    stopped = pool.apply(tasks.pid)
    os.kill(stopped, signal.SIGSTOP)
    try:
        results = [pool.apply_async(tasks.square, (number,)) for number in range(10)]
        assert [result.get(LIMIT_S) for result in results] == [n * n for n in range(10)]
        assert [pool.apply(tasks.square, (n,)) for n in range(3)] == [0, 1, 4]
    finally:
        os.kill(stopped, signal.SIGCONT)
    works(pool, 2)


@pytest.mark.parametrize("code", [None, 3])
def test_a_task_forks_and_comes_back_twice(make_forked: MakePool, code: int | None) -> None:
    """The copy ends where the task does: only the original answers, and goes on."""
    pool = make_forked(1)
    worker = pool.apply(tasks.pid)
    for _ in range(5):
        child, exitcode = pool.apply(tasks.fork_and_return, (code,)).split()
        assert int(child) != worker
        assert int(exitcode) == (code or 0)
    works(pool, 1)
    assert pool.apply(tasks.pid) == worker


def test_an_error_of_many_tasks_does_not_grow(make_forked: MakePool) -> None:
    """Each task raises an error of its own, and not one that keeps the traceback of all the others."""
    pool = make_forked(1, tasks.exit_at_once, (3,))
    results = [pool.apply_async(tasks.square, (i,)) for i in range(30)]
    errors = []
    for result in results:
        with pytest.raises(glasspool.InitializerFailed, match="exited with code 3") as caught:
            result.get(LIMIT_S)
        errors.append(caught.value)
    assert len(set(map(id, errors))) == 30
    depths = {len(traceback.extract_tb(error.__traceback__)) for error in errors}
    assert len(depths) == 1


# Values that do not travel ---------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["unpicklable", "unloadable", "local", "bad text", "with a lock"])
def test_exceptions_that_do_not_travel(make_forked: MakePool, what: str) -> None:
    """They end as ``SerializationError`` with the worker's traceback, or as themselves."""
    pool = make_forked(2)
    with pytest.raises(Exception) as caught:
        pool.apply_async(tasks.raise_it, (what,)).get(LIMIT_S)
    error = caught.value
    if isinstance(error, glasspool.SerializationError):
        assert isinstance(error, multiprocessing.pool.MaybeEncodingError)
        assert "in raise_it" in str(error)
    else:
        assert what in ("local", "bad text")
        assert isinstance(error.__cause__, multiprocessing.pool.RemoteTraceback)
    works(pool, 2)


@pytest.mark.parametrize("size", [1000, 100_000, 150_000, 1_000_000])
def test_a_large_exception_arrives(make: MakePool, size: int) -> None:
    """An exception of any size arrives as it was raised."""
    pool = make(1)
    with pytest.raises(ValueError) as caught:
        pool.apply_async(tasks.large_error, (size,)).get(LIMIT_S)
    assert caught.value.args == ("x" * size,)
    assert isinstance(caught.value.__cause__, multiprocessing.pool.RemoteTraceback)
    assert pool.apply(tasks.square, (3,)) == 9
    assert pool.stats()["deaths"] == 0


def test_results_that_fail_while_being_rebuilt(make: MakePool) -> None:
    """The one who asks gets the error, every time; the pool's own threads never meet it."""
    pool = make(2)
    result = pool.apply_async(tasks.unsendable, ("Exception",))
    for _ in range(2):
        with pytest.raises(glasspool.SerializationError, match="no home here"):
            result.get(LIMIT_S)
    assert not result.successful()
    with pytest.raises(glasspool.SerializationError):
        pool.map_async(tasks.unsendable, ["Exception"] * 4, chunksize=2).get(LIMIT_S)
    seen: list[BaseException] = []
    failed = pool.apply_async(
        tasks.unsendable, ("Exception",), callback=seen.append, error_callback=seen.append
    )
    failed.wait(LIMIT_S)
    assert [type(error) for error in seen] == [glasspool.SerializationError]
    assert pool.apply(tasks.square, (3,)) == 9


@pytest.mark.parametrize("how", ["SystemExit", "KeyboardInterrupt"])
def test_results_that_exit_while_being_rebuilt(make_forked: MakePool, how: str) -> None:
    """Rebuilding on the callback thread may raise anything: later callbacks still run."""
    pool = make_forked(1)
    seen: list[Any] = []
    with _quiet_threads():
        bad = pool.apply_async(
            tasks.unsendable, (how,), callback=seen.append, error_callback=seen.append
        )
        good = pool.apply_async(tasks.square, (5,), callback=seen.append)
        assert good.get(LIMIT_S) == 25
        bad.wait(LIMIT_S)
    assert bad.ready()
    assert seen[-1] == 25
    works(pool, 1)


@contextlib.contextmanager
def _quiet_threads() -> Iterator[list[Any]]:
    """Collect what threads would report on standard error."""
    reports: list[Any] = []
    hook, threading.excepthook = threading.excepthook, reports.append  # type: ignore[assignment]
    try:
        yield reports
    finally:
        threading.excepthook = hook


@pytest.mark.parametrize("how", ["Exception", "SystemExit", "KeyboardInterrupt"])
def test_arguments_that_fail_while_being_rebuilt(make: MakePool, how: str) -> None:
    """The task fails, the worker lives on."""
    pool = make(1)
    before = pool.apply(tasks.pid)
    with pytest.raises(glasspool.GlasspoolError):
        pool.apply_async(tasks.take, (tasks.RaisesWhenRebuilt(how),)).get(LIMIT_S)
    with pytest.raises(glasspool.GlasspoolError):
        pool.map(tasks.take, [tasks.RaisesWhenRebuilt(how)])
    assert pool.apply(tasks.pid) == before


def test_a_recursion_without_end(make: MakePool) -> None:
    """It is the task's ``RecursionError``, and no death."""
    pool = make(1)
    with pytest.raises(RecursionError):
        pool.apply_async(tasks.lower_recursion).get(LIMIT_S)
    assert pool.stats()["deaths"] == 0


# Exceptions that mean something else elsewhere -----------------------------------------------------


@pytest.mark.parametrize(
    "what", ["sys.exit", "SystemExit", "KeyboardInterrupt", "GeneratorExit", "BaseException"]
)
def test_exits_are_the_tasks_error(make: MakePool, what: str) -> None:
    """They end neither the worker nor the caller: ``TaskExit``, with the original as the cause."""
    pool = make(1)
    before = pool.apply(tasks.pid)
    with pytest.raises(glasspool.TaskExit) as caught:
        pool.apply_async(tasks.exit_by, (what,)).get(LIMIT_S)
    name = "SystemExit" if what == "sys.exit" else what
    assert type(caught.value.__cause__).__name__ == name
    with pytest.raises(glasspool.TaskExit):
        pool.map(tasks.exit_by, [what])
    with pytest.raises(glasspool.TaskExit):
        list(pool.imap(tasks.exit_by, [what]))
    assert pool.apply(tasks.pid) == before
    assert pool.stats()["deaths"] == 0


def test_stop_iteration_is_an_error_like_any(make: MakePool) -> None:
    """It does not cut a chunk short, and does not end a loop of the caller's in silence."""
    pool = make(1)
    with pytest.raises((StopIteration, RuntimeError)):
        pool.apply_async(tasks.exit_by, ("StopIteration",)).get(LIMIT_S)
    for chunksize in (1, 3, 10):
        with pytest.raises((StopIteration, RuntimeError)):
            pool.map_async(tasks.exit_for, range(8), chunksize).get(LIMIT_S)
    assert pool.apply(tasks.square, (3,)) == 9


def test_callbacks_that_raise(make: MakePool) -> None:
    """Each is reported as the error of a thread, the result is ready, and the next ones run."""
    pool = make(2)

    def bad(value: Any) -> None:
        raise LookupError("callback")

    def worse(value: Any) -> None:
        raise SystemExit(4)

    seen: list[int] = []
    with _quiet_threads() as reports:
        results: list[Any] = []
        for number in range(10):
            results += [
                pool.apply_async(tasks.square, (number,), callback=callback)
                for callback in (bad, worse, seen.append)
            ]
            results.append(
                pool.apply_async(tasks.exit_for, (3,), error_callback=bad, callback=seen.append)
            )
        for result in results:
            result.wait(LIMIT_S)
        assert all(result.ready() for result in results)
        assert sorted(seen) == [i * i for i in range(10)]
        wait_until(lambda: len(reports) == 30, "thirty reports")
        pool.close()
        pool.join()


def test_callbacks_that_would_wait_for_themselves(make_forked: MakePool) -> None:
    """A callback that joins its own pool, or waits for its own result, does not hang the pool."""
    pool = make_forked(1)
    said: list[BaseException | None] = []
    box: list[Any] = []
    known = threading.Event()

    def wait_for_own(value: Any) -> None:
        known.wait(LIMIT_S)
        try:
            box[0].get()
        except BaseException as error:
            said.append(error)
            raise
        said.append(None)

    with _quiet_threads():
        box.append(pool.apply_async(tasks.square, (2,), callback=wait_for_own))
        known.set()
        box[0].wait(LIMIT_S)
        assert box[0].ready()
        assert isinstance(said[0], glasspool.GlasspoolError)
    works(pool, 1)


# The parent dies --------------------------------------------------------------------------------------

PARENT = """
    import os, signal, sys, time, multiprocessing
    import fault_tasks as tasks
    import glasspool

    if __name__ == "__main__":
        method, what, path, death = sys.argv[1:]
        pool = glasspool.Pool(2, tasks.note_pid, (path,), context=multiprocessing.get_context(method))
        if what == "busy in C":
            for _ in range(2):
                pool.apply_async(tasks.note_pid_then_spin_in_c, (path + ".busy",))
        elif what == "busy":
            for _ in range(2):
                pool.apply_async(tasks.note_pid_then_sleep, (path + ".busy",))
        elif what == "starting":
            print("ready", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        else:
            pool.map(tasks.square, range(10))
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            busy = path + ".busy" if what.startswith("busy") else path
            if os.path.exists(busy) and len(open(busy).read().split()) >= 2:
                break
        print("ready", flush=True)
        if death == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif death == "os._exit":
            os._exit(0)
        elif death == "exit":
            sys.exit(0)
        else:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
"""


def group_members(group: int) -> list[psutil.Process]:
    """Return the living processes of a process group."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
@pytest.mark.parametrize(
    ("what", "death"),
    [
        ("idle", "kill"),
        ("busy", "kill"),
        ("busy in C", "kill"),
        ("starting", "kill"),
        ("busy in C", "os._exit"),
        ("idle", "exit"),
        ("busy", "exit"),
        ("busy in C", "term"),
    ],
)
def test_the_parent_dies(tmp_path: Path, method: str, what: str, death: str) -> None:
    """Within two seconds no worker and no template is left, whatever they were doing."""
    program = tmp_path / "parent_dies.py"
    program.write_text(textwrap.dedent(PARENT))
    root = HERE.parent.parent
    env = dict(os.environ, PYTHONPATH=os.pathsep.join([str(HERE), str(root / "src")]))
    env["GLASSPOOL_DIR"] = str(tmp_path / "gp")
    parent = subprocess.Popen(
        [sys.executable, str(program), method, what, str(tmp_path / "pids"), death],
        env=env,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        parent.wait(LIMIT_S)
        # An interpreter that is just starting does so first, and notices then.
        limit_s = 5 if what == "starting" else 2
        wait_until(lambda: not group_members(parent.pid), "every process is gone", limit_s)
    except AssertionError as error:
        raise AssertionError(f"{error}; left: {group_members(parent.pid)}") from None
    finally:
        for process in group_members(parent.pid):
            process.kill()
        assert parent.stdout is not None
        parent.stdout.close()
        parent.wait(LIMIT_S)
