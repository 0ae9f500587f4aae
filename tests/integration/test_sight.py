"""One look from outside: by which rung stacks come, what is refused, and that nothing is harmed."""

from __future__ import annotations

import ast
import gc
import multiprocessing.pool
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import weakref
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from bench import attach

from glasspool.observe import procfs, pyspy, sight

READER = pyspy.program()
pytestmark = pytest.mark.skipif(
    not procfs.HAS_PROC or READER is None or bool(pyspy.dump([os.getpid()])[os.getpid()].note),
    reason="needs py-spy and the right to read other processes",
)

SCENES = Path(__file__).parent.parent / "scenes"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may do that")
METHODS = ("fork", "forkserver", "spawn")
DEADLINE_S = 20.0

look = partial(sight.take, timeout_s=DEADLINE_S)
"""Look at leisure: here it is not tested what a busy machine leaves time for."""


@contextmanager
def scene(name, *arguments):
    """Run a program of the scenes folder, give its pid once it stands, and end it and its children."""
    command = [sys.executable, str(SCENES / f"{name}.py"), *arguments]
    program = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, process_group=0
    )
    try:
        assert program.stdout.readline() == "ready\n"
        yield program.pid
    finally:
        os.killpg(program.pid, signal.SIGKILL)
        program.wait()
        program.stdout.close()


def eventually(question):
    """Ask until the answer is yes; the states of other processes have no event to wait for."""
    deadline = time.monotonic() + DEADLINE_S
    while not (answer := question()):
        assert time.monotonic() < deadline, "no such state came"
        time.sleep(0.005)
    return answer


def sleeps(pid):
    """Wait until a program's main thread has gone to sleep."""
    eventually(lambda: procfs.sleeps_in(procfs.thread(pid, pid)) == "nanosleep")


def only_process(seen):
    (process,) = seen.processes
    return process


def is_unharmed(pid):
    """Tell whether no process of a family is stopped or traced."""
    return all(
        procfs.tracer(one) is None
        and all(
            told is None or told.state not in "Tt"
            for told in (procfs.thread(one, tid) for tid in procfs.thread_ids(one))
        )
        for one in procfs.family(pid)
    )


def settles_unharmed(pid):
    """Wait until nothing of a family is stopped or traced: the kernel lets go soon after a reader's end."""
    return eventually(lambda: is_unharmed(pid))


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """Give a function that puts a shell script in py-spy's place; ``$REAL`` is the true one."""

    def put(script):
        program = tmp_path / "py-spy"
        program.write_text(f"#!/bin/sh\nREAL={READER}\n{script}\n")
        program.chmod(0o700)
        monkeypatch.setattr(pyspy, "program", lambda: str(program))

    return put


def test_a_look_does_not_stop_its_target():
    """By default stacks come from a reader that does not stop, and say which of them are whole."""
    with scene("sight_gil", "sleep_in_python") as pid:
        sleeps(pid)
        process = only_process(look(pid))
        assert process.dump.paused_s == 0.0
        assert process.dump.source == "py-spy"
        assert process.version == f"{sys.version_info[0]}.{sys.version_info[1]}"
        assert process.main.python.stack[-1].function == "sleep_in_python"
        assert process.main.whole


def test_a_thread_that_moved_is_not_called_whole():
    """A thread that ran while it was read may have given a stack of two moments."""
    with scene("sight_gil", "loop_in_python") as pid:
        process = only_process(look(pid))
        assert process.main.python.stack[-1].function == "loop_in_python"
        assert process.main.whole is False
        assert process.main.cpu_share > 0


def test_what_has_not_moved_is_not_read_again(monkeypatch):
    """A second look at a process at rest takes over its stacks, and reads those that did move."""
    with scene("sight_rest", "fork") as pid:
        read = []
        ask = pyspy.dump
        monkeypatch.setattr(
            pyspy, "dump", lambda pids, *a, **k: read.extend(pids) or ask(pids, *a, **k)
        )
        first, again = look(pid), None
        # Its processes have their last task just behind them.
        while again is None or read:
            read.clear()
            first, again = again or first, look(pid, last=again or first)
        assert again.process(pid).main.python == first.process(pid).main.python
        assert again.process(pid).dump.taken_at > first.process(pid).dump.taken_at
        runs = procfs.thread(pid, pid).runs
        os.kill(pid, signal.SIGUSR1)
        eventually(lambda: procfs.thread(pid, pid).runs != runs)
        look(pid, last=again)
        assert pid in read


def test_a_stop_is_told_and_makes_stacks_whole():
    """With `pause="always"` the dump says for how long the process was stopped at most."""
    with scene("sight_gil", "loop_in_python") as pid:
        process = only_process(look(pid, pause="always"))
        assert 0 < process.dump.paused_s < DEADLINE_S
        assert process.main.whole
        assert settles_unharmed(pid)


@pytest.mark.parametrize("pause", ["never", "if-needed"])
def test_a_process_is_stopped_only_where_the_gentle_reader_fails(reader, pause):
    """The stopping reader is the next rung, and is left out on request."""
    reader('case "$*" in *--nonblocking*) exit 1 ;; esac; exec "$REAL" "$@"')
    with scene("sight_gil", "sleep_in_python") as pid:
        process = only_process(look(pid, pause=pause))
        if pause == "never":
            assert process.dump.refusal == "unreadable"
            assert process.dump.paused_s == 0.0
            assert len(process.threads) == 2
        else:
            assert process.dump.paused_s > 0
            assert process.main.python is not None


def test_a_strange_stack_is_read_twice_before_a_process_is_stopped(reader, tmp_path):
    """What two readings agree on is taken as it is: not every stack begins as Python's do."""
    reader(
        f'echo "$*" >> {tmp_path}/calls; shift $(($# - 1)); '
        'echo \'[{"os_thread_id": \'$1\', "thread_name": "MainThread", "owns_gil": false, "frames": '
        '[{"filename": "g.py", "name": "greenlet", "line": 1}]}]\''
    )
    with scene("sight_gil", "sleep_in_python") as pid:
        process = only_process(look(pid))
        assert process.main.python.stack[0].function == "greenlet"
        assert process.dump.paused_s == 0.0
    calls = (tmp_path / "calls").read_text().splitlines()
    assert ["--nonblocking" in call for call in calls] == [True, True]


def test_bare_stacks_are_better_than_none(reader):
    """Where local variables take too long to read, the stacks come without them, and the note says so."""
    reader('case "$*" in *-lll*) exec sleep 50 ;; esac; exec "$REAL" "$@"')
    with scene("sight_gil", "sleep_in_python") as pid:
        sleeps(pid)
        process = only_process(sight.take(pid, timeout_s=4.0))
        assert process.main.python.stack[-1].function == "sleep_in_python"
        assert not any(process.main.python.variables)
        assert process.dump.refusal is None
        assert "without local variables" in process.dump.note


def test_an_interpreter_that_is_too_new_is_told(reader):
    """A version that py-spy does not know costs the stacks, nothing else, and nothing is stopped."""
    reader('echo "Error: Unsupported version of Python: 3.99.0" >&2; exit 1')
    with scene("sight_gil", "sleep_in_python") as pid:
        process = only_process(look(pid))
        assert process.dump.refusal == "unreadable"
        assert "pip install --upgrade py-spy" in process.dump.note
        assert len(process.threads) == 2


def test_no_reader_no_stacks(monkeypatch):
    """Without py-spy the note has the line that installs it."""
    monkeypatch.setattr(pyspy, "program", lambda: None)
    with scene("sight_gil", "sleep_in_python") as pid:
        dump = only_process(look(pid)).dump
        assert (dump.refusal, "pip install glasspool[attach]" in dump.note) == ("missing", True)


@pytest.mark.parametrize("pause", ["if-needed", "always"])
def test_a_stopped_process_is_read_and_stays_stopped(pause):
    """What a signal has stopped stands still anyway: it is read gently, and nothing waits for it."""
    with scene("sight_gil", "sleep_in_python") as pid:
        os.kill(pid, signal.SIGSTOP)
        eventually(lambda: procfs.process(pid).state == "T")
        seen = look(pid, pause=pause)
        assert only_process(seen).main.whole
        assert only_process(seen).dump.paused_s == 0.0
        assert pyspy.native_top(pid, pid) is None
        assert procfs.process(pid).state == "T"


def test_a_reader_that_is_killed_lets_go_of_its_target():
    """Whenever a stopping reader is ended, its target runs on, untraced."""
    with scene("sight_gil", "loop_in_python") as pid:
        for _ in range(15):
            pyspy.dump([pid], timeout_s=random.uniform(0.001, 0.015), pause="always")
            pyspy.native_calls(pid, pid, timeout_s=random.uniform(0.001, 0.1))
        assert settles_unharmed(pid)
        before = procfs.process(pid).cpu_s
        eventually(lambda: procfs.process(pid).cpu_s > before)


def test_what_is_no_python_is_not_asked():
    """A child that runs something else is seen by the operating system alone, without a complaint."""
    program = "import subprocess; p = subprocess.Popen(['sleep', '50']); print('ready', flush=True); p.wait()"
    command = [sys.executable, "-c", program]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, process_group=0)
    try:
        parent.stdout.readline()
        seen = look(parent.pid)
        (child,) = seen.children(parent.pid)
        assert child.os.name == "sleep"
        assert child.version is None
        assert child.dump == pyspy.Dump()
        assert seen.process(parent.pid).main.python.stack
    finally:
        os.killpg(parent.pid, signal.SIGKILL)
        parent.communicate()


def test_without_stacks_no_reader_is_started(monkeypatch):
    """`stacks=False` is the kernel's word only."""
    monkeypatch.setattr(pyspy, "program", lambda: pytest.fail("a reader was asked for"))
    with scene("sight_pool", "fork") as pid:
        seen = look(pid, stacks=False)
        assert len(seen.processes) == 4
        assert not any(thread.python for process in seen.processes for thread in process.threads)


@pytest.mark.parametrize("method", METHODS)
def test_all_processes_and_threads_of_a_pool_are_seen(method):
    """Each process that lasts is seen with the stack of its main thread, and the pool's loops' variables."""
    with scene("sight_pool", method) as pid:
        seen = look(pid)
        assert {process.pid for process in seen.processes} >= {pid, *procfs.children(pid)}
        assert all(process.main.python.stack for process in seen.processes)
        loops = {
            frame.function.rpartition(".")[2]: variables
            for thread in seen.process(pid).threads
            if thread.python
            for frame, variables in zip(thread.python.stack, thread.python.variables, strict=True)
        }
        assert {"_handle_workers", "_handle_tasks", "_handle_results"} <= set(loops)
        assert loops["_handle_workers"]["processes"] == "3"


@as_root
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
def test_threads_of_a_container_are_known_by_our_numbers():
    """In a namespace of its own a process counts its threads anew: here they have the numbers that we see."""
    command = ["unshare", "--pid", "--fork", "--kill-child", sys.executable]
    program = [*command, str(SCENES / "sight_gil.py"), "sleep_in_python"]
    container = subprocess.Popen(
        program, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        if container.stdout.readline() != "ready\n":
            pytest.skip("no namespaces here")
        (inside,) = procfs.children(container.pid)
        sleeps(inside)
        process = look(container.pid).process(inside)
        assert [thread.python.native_id for thread in process.threads] == [
            thread.os.tid for thread in process.threads
        ]
        assert process.main.python.stack[-1].function == "sleep_in_python"
    finally:
        container.kill()
        container.communicate()


@pytest.mark.parametrize(
    ("what", "function"),
    [("sleep_in_c", "usleep"), ("loop_in_c", "_sre_SRE_Pattern_match"), ("loop_in_python", None)],
)
def test_who_holds_the_interpreter_lock(what, function):
    """The thread that holds the lock is told without a stop, and the C function it is in with one."""
    with scene("sight_gil", what) as pid:
        process = eventually(
            lambda: (
                (told := only_process(look(pid))).main.python and told.main.python.owns_gil and told
            )
        )
        assert [t.os.tid for t in process.threads if t.python and t.python.owns_gil] == [pid]
        found = pyspy.native_top(pid, pid)
        assert (found and found.function) == function


def test_nobody_holds_the_lock_of_a_sleeping_process():
    """A thread that sleeps has given the lock up."""
    with scene("sight_gil", "sleep_in_python") as pid:
        sleeps(pid)
        main = only_process(look(pid)).main
        assert not main.python.owns_gil


def test_this_process_tells_its_own_stacks():
    """Our own threads are told by our own word, with a loop's variables; children from outside."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        with multiprocessing.pool.ThreadPool(1) as pool:
            begun, gate = threading.Event(), threading.Event()
            result = pool.apply_async(lambda number: (begun.set(), gate.wait()), (7,))
            begun.wait(DEADLINE_S)
            seen = look(os.getpid())
            gate.set()
            result.get(DEADLINE_S)
    finally:
        child.communicate(b"\n")
    own = seen.process(os.getpid())
    assert own.dump.source == "self"
    assert own.main.python.stack[-1].function == "test_this_process_tells_its_own_stacks"
    assert own.main.python.owns_gil
    (args,) = {
        variables["args"]
        for thread in own.threads
        if thread.python
        for frame, variables in zip(thread.python.stack, thread.python.variables, strict=True)
        if frame.function == "worker"
    }
    assert args == "(7)"
    assert seen.process(child.pid) is not None
    assert seen.process(child.pid).dump.source == "py-spy"


def test_a_look_at_oneself_keeps_nothing_alive():
    """What a task was given is let go of when it ends, whoever looked meanwhile."""

    class Argument:
        pass

    with multiprocessing.pool.ThreadPool(1) as pool:
        begun, gate = threading.Event(), threading.Event()
        argument = Argument()
        gone = weakref.ref(argument)
        result = pool.apply_async(lambda given: (begun.set(), gate.wait(), None)[2], (argument,))
        begun.wait(DEADLINE_S)
        look(os.getpid())
        gate.set()
        result.get(DEADLINE_S)
        pool.apply(int)
        del argument
        gc.collect()
        assert gone() is None


@as_root
@pytest.mark.parametrize(
    ("target", "inspector", "words"),
    [
        ([], ["another_user"], "it belongs to user root; run as that user, or as root"),
        (["another_user"], ["another_user"], "it has made itself non-dumpable; run as root"),
        (
            [],
            ["without_capabilities"],
            "it has capabilities that this command lacks; grant CAP_SYS",
        ),
        (["another_user", "dumpable"], ["without_capabilities"], "it belongs to user nobody"),
        (["protected"], [], None),
        (["without_capabilities"], ["without_capabilities"], None),
    ],
)
def test_who_may_read_whom(target, inspector, words):
    """A refusal names its true cause and what to do about it; the kernel's word is there all the same."""
    with scene("sight_rights", *target, "wait") as pid:
        answer = subprocess.run(
            [sys.executable, str(SCENES / "sight_rights.py"), *inspector, str(pid)],
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=True,
        )
        refusal, note, threads = ast.literal_eval(answer.stdout)
        assert threads == 1
        assert refusal == ("denied" if words else None)
        assert (words in note) if words else note is None


def test_a_process_that_has_ended_is_no_error():
    """Of a process that is gone nothing is seen, and a dump says that it is gone."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert look(child.pid).processes == ()
    assert pyspy.dump([child.pid])[child.pid].refusal == "gone"
    assert pyspy.native_top(child.pid, child.pid) is None


@pytest.mark.parametrize("method", METHODS)
def test_targets_that_die_while_they_are_looked_at(method):
    """Whenever a process is killed, a sight is partial at worst; no reader is left."""
    with scene("sight_pool", method) as pid:
        for _ in range(7):
            victim = random.choice(procfs.family(pid)[1:])
            killer = threading.Timer(random.uniform(0, 0.08), kill, (victim,))
            killer.start()
            seen = look(pid, pause=random.choice(["if-needed", "always"]))
            killer.join()
            assert seen.process(pid) is not None
        killer = threading.Timer(random.uniform(0, 0.05), kill, (pid,))
        killer.start()
        look(pid)
        killer.join()
    assert not [one for one in procfs.children(os.getpid()) if is_reader(one)]


def kill(pid):
    """Kill a process that may have ended by itself."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def is_reader(pid):
    told = procfs.process(pid)
    return told is not None and told.name == "py-spy"


@pytest.mark.parametrize("kind", ["threads", "calls"])
def test_to_be_looked_at_does_no_harm(kind):
    """A busy pool that is looked at all the time has right results and no call cut short, and runs on."""
    tasks = {"threads": 100, "calls": 6}[kind]
    report = attach.measure(method="fork", kind=kind, inspections=15, every_s=0, tasks=tasks)
    assert report["wrong"] == []
    assert report["left"] == []
    assert report["exit_code"] == 0
    assert report["stacks_per_inspection"] >= 6
