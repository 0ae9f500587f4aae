"""`inspect` and `name_threads` for pools of any library, against what the system and the library say."""

import concurrent.futures
import gc
import importlib
import json
import multiprocessing
import multiprocessing.pool
import os
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import inside_tasks as tasks
import pytest

import glasspool
from glasspool.observe import inside, procfs, pyspy

pytestmark = pytest.mark.skipif(not procfs.HAS_PROC, reason="needs /proc")

DEADLINE_S = 30.0
HANDLERS = ("worker-handler", "task-handler", "result-handler")
SCENES = Path(__file__).parent.parent / "scenes"
PROCESSES = (
    ("multiprocessing", "spawn"),
    ("multiprocess", "fork"),
    ("billiard", "fork"),
    ("executor", "fork"),
    ("executor", "forkserver"),
    ("executor", "spawn"),
    ("loky", "loky"),
)
KINDS = {
    "multiprocessing": "multiprocessing.Pool",
    "multiprocess": "multiprocess.Pool",
    "billiard": "billiard.Pool",
    "executor": "concurrent.futures.ProcessPoolExecutor",
    "loky": "loky",
    "thread-pool": "multiprocessing.pool.ThreadPool",
    "thread-executor": "concurrent.futures.ThreadPoolExecutor",
}


class Bench:
    """A pool of two workers of any kind, the same calls for all."""

    def __init__(self, name, method=None):
        self.name, self.method = name, method
        self.pool = self._made()

    def _made(self):
        if self.name == "thread-pool":
            return multiprocessing.pool.ThreadPool(2)
        if self.name == "thread-executor":
            return ThreadPoolExecutor(2, thread_name_prefix="lanes-of-a-test")
        if self.name == "executor":
            context = multiprocessing.get_context(self.method)
            return ProcessPoolExecutor(2, context, tasks.end_soon)
        if self.name == "loky":
            return importlib.import_module("loky").ProcessPoolExecutor(
                2, initializer=tasks.end_soon
            )
        library = importlib.import_module(self.name)
        return library.get_context(self.method).Pool(2, tasks.end_soon)

    @property
    def is_executor(self):
        return isinstance(self.pool, concurrent.futures.Executor)

    def submit(self, function, *args):
        if self.is_executor:
            return self.pool.submit(function, *args)
        return self.pool.apply_async(function, args)

    def wait(self, result):
        return result.result(DEADLINE_S) if self.is_executor else result.get(DEADLINE_S)

    def pids(self):
        members = self.pool._processes if self.is_executor else [w.pid for w in self.pool._pool]
        return set(members)

    def end(self):
        if self.pool is None:
            return
        if self.name == "loky":
            self.pool.shutdown(kill_workers=True)
        elif self.is_executor:
            self.pool.shutdown()
        else:
            self.pool.terminate()
            self.pool.join()
        self.pool = None
        gc.collect()


@pytest.fixture(scope="module", autouse=True)
def standing_trackers(standing_processes):
    """Start the processes that the libraries keep for the life of the interpreter."""
    for name in (
        "loky.backend.resource_tracker",
        "joblib.externals.loky.backend.resource_tracker",
        "multiprocess.resource_tracker",
        "billiard.semaphore_tracker",
    ):
        try:
            importlib.import_module(name).ensure_running()
        except ImportError:
            continue
    if "billiard" in sys.modules:
        # The file from which it cuts its shared values is never given back.
        sys.modules["billiard"].Value("i")


def bench_of(request):
    name, method = request.param
    if name in ("multiprocess", "billiard", "loky"):
        pytest.importorskip(name)
    if method == "fork" and threading.active_count() > 1:
        pytest.skip("another thread is alive here, a fork beside it warns")
    made = Bench(name, method)
    yield made
    made.end()
    request.node.funcargs.pop(request.fixturename, None)


@pytest.fixture(params=PROCESSES, ids="-".join)
def bench(request):
    """Give each kind of pool with worker processes."""
    yield from bench_of(request)


@pytest.fixture(
    params=[*PROCESSES, ("thread-pool", "none"), ("thread-executor", "none")], ids="-".join
)
def any_bench(request):
    """Give each kind of pool."""
    yield from bench_of(request)


@pytest.fixture
def gate(tmp_path):
    """Give a fifo in which tasks wait, and a call that lets one of them go on."""
    path = tmp_path / "gate"
    os.mkfifo(path)
    # Open for both, so that neither side waits for the other to come.
    fd = os.open(path, os.O_RDWR)
    yield str(path), lambda: os.write(fd, b"x")
    os.write(fd, b"x" * 16)  # for those that a failed test left waiting
    os.close(fd)


def eventually(question):
    """Ask until the answer is yes; other processes' states have no event to wait for."""
    deadline = time.monotonic() + DEADLINE_S
    while not (answer := question()):
        assert time.monotonic() < deadline, "no such state came"
        time.sleep(0.01)
    return answer


def occupy(bench, tmp_path, gate):
    """Have one worker wait in a task; return its pid and the result."""
    told = tmp_path / f"told-{len(list(tmp_path.iterdir()))}"
    result = bench.submit(tasks.wait_until_told, str(told), gate[0])
    eventually(lambda: told.exists() and told.read_text())
    return int(told.read_text()), result


def picture_of(bench, **kwds):
    (pool,) = glasspool.inspect(bench.pool, **kwds).pools
    return pool


def listing(pids):
    return {(pid, tid) for pid in pids for tid in procfs.thread_ids(pid)}


def test_every_thread_is_told_once_and_the_workers_are_the_pools(any_bench, tmp_path, gate):
    """What is listed is what the system lists, and the workers are those that the library names."""
    _, result = occupy(any_bench, tmp_path, gate)
    info = picture_of(any_bench)
    assert info.kind == KINDS[any_bench.name]
    pids = {process.pid for process in info.processes}
    assert {(t.pid, t.native_id) for t in info.threads} == listing(pids)
    assert len(info.threads) == len(listing(pids))
    assert all(thread.roles and thread.state for thread in info.threads)
    if any_bench.method == "none":
        assert not info.workers
    else:
        assert {worker.pid for worker in info.workers} == any_bench.pids()
        assert info.start_method == any_bench.method
    assert (info.size, info.state) == (2, "running")
    check_roles_and_proofs(any_bench, info)
    gate[1]()
    any_bench.wait(result)


def check_roles_and_proofs(any_bench, info):
    """The three handler roles are told, each with the attribute that led to the thread."""
    mine = [t for t in info.threads if t.pool == info.name and t.pid == os.getpid()]
    roles = {role for thread in mine for role in thread.roles}
    if any_bench.name == "thread-executor":
        assert roles == {"task"}
        assert all("ThreadPoolExecutor._threads" in t.evidence.note for t in mine)
    else:
        assert set(HANDLERS) <= roles
    for thread in mine:
        assert thread.evidence.note.startswith(f"{thread.name}: ")
        assert thread.evidence.source == "self"
    if any_bench.is_executor and any_bench.method != "none":
        manager, feeder = sorted(mine, key=lambda t: -len(t.roles))
        assert set(manager.roles) == set(HANDLERS)
        assert "_executor_manager_thread" in manager.evidence.note
        assert feeder.roles == ("task-handler",)
        assert "_call_queue._thread" in feeder.evidence.note
        assert feeder.name == "QueueFeederThread"
    elif any_bench.name != "thread-executor":
        notes = " ".join(t.evidence.note for t in mine)
        for attribute in ("_worker_handler", "_task_handler", "_result_handler"):
            assert f"Pool.{attribute}" in notes


@pytest.mark.skipif(pyspy.program() is None, reason="needs py-spy")
def test_stacks_tell_the_task_of_each_worker(bench, tmp_path, gate):
    """The busy worker's task is told with function and number, the idle one has none."""
    busy, result = occupy(bench, tmp_path, gate)
    info = picture_of(bench, stacks=True)
    if any("not permitted" in note for note in info.notes):
        pytest.skip("reading other processes is not permitted here")
    workers = {worker.pid: worker.threads[0] for worker in info.workers}
    main = workers.pop(busy)
    assert main.state == "running wait_until_told"
    assert main.task.function.endswith("wait_until_told")
    assert main.stack[-1].function == "wait_until_told"
    assert main.evidence.source == "py-spy"
    assert (main.task.id if bench.is_executor else main.task.job) is not None
    assert all(thread.task is None for thread in workers.values())
    assert [task for task in info.tasks if task.pid] == [main.task]
    gate[1]()
    bench.wait(result)


def test_a_forked_worker_is_known_as_busy_or_idle_without_stacks(bench, tmp_path, gate):
    """Of a worker that was forked here, the kernel's word is enough."""
    if bench.method != "fork":
        pytest.skip("the queues of other workers have other addresses")
    busy, result = occupy(bench, tmp_path, gate)

    def states():
        found = {w.pid: w.state for w in picture_of(bench).workers}
        return found if set(found.values()) == {"busy", "idle"} else None

    # Billiard's workers look up from their wait once a second.
    assert eventually(states)[busy] == "busy"
    gate[1]()
    bench.wait(result)


def test_lanes_have_their_tasks(tmp_path, gate):
    """A thread that runs a pool's task tells which, also without stacks."""
    for name in ("thread-pool", "thread-executor"):
        bench = Bench(name)
        _, result = occupy(bench, tmp_path, gate)
        info = picture_of(bench)
        (task,) = info.tasks
        assert (task.function, task.state) == ("wait_until_told", "running")
        assert [t.state for t in info.threads if t.task is task] == ["running wait_until_told"]
        gate[1]()
        bench.wait(result)
        bench.end()


def test_open_tasks_of_an_executor_are_listed(gate):
    """What was handed out and what waits is told with its number, function and arguments."""
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(1, context, tasks.end_soon) as executor:
        results = [executor.submit(tasks.wait_in, gate[0]) for _ in range(6)]
        mapped = executor.map(tasks.double, range(10), chunksize=5)
        (info,) = glasspool.inspect(executor).pools
        for _ in results:
            gate[1]()
        assert list(mapped) == [2 * number for number in range(10)]
    # It hands out one more than it has workers, and the one that a worker has taken.
    sent = info.stats["sent"]
    assert sent <= 3
    assert info.stats == {"tasks": 8, "sent": sent, "waiting": 8 - sent}
    assert [task.id for task in info.tasks] == list(range(8))
    assert {t.function for t in info.tasks[:6]} == {"inside_tasks.wait_in"}
    assert gate[0][:20] in info.tasks[3].arguments
    assert [(t.function, t.items) for t in info.tasks[6:]] == [("inside_tasks.double", 5)] * 2


def test_what_waits_for_threads_is_counted(gate):
    """A ThreadPoolExecutor tells its queue's length."""
    with ThreadPoolExecutor(1) as executor:
        results = [executor.submit(tasks.wait_in, gate[0]) for _ in range(4)]
        try:
            (told,) = eventually(lambda: [p for p in glasspool.inspect(executor).pools if p.tasks])
        finally:
            for _ in results:
                gate[1]()
    assert told.stats == {"waiting": 3, "threads": 1}


def test_callbacks_and_iterables_of_executors_are_found_on_their_threads():
    """A future's callback runs on the manager thread, and the roster says so."""
    begun, event = threading.Event(), threading.Event()

    def callback(future):
        begun.set()
        event.wait(DEADLINE_S)

    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as executor:
        executor.submit(tasks.double, 1).add_done_callback(callback)
        assert begun.wait(DEADLINE_S)
        info = glasspool.inspect(executor).pools[0]
        event.set()
    (manager,) = [t for t in info.threads if "result-handler" in t.roles]
    assert manager.state.endswith("running your callback")


def test_a_broken_executor_is_said_to_be():
    """After the death of a worker the picture says so, in any of its stages."""
    executor = ProcessPoolExecutor(1, multiprocessing.get_context("fork"))
    future = executor.submit(tasks.kill_this_process)
    assert isinstance(future.exception(DEADLINE_S), concurrent.futures.BrokenExecutor)
    info = glasspool.inspect(executor).pools[0]
    assert info.state == "broken"
    assert any("broken" in note for note in info.notes)
    executor.shutdown()
    assert glasspool.inspect(executor).pools[0].state == "broken"


@pytest.mark.parametrize("dropped", [False, True])
def test_an_executor_that_was_shut_down_is_told_until_it_has_ended(tmp_path, gate, dropped):
    """Its manager thread still has the workers, and a dropped executor is found by it."""
    bench = Bench("executor", "fork")
    busy, _result = occupy(bench, tmp_path, gate)
    name = picture_of(bench).name
    bench.pool.shutdown(wait=False)
    told = picture_of(bench)
    assert (told.state, {w.pid for w in told.workers} >= {busy}) == ("shut down", True)
    if dropped:
        bench.pool = None
        gc.collect()
        (told,) = glasspool.inspect().pools
        assert (told.name, told.state) == (name, "shut down")
        assert busy in {worker.pid for worker in told.workers}
    gate[1]()
    eventually(lambda: not glasspool.inspect().pools)


def test_names(any_bench, tmp_path, gate):
    """Helpers are named by role, for the system too; threads of the program and lanes keep theirs.

    And nothing that was looked at or named is kept alive.
    """
    event = threading.Event()
    mine = threading.Thread(target=event.wait, args=(DEADLINE_S,), name="a thread of mine")
    mine.start()
    _, result = occupy(any_bench, tmp_path, gate)
    before = {t: t.name for t in threading.enumerate()}
    glasspool.name_threads(any_bench.pool)
    name = picture_of(any_bench).name
    wanted = {
        "thread-executor": set(),
        "executor": {f"{name} manager", f"{name} queue-feeder"},
        "loky": {f"{name} manager", f"{name} queue-feeder"},
    }.get(any_bench.name, {f"{name} {role}" for role in HANDLERS})
    after = {t: t.name for t in threading.enumerate()}
    assert {after[t] for t in after if after[t] != before.get(t)} == wanted
    assert after[threading.main_thread()] == before[threading.main_thread()]
    comms = {t: procfs.thread(os.getpid(), t.native_id).name for t in after}
    assert comms[mine] == comms[threading.main_thread()]
    served = [t for t in picture_of(any_bench).threads if t.pool == name and t.pid == os.getpid()]
    assert all(t.os_name != comms[mine] and len(t.os_name) <= 15 for t in served)
    if any_bench.name == "thread-executor":
        assert comms[next(t for t in after if t.name.startswith("lanes"))].endswith("_0")
    event.set()
    mine.join()
    gate[1]()
    any_bench.wait(result)
    del before, after, comms  # a thread of billiard's holds its pool
    check_nothing_is_kept(any_bench)


def check_nothing_is_kept(any_bench):
    """Neither the looks nor the name hold the pool."""
    info = picture_of(any_bench)
    alive = weakref.ref(any_bench.pool)
    any_bench.end()
    # The last thread of an executor may just be leaving.
    eventually(lambda: (gc.collect(), alive() is None)[1])
    assert info.name


@pytest.mark.parametrize(
    "name", ["short", "ThreadPoolExecutor-0_12", "lang-äöüßäöüßäöüß_3", "x" * 30]
)
def test_names_for_the_system_fit_and_keep_their_number(name):
    """At most 15 bytes, and two lanes of one executor stay apart."""
    fitted = inside.fitted(name)
    assert len(fitted.encode()) <= 15
    assert fitted.endswith(name[-2:])


def test_all_pools_are_found_without_being_told():
    """Pools of all kinds in one process: each once, its threads its own, each thread once."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", SCENES / "every_pool.py"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    pools = told["pools"]
    assert sorted(pool["kind"] for pool in pools) == sorted(told["made"])
    assert len({pool["name"] for pool in pools}) == len(pools)
    parents = [next(p for p in pool["processes"] if p["role"] == "parent") for pool in pools]
    assert all(parent["threads"] == parents[0]["threads"] for parent in parents)
    threads = parents[0]["threads"]
    assert {t["native_id"] for t in threads} == set(told["native_ids"])
    assert len(threads) == len(told["native_ids"])
    assert {t["pool"] for t in threads if t["pool"]} == {pool["name"] for pool in pools}
    alone = [t["name"] for t in threads if t["pool"] is None and t["python"]]
    assert sorted(alone) == ["MainThread", "mine"]
    assert told["left"] == []


def test_pools_come_and_go_while_all_are_looked_at():
    """No look fails, none tells a thread twice, and every result is right."""
    stop = threading.Event()
    rounds = [0, 0]
    errors = []

    def make_and_end(place, make):
        try:
            while not stop.is_set():
                with make(2) as pool:
                    assert list(pool.map(tasks.double, range(4))) == [0, 2, 4, 6]
                rounds[place] += 1
        except Exception as error:
            errors.append(error)

    makers = [
        threading.Thread(target=make_and_end, args=(0, multiprocessing.pool.ThreadPool)),
        threading.Thread(target=make_and_end, args=(1, ThreadPoolExecutor)),
    ]
    for maker in makers:
        maker.start()
    looks = 0
    try:
        while (looks < 100 or min(rounds) < 20) and not errors:
            idents = [t.native_id for t in glasspool.inspect().threads]
            assert len(idents) == len(set(idents))
            looks += 1
    finally:
        stop.set()
        for maker in makers:
            maker.join(DEADLINE_S)
    assert not errors
    gc.collect()
    assert not glasspool.inspect().pools


def test_a_forked_child_does_not_tell_of_its_parents_pools():
    """After a fork of the program's, the pools are the parent's."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        glasspool.name_threads(pool)
        child = os.fork() if sys.version_info < (3, 12) else _forked_quietly()
        if child == 0:
            os._exit(len(glasspool.inspect().pools))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        pool.terminate()
        pool.join()


def _forked_quietly():
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


@pytest.mark.parametrize("backend", ["loky", "multiprocessing", "threading"])
def test_joblib(backend):
    """A `Parallel` and its backend lead to the pool on which they run now, and to none later."""
    joblib = pytest.importorskip("joblib")
    with joblib.Parallel(2, backend=backend) as parallel:
        assert parallel(joblib.delayed(tasks.double)(n) for n in range(4)) == [0, 2, 4, 6]
        (info,) = glasspool.inspect(parallel).pools
        assert glasspool.inspect(parallel._backend).pools[0].name == info.name
        assert info.name in {pool.name for pool in glasspool.inspect().pools}
        glasspool.name_threads(parallel)
        assert any(t.name.startswith(info.name) for t in info.threads) is False
        assert any(t.name.startswith(info.name) for t in glasspool.inspect(parallel).threads)
    assert (
        info.kind
        == {
            "loky": "loky",
            "multiprocessing": "multiprocessing.Pool",
            "threading": "multiprocessing.pool.ThreadPool",
        }[backend]
    )
    with pytest.raises(LookupError, match="no pool at the moment"):
        glasspool.inspect(parallel)
    if backend == "loky":
        reusable = importlib.import_module("joblib.externals.loky").get_reusable_executor()
        reusable.shutdown(kill_workers=True)
    del parallel
    gc.collect()


def test_a_look_at_another_library_does_not_import_it():
    """Kinds are told by the names of classes."""
    script = (
        "import sys, glasspool\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(1) as e:\n"
        "    e.submit(int).result(); glasspool.inspect(); glasspool.inspect(e)\n"
        "print([m for m in ('loky', 'joblib', 'billiard', 'multiprocess', 'rich', 'asyncio',"
        " 'concurrent.futures.process', 'glasspool.pool') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=True,
    )
    assert done.stdout.strip() == "[]"
