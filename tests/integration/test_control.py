"""Control by hand, through the pool's socket: a task cancelled, a worker restarted, nothing else harmed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import Future

import pytest
import roster_tasks as tasks

import glasspool
from glasspool.engines.local import desk
from glasspool.observe import control
from pools import LIMIT_S, wait_until

SOON_S = 30.0


def at_gate(make_forked, gate):
    """Return a pool of two workers whose tasks can wait at a gate."""
    return make_forked(2, tasks.keep, gate.shared)


def running_task(pool, pid=None):
    """Return a task that a worker runs now."""
    found = [
        thread.task
        for process in pool.inspect().workers
        for thread in process.threads
        if thread.task is not None and pid in (None, process.pid)
    ]
    return found[0] if found else None


def running_number(pool):
    """Wait until a worker runs a task, and return the task's number."""
    wait_until(lambda: running_task(pool) is not None, "a task runs")
    return running_task(pool).id


def cancel(pool, number):
    """Cancel a task as another process would."""
    return control.cancel(os.getpid(), pool.name, number)


def restart(pool, pid, *, at_once):
    """Restart a worker as another process would."""
    return control.restart(os.getpid(), pool.name, pid, at_once=at_once)


def replaced(pool, pid):
    """Wait until another process has the place of a worker, and return its picture."""

    def successors():
        return [p for p in pool.inspect().workers if p.pid != pid and p.generation > 0]

    wait_until(
        lambda: successors() and pid not in {p.pid for p in pool.inspect().workers},
        "the worker has a successor",
    )
    return successors()[0]


def test_a_cancelled_task_raises_in_its_caller(make_forked, forked_gate):
    """The caller gets TaskCancelled, which says that it was by hand; the worker goes on."""
    pool = at_gate(make_forked, forked_gate)
    result = pool.apply_async(tasks.wait_at_gate, (1,))
    forked_gate.wait_for_tasks()
    outcome = cancel(pool, running_number(pool))
    assert outcome.done, outcome
    with pytest.raises(glasspool.TaskCancelled) as caught:
        result.get(SOON_S)
    assert any("by hand" in note for note in caught.value.__notes__)
    pids = {p.pid for p in pool.inspect().workers}
    assert pool.apply_async(os.getpid).get(SOON_S) in pids
    assert any("cancelled by hand" in note for note in pool.inspect().pools[0].notes)


def test_a_task_that_waits_is_cancelled_before_it_begins(make_forked, forked_gate):
    """Others of the pool are not touched."""
    pool = at_gate(make_forked, forked_gate)
    first = [pool.apply_async(tasks.wait_at_gate, (n,)) for n in range(2)]
    forked_gate.wait_for_tasks(2)
    behind = pool.apply_async(tasks.wait_at_gate, (9,))
    wait_until(lambda: len(pool.inspect().tasks) == 3, "three tasks are open")
    number = max(task.id for task in pool.inspect().tasks)
    assert cancel(pool, number).done
    with pytest.raises(glasspool.TaskCancelled):
        behind.get(SOON_S)
    forked_gate.open()
    assert sorted(one.get(SOON_S) for one in first) == [0, 1]


def test_a_direct_call_is_cancelled(make_forked, forked_gate):
    """A synchronous apply, which has a worker for itself, ends with TaskCancelled, too."""
    pool = at_gate(make_forked, forked_gate)
    pool.map(abs, range(4))
    called: Future[object] = Future()

    def call():
        try:
            called.set_result(pool.apply(tasks.wait_at_gate, (1,)))
        except BaseException as error:
            called.set_exception(error)

    caller = threading.Thread(target=call)
    caller.start()
    forked_gate.wait_for_tasks()
    assert cancel(pool, running_number(pool)).done
    caller.join(LIMIT_S)
    error = called.exception(0)
    assert isinstance(error, glasspool.TaskCancelled), error
    assert any("by hand" in note for note in error.__notes__)
    stats = pool.stats()
    assert (stats["cancelled"], stats["failed"]) == (1, 0)
    assert pool.apply(abs, (-2,)) == 2


@pytest.mark.parametrize("is_direct", [False, True], ids=["async", "direct"])
def test_a_worker_is_restarted_after_its_task(make_forked, forked_gate, is_direct):
    """The task ends as if nothing had happened; then a new process has the worker's place."""
    pool = at_gate(make_forked, forked_gate)
    pool.map(abs, range(4))
    got: Future[object] = Future()

    def call():
        if is_direct:
            got.set_result(pool.apply(tasks.wait_at_gate, (5,)))
        else:
            got.set_result(pool.apply_async(tasks.wait_at_gate, (5,)).get(LIMIT_S))

    caller = threading.Thread(target=call)
    caller.start()
    forked_gate.wait_for_tasks()
    running_number(pool)
    pid = next(p.pid for p in pool.inspect().workers if running_task(pool, p.pid))
    outcome = restart(pool, pid, at_once=False)
    assert outcome.done, outcome
    assert "after its task" in outcome.text
    assert not restart(pool, pid, at_once=False).done
    forked_gate.open()
    assert got.result(SOON_S) == 5
    caller.join(LIMIT_S)
    replaced(pool, pid)

    def graves():
        return [p for p in pool.inspect().pools[0].ended if p.pid == pid]

    wait_until(lambda: bool(graves()), "the end of the worker is told")
    assert "restarted by hand" in graves()[0].reason
    assert pool.stats()["deaths"] == 0
    assert pool.map(abs, range(50), chunksize=1) == list(range(50))


def test_an_idle_worker_is_restarted_at_once(make_forked):
    """Nothing is lost, and it is no death."""
    pool = make_forked(2)
    pool.map(abs, range(4))
    wait_until(lambda: pool.stats()["idle"] == 2, "both workers rest")
    pid = pool.inspect().workers[0].pid
    assert restart(pool, pid, at_once=True).done
    assert replaced(pool, pid).slot == 0
    assert pool.stats()["deaths"] == 0
    assert pool.map(abs, range(50)) == list(range(50))


def test_a_worker_restarted_now_loses_what_it_runs(make_forked, forked_gate):
    """Only that task is lost, with a certificate that says who did it; all others are done."""
    pool = at_gate(make_forked, forked_gate)
    lost = pool.apply_async(tasks.wait_at_gate, (1,))
    forked_gate.wait_for_tasks()
    running_number(pool)
    pid = next(p.pid for p in pool.inspect().workers if running_task(pool, p.pid))
    others = [pool.apply_async(abs, (n,)) for n in range(40)]
    assert restart(pool, pid, at_once=True).done
    with pytest.raises(glasspool.WorkerDied) as caught:
        lost.get(SOON_S)
    certificate = caught.value.certificate
    assert certificate.pid == pid
    assert "was restarted by hand" in certificate.cause
    assert [one.get(SOON_S) for one in others] == list(range(40))
    assert replaced(pool, pid).pid != pid


def test_what_is_there_no_more_is_said(make_forked):
    """A task that has ended, a pid that is no worker's, a pool that is none: a sentence each."""
    pool = make_forked(1)
    pool.apply(abs, (1,))
    assert "has ended" in cancel(pool, 1).text
    assert "no worker" in restart(pool, 1, at_once=True).text
    gone = control.cancel(os.getpid(), "no-such-pool", 1)
    assert not gone.done
    assert "no pool" in gone.text
    path = pool._engine.board.socket_file
    for question in ({"ask": "cancel"}, {"ask": "restart", "worker": "x"}, {"ask": "dance"}):
        assert "error" in desk.ask(path, question)
    assert pool.apply(abs, (-2,)) == 2


def test_another_process_controls_it(make_forked, forked_gate):
    """The question comes from another process of the same user, as from ``glasspool top``."""
    pool = at_gate(make_forked, forked_gate)
    result = pool.apply_async(tasks.wait_at_gate, (1,))
    forked_gate.wait_for_tasks()
    program = (
        "import json, sys; from glasspool.observe import control; "
        "print(json.dumps(control.cancel(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])).text))"
    )
    words = [str(os.getpid()), pool.name, str(running_number(pool))]
    command = [sys.executable, "-c", program, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=True)
    assert "is being cancelled" in json.loads(done.stdout)
    with pytest.raises(glasspool.TaskCancelled):
        result.get(SOON_S)
