"""What a stack says, line by line: stacks made by hand on the lines of this interpreter's own library."""

from __future__ import annotations

import concurrent.futures.process
import concurrent.futures.thread
import inspect
import multiprocessing.connection
import multiprocessing.pool
import multiprocessing.process
import multiprocessing.queues
import multiprocessing.synchronize
import threading
from collections.abc import Callable

import pytest

from glasspool.observe import loops, sources
from glasspool.snapshot import Frame

POOL = multiprocessing.pool
EXECUTOR = concurrent.futures.process
THREADS = concurrent.futures.thread
QUEUES = multiprocessing.queues
CONNECTION = multiprocessing.connection

WORK = Frame("/home/somebody/work.py", 7, "work")
BOOT = Frame(multiprocessing.process.__file__, 314, "BaseProcess._bootstrap")
RUN = Frame(multiprocessing.process.__file__, 108, "BaseProcess.run")
THREAD = Frame(threading.__file__, 1010, "Thread.run")
ENTER = Frame(multiprocessing.synchronize.__file__, 95, "SemLock.__enter__")
RECV = Frame(CONNECTION.__file__, 395, "Connection._recv")
SEND = Frame(CONNECTION.__file__, 380, "Connection._send")


def at(function: Callable[..., object], text: str) -> Frame:
    """Return the frame of a function that is at the first of its lines with a text."""
    lines, first = inspect.getsourcelines(function)
    offset = next(number for number, line in enumerate(lines) if text in line)
    file = inspect.getsourcefile(function)
    return Frame(file, first + offset, function.__qualname__)


CALL = at(POOL.worker, "func(*args")
GET = at(POOL.worker, "task = get()")
PUT = at(POOL.worker, "put((job, i, result))")
QUEUE_GET = at(QUEUES.SimpleQueue.get, "with self._rlock")
QUEUE_PUT = at(QUEUES.SimpleQueue.put, "with self._wlock")


@pytest.mark.parametrize(
    ("above", "step", "words"),
    [
        ((at(POOL.worker, "initializer(*initargs)"), WORK), "initializer", "running your init"),
        ((GET, QUEUE_GET, ENTER), "lock", "waiting for work"),
        ((GET, QUEUE_GET, RECV), "receive", "waiting for work, holds the queue's lock"),
        (
            (GET, at(QUEUES.SimpleQueue.get, "res = self._reader"), RECV),
            "receive",
            "waiting for work, holds the queue's lock",
        ),
        ((GET,), "idle", "waiting for work"),
        ((GET, at(QUEUES.SimpleQueue.get, "loads(res)"), WORK), "rebuild", "rebuilding a task"),
        ((CALL, WORK), "task", "running work"),
        ((CALL,), "task", "running a function in C"),
        ((PUT, at(QUEUES.SimpleQueue.put, "dumps(obj)"), WORK), "pickle", "pickling its result"),
        ((PUT, QUEUE_PUT, ENTER), "send-lock", "sending its result, waits for the queue's lock"),
        (
            (PUT, at(QUEUES.SimpleQueue.put, "send_bytes(obj)"), SEND),
            "send",
            "sending its result",
        ),
        ((at(POOL.worker, "completed += 1"),), "between", "between two tasks"),
    ],
)
def test_steps_of_a_stock_worker(above, step, words):
    """Each line of the worker's loop, with what is called from it, is one step."""
    place = loops.place((BOOT, RUN, *above))
    assert (place.kind, place.roles, place.step) == ("multiprocessing.Pool", ("task",), step)
    assert place.words.startswith(words)
    assert place.stack == above


HANDLE_TASKS = at(POOL.Pool._handle_tasks, "put(task)")
RESULTS = at(POOL.Pool._handle_results, "cache[job]._set")
SET = at(POOL.ApplyResult._set, "self._callback(self._value)")
NEXT = at(POOL.Pool._handle_tasks, "for task in taskseq")
GENERATION = at(POOL.Pool._guarded_task_generation, "enumerate(iterable)")


@pytest.mark.parametrize(
    ("above", "role", "step", "words"),
    [
        ((at(POOL.Pool._handle_tasks, "iter(taskqueue"),), "task-handler", "wait", "waiting for"),
        ((NEXT, GENERATION, WORK), "task-handler", "iterable", "running your iterable"),
        ((NEXT, GENERATION), "task-handler", "iterable", "running your iterable"),
        ((NEXT, WORK), "task-handler", "iterable", "running your iterable"),
        ((HANDLE_TASKS,), "task-handler", "send", "sending a task"),
        (
            (HANDLE_TASKS, at(CONNECTION._ConnectionBase.send, "dumps(obj)"), WORK),
            "task-handler",
            "pickle",
            "pickling your arguments",
        ),
        (
            (at(POOL.Pool._handle_tasks, "cache[job]._set"), SET, WORK),
            "task-handler",
            "callback",
            "running your error callback",
        ),
        ((RESULTS, SET, WORK), "result-handler", "callback", "running your callback"),
        ((RESULTS,), "result-handler", "take", "taking in a result"),
        (
            (at(POOL.Pool._handle_results, "task = get()"), RECV),
            "result-handler",
            "wait",
            "waiting for results",
        ),
        (
            (
                at(POOL.Pool._handle_results, "task = get()"),
                at(CONNECTION._ConnectionBase.recv, "loads(buf"),
                WORK,
            ),
            "result-handler",
            "rebuild",
            "rebuilding a result",
        ),
        (
            (
                at(POOL.Pool._handle_workers, "_wait_for_updates"),
                at(POOL.Pool._wait_for_updates, "wait(sentinels"),
            ),
            "worker-handler",
            "wait",
            "watching workers",
        ),
        (
            (
                at(POOL.Pool._handle_workers, "_maintain_pool"),
                at(POOL.Pool._maintain_pool, "_repopulate_pool_static"),
                at(POOL.Pool._repopulate_pool_static, "w.start()"),
            ),
            "worker-handler",
            "start",
            "starting a worker",
        ),
    ],
)
def test_steps_of_a_stock_pools_helpers(above, role, step, words):
    """A helper thread says what it does, and whether that is the user's iterable or callback."""
    place = loops.place((THREAD, *above))
    assert (place.roles, place.step) == ((role,), step)
    assert place.words.startswith(words)
    assert place.users == tuple(frame for frame in above if frame is WORK)


@pytest.mark.parametrize(
    ("above", "step"),
    [
        ((at(EXECUTOR._process_worker, "initializer(*initargs)"), WORK), "initializer"),
        (
            (
                at(EXECUTOR._process_worker, "call_queue.get"),
                at(QUEUES.Queue.get, "with self._rlock"),
                ENTER,
            ),
            "lock",
        ),
        (
            (
                at(EXECUTOR._process_worker, "call_queue.get"),
                at(QUEUES.Queue.get, "res = self._recv_bytes()"),
                RECV,
            ),
            "receive",
        ),
        ((at(EXECUTOR._process_worker, "call_item.fn("), WORK), "task"),
        (
            (
                at(EXECUTOR._process_worker, "call_item.fn("),
                at(EXECUTOR._process_chunk, "fn(*args)"),
                WORK,
            ),
            "task",
        ),
        (
            (
                at(EXECUTOR._process_worker, "_sendback_result(result_queue"),
                at(EXECUTOR._sendback_result, "result_queue.put"),
                QUEUE_PUT,
                ENTER,
            ),
            "send-lock",
        ),
    ],
)
def test_steps_of_an_executors_worker(above, step):
    """The executor's worker has the same steps, in other functions."""
    place = loops.place((BOOT, RUN, *above))
    assert (place.kind, place.step) == ("concurrent.futures.ProcessPoolExecutor", step)
    assert place.users == tuple(frame for frame in above if frame is WORK)


def test_an_executors_manager_holds_all_three_roles():
    """One thread watches the workers, takes results in and hands tasks out, and runs callbacks."""
    manager = EXECUTOR._ExecutorManagerThread
    waits = (
        at(manager.run, "wait_result_broken_or_wakeup()"),
        at(manager.wait_result_broken_or_wakeup, "connection.wait("),
    )
    place = loops.place((THREAD, *waits))
    assert place.roles == ("worker-handler", "result-handler", "task-handler")
    assert place.words == "the executor's manager thread, waiting for results"
    calls = (
        at(manager.run, "process_result_item(result_item)"),
        at(manager.process_result_item, "future.set_result"),
        at(concurrent.futures.Future.set_result, "_invoke_callbacks"),
        at(concurrent.futures.Future._invoke_callbacks, "callback(self)"),
        WORK,
    )
    place = loops.place((THREAD, *calls))
    assert (place.step, place.users) == ("callback", (WORK,))
    assert place.words == "the executor's manager thread, running your callback"


def test_the_feeder_of_a_queue_of_the_users_own_serves_no_pool():
    """Executors ignore a closed pipe; a queue that the program made does not, and is not a pool's."""
    feed = (THREAD, at(QUEUES.Queue._feed, "nwait()"))
    assert loops.place(feed, [{}, {"ignore_epipe": "True"}]).roles == ("task-handler",)
    assert loops.place(feed, [{}, {"ignore_epipe": "False"}]) is None


def test_a_thread_of_a_pool_of_threads():
    """Workers of a ThreadPool are threads: below their loop there is no process."""
    place = loops.place((THREAD, CALL, WORK))
    assert (place.kind, place.function) == ("multiprocessing.pool.ThreadPool", "work")
    run = at(THREADS._worker, "work_item.run(")
    item = at(
        THREADS._WorkItem.run, "self.fn(" if hasattr(THREADS._WorkItem, "fn") else "result = "
    )
    place = loops.place((THREAD, run, item, WORK))
    assert (place.kind, place.step, place.function) == (
        "concurrent.futures.ThreadPoolExecutor",
        "task",
        "work",
    )


def test_what_local_variables_tell():
    """Job, index, arguments and the count of finished tasks are those of the loop's frame."""
    known = {"job": "3", "i": "14", "args": "(1)", "kwds": "{}", "completed": "8"}
    place = loops.place((RUN, CALL, WORK), [{}, known, {}])
    assert (place.job, place.index, place.arguments, place.completed) == (3, 14, "(1)", 8)
    assert not place.chunk
    known["kwds"] = '{"a": 1}'
    assert loops.place((RUN, CALL, WORK), [{}, known, {}]).arguments == '(1) {"a": 1}'


def test_a_chunk_tells_its_items():
    """A map's chunk is a function and its items: the items are told, cut where they are many."""
    star = at(POOL.mapstar, "map(*args)")
    items = {"args": f"(<function at 0x7f>, ({', '.join('9' * 100)}))"}
    place = loops.place((RUN, CALL, star, WORK), [{}, {"job": "1", "i": "0"}, items, {}])
    assert place.chunk
    assert place.arguments.startswith("(9, 9, ")
    assert len(place.arguments) == loops.ARGUMENTS_CHARS


def test_what_a_fork_inherited_is_cut_away():
    """A worker that was forked in a task of another pool is a worker of the inner one only."""
    outer = (THREAD, at(EXECUTOR._process_worker, "call_item.fn("), WORK)
    place = loops.place((*outer, BOOT, RUN, GET))
    assert (place.kind, place.stack) == ("multiprocessing.Pool", (GET,))
    assert loops.place((*outer, BOOT, RUN, WORK)) is None  # a process of the user's own


def test_callers_are_told_with_the_call():
    """Who waits in a call of a pool is a caller; who runs his own code in one is not."""
    call = at(POOL.Pool.map, ".get()")
    wait = at(POOL.ApplyResult.wait, "self._event.wait")
    lock = Frame(threading.__file__, 355, "Condition.wait")
    place = loops.place((WORK, call, at(POOL.ApplyResult.get, "self.wait("), wait, lock))
    assert (place.roles, place.call) == (("caller",), "Pool.map")
    result = at(concurrent.futures.Future.result, "self._condition.wait")
    assert loops.place((WORK, result, lock)).words == "waiting in Future.result()"
    assert loops.place((WORK, call, WORK)) is None
    assert loops.place((WORK, lock)) is None


def test_a_task_that_waits_for_a_pool_is_also_a_caller():
    """A nested wait is told on the worker that waits."""
    inner = (at(POOL.Pool.map, ".get()"), Frame(threading.__file__, 355, "Condition.wait"))
    place = loops.place((RUN, CALL, WORK, *inner))
    assert (place.roles, place.step, place.call) == (("task", "caller"), "task", "Pool.map")


def test_a_process_before_and_after_its_loop():
    """What is being started or is on its way out has no kind yet, but is no thread of the user's."""
    assert loops.place((BOOT,)).step == "starting"
    left = Frame(multiprocessing.process.__file__.replace("process", "util"), 334, "_exit_function")
    assert loops.place((BOOT, left)).step == "leaving"


def test_no_stack_ends_in_an_error():
    """A torn stack, made up of any frames with any lines, gives a place or None."""
    frames = [CALL, GET, QUEUE_GET, ENTER, RECV, WORK, THREAD, BOOT, HANDLE_TASKS, SET, RESULTS]
    torn = [Frame(f.file, line, f.function) for f in frames for line in (0, 1, f.line, 10**9)]
    for first in torn:
        for second in torn:
            loops.place((first, second))
            loops.place((first, second, WORK), [{}])
    assert loops.place(()) is None


def test_a_source_that_cannot_be_read_still_gives_the_role(tmp_path):
    """Without the library's file the role is known, and of the step what is above the loop."""
    gone = str(tmp_path / "multiprocessing" / "pool.py")
    place = loops.place((BOOT, RUN, Frame(gone, 125, "worker")))
    assert place.roles == ("task",)
    queue = str(tmp_path / "multiprocessing" / "connection.py")
    handler = Frame(gone, 579, "Pool._handle_results")
    assert loops.place((handler, Frame(queue, 9, "Connection._recv"))).step == "wait"
    worker = (BOOT, RUN, Frame(gone, 125, "worker"))
    assert loops.place(worker).step == "unknown"
    assert loops.place((*worker, WORK)).step == "unknown"
    assert loops.place((*worker, WORK), [{}, {}, {"job": "1"}]).step == "task"
    get = Frame(str(tmp_path / "multiprocessing" / "queues.py"), 3, "SimpleQueue.get")
    assert loops.place((*worker, get, ENTER)).step == "lock"
    assert loops.place((*worker, get, RECV)).step == "receive"


def test_names_of_a_line(tmp_path):
    """The calls of a line are named from the outside inwards; what is not there names nothing."""
    file = tmp_path / "some.py"
    file.write_text(
        "def f(\n    a,\n):\n    with a.lock:\n        g(h(1),\n          k)\n\ndef g(): 1\n"
    )
    assert sources.names_at(str(file), "f", 4) == ("lock",)
    assert sources.names_at(str(file), "f", 5) == ("g", "h")
    assert sources.names_at(str(file), "f", 6) == ("g",)
    for line in (0, 1, 7, 99):
        assert sources.names_at(str(file), "other", line) == ()
    file.with_name("bad.py").write_text("def f():\n    a b c\n")
    assert sources.names_at(str(file.with_name("bad.py")), "f", 2) == ()
    assert sources.names_at("<string>", "f", 1) == ()
