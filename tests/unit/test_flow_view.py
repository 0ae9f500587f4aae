"""How work goes through a pool: one picture, from the caller that waits to the worker that runs it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from glasspool.snapshot import (
    Evidence,
    Frame,
    PoolInfo,
    ProcessInfo,
    Snapshot,
    TaskInfo,
    ThreadInfo,
)
from glasspool.views import flow, table

LIBRARY = "/usr/lib/python3.12/multiprocessing/pool.py"
PROGRAM = "/home/somebody/program.py"
READ = Evidence("py-spy", age_s=0.012, paused_s=0.0, whole=True)


def thread(native_id, name, roles, state, *calls, pid=100, **more):
    stack = (Frame(LIBRARY, 9, "loop"), *(Frame(PROGRAM, line, name) for name, line in calls))
    return ThreadInfo(
        pid, "p", name, native_id, tuple(roles), state, stack=stack, evidence=READ, **more
    )


def worker(pid, state="idle", said="waiting for work", *calls, **more):
    main = thread(pid, "MainThread", ["task"], said, *calls, pid=pid, is_main=True, **more)
    return ProcessInfo(pid, "ForkPoolWorker-1", "worker", (main,), state)


TASK = TaskInfo(None, 3, "f", "running", index=4, arguments="(7, 'seven')", pid=201)
PARENT = ProcessInfo(
    100,
    "parent",
    "parent",
    (
        thread(100, "MainThread", ["main", "caller"], "waiting in MapResult.get()", ("main", 20)),
        thread(101, "Thread-1 (_handle_workers)", ["worker-handler"], "watching workers"),
        thread(102, "Thread-2", ["task-handler"], "running your iterable", ("gen", 12)),
        thread(103, "Thread-3", ["result-handler"], "waiting for results", kernel="pipe read"),
    ),
)
POOL = PoolInfo(
    "pool-1",
    "multiprocessing.Pool",
    100,
    (
        PARENT,
        worker(201, "busy", "running f", ("f", 7), task=TASK, since_s=12.0),
        worker(202),
        worker(203),
    ),
    size=3,
    start_method="fork",
)


def test_the_way_of_the_work_is_told_in_order():
    """Caller, feeding thread, busy workers, those at rest, result thread: with places in the program."""
    assert flow.steps(POOL) == (
        flow.Step(
            "caller",
            "MainThread 100: waiting in MapResult.get(), called by main at " + PROGRAM + ":20",
        ),
        flow.Step("task-handler", f"Thread-2 102: running your iterable, in gen at {PROGRAM}:12"),
        flow.Step("", "tasks"),
        flow.Step(
            "worker 201",
            f"running f: job 3, item 4 (7, 'seven'), for 12.0 s, at {PROGRAM}:7",
        ),
        flow.Step("2 workers", "waiting for work (202, 203)"),
        flow.Step("", "results"),
        flow.Step("result-handler", "Thread-3 103: waiting for results"),
        flow.Step("worker-handler", "Thread-1 (_handle_workers) 101: watching workers"),
    )


def test_a_thread_with_several_duties_is_told_once():
    """An executor's manager thread hands out, takes in and watches: the later lines refer to the first."""
    roles = ["worker-handler", "result-handler", "task-handler"]
    manager = thread(101, "Thread-1", roles, "waiting for results")
    parent = replace(PARENT, threads=(manager,))
    told = [step.what for step in flow.steps(replace(POOL, processes=(parent,)))]
    assert told.count("Thread-1 101: waiting for results") == 1
    assert told.count("Thread-1 101 too, the task-handler") == 2


def test_a_pool_of_threads_has_its_lanes_in_the_parent():
    """They are told as threads, by their own numbers."""
    lanes = tuple(
        thread(300 + n, f"lane-{n}", ["task"], state)
        for n, state in enumerate(["waiting for work", "running f"])
    )
    pool = replace(POOL, processes=(replace(PARENT, threads=lanes),))
    assert [step.who for step in flow.steps(pool)] == ["thread 301", "1 worker"]


def test_a_program_without_a_pool_has_no_picture():
    """Where nobody serves a pool there is nothing to draw."""
    main = thread(100, "MainThread", ["main"], "sleeping")
    pool = PoolInfo("p", "Python program", 100, (replace(PARENT, threads=(main,)),))
    assert flow.steps(pool) == ()
    assert flow.lines(pool, 80) == []


def test_of_very_many_workers_some_are_told():
    """A hundred busy workers do not hide who feeds them; how many are left out is said."""
    busy = tuple(worker(n, "busy", "running f", ("f", 7)) for n in range(200, 300))
    told = flow.steps(replace(POOL, processes=(PARENT, *busy)))
    assert sum(step.who.startswith("worker 2") for step in told) == flow.WORKERS_IN_FULL
    assert "84 more workers run tasks: see below" in [step.what for step in told]


@pytest.mark.parametrize("width", [72, 80, 100])
def test_the_picture_fits(width):
    """Lines are wrapped below their text, and no word is lost."""
    lines = flow.lines(POOL, width)
    assert max(map(len, lines)) <= width
    assert "running your iterable" in " ".join(" ".join(lines).split())


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ([PROGRAM, "/usr/lib/python3.12/queue.py"], f"f at {PROGRAM}:1"),
        ([PROGRAM, "/v/lib/python3.12/site-packages/numpy/linalg.py"], f"f at {PROGRAM}:1"),
        (["/v/lib/python3.12/site-packages/numpy/linalg.py"], "f at numpy/linalg.py:1"),
        (["/v/lib/python3.12/site-packages/joblib/parallel.py", LIBRARY], None),
        (["<frozen runpy>"], None),
        ([], None),
    ],
)
def test_the_place_is_the_programs_own(files, told):
    """Libraries are passed over, those of pools always, others where the program has no frame."""
    assert flow.place([Frame(file, 1, "f") for file in files]) == told


def test_the_picture_and_the_stacks_stand_in_one_text():
    """Each stack says by whom it was read, how old it is, and whether the target stood still for it."""
    text = table.snapshot_text(Snapshot((POOL,), 0.0), width=100, flow=True)
    assert text.index("↓ tasks") < text.index("PROCESS / THREAD")
    assert "(read by py-spy, 12 ms old, target not paused, whole)" in text
    assert max(map(len, text.splitlines())) <= 100


def test_nothing_of_a_foreign_name_reaches_the_terminal():
    """Names of functions, files and threads may hold anything."""
    evil = replace(
        thread(102, "\x1b[2Jx", ["task-handler"], "\x9b state"),
        stack=(Frame("/a\x1b]0;\x07/b.py", 1, "f\n\u202eg"),),
    )
    pool = replace(POOL, processes=(replace(PARENT, threads=(evil,)),))
    text = "\n".join(flow.lines(pool, 80))
    assert text.replace("\n", "").isprintable()
