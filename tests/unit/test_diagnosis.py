"""The judgement: from a hand-made picture to the reason in words, without any process."""

from __future__ import annotations

import multiprocessing.managers
import os
import queue
import threading
from dataclasses import replace
from multiprocessing import synchronize

import glasspool.feeding
import glasspool.latch
import glasspool.results
from glasspool.observe.diagnosis import Finding, diagnose
from glasspool.snapshot import (
    Evidence,
    Frame,
    InitializerInfo,
    PoolInfo,
    ProcessInfo,
    Snapshot,
    TaskInfo,
    ThreadInfo,
)

NOW = 1_000_000.0
MINE = Frame("/home/me/job.py", 12, "work")
SOURCES = {
    ("/home/me/job.py", 12): "    with LOCKS['a']:\n",
    ("/home/me/job.py", 13): "    box.acquire(True)\n",
    ("/home/me/job.py", 14): "    with open(name) as file:\n",
    ("/home/me/job.py", 15): "    q.get()\n",
    ("/lib/x/site-packages/log/handler.py", 3): "        self.lock.acquire()\n",
}


def line_of(file: str, line: int) -> str:
    """Give the lines of the sources above."""
    return SOURCES.get((file, line), "")


def at(line: int) -> Frame:
    """A place in the user's program."""
    return Frame("/home/me/job.py", line, "work")


def worker(*stack: Frame, task: TaskInfo | None = None, **changes) -> ProcessInfo:
    """A worker whose main thread has a stack."""
    main = ThreadInfo(
        40, "worker 2", "MainThread", 40, ("task",), "in f", is_main=True, task=task, stack=stack
    )
    return replace(ProcessInfo(40, "worker 2", "worker", (main,), "busy", slot=2), **changes)


def running(seconds: float = 312.0, **changes) -> TaskInfo:
    """A task that runs."""
    return replace(TaskInfo(17, 17, "mod.f", "running", run_s=seconds), **changes)


def picture(*processes: ProcessInfo, **changes) -> Snapshot:
    """A picture of one pool."""
    pool = PoolInfo("mine", "glasspool.Pool", 39, processes, size=max(1, len(processes)))
    return Snapshot((replace(pool, **changes),), taken_at=NOW)


def one(seen: Snapshot, **more) -> Finding:
    """Return the only finding."""
    [found] = diagnose(seen, line_of=line_of, **more)
    return found


def test_the_sentence_of_a_task():
    """Which worker, task, since when, whether it computes, where: in one sentence."""
    found = one(picture(worker(at(13), task=running())), shares={40: 0.0})
    assert found.text == (
        "worker 2 (pid 40) has run task 17 (mod.f) for 312 s and uses no processor time: "
        "it waits for the lock `box` at /home/me/job.py:13, in work: `box.acquire(True)`"
    )
    assert (found.kind, found.pool, found.pid, found.slot, found.task) == (
        "task",
        "mine",
        40,
        2,
        17,
    )
    assert found.stack == (at(13),)


def test_a_task_that_computes():
    """The share of a processor is told where there is one, and nothing where it is not known."""
    seen = picture(worker(Frame("<string>", 1, "f"), task=running(3.21)))
    assert (
        "for 3.2 s, using 98% of a processor: it is at <string>:1, in f"
        in one(seen, shares={40: 0.98}).text
    )
    assert "for 3.2 s: it is at" in one(seen).text


def test_an_item_of_a_chunk():
    """In a chunk, which item."""
    task = running(items=10, item=3, grain="item")
    assert "task 17 (mod.f), item 4 of 10, for" in one(picture(worker(MINE, task=task))).text


def test_a_lock_is_told_from_other_context_managers():
    """``with open(...)`` takes no lock."""
    assert "waits for the lock `LOCKS['a']` at" in one(picture(worker(MINE, task=running()))).text
    found = one(picture(worker(at(14), task=running())))
    assert "it is at /home/me/job.py:14, in work: `with open(name) as file:`" in found.text


def test_waiting_in_the_library_is_told_by_the_call_that_the_program_made():
    """Not the innermost function, but what the program called, and from where."""
    inside = (
        Frame(queue.__file__, 171, "Queue.get"),
        Frame(threading.__file__, 1, "Condition.wait"),
    )
    found = one(picture(worker(at(15), *inside, task=running())))
    assert "it waits in Queue.get, called at /home/me/job.py:15, in work: `q.get()`" in found.text


def test_a_shared_lock_of_multiprocessing():
    """A lock that a dead process may hold for ever is named by the line that takes it."""
    inside = Frame(synchronize.__file__, 95, "SemLock.__enter__")
    text = one(picture(worker(MINE, inside, task=running()), forked_beside=("T",))).text
    assert "waits for the lock `LOCKS['a']` of multiprocessing, called at" in text
    assert "never gives it back" in text
    assert "inherited locked" not in text


def test_a_lock_that_was_held_at_the_fork():
    """With the threads that the fork warning named; not for what is no lock."""
    library = Frame("/lib/x/site-packages/log/handler.py", 3, "Handler.acquire")
    seen = picture(worker(at(15), library, task=running()), forked_beside=("logger", "poller"))
    text = one(seen).text
    assert "waits for the lock `self.lock`" in text
    assert "inherited locked at the fork" in text
    assert "(logger, poller)" in text
    assert (
        "inherited"
        not in one(picture(worker(at(14), task=running()), forked_beside=("logger",))).text
    )


def test_an_import_lock():
    """The lock of a module that another thread was importing at the fork."""
    lock = Frame("<frozen importlib._bootstrap>", 150, "_ModuleLock.acquire")
    seen = picture(worker(at(15), lock, task=running()), forked_beside=("importer",))
    assert "waits for the lock of an import" in one(seen).text
    assert "(importer)" in one(seen).text


def test_no_stack():
    """Why there is none is said."""
    seen = worker(task=running())
    silent = replace(seen.threads[0], stack=None, evidence=Evidence("self", note="in a C call"))
    found = one(picture(replace(seen, threads=(silent,))))
    assert found.text.endswith("where it is, is not known (in a C call)")


def test_starting_and_initializing():
    """Before the first task: since when, and in the initializer by its name."""
    runs = InitializerInfo("mod.prepare", "running", begun_at=NOW - 60)
    found = one(picture(worker(MINE, state="initializing", initializer=runs)))
    assert (found.kind, found.slot) == ("initializer", 2)
    assert "worker 2 (pid 40) has run the initializer mod.prepare for 60 s: " in found.text
    found = one(picture(worker(state="starting", started_at=NOW - 20)))
    assert "has been starting for 20 s" in found.text


def test_no_worker_at_all():
    """With the note that says why none can be started."""
    found = one(picture(size=2, notes=("no process to be had",)))
    assert found.kind == "no-worker"
    assert "mine has no worker, and none can be started: no process to be had" in found.text


def test_nested_calls():
    """A worker that waits for tasks is told; when all do, so is that."""
    waits = Frame(glasspool.results.__file__, 1, "AsyncResult.get")
    latch = Frame(glasspool.latch.__file__, 1, "Latch.wait")
    manager = Frame(multiprocessing.managers.__file__, 1, "BaseProxy._callmethod")
    first = worker(at(15), waits, latch, task=running())
    second = replace(worker(at(15), manager, task=running()), pid=41, slot=3)
    *each, both = diagnose(picture(first, second), line_of=line_of)
    assert [finding.kind for finding in each] == ["nested", "nested"]
    assert "all 2 workers of mine wait for other tasks" in both.text


def parent(role: str, state: str, *stack: Frame, since_s: float | None = None) -> ProcessInfo:
    """The parent, with one thread of a role."""
    thread = ThreadInfo(39, "parent", "t", 50, (role,), state, since_s=since_s, stack=stack)
    main = ThreadInfo(39, "parent", "MainThread", 39, ("main",), "x", is_main=True, stack=(MINE,))
    return ProcessInfo(39, "parent", "parent", (main, thread))


IDLE = ProcessInfo(40, "worker 2", "worker", state="idle", slot=2)


def test_a_callback():
    """Whose it is, since when, where."""
    state = "running the callback of task 3 (mod.f)"
    found = one(picture(parent("callback", state, at(14), since_s=20.0), IDLE))
    assert found.kind == "callback"
    assert (
        "the callback of task 3 (mod.f) has run for 20 s: it is at /home/me/job.py:14" in found.text
    )


def test_an_iterable():
    """The user's own is told; when the pool waits for the reader, it is the reader."""
    found = one(picture(parent("iterable", "running", MINE), IDLE), quiet_s=9.0)
    assert "your iterable has blocked for 9.0 s: the workers wait for it; it waits" in found.text
    feeding = Frame(glasspool.feeding.__file__, 1, "Feed._wait_for_room")
    latch = Frame(glasspool.latch.__file__, 1, "Latch.wait")
    found = diagnose(picture(parent("iterable", "running", feeding, latch), IDLE))[0]
    assert found.kind == "reader"
    assert "mine waits for somebody to take results" in found.text


def test_a_stopped_process():
    """Told by the kernel's word, whatever the stack is."""
    seen = worker(task=running())
    stopped = replace(seen.threads[0], state="stopped")
    found = one(picture(replace(seen, threads=(stopped,))))
    assert found.kind == "stopped"
    assert "kill -CONT 40" in found.text


def test_idle_workers_beside_waiting_tasks():
    """That can only be a fault of ours, and is said so."""
    found = one(picture(IDLE, stats={"waiting": 3}))
    assert "3 tasks of mine wait although 1 of its workers are idle" in found.text


def test_nothing_in_the_pools():
    """Then it is the main thread."""
    found = one(picture(parent("user", "x", MINE), IDLE), shares={39: 0.0})
    assert found.kind == "main"
    assert found.text.startswith(
        "the main thread of process 39 uses no processor time: it waits for"
    )


def test_no_source_is_no_matter():
    """Without lines of source the findings name places only."""
    [found] = diagnose(picture(worker(MINE, task=running())))
    assert found.text.endswith(f": it is at {MINE.file}:12, in work")
    assert os.sep in found.text
