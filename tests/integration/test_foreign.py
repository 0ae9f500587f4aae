"""Golden scenes: what every thread of other libraries' pools is for, seen from outside.

Each scene is a real program of ``tests/scenes``, on the interpreter that runs the tests. Witnesses are what
Linux lists, and py-spy's own list of threads.
"""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from glasspool.observe import foreign, procfs, pyspy, running, sight
from glasspool.snapshot import PoolInfo, ThreadInfo

SCENES = Path(__file__).parent.parent / "scenes"
DEADLINE_S = 30.0

pytestmark = [
    pytest.mark.skipif(not procfs.HAS_PROC, reason="needs /proc"),
    pytest.mark.skipif(pyspy.program() is None, reason="needs py-spy"),
]

STOCK = "multiprocessing.Pool"
EXECUTOR = "concurrent.futures.ProcessPoolExecutor"
THREADS = "multiprocessing.pool.ThreadPool"
HELPERS = (("worker-handler",), ("task-handler",), ("result-handler",))
MANAGER = (("worker-handler", "result-handler", "task-handler"), ("task-handler",))
SERVERS = {
    "fork": (),
    "spawn": ("resource-tracker",),
    "forkserver": ("resource-tracker", "fork-server"),
    "loky": ("resource-tracker", "resource-tracker"),
}

Roles = Counter[tuple[str, tuple[str, ...]]]


def parent(*helpers: tuple[str, ...], main: tuple[str, ...] = ("main",)) -> Roles:
    return Counter(("parent", roles) for roles in (main, *helpers))


def workers(count: int, roles: tuple[str, ...] = ("initializer", "task")) -> Roles:
    return Counter({("worker", roles): count})


def servers(method: str) -> Roles:
    return Counter((role, (role,)) for role in SERVERS[method])


@dataclass(frozen=True)
class Scene:
    """A program, the lines that it prints until it stands, and what is to be seen then.

    ``says`` are states in words by role; ``tasks`` the running tasks' functions and arguments. ``quick``
    are the roles without stacks where they are told: None where threads alone cannot tell.
    """

    program: str
    arguments: tuple[str, ...]
    lines: tuple[str, ...]
    kinds: tuple[str, ...]
    roles: Roles
    says: Mapping[str, str] = field(default_factory=dict)
    tasks: tuple[tuple[str, str | None], ...] = ()
    needs: str | None = None
    method: str | None = None
    quick: Roles | None = None

    def __str__(self) -> str:
        return "-".join((self.program, *self.arguments))


def stock(method: str, state: str, lines: str, **more: object) -> Scene:
    main = ("main", "caller") if state == "map" else ("main",)
    rest = workers(2) + servers(method)
    return Scene(
        "stock_pool",
        (method, state),
        tuple(lines.split(",")),
        (STOCK,),
        parent(*HELPERS, main=main) + rest,
        method=method,
        quick=parent(*HELPERS) + workers(2, ("task",)) + servers(method),
        **more,
    )


def executor(method: str, state: str, lines: str, **more: object) -> Scene:
    main = ("main", "caller") if state in ("map", "initializer") else ("main",)
    rest = workers(2) + servers(method)
    return Scene(
        "process_executor",
        (method, state),
        tuple(lines.split(",")),
        (EXECUTOR,),
        parent(*MANAGER, main=main) + rest,
        method=method,
        quick=parent(*MANAGER) + workers(2, ("task",)) + servers(method),
        **more,
    )


BUSY = "ready,task 7,task 8"
BUSY_TASKS = (("work", "(7)"), ("work", "(8)"))
TWO_TASKS = (("work", "(1)"), ("work", "(2)"))
TWO = ("ready", "task 1", "task 2")
IDLE = {"task": "waiting for work"}

ALL = [
    *(stock(m, "busy", BUSY, tasks=BUSY_TASKS) for m in ("fork", "forkserver", "spawn")),
    stock("fork", "idle", "ready", says=IDLE),
    stock(
        "fork",
        "map",
        "task 100,task 101",
        says={"caller": "waiting in Pool.map()"},
        tasks=(("work", "(100)"), ("work", "(101)")),
    ),
    stock("fork", "iterable", "ready,iterating", says={"task-handler": "running your iterable"}),
    stock(
        "fork",
        "callback",
        "ready,called back",
        says={"result-handler": "running your callback"},
    ),
    stock(
        "fork",
        "initializer",
        "ready,initializing,initializing",
        says={"initializer": "running your initializer"},
    ),
    *(
        executor(m, "busy", BUSY, tasks=(("work", None),) * 2)
        for m in ("fork", "forkserver", "spawn")
    ),
    executor("fork", "idle", "ready", says=IDLE),
    executor(
        "fork",
        "callback",
        "ready,called back",
        says={"result-handler": "the executor's manager thread, running your callback"},
    ),
    executor(
        "fork",
        "map",
        "task 100,task 104",
        says={"caller": "waiting in Executor.map()"},
        tasks=(
            ("work", "((100), (101), (102), (103))"),
            ("work", "((104), (105), (106), (107))"),
        ),
    ),
    executor(
        "forkserver",
        "initializer",
        "initializing,initializing",
        says={"initializer": "running your initializer"},
    ),
    Scene(
        "thread_pool",
        (),
        TWO,
        (THREADS,),
        parent(*HELPERS, ("task",), ("task",)),
        tasks=TWO_TASKS,
    ),
    Scene(
        "thread_executor",
        (),
        TWO,
        ("concurrent.futures.ThreadPoolExecutor",),
        parent(("task",), ("task",), main=("main", "caller")),
        says={"caller": "waiting in Future.result()"},
        tasks=(("work", None), ("work", None)),
    ),
    Scene(
        "loky_executor",
        ("loky",),
        TWO,
        ("loky",),
        parent(*MANAGER, main=("main", "caller")) + workers(2) + servers("loky"),
        says={"caller": "waiting in as_completed()"},
        tasks=(("work", None), ("work", None)),
        needs="loky",
        method="loky",
        quick=parent(*MANAGER) + workers(2, ("task",)) + servers("loky"),
    ),
    Scene(
        "joblib_running",
        ("loky",),
        ("ready", "task 0", "task 1"),
        ("loky",),
        parent(*MANAGER, main=("main", "caller")) + workers(2, ("task",)) + servers("loky"),
        says={"caller": "waiting in Parallel()"},
        needs="joblib",
        method="loky",
    ),
    Scene(
        "joblib_running",
        ("multiprocessing",),
        ("ready", "task 0", "task 1"),
        (STOCK,),
        parent(*HELPERS, main=("main", "caller"))
        + workers(2, ("task",))
        + servers("fork")
        + Counter({("resource-tracker", ("resource-tracker",)): 1}),
        says={"caller": "waiting in Parallel()"},
        needs="joblib",
        method="fork",
    ),
    *(
        Scene(
            "multiprocess_pool",
            (m,),
            TWO,
            ("multiprocess.Pool",),
            parent(*HELPERS) + workers(2) + servers(m),
            tasks=TWO_TASKS,
            needs="multiprocess",
            method=m,
        )
        for m in ("forkserver",)
    ),
    Scene(
        "billiard_pool",
        ("fork", "busy"),
        TWO,
        ("billiard.Pool",),
        parent(*HELPERS) + workers(2, ("task",)),
        tasks=TWO_TASKS,
        needs="billiard",
        method="fork",
        quick=parent(*HELPERS) + workers(2, ("task",)),
    ),
    Scene(
        "billiard_pool",
        ("fork", "idle"),
        ("ready",),
        ("billiard.Pool",),
        parent(*HELPERS) + workers(2, ("task",)),
        says=IDLE,
        needs="billiard",
        method="fork",
    ),
    *(
        Scene(
            "two_pools",
            (m,),
            ("ready", "task 1", "task 2", "task 3"),
            (STOCK, STOCK),
            parent(*HELPERS, *HELPERS) + workers(1) + workers(2, ("task",)) + servers(m),
            tasks=(*TWO_TASKS, ("work", "(3)")),
            method=m,
            quick=parent(*HELPERS, *HELPERS) + workers(3, ("task",)) + servers(m),
        )
        for m in ("fork", "forkserver", "spawn")
    ),
    *(
        Scene(
            "pool_and_manager",
            (m,),
            ("ready", "task 0", "task 1", "task 2"),
            (STOCK,),
            parent(*HELPERS)
            + workers(2)
            + servers(m)
            + Counter({("manager", ("manager",)): 2, ("child", ("main",)): 1}),
            tasks=TWO_TASKS,
            method=m,
        )
        for m in ("fork", "forkserver")
    ),
    Scene(
        "nested_pools",
        ("fork",),
        ("ready", "task 1", "task 2"),
        (EXECUTOR, STOCK),
        parent(*MANAGER)
        + workers(1, ("initializer", "task", "caller"))
        + Counter(("worker", roles) for roles in HELPERS)
        + workers(2),
        says={"caller": "running inner, waiting in Pool.map()"},
        tasks=(("inner", None), *TWO_TASKS),
        method="fork",
    ),
]


class Stage:
    """A scene that stands: its program runs in a session of its own until ``end``."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self._process = subprocess.Popen(
            [sys.executable, str(SCENES / f"{scene.program}.py"), *scene.arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.pid = self._process.pid
        self.picture: tuple[PoolInfo, ...] = ()

    def stands(self) -> None:
        """Wait until the program has printed all of its lines, in any order."""
        missing = Counter(self.scene.lines)
        while missing:
            line = self._process.stdout.readline()
            assert line, f"the scene ended without {missing}"
            missing -= Counter([line.strip()])

    def end(self) -> None:
        """Kill the program with all that it started; its session is its own."""
        os.killpg(self.pid, signal.SIGKILL)
        self._process.wait(DEADLINE_S)
        self._process.stdout.close()


@pytest.fixture(scope="module", params=ALL, ids=str)
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    """Set up one scene for all tests that look at it."""
    scene = request.param
    if scene.needs is not None and importlib.util.find_spec(scene.needs) is None:
        pytest.skip(f"{scene.needs} is not installed")
    made = Stage(scene)
    try:
        made.stands()
        settle(made)
        yield made
    finally:
        made.end()


def look(stage: Stage, *, stacks: bool = True) -> tuple[PoolInfo, ...]:
    return foreign.pools(sight.take(stage.pid, stacks=stacks))


def eventually(question: Callable[[], object], wanted: object) -> None:
    """Ask until the answer is that; nothing tells from outside that a thread has come to rest."""
    deadline = time.monotonic() + DEADLINE_S
    while (answer := question()) != wanted:
        assert time.monotonic() < deadline, (answer, wanted)
        time.sleep(0.01)


def settle(stage: Stage) -> None:
    """Look until the threads are at what the scene is about, or for as long as a test may wait."""
    scene, deadline = stage.scene, time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        stage.picture = look(stage)
        said = [(t.roles, t.state) for _, t in threads_of(stage.picture).values()]
        rests = all(
            any(role in roles and state.startswith(words) for roles, state in said)
            for role, words in scene.says.items()
        )
        if rests and roles_of(stage.picture) == scene.roles:
            return
        time.sleep(0.02)  # nothing tells from outside that a thread has come to rest


def threads_of(pools: Iterable[PoolInfo]) -> dict[tuple[int, int], tuple[str, ThreadInfo]]:
    """Return each thread once, with its process's role, by pid and native id."""
    told: dict[tuple[int, int], tuple[str, ThreadInfo]] = {}
    for pool in pools:
        for process in pool.processes:
            for thread in process.threads:
                told.setdefault((thread.pid, thread.native_id), (process.role, thread))
    return told


def roles_of(pools: Iterable[PoolInfo]) -> Roles:
    # Native threads are as many as the libraries and the machine make them.
    told = threads_of(pools).values()
    return Counter((role, t.roles) for role, t in told if t.roles != ("native",))


def listed_by_linux(pid: int) -> set[tuple[int, int]]:
    """Return the (pid, tid) pairs of a process and its descendants, as the kernel lists them."""
    pairs, waiting = set(), [pid]
    while waiting:
        one = waiting.pop()
        for tid in map(int, os.listdir(f"/proc/{one}/task")):
            pairs.add((one, tid))
            waiting.extend(map(int, Path(f"/proc/{one}/task/{tid}/children").read_text().split()))
    return pairs


def listed_by_pyspy(pid: int) -> set[tuple[int, str]]:
    """Return the threads of a process as py-spy's own text tells them: native id and name."""
    done = subprocess.run(
        [pyspy.program(), "dump", "--nonblocking", "--pid", str(pid)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=True,
    )
    heads = re.findall(r'^Thread (\d+) \([^)]*\): "(.*)"$', done.stdout, re.MULTILINE)
    return {(int(tid), name) for tid, name in heads}


def test_every_thread_has_its_role_and_says_what_it_is_at(stage: Stage) -> None:
    """For each scene it is known what each thread is for, what it is at, and which task it runs."""
    scene = stage.scene
    assert roles_of(stage.picture) == scene.roles
    assert [pool.kind for pool in stage.picture] == list(scene.kinds)
    assert stage.picture[0].start_method == scene.method
    assert all(pool.notes == () for pool in stage.picture)
    for role, words in scene.says.items():
        told = [t.state for _, t in threads_of(stage.picture).values() if role in t.roles]
        assert any(state.startswith(words) for state in told), (role, told)
    if scene.tasks:
        tasks = [(t.function, t.arguments) for pool in stage.picture for t in pool.tasks]
        assert sorted(tasks, key=str) == sorted(scene.tasks, key=str)


def test_nothing_is_missing_and_nothing_invented(stage: Stage) -> None:
    """There are the processes and threads that Linux lists, and Python's are those that py-spy lists."""

    def differs(stacks: bool) -> set[tuple[int, int]]:
        before = listed_by_linux(stage.pid)
        return before ^ set(threads_of(look(stage, stacks=stacks)))

    # A library may begin a native thread at any time.
    eventually(lambda: differs(stacks=True), set())
    eventually(lambda: differs(stacks=False), set())
    told = threads_of(stage.picture).values()
    for pid in {thread.pid for _, thread in told}:
        ours = {(t.native_id, t.name) for _, t in told if t.pid == pid and t.python}
        assert ours == listed_by_pyspy(pid)


def test_without_stacks_roles_are_inferred(stage: Stage) -> None:
    """Names and the kernel's word give the same roles, and nothing of that is said to be known."""
    scene = stage.scene
    runs_users_code = {"task-handler", "result-handler"} & set(scene.says)
    if scene.quick is not None and not runs_users_code:
        eventually(lambda: roles_of(look(stage, stacks=False)), scene.quick)
        assert sorted(p.kind for p in look(stage, stacks=False)) == sorted(scene.kinds)
    for _, thread in threads_of(look(stage, stacks=False)).values():
        assert thread.evidence.source in ("inferred", "os")
        assert thread.stack is None
        assert thread.evidence.note


def test_each_process_leads_to_its_pool(stage: Stage) -> None:
    """A worker, a fork server and a tracker stand for their program, and workers for one pool of it."""
    for pid in {pid for pid, _ in listed_by_linux(stage.pid)}:
        assert foreign.root_of(pid) == stage.pid
    for role, thread in threads_of(stage.picture).values():
        if role == "worker":  # what a fork inherited is cut away
            assert "<module>" not in {frame.function for frame in thread.stack or ()}
    if len(stage.scene.kinds) == 2:
        first, second = stage.picture
        assert (len(first.workers), len(second.workers)) == (1, 2)
        assert [task.arguments for task in first.tasks] in (["(1)"], [None])
        assert len(second.tasks) == 2
        assert {task.pid for task in second.tasks} == {worker.pid for worker in second.workers}


def test_a_look_at_a_worker_shows_its_pool() -> None:
    """``look`` goes from a worker's pid to the program; stacks and arguments are told if wanted."""
    scene = next(scene for scene in ALL if str(scene) == "stock_pool-forkserver-busy")
    made = Stage(scene)
    try:
        made.stands()
        (worker, _) = look(made)[0].workers
        seen = running.look(worker.pid, stacks=False)
        assert (seen.problem, seen.text) == (None, "")
        assert seen.snapshot.pools[0].pid == made.pid
        assert all(thread.stack is None for thread in running.picture(worker.pid).threads)
        for stacks in (True, False):
            tasks = running.look(worker.pid, stacks=stacks, redact=True).snapshot.tasks
            assert [(t.function, t.arguments) for t in tasks] == [("work", None)] * 2
        with_stacks = running.look(worker.pid, stacks=True).snapshot
        assert all(thread.stack for thread in with_stacks.threads)
    finally:
        made.end()


def test_a_program_that_dies_meanwhile_is_told_by_halves() -> None:
    """Whenever the workers end while they are looked at, there is a picture and no error."""
    scene = next(scene for scene in ALL if str(scene) == "stock_pool-fork-busy")
    for at in range(6):
        made = Stage(scene)
        try:
            made.stands()
            killer = subprocess.Popen(
                [sys.executable, "-c", f"import os, time; time.sleep({at * 0.02}); "
                 f"os.killpg({made.pid}, 9)"]
            )  # fmt: skip
            while killer.poll() is None:
                seen = running.look(made.pid, stacks=True)
                assert seen.problem in (None, "gone", "no-pool")
            assert killer.returncode == 0
        finally:
            made.end()
