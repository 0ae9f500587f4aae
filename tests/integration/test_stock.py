"""The roster of stock pools, against what the operating system and Python themselves say."""

import gc
import multiprocessing
import multiprocessing.pool
import os
import signal
import threading
import time
import weakref
from multiprocessing.connection import wait as wait_for

import pytest

from glasspool.observe import inside, procfs, pyspy, stock
from glasspool.snapshot import Snapshot, from_dict

pytestmark = pytest.mark.skipif(not procfs.HAS_PROC, reason="needs /proc")

HANDLERS = ("worker-handler", "task-handler", "result-handler")
METHODS = ("fork", "forkserver", "spawn")
DEADLINE_S = 20.0


def wait_until_told(path, gate):
    """Tell by a file that the task runs, then wait until the gate's file is there."""
    with open(path, "w") as file:
        file.write(str(os.getpid()))
    with open(gate, "rb", buffering=0) as fifo:
        fifo.read(1)
    return os.getpid()


def wait_as_told(arguments):
    return wait_until_told(*arguments)


def start_a_thread():
    threading.Thread(target=threading.Event().wait, name="beside", daemon=True).start()


def name_of_this_thread():
    return threading.current_thread().name


def double(number):
    return 2 * number


def eventually(question):
    """Ask until the answer is yes; other processes' states have no event to wait for."""
    deadline = time.monotonic() + DEADLINE_S
    while not (answer := question()):
        assert time.monotonic() < deadline, "no such state came"
        time.sleep(0.005)
    return answer


def listing(pids):
    return {(pid, tid) for pid in pids for tid in procfs.thread_ids(pid)}


def threads_by_role(info):
    return {role: thread for thread in info.threads for role in thread.roles}


def let_go(request):
    """Make pytest forget a fixture's pool, so that its descriptors are closed with the test."""
    request.node.funcargs.pop(request.fixturename, None)


@pytest.fixture(params=METHODS)
def pool(request):
    """Give a stock pool of three workers under each start method, all of them working."""
    context = multiprocessing.get_context(request.param)
    with context.Pool(3) as made:
        assert made.map(double, range(30), chunksize=1) == [2 * n for n in range(30)]
        yield made
        made.terminate()
        made.join()
    let_go(request)


@pytest.fixture
def fork_pool(request):
    """Give a stock pool of two workers that are forked."""
    with multiprocessing.get_context("fork").Pool(2) as made:
        yield made
        made.terminate()
        made.join()
    let_go(request)


class Gate:
    """A fifo that a task waits on: held open for both ways, so that no open of it blocks."""

    def __init__(self, path):
        self.path = path
        os.mkfifo(path)
        self.descriptor = os.open(path, os.O_RDWR)

    def open(self):
        os.write(self.descriptor, b".")


@pytest.fixture
def gate(tmp_path):
    """Give a gate that is opened at the end in any case."""
    made = Gate(tmp_path / "gate")
    yield made
    made.open()
    os.close(made.descriptor)


def test_the_roster_is_what_the_system_lists(pool):
    """Every thread of every process is there, each with a role, none twice, none unknown."""
    info = stock.describe(pool)
    pids = {process.pid for process in info.processes}
    assert {(thread.pid, thread.native_id) for thread in info.threads} == listing(pids)
    assert len(info.threads) == len({(t.pid, t.native_id) for t in info.threads})
    assert all(thread.roles and thread.state for thread in info.threads)
    assert {w.pid for w in info.workers} == {w.pid for w in pool._pool}
    assert pids >= {os.getpid(), *(worker.pid for worker in pool._pool)}


def test_processes_have_the_roles_of_their_start_method(pool):
    """Fork server and resource tracker are part of the pools that need them."""
    info = stock.describe(pool)
    method = pool._ctx.get_start_method()
    roles = sorted(p.role for p in info.processes if p.role != "worker")
    assert (
        roles
        == {
            "fork": ["parent"],
            "spawn": ["parent", "resource-tracker"],
            "forkserver": ["fork-server", "parent", "resource-tracker"],
        }[method]
    )
    assert info.start_method == method
    assert (info.kind, info.size, info.state) == ("multiprocessing.Pool", 3, "running")
    assert all(t.state for t in info.threads)
    for worker in info.workers:
        main = worker.threads[0]
        assert (main.name, main.roles, main.is_main) == ("MainThread", ("task",), True)
        assert main.native_id == worker.pid


def test_each_handler_role_is_told_exactly_once(pool):
    """Each of the three helper threads has its role, also among the user's own threads."""
    event = threading.Event()
    mine = threading.Thread(target=event.wait, name="mine")
    mine.start()
    try:
        info = stock.describe(pool)
    finally:
        event.set()
        mine.join()
    roles = [role for thread in info.threads for role in thread.roles]
    assert [roles.count(role) for role in HANDLERS] == [1, 1, 1]
    found = threads_by_role(info)
    for role, thread in zip(
        HANDLERS, (pool._worker_handler, pool._task_handler, pool._result_handler), strict=True
    ):
        assert found[role].ident == thread.ident
        assert found[role].native_id == thread.native_id
        assert found[role].name == thread.name
        assert found[role].daemon is True
        assert found[role].pool == info.name
    # It wakes up ten times a second, to look.
    assert found["worker-handler"].state in ("watching workers", "looking for ended workers")
    assert found["main"].native_id == os.getpid()
    assert next(t for t in info.threads if t.name == "mine").roles == ("user",)


def test_helper_threads_get_names(pool):
    """`name_threads` names them in Python and for the system, and again without effect."""
    stock.name_threads(pool)
    stock.name_threads(pool)
    name = stock.describe(pool).name
    number = name.removeprefix("pool-")
    assert name == f"pool-{number}"
    named = {thread.name for thread in threading.enumerate()}
    assert {f"{name} {role}" for role in HANDLERS} <= named
    comms = [procfs.thread(os.getpid(), tid).name for tid in procfs.thread_ids(os.getpid())]
    for short in ("workers", "tasks", "results"):
        assert comms.count(f"p{number} {short}") == 1


def test_two_pools_never_share_a_name(fork_pool):
    """Each pool keeps its own number, and each thread tells its own pool."""
    with multiprocessing.get_context("fork").Pool(1) as other:
        stock.name_threads(fork_pool)
        one, two = stock.describe(fork_pool), stock.describe(other)
        assert one.name != two.name
        assert stock.describe(fork_pool).name == one.name
        owners = {t.pool for t in two.threads if t.roles == ("task-handler",)}
        assert owners == {one.name, two.name}
        other.terminate()
        other.join()


def test_a_blocked_iterable_is_found_on_the_task_handler(fork_pool):
    """`imap`'s generator runs on the task handler's thread, and the roster says so."""
    begun, event = threading.Event(), threading.Event()

    def numbers():
        begun.set()
        event.wait()
        yield 4

    try:
        results = fork_pool.imap(double, numbers())
        assert begun.wait(DEADLINE_S)
        helper = threads_by_role(stock.describe(fork_pool, stacks=False))["task-handler"]
        assert helper.state == "running your iterable"
    finally:
        event.set()
    assert list(results) == [8]


def test_a_blocked_callback_is_found_on_the_result_handler(fork_pool):
    """Callbacks run on the result handler's thread, and the roster says so."""
    begun, event = threading.Event(), threading.Event()

    def callback(result):
        begun.set()
        event.wait()

    try:
        result = fork_pool.apply_async(double, (4,), callback=callback)
        assert begun.wait(DEADLINE_S)
        helper = threads_by_role(stock.describe(fork_pool))["result-handler"]
        assert helper.state == "running your callback"
    finally:
        event.set()
    assert result.get(DEADLINE_S) == 8


@pytest.mark.parametrize("call", ["get", "next", "map"])
def test_a_thread_that_waits_for_the_pool_is_a_caller(fork_pool, tmp_path, gate, call):
    """A user's thread inside a call of the pool has the role `caller` and says which call."""
    arguments = (tmp_path / "begun", gate.path)

    def ask():
        if call == "get":
            fork_pool.apply_async(wait_until_told, arguments).get(DEADLINE_S)
        elif call == "next":
            fork_pool.imap(wait_as_told, [arguments]).next(DEADLINE_S)
        else:
            fork_pool.starmap(wait_until_told, [arguments])

    asker = threading.Thread(target=ask, name="asker")
    asker.start()
    try:
        seen = eventually(
            lambda: next(
                (t for t in stock.describe(fork_pool).threads if "caller" in t.roles), None
            )
        )
        assert seen.name == "asker"
        assert seen.state.startswith("waiting in ")
        assert seen.state.endswith("()")
        eventually((tmp_path / "begun").exists)
    finally:
        gate.open()
        asker.join(DEADLINE_S)
    assert not asker.is_alive()


def test_idle_and_busy_workers_are_told_apart_without_asking_them(fork_pool, tmp_path, gate):
    """The kernel's word is enough for a forked worker: who does not wait for work is busy."""
    result = fork_pool.apply_async(wait_until_told, (tmp_path / "begun", gate.path))
    eventually(lambda: (tmp_path / "begun").exists() and (tmp_path / "begun").read_text())
    busy_pid = int((tmp_path / "begun").read_text())
    eventually(
        lambda: (
            {w.pid: w.state for w in stock.describe(fork_pool).workers}
            == {w.pid: "busy" if w.pid == busy_pid else "idle" for w in fork_pool._pool}
        )
    )
    gate.open()
    assert result.get(DEADLINE_S) == busy_pid


def test_stacks_of_the_parent_reach_into_the_users_code(fork_pool):
    """With `stacks=True` every Python thread of the parent has a stack, the asking one too."""
    info = stock.describe(fork_pool, stacks=True)
    mine = [t for t in info.threads if t.pid == os.getpid() and t.python]
    assert all(thread.stack for thread in mine)
    main = next(t for t in mine if t.native_id == threading.get_native_id())
    assert main.state == "taking this snapshot"
    assert main.stack[-1].function.endswith("test_stacks_of_the_parent_reach_into_the_users_code")
    assert main.stack[-1].file == __file__


@pytest.mark.skipif(pyspy.program() is None, reason="needs py-spy")
def test_stacks_of_workers_come_from_outside(pool, tmp_path, gate):
    """py-spy's stack of a worker begins at its loop and tells task and state."""
    first = stock.describe(pool, stacks=True)
    if any("not permitted" in note for note in first.notes):
        pytest.skip("reading other processes is not permitted here")
    result = pool.apply_async(wait_until_told, (tmp_path / "begun", gate.path))
    eventually(lambda: (tmp_path / "begun").exists() and (tmp_path / "begun").read_text())
    info = stock.describe(pool, stacks=True)
    mains = {w.pid: w.threads[0] for w in info.workers}
    busy = mains.pop(int((tmp_path / "begun").read_text()))
    assert busy.stack[0].function == "worker"
    assert busy.stack[-1].function == "wait_until_told"
    assert busy.evidence.source == "py-spy"
    assert busy.state == "running wait_until_told"
    assert busy.task.function == "wait_until_told"
    assert (busy.task.job, busy.task.index, busy.task.items) == (result._job, 0, 1)
    assert busy.task.thread.native_id == busy.native_id
    assert info.tasks == (busy.task,)
    assert all(thread.state.startswith("waiting for work") for thread in mains.values())
    assert sorted(w.state for w in info.workers) == ["busy", "idle", "idle"]
    gate.open()
    result.get(DEADLINE_S)


def test_without_py_spy_the_remedy_is_told(fork_pool, monkeypatch):
    """Where nothing can read a worker's stack, its evidence says why and what to install."""
    monkeypatch.setattr(pyspy, "program", lambda: None)
    info = stock.describe(fork_pool, stacks=True)
    for worker in info.workers:
        assert worker.threads[0].stack is None
        assert "pip install glasspool[attach]" in worker.threads[0].evidence.note
    assert any("pip install glasspool[attach]" in note for note in info.notes)


@pytest.mark.parametrize("complaint", ["exit 1", "echo nonsense", "echo '[{\"a\": 1}, 2]'"])
def test_a_reader_that_fails_is_no_error(fork_pool, monkeypatch, tmp_path, complaint):
    """A failing reader, or one with an unknown format, costs the stacks and nothing else."""
    program = tmp_path / "py-spy"
    program.write_text(f"#!/bin/sh\n{complaint}\n")
    program.chmod(0o700)
    monkeypatch.setattr(pyspy, "program", lambda: str(program))
    info = stock.describe(fork_pool, stacks=True)
    assert len(info.workers) == 2
    assert any(note.startswith("No stacks of workers: py-spy") for note in info.notes)


def test_a_reader_that_hangs_is_ended(monkeypatch, tmp_path):
    """Readers get a common deadline."""
    program = tmp_path / "py-spy"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o700)
    monkeypatch.setattr(pyspy, "program", lambda: str(program))
    began = time.monotonic()
    dumps = pyspy.dump([os.getpid(), multiprocessing.resource_tracker._resource_tracker._pid], 0.2)
    assert len(dumps) == 2
    assert time.monotonic() - began < 10
    assert {dump.note for dump in dumps.values()} == {"py-spy gave no answer in time"}


def test_threads_that_a_worker_has_started_are_listed():
    """A thread beside the main one is in the roster; the initializer's thread is told."""
    with multiprocessing.get_context("fork").Pool(1, start_a_thread) as made:
        made.apply(double, (1,))
        (worker,) = stock.describe(made).workers
        main, beside = worker.threads
        assert main.roles == ("initializer", "task")
        assert beside.roles == ("native",)
        assert beside.evidence.source == "os"
        assert worker.initializer.function.endswith("start_a_thread")
        assert worker.initializer.thread.native_id == worker.pid
        made.terminate()
        made.join()


def test_a_replacement_has_the_name_that_its_forker_had():
    """A worker that the pool's own thread forked calls its main thread as that thread."""
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as made:
        name = made._worker_handler.name
        first = made.apply(os.getpid)
        eventually(lambda: [w.pid for w in made._pool if w.pid != first])
        eventually(
            lambda: [w.threads[0].name for w in stock.describe(made).workers if w.threads] == [name]
        )
        assert made.apply(name_of_this_thread) == name
        made.terminate()
        made.join()


def test_closed_and_ended_pools_can_be_described(pool):
    """Closed, terminated and joined: a roster each time, and dead workers with exit codes."""
    pool.close()
    assert stock.describe(pool).state == "closed"
    pool.join()
    info = stock.describe(pool, stacks=True)
    assert all(w.state == "dead" and w.exitcode == 0 for w in info.workers)
    pool.terminate()
    info = stock.describe(pool)
    assert info.state == "terminated"
    assert not set(HANDLERS) & {role for t in info.threads for role in t.roles}
    assert any("worker-handler" in note for note in info.notes)
    stock.name_threads(pool)


def test_looking_at_a_dead_worker_leaves_it_to_the_pool():
    """The exit code is read without reaping: `Process.exitcode` still learns it."""
    context = multiprocessing.get_context("fork")
    child = context.Process(target=signal.pause)
    child.start()
    os.kill(child.pid, signal.SIGKILL)
    wait_for([child.sentinel], DEADLINE_S)
    eventually(lambda: inside.exitcode(inside.Worker(child.pid, "x", None)) == -signal.SIGKILL)
    child.join()
    assert child.exitcode == -signal.SIGKILL


def test_a_thread_pool_is_told_by_its_threads():
    """The workers of a `ThreadPool` are threads of this process."""
    begun, event = threading.Event(), threading.Event()

    def work():
        begun.set()
        event.wait()

    with multiprocessing.pool.ThreadPool(2) as made:
        result = made.apply_async(work)
        assert begun.wait(DEADLINE_S)
        info = stock.describe(made, stacks=True)
        event.set()
        result.get(DEADLINE_S)
        made.terminate()
        made.join()
    assert (info.kind, info.start_method) == ("multiprocessing.pool.ThreadPool", None)
    lanes = [t for t in info.threads if t.roles == ("task",)]
    assert {t.ident for t in lanes} == {t.ident for t in made._pool}
    assert {t.state.rpartition(".")[2] for t in lanes} == {"work", "waiting for work"}
    assert {t.state.partition(" ")[0] for t in lanes} == {"running", "waiting"}
    assert info.workers == ()
    assert [p.role for p in info.processes] == ["parent"]


def test_a_description_keeps_no_pool_alive():
    """Neither the numbering nor the values refer to the pool."""
    made = multiprocessing.get_context("fork").Pool(1)
    stock.name_threads(made)
    info = stock.describe(made)
    made.terminate()
    made.join()
    alive = weakref.ref(made)
    del made
    gc.collect()
    assert alive() is None
    assert info.name


def test_a_description_survives_json_and_prints(pool):
    """The values are plain, and the table shows each handler."""
    snapshot = Snapshot((stock.describe(pool, stacks=True),), time.time())
    assert from_dict(snapshot.to_dict()) == snapshot
    assert all(role in str(snapshot) for role in HANDLERS)


def test_looking_often_disturbs_nothing(fork_pool):
    """Results are right while the pool is looked at; no thread is started by looking."""
    before = threading.active_count()
    result = fork_pool.map_async(double, range(2000), chunksize=1)
    looks = 0
    while not result.ready() or looks < 20:
        roster = stock.describe(fork_pool)
        assert len(roster.workers) == 2
        looks += 1
    assert result.get(DEADLINE_S) == [2 * n for n in range(2000)]
    assert threading.active_count() == before
