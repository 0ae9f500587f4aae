"""The processes that a pool's life hangs on are killed, and the user forks: tasks and pools go on."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import select
import signal
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import fault_tasks as tasks
import psutil
import pytest
from test_first_faults import died_of, template_of, works
from test_scarcity import run

import glasspool
from gates import Gate
from pools import LIMIT_S, MakePool, wait_until

pytestmark = [
    pytest.mark.filterwarnings("ignore::glasspool.registry.ForkWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def notes(pool: glasspool.Pool) -> str:
    """Return what the pool's picture says of its wants."""
    return " ".join(pool.inspect().pools[0].notes)


def kill_template(pool: glasspool.Pool) -> None:
    """Kill the template, and wait until there is another."""
    old = template_of(pool)
    os.kill(old, signal.SIGKILL)

    def is_there() -> bool:
        starter: Any = pool._engine.handler.starter
        return starter is not None and starter.template.pid != old

    wait_until(is_there, "another template")


# The template -----------------------------------------------------------------------------------------


def test_each_task_ends_once_when_the_template_dies(
    make_forked: MakePool, forked_gate: Gate
) -> None:
    """What had begun is lost by that cause, everything else runs, each exactly once."""
    pool = make_forked(2, **forked_gate.arguments)
    running = [pool.apply_async(tasks.started_then_wait) for _ in range(2)]
    forked_gate.wait_for_tasks(2)
    behind = [pool.apply_async(tasks.square, (i,)) for i in range(500)]
    os.kill(template_of(pool), signal.SIGKILL)
    for result in running:
        certificate = died_of(result, 5)
        assert "ended by the kernel, as the template process died" in certificate.cause
        assert (certificate.exitcode, certificate.signal) == (None, None)
    assert [result.get(LIMIT_S) for result in behind] == [i * i for i in range(500)]
    works(pool, 2)
    stats = pool.stats()
    assert (stats["lost"], stats["workers"]) == (2, 2)
    assert notes(pool) == ""
    kept = [one.name for one in threading.enumerate() if not one.name.endswith(" logs")]
    assert len(kept) == 3, kept


def test_tasks_after_a_new_template_run_in_the_main_thread(make_forked: MakePool) -> None:
    """A thread forked the new template; in a task it is the main thread all the same."""
    pool = make_forked(1, tasks.note_initialized, ("kept",))
    pool.apply(tasks.pid)
    os.kill(template_of(pool), signal.SIGKILL)
    wait_until(lambda: pool.stats()["deaths"] == 1, "the worker is gone")
    told = pool.apply_async(tasks.tell_of_main_thread).get(LIMIT_S)
    assert told == ("MainThread", True, False, "kept", os.getpid())
    (worker,) = pool.inspect().workers
    assert [t.is_main for t in worker.threads if t.roles == ("initializer", "task")] == [True]


def test_the_template_dies_under_load(make_forked: MakePool) -> None:
    """At any moment: each task has its result, or is lost with its worker; the pool works on."""
    pool = make_forked(3)
    results = [pool.apply_async(tasks.square, (i,)) for i in range(3000)]
    results[500].wait(LIMIT_S)
    for _ in range(2):
        kill_template(pool)
    lost = 0
    for number, result in enumerate(results):
        try:
            assert result.get(LIMIT_S) == number * number
        except glasspool.WorkerDied:
            lost += 1
    assert lost <= 6, "each death costs one task of each worker at most"
    works(pool, 3)
    assert pool.stats()["lost"] == lost


def test_a_template_that_dies_again_and_again(make_forked: MakePool) -> None:
    """The third death within a minute ends the pool, with an error that says so."""
    pool = make_forked(2)
    for _ in range(2):
        kill_template(pool)
        works(pool, 2)
    waiting = pool.apply_async(time.sleep, (60,))
    wait_until(lambda: waiting.info.state == "running", "the task runs")
    os.kill(template_of(pool), signal.SIGKILL)
    for result in (waiting, pool.apply_async(time.sleep, (60,))):
        with pytest.raises(glasspool.GlasspoolError):
            result.get(5)
    with pytest.raises(glasspool.GlasspoolError, match=r"template process .* has died 3 times"):
        pool.apply_async(tasks.square, (3,)).get(5)
    assert "has died 3 times" in notes(pool)
    begun = time.monotonic()
    pool.close()
    pool.join()
    assert time.monotonic() - begun < 5


def test_another_pool_lives_through_the_death_of_a_template(make_forked: MakePool) -> None:
    """Its threads stand aside for the fork and come back; its own workers are not touched."""
    one, other = make_forked(2), make_forked(2)
    pids = {process.pid for process in other._pool}
    running = other.map_async(tasks.square, range(3000), chunksize=1)
    gone = psutil.Process(template_of(one))
    dying = {process.pid for process in one._pool}
    gone.kill()
    # The kernel ends the workers with their template, when it comes to that.
    wait_until(lambda: not dying & {process.pid for process in one._pool}, "its workers are gone")
    works(one, 2)
    assert running.get(LIMIT_S) == [i * i for i in range(3000)]
    assert {process.pid for process in other._pool} == pids
    works(other, 2)


@pytest.mark.parametrize("how", ["close", "terminate", "drop"])
def test_the_pool_ends_while_its_template_dies(make_forked: MakePool, how: str) -> None:
    """It ends in time, and leaves nothing."""
    pool = make_forked(2)
    pool.map(tasks.square, range(10))
    os.kill(template_of(pool), signal.SIGKILL)
    begun = time.monotonic()
    if how == "drop":
        engine = pool._engine
        del pool
        with pytest.warns(ResourceWarning):
            _forget(make_forked)
        assert engine.done.wait(5)
    else:
        getattr(pool, how)()
        pool.join()
    assert time.monotonic() - begun < 5


def _forget(make_one: Any) -> None:
    """Let the fixture drop its pools."""
    made = next(c.cell_contents for c in make_one.__closure__ if isinstance(c.cell_contents, list))
    made.clear()


def test_the_warning_names_the_threads(make_forked: MakePool) -> None:
    """Locks of the program's threads may be held in the new workers: one warning says whose."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        pool = make_forked(1)
        works(pool, 1)
        os.kill(template_of(pool), signal.SIGKILL)
        wait_until(lambda: pool.stats()["deaths"] == 1, "the death is seen")
        works(pool, 1)
    told = [str(w.message) for w in seen if issubclass(w.category, glasspool.registry.ForkWarning)]
    assert len(told) == 1
    assert "MainThread" in told[0]
    assert "forkserver" in told[0]
    assert "test_template.py" in seen[0].filename or "pools.py" in seen[0].filename


# The nanny, the fork server, the resource tracker --------------------------------------------------------


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_the_nanny_is_killed(leak_check: None, method: str) -> None:
    """There is another one at once, and nothing else happens."""
    with glasspool.Pool(2, context=multiprocessing.get_context(method)) as pool:
        works(pool, 2)
        pids = {process.pid for process in pool._pool}
        for _ in range(3):
            old = nanny_of(pool)
            os.kill(old, signal.SIGKILL)
            wait_until(lambda old=old: nanny_of(pool) not in (0, old), "another nanny")  # type: ignore[misc]
        works(pool, 2)
        assert {process.pid for process in pool._pool} == pids
        seen = [p for p in pool.inspect().processes if p.role == "nanny"]
        assert [p.pid for p in seen] == [nanny_of(pool)]
        assert notes(pool) == ""
    pool.join()


def nanny_of(pool: glasspool.Pool) -> int:
    """Return the pid of the pool's nanny, 0 while there is none."""
    nanny = pool._engine.handler.starter.nanny  # type: ignore[union-attr]
    return 0 if nanny is None else int(nanny.pid)


def test_the_fork_server_is_killed(tmp_path: Any) -> None:
    """Its workers live on; one that dies then has a replacement from a new server."""
    run(
        tmp_path,
        """
        from multiprocessing import forkserver
        import fault_tasks
        pool = glasspool.Pool(2, context=context("forkserver"))
        works(pool, 2)
        pids = {process.pid for process in pool._pool}
        os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)
        works(pool, 2)
        assert {process.pid for process in pool._pool} == pids
        try:
            pool.apply_async(fault_tasks.exit_at_once, (3,)).get(20)
            raise AssertionError("no error")
        except glasspool.WorkerDied as error:
            # The fork server has taken the status with it.
            assert error.certificate.exitcode is None, error.certificate
        works(pool, 2)
        try:
            pool.apply_async(fault_tasks.exit_at_once, (4,)).get(20)
            raise AssertionError("no error")
        except glasspool.WorkerDied as error:
            assert error.certificate.exitcode in (None, 4), error.certificate
        works(pool, 2)
        pool.close()
        pool.join()
        """,
        "forkserver",
    )


def test_the_resource_tracker_is_killed(tmp_path: Any) -> None:
    """Nothing happens, and replacements come, also where warnings are errors."""
    run(
        tmp_path,
        """
        from multiprocessing import resource_tracker
        pool = glasspool.Pool(2, context=context("spawn"))
        works(pool, 2)
        warnings.simplefilter("error")
        os.kill(resource_tracker._resource_tracker._pid, signal.SIGKILL)
        works(pool, 2)
        os.kill(pool._pool[0].pid, signal.SIGKILL)
        until(lambda: pool.stats()["deaths"] == 1, "the death is seen")
        works(pool, 2)
        pool.close()
        pool.join()
        """,
    )


# The user forks ------------------------------------------------------------------------------------------


def in_child(act: Callable[[], object]) -> str:
    """Fork, act in the child, and return what became of it."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        said = "nothing"
        try:
            said = f"returned {act()!r}"
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        finally:
            os.write(write_end, said.encode())
            os._exit(0)
    os.close(write_end)
    with open(read_end, "rb") as file:
        ready = select.select([file], [], [], 10)[0]
        if not ready:
            os.kill(child, signal.SIGKILL)
        text = file.read().decode()
    os.waitpid(child, 0)
    return text or "it hung"


def test_every_use_in_a_fork_is_a_clear_error(make_forked: MakePool, forked_gate: Gate) -> None:
    """Each public method, and what waits for an inherited result; what had come is there."""
    pool = make_forked(1, **forked_gate.arguments)
    ended = pool.apply_async(tasks.square, (3,))
    ended.wait(LIMIT_S)
    waiting = pool.apply_async(tasks.started_then_wait)
    forked_gate.wait_for_tasks()
    row, values = pool.map_async(tasks.square, range(3)), pool.imap(tasks.square, range(3))
    uses: dict[str, Callable[[], object]] = {
        "apply": lambda: pool.apply(tasks.square, (1,)),
        "apply_async": lambda: pool.apply_async(tasks.square, (1,)),
        "map": lambda: pool.map(tasks.square, [1]),
        "map_async": lambda: pool.map_async(tasks.square, [1]),
        "starmap": lambda: pool.starmap(tasks.square, [(1,)]),
        "starmap_async": lambda: pool.starmap_async(tasks.square, [(1,)]),
        "imap": lambda: pool.imap(tasks.square, [1]),
        "imap_unordered": lambda: pool.imap_unordered(tasks.square, [1]),
        "close": lambda: pool.close(),
        "terminate": lambda: pool.terminate(),
        "join": lambda: pool.join(),
        "with": lambda: pool.__enter__(),
        "inspect": lambda: pool.inspect(),
        "threads": lambda: pool.threads(),
        "stats": lambda: pool.stats(),
        "get": lambda: waiting.get(),
        "get(1)": lambda: waiting.get(1),
        "wait": lambda: waiting.wait(),
        "map.get": lambda: row.get(),
        "next": lambda: next(values),
    }
    for name, use in uses.items():
        said = in_child(use)
        assert said.startswith("GlasspoolError: the pool"), (name, said)
        assert "make a pool of its own" in said, (name, said)
    assert in_child(lambda: ended.get()) == "returned 9"
    assert in_child(lambda: pool.__exit__(None, None, None)) == "returned None"
    assert in_child(lambda: glasspool.inspect().pools) == "returned ()"
    assert in_child(lambda: _of_its_own(pool.name)) == "returned [0, 1, 4]"
    forked_gate.event.set()
    assert waiting.get(LIMIT_S) > 0
    assert (row.get(LIMIT_S), list(values)) == ([0, 1, 4], [0, 1, 4])
    works(pool, 1)


def _of_its_own(name: str) -> list[int]:
    with glasspool.Pool(1, context=multiprocessing.get_context("fork"), name=name) as pool:
        values = pool.map(tasks.square, range(3))
    pool.join()
    return values


def test_a_fork_under_load(make: MakePool) -> None:
    """Children that are forked while all threads work, and that leave, disturb nothing."""
    pool = make(2)
    jobs = [pool.map_async(tasks.square, range(500), chunksize=1) for _ in range(4)]
    seen: list[int] = []
    called = [pool.apply_async(tasks.square, (i,), callback=seen.append) for i in range(50)]
    pids = {process.pid for process in pool._pool}
    children = [_fork_and_leave(how) for how in ["os._exit", "sys.exit"] * 5]
    for child in children:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    for job in jobs:
        assert job.get(LIMIT_S) == [i * i for i in range(500)]
    assert [result.get(LIMIT_S) for result in called] == [i * i for i in range(50)]
    works(pool, 2)
    assert {process.pid for process in pool._pool} == pids


def _fork_and_leave(how: str) -> int:
    child = os.fork()
    if child:
        return child
    try:
        if how == "sys.exit":
            # What the interpreter does as it ends, without pytest's part.
            from multiprocessing import util

            util._exit_function()
    finally:
        os._exit(7)


def test_a_process_of_multiprocessing_under_load(make: MakePool) -> None:
    """A ``Process`` of the user's, and its pool, live beside ours; ours may end before."""
    ctx: Any = multiprocessing.get_context("fork")
    pool = make(2)
    job = pool.map_async(tasks.square, range(1000), chunksize=1)
    others = [ctx.Process(target=_work_on_ones_own) for _ in range(3)]
    for other in others:
        other.start()
    assert job.get(LIMIT_S) == [i * i for i in range(1000)]
    pool.close()
    pool.join()
    for other in others:
        other.join(LIMIT_S)
        assert other.exitcode == 0
        other.close()


def _work_on_ones_own() -> None:
    with glasspool.Pool(1, context=multiprocessing.get_context("fork")) as pool:
        assert pool.map(tasks.square, range(20)) == [i * i for i in range(20)]
    pool.join()


@pytest.mark.parametrize("end", ["close", "terminate", "kill a worker", "kill the template"])
def test_a_child_keeps_all_our_descriptors_open(make_forked: MakePool, end: str) -> None:
    """A fork that Python did not see (C's) holds everything, for ever: nobody waits for its end."""
    pool = make_forked(2)
    works(pool, 2)
    child = ctypes.PyDLL(None).fork()  # no function of register_at_fork runs
    if child == 0:
        ctypes.PyDLL(None).pause()
        os._exit(0)
    try:
        begun = time.monotonic()
        if end == "kill a worker":
            for deaths in range(1, 6):
                os.kill(pool._pool[0].pid or 0, signal.SIGKILL)
                wait_until(lambda d=deaths: pool.stats()["deaths"] == d, "it is seen")  # type: ignore[misc]
                works(pool, 2)
            before = time.thread_time(), time.process_time()
            time.sleep(0.2)
            assert time.process_time() - before[1] < 0.1, "somebody spins"
        elif end == "kill the template":
            os.kill(template_of(pool), signal.SIGKILL)
            wait_until(lambda: pool.stats()["deaths"] == 2, "the deaths are seen")
            works(pool, 2)
        (pool.terminate if end == "terminate" else pool.close)()
        pool.join()
        assert time.monotonic() - begun < 10
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.parametrize(
    ("how", "code"), [("os._exit", 7), ("sys.exit", 7), ("raise", 1), ("return", 0)]
)
def test_a_task_forks(make_forked: MakePool, how: str, code: int) -> None:
    """The child ends where it leaves the task; it never answers in the worker's place."""
    pool = make_forked(1)
    for _ in range(3):
        results = [pool.apply_async(tasks.fork_and_leave, (how,)) for _ in range(3)]
        assert [result.get(LIMIT_S) for result in results] == [code] * 3
    assert pool.map(tasks.fork_and_leave, [how] * 4, chunksize=2) == [code] * 4
    works(pool, 1)
    stats = pool.stats()
    assert (stats["failed"], stats["deaths"]) == (0, 0)


def test_a_child_of_a_task_outlives_worker_and_pool(make: MakePool) -> None:
    """It holds what it inherited, and the pool ends in time all the same."""
    pool = make(1)
    child = pool.apply(tasks.fork_and_stay)
    try:
        works(pool, 1)
        begun = time.monotonic()
        pool.close()
        pool.join()
        assert time.monotonic() - begun < 5
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
