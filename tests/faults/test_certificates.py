"""Death certificates: what is known of a worker that died, and that it is true."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import certificate_tasks as tasks
import pytest

import glasspool
from glasspool import snapshot
from glasspool.engines.local import traces
from pools import LIMIT_S, MakePool, wait_until


def death_of(result: Any) -> glasspool.DeathCertificate:
    """Return the certificate with which a result ends; it has a text and survives JSON."""
    with pytest.raises(glasspool.WorkerDied) as caught:
        result.get(LIMIT_S)
    certificate = caught.value.certificate
    assert len(str(caught.value).splitlines()) <= 6
    assert snapshot._death(snapshot.as_plain(certificate)) == certificate
    return certificate


@dataclasses.dataclass
class Stage:
    """Two named pipes: a task tells through one that it runs, and waits for the other to end."""

    started: str
    gate: str

    def wait(self) -> None:
        """Wait until a task runs."""
        with open(self.started, "rb") as file:
            assert file.read(1) == b"x"


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    """Return a stage."""
    made = Stage(str(tmp_path / "started"), str(tmp_path / "gate"))
    os.mkfifo(made.started)
    os.mkfifo(made.gate)
    return made


# What each kind of death is told as -----------------------------------------------------------------


def test_a_segfault(make: MakePool) -> None:
    """Arguments, last words, and the stack that ``faulthandler`` wrote as the worker died."""
    pool = make(1)
    died = death_of(pool.apply_async(tasks.speak_and_segfault, ("one",), {"where": 0}))
    assert died.signal == signal.SIGSEGV
    assert died.task is not None
    assert died.task.arguments == "('one', where=0)"
    assert died.task.run_s is not None
    assert died.stack is not None
    assert (died.stack_source, died.stack_age_s) == ("faulthandler", 0.0)
    assert died.stack[0] == snapshot.Frame(tasks.__file__, died.stack[0].line, "speak_and_segfault")
    assert died.stack[-1].function == "string_at"
    assert died.last_log == ("WARNING certificates: logged one",)
    assert {"printed one", "wrote one"} <= set(died.last_output)
    text = died.text()
    for words in ("SIGSEGV", "speak_and_segfault('one', where=0)", "string_at", "logged one"):
        assert words in text
    assert "C extension" in text
    assert died.oom_likely is None
    assert died.oom_evidence is None


def test_a_kill(make: MakePool, start_method: str) -> None:
    """The OOM killer's counters were looked at, and the peak memory is told where it can be had."""
    pool = make(1)
    died = death_of(pool.apply_async(tasks.fill_and_kill, (200 << 20,)))
    assert died.signal == signal.SIGKILL
    assert died.oom_likely is not True
    assert died.oom_evidence
    assert died.advice is not None
    assert "Somebody sent SIGKILL" in died.advice
    # Under forkserver the server has the figure, and tells nobody. A spawned process begins with the
    # peak of this one, and what stays below that is not known.
    mine = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if start_method == "fork" or (start_method == "spawn" and mine < 200 << 20):
        assert died.peak_memory_bytes is not None
        assert 200 << 20 < died.peak_memory_bytes < 2 << 30
    assert died.stack is None
    assert died.stack_source is None


def test_the_other_ways_to_die(make_forked: MakePool) -> None:
    """An exit, a signal and a closed channel are told apart, each with what to look for."""
    pool = make_forked(2)
    died = death_of(pool.apply_async(tasks.exit_with, (3,)))
    assert (died.exitcode, died.signal) == (3, None)
    assert "os._exit(3)" in str(died.advice)
    died = death_of(pool.apply_async(tasks.kill, (signal.SIGTERM,)))
    assert died.signal == signal.SIGTERM
    assert "Somebody sent SIGTERM" in str(died.advice)
    died = death_of(pool.apply_async(tasks.close_all_and_wait))
    assert "channel" in died.cause
    assert "os.closerange" in str(died.advice)
    assert died.oom_evidence is None


def test_what_the_pool_did_itself_is_the_cause(make_forked: MakePool, stage: Stage) -> None:
    """A worker that the pool ends dies of the pool's reason, not of the OOM killer or a stranger."""
    pool = make_forked(1)
    result = pool.apply_async(tasks.tell_and_wait, (stage.started, stage.gate))
    stage.wait()
    (worker,) = pool._engine.handler.workers.values()
    worker.end_reason = "was stopped, because the test said so,"
    os.kill(worker.pid, signal.SIGKILL)
    died = death_of(result)
    assert died.cause == "was stopped, because the test said so,"
    assert died.signal == signal.SIGKILL
    assert (died.oom_likely, died.oom_evidence, died.advice) == (None, None, None)
    assert "because the test said so, while it ran task" in died.text()


def test_attempts_are_counted(make_forked: MakePool) -> None:
    """Each death of a task that is tried anew has its certificate; the last one is the error's."""
    pool = make_forked(2)
    died = death_of(pool.apply_async(tasks.kill, retries=2))
    assert (died.attempts, died.attempts_allowed) == (3, 3)
    assert "attempt 3 of 3" in died.text()
    told = pool.inspect().pools[0].deaths
    assert [death.attempts for death in told] == [1, 2, 3]
    assert {death.task.id for death in told if death.task} == {1}


def test_an_idle_worker_has_a_certificate_too(make_forked: MakePool) -> None:
    """It is in the picture of the pool, with its last words and without a task."""
    pool = make_forked(1)
    pool.apply(tasks.speak, ("before",))
    (worker,) = pool._engine.handler.workers.values()
    os.kill(worker.pid, signal.SIGKILL)
    pool.apply(tasks.speak, ("after",))
    (died,) = pool.inspect().pools[0].deaths
    assert (died.pid, died.task) == (worker.pid, None)
    assert died.last_log == ("WARNING certificates: logged before",)
    assert "logged before" in str(pool.inspect())


def test_the_item_of_a_chunk(make_forked: MakePool) -> None:
    """Of a chunk the item that ran is told, with its arguments."""
    pool = make_forked(1)
    died = death_of(pool.starmap_async(tasks.kill_at, [(n, 37) for n in range(50)], chunksize=50))
    assert died.task is not None
    assert (died.task.item, died.task.items, died.task.grain) == (37, 50, "item")
    assert died.task.arguments == "(37, 37)"
    assert "item 38 of 50" in died.text()


def test_running_tasks_show_their_arguments(make_forked: MakePool, stage: Stage) -> None:
    """A picture has the arguments of the tasks that run."""
    pool = make_forked(1)
    result = pool.apply_async(tasks.tell_and_wait, (stage.started, stage.gate))
    stage.wait()
    (worker,) = pool.inspect().workers
    assert worker.threads[0].task is not None
    assert str(worker.threads[0].task.arguments).startswith(f"('{stage.started[:20]}")
    with open(stage.gate, "wb"):
        pass
    result.get(LIMIT_S)


# Nothing of the user's runs in the parent -----------------------------------------------------------


def test_arguments_are_shown_without_their_code(make_forked: MakePool, tmp_path: Path) -> None:
    """Their ``__setstate__`` runs in the worker and nowhere else, their ``__repr__`` nowhere."""
    pool = make_forked(1)
    path = tmp_path / "ran"
    died = death_of(pool.apply_async(tasks.kill_with, (tasks.Noted(path),)))
    assert died.task is not None
    assert died.task.arguments == "(<certificate_tasks.Noted>)"
    assert path.read_text().split() == [str(died.pid)]


# Stacks ---------------------------------------------------------------------------------------------


def test_the_last_stack_that_was_asked_for(make_forked: MakePool, stage: Stage) -> None:
    """A SIGKILL leaves none, so the last picture's is told, with its age."""
    pool = make_forked(1)
    result = pool.apply_async(tasks.tell_and_wait, (stage.started, stage.gate))
    stage.wait()
    begun = time.monotonic()
    pool.inspect(stacks=True)
    (worker,) = pool._engine.handler.workers.values()
    os.kill(worker.pid, signal.SIGKILL)
    died = death_of(result)
    assert died.stack is not None
    assert died.stack[0].function == "tell_and_wait"
    assert died.stack_source == "self"
    assert died.stack_age_s is not None
    assert 0 < died.stack_age_s <= time.monotonic() - begun
    assert "before, it was in" in died.text()


def test_a_worker_that_is_stuck_in_c_is_asked_before_it_is_killed(
    make: MakePool, stage: Stage
) -> None:
    """Its stack is in the box also while C holds the interpreter's lock, and on the certificate."""
    pool = make(1)
    result = pool.apply_async(tasks.tell_and_spin_in_c, (stage.started,))
    stage.wait()
    (worker,) = pool._engine.handler.workers.values()
    boxes = pool._engine.black
    assert boxes.ask(worker.record, worker.pid)
    wait_until(lambda: "in main" in boxes.trace(worker.record), "the dump is written")
    (trace,) = traces.parse(boxes.trace(worker.record))
    stack = trace.stack_of(worker.ident)
    assert stack is not None
    assert traces.of_task(stack)[-1].function in ("tell_and_spin_in_c", "tell")
    os.kill(worker.pid, signal.SIGKILL)
    died = death_of(result)
    assert died.stack is not None
    assert died.stack_source == "faulthandler"
    assert died.stack_age_s is not None
    assert 0 < died.stack_age_s < LIMIT_S


def test_a_box_belongs_to_one_worker(make_forked: MakePool) -> None:
    """The replacement begins with an empty one: no stack, no word of the dead before it."""
    pool = make_forked(1)
    for _ in range(3):
        first = death_of(pool.apply_async(tasks.speak_and_segfault, ("first",)))
        second = death_of(pool.apply_async(tasks.exit_with, (1,)))
        assert first.stack is not None
        assert (second.stack, second.last_log, second.last_output) == (None, (), ())


def test_a_users_fork_does_not_write_into_the_box(make_forked: MakePool) -> None:
    """A child of a task faults and speaks: that is not the worker's end, nor its last word."""
    pool = make_forked(1)
    died = death_of(pool.apply_async(tasks.let_a_child_fault))
    assert died.signal == signal.SIGKILL
    assert died.stack is None
    assert died.last_log == ("WARNING certificates: logged by the parent",)
    assert not any("child" in line for line in died.last_output)


def test_a_faulthandler_of_the_users_is_his(make_forked: MakePool, tmp_path: Path) -> None:
    """One that a task enables for its own file writes there."""
    pool = make_forked(1)
    path = tmp_path / "fault"
    died = death_of(pool.apply_async(tasks.use_a_file_of_my_own, (str(path),)))
    assert "Segmentation fault" in path.read_text()
    assert died.stack is None


_FAULTS = """
import multiprocessing, sys
import certificate_tasks as tasks, glasspool
if __name__ == "__main__":
    with glasspool.Pool(1, context=multiprocessing.get_context(sys.argv[1])) as pool:
        for _ in range(2):
            try:
                pool.apply(tasks.speak_and_segfault, ("word",))
            except glasspool.WorkerDied as error:
                assert error.certificate.stack, error
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("options", [[], ["-X", "faulthandler"]], ids=["plain", "faulthandler"])
def test_stderr_has_what_it_would_have_had(options: list[str], method: str, tmp_path: Path) -> None:
    """A fault is told on stderr where ``faulthandler`` was enabled already, and else not."""
    script = tmp_path / "faults.py"
    script.write_text(textwrap.dedent(_FAULTS))
    ran = subprocess.run(
        [sys.executable, *options, str(script), method],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.count("Fatal Python error: Segmentation fault") == (2 if options else 0)
    assert ran.stderr.count("logged word") == 2
    assert ran.stdout.count("printed word") in (0, 2)  # lost with the worker if it was buffered


# Nothing that the user sees has changed -------------------------------------------------------------


def test_streams_and_loggers_are_what_they_were(make: MakePool) -> None:
    """Same objects, same handlers and levels, and no ``__str__`` runs that would not have run."""
    pool = make(1)
    seen = pool.apply(tasks.about_the_streams)
    assert seen["same"]
    assert seen["fileno"]
    assert seen["handlers"]
    assert seen["asked"] == 1
    assert seen["logged"] == "text\n"
    assert pool.apply(tasks.quiet_texts) == 0


# Memory limits --------------------------------------------------------------------------------------


def test_a_memory_error_is_the_tasks_own(make_forked: MakePool) -> None:
    """A limit of the address space costs the task that met it; its worker goes on."""
    pool = make_forked(1)
    pid = pool.apply(os.getpid)
    with pytest.raises(MemoryError):
        pool.apply(tasks.want_too_much, (1 << 30,))
    assert pool.apply(os.getpid) == pid


def test_a_memory_error_while_the_result_is_boxed(make_forked: MakePool) -> None:
    """The value cannot be pickled for want of memory: that task's error, and no death."""
    pool = make_forked(1)
    pid = pool.apply(os.getpid)
    with pytest.raises((glasspool.SerializationError, MemoryError)) as caught:
        pool.apply(tasks.return_too_much)
    assert "MemoryError" in repr(caught.value) + str(caught.value)
    assert pool.apply(tasks.unlimit) == pid


@pytest.fixture
def small_cgroup() -> Iterator[Path]:
    """Return a cgroup with 64 MB, made below the one that the environment names."""
    parent = os.environ.get("GLASSPOOL_TEST_CGROUP")
    if not parent:
        pytest.skip("GLASSPOOL_TEST_CGROUP names no folder of memory cgroups to make one in")
    made = Path(parent) / f"glasspool-test-{os.getpid()}"
    made.mkdir()
    try:
        for name in ("memory.max", "memory.limit_in_bytes"):
            if (made / name).exists():
                (made / name).write_text(str(64 << 20))
        for name in ("memory.swap.max", "memory.swappiness"):
            if (made / name).exists():
                (made / name).write_text("0")
        yield made
    finally:
        made.rmdir()


def test_the_oom_killer_is_named(small_cgroup: Path, leak_check: None) -> None:
    """A worker that the kernel ends for want of memory is told from one that somebody killed."""
    ctx = multiprocessing.get_context("fork")
    procs = str(small_cgroup / "cgroup.procs")
    with glasspool.Pool(1, tasks.enter_cgroup, (procs,), context=ctx) as pool:
        died = death_of(pool.apply_async(tasks.fill_memory, (256 << 20,)))
        assert died.oom_likely is True
        assert "OOM killer" in died.text()
        assert "fewer workers" in str(died.advice)
        died = death_of(pool.apply_async(tasks.kill))
        assert died.oom_likely is False


# Many at once -----------------------------------------------------------------------------------------


def test_each_death_has_its_own_words(make_forked: MakePool) -> None:
    """Forty deaths of four workers at a time: each certificate tells of its own task."""
    pool = make_forked(4)
    results = [pool.apply_async(tasks.speak_and_kill, (f"word{n}",)) for n in range(40)]
    for number, result in enumerate(results):
        died = death_of(result)
        assert died.task is not None
        assert died.task.arguments == f"('word{number}')"
        assert died.last_log == (f"WARNING certificates: logged word{number}",)
        assert died.peak_memory_bytes is not None
