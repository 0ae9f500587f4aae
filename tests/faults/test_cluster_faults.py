"""The fault matrix on clusters: what goes wrong on a node, each way with both engines.

A *fault* does its worst to a pool and says what has to be true of its own task; after each of them the pool
goes on with all its nodes, and its ledger is in order.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cluster_fault_tasks as tasks
import pytest

import glasspool
from pools import check_ledger, wait_until

pytestmark = [pytest.mark.clusters, pytest.mark.one_python, pytest.mark.timeout(120)]

LIMIT_S = 30.0
ENGINES = ("dask", "ray")
NODES = 2

Make = Callable[..., glasspool.Pool]


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Return an engine's name and the address of a cluster with two nodes."""
    cluster = request.getfixturevalue(f"whole_{request.param}_cluster")
    cluster.top_up(NODES)
    return request.param, cluster.address


@pytest.fixture(scope="module")
def shared_pool(engine: tuple[str, str]) -> Iterator[glasspool.Pool]:
    """Return one pool for all faults that a pool has to survive."""
    pool = glasspool.Pool(engine=engine[0], address=engine[1], processes=NODES)
    try:
        yield pool
    finally:
        pool.terminate()
        pool.join()


@pytest.fixture
def make(engine: tuple[str, str]) -> Iterator[Make]:
    """Make pools that end with the test."""
    made: list[glasspool.Pool] = []

    def one(**told: Any) -> glasspool.Pool:
        told = {"processes": NODES} | told
        made.append(glasspool.Pool(engine=engine[0], address=engine[1], **told))
        return made[-1]

    yield one
    for pool in made:
        pool.terminate()
        pool.join()


# Faults that a pool survives -----------------------------------------------------------------------


def ends_as(result: Any, error: type[BaseException]) -> Any:
    """Return the error with which a result ends, which is of this kind."""
    with pytest.raises(error) as told:
        result.get(LIMIT_S)
    return told.value


def dies(pool: glasspool.Pool, function: Callable[[], None], words: str) -> None:
    """The certificate names the cause and the node."""
    error = ends_as(pool.apply_async(function), glasspool.WorkerDied)
    assert words in error.certificate.cause
    assert error.certificate.node
    assert not error.certificate.whole_node
    assert error.certificate.node in str(error)


def killed(pool: glasspool.Pool, folder: Path) -> None:
    """A worker is killed."""
    dies(pool, tasks.killed, "SIGKILL")


def segfault(pool: glasspool.Pool, folder: Path) -> None:
    """A worker crashes."""
    dies(pool, tasks.segfault, "SIGSEGV")


def left(pool: glasspool.Pool, folder: Path) -> None:
    """A worker ends without a word."""
    dies(pool, tasks.leave, "code 3")


def exited(pool: glasspool.Pool, folder: Path) -> None:
    """A task calls sys.exit: its own error."""
    error = ends_as(pool.apply_async(tasks.leave_politely), glasspool.TaskExit)
    assert isinstance(error.__cause__, SystemExit)


def unsendable(pool: glasspool.Pool, folder: Path) -> None:
    """A result, and an error, cannot be pickled."""
    ends_as(pool.apply_async(tasks.unsendable), glasspool.SerializationError)
    error = ends_as(pool.apply_async(tasks.raise_unsendable), glasspool.SerializationError)
    assert "far away" in str(error)


def unbuildable(pool: glasspool.Pool, folder: Path) -> None:
    """An error cannot be rebuilt here."""
    error = ends_as(pool.apply_async(tasks.raise_unbuildable), glasspool.SerializationError)
    assert "Unbuildable" in str(error)


def bad_callback(pool: glasspool.Pool, folder: Path) -> None:
    """A callback raises: the result is there, and the pool goes on."""

    def bad(value: Any) -> None:
        raise LookupError("the callback's own")

    told: list[Any] = []
    hook, threading.excepthook = threading.excepthook, told.append
    try:
        result = pool.apply_async(tasks.square, (3,), callback=bad)
        assert result.get(LIMIT_S) == 9
    finally:
        threading.excepthook = hook
    assert isinstance(result.callback_error, LookupError)  # type: ignore[attr-defined]


def too_long(pool: glasspool.Pool, folder: Path) -> None:
    """A task stays in C for longer than it may."""
    begun = time.monotonic()
    ends_as(pool.apply_async(tasks.sleep_in_c, timeout=0.3), glasspool.TaskTimeout)
    assert time.monotonic() - begun < 10


def cancelled(pool: glasspool.Pool, folder: Path) -> None:
    """Tasks are cancelled that run, that a node has, and that wait: none of the latter two ever begins."""
    path = str(folder / "begun")
    rows = [pool.apply_async(tasks.wait_for, (f"{path}{i}",)) for i in range(50)]
    wait_until(lambda: len(list(folder.glob("begun*"))) == NODES, "each worker runs one")
    begun = {str(name) for name in folder.glob("begun*")}
    for result in reversed(rows):
        assert result.cancel()
    for result in rows:
        ends_as(result, glasspool.TaskCancelled)
    assert {str(name) for name in folder.glob("begun*")} == begun
    assert not rows[0].cancel()


def tried_anew(pool: glasspool.Pool, folder: Path) -> None:
    """A task that fails once has its second attempt, whatever it failed of."""
    rows = [
        pool.apply_async(tasks.fail_first, (str(folder / how), how), **told)
        for how, told in {
            "death": {"retries": 1},
            "error": {"retries": 1, "retry_on": KeyError},
            "timeout": {"retries": 1, "timeout": 0.5, "retry_on": glasspool.TaskTimeout},
        }.items()
    ]
    assert [row.get(LIMIT_S) for row in rows] == ["death", "error", "timeout"]


def bad_iterable(pool: glasspool.Pool, folder: Path) -> None:
    """An iterable raises: what it gave before has its results."""

    def items() -> Iterator[int]:
        yield from range(3)
        raise LookupError("the iterable's own")

    rest = pool.imap(tasks.square, items())
    assert [next(rest) for _ in range(3)] == [0, 1, 4]
    with pytest.raises(LookupError):
        next(rest)
    with pytest.raises(LookupError):
        pool.map(tasks.square, items())


def forked(pool: glasspool.Pool, folder: Path) -> None:
    """The program forks: in the child the pool is a clear error, and the parent's goes on."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # there are threads: that is the point
        child = os.fork()
    if child == 0:  # say what came, and go
        signal.alarm(20)
        said = b"nothing"
        try:
            pool.apply_async(tasks.square, (1,))
        except BaseException as error:
            said = type(error).__name__.encode()
        os.write(write, said)
        os.kill(os.getpid(), signal.SIGKILL)
    os.close(write)
    with os.fdopen(read, "rb") as told:
        said = told.read()
    os.waitpid(child, 0)
    assert said not in (b"nothing", b"")


FAULTS = (
    killed,
    segfault,
    left,
    exited,
    unsendable,
    unbuildable,
    bad_callback,
    too_long,
    cancelled,
    tried_anew,
    bad_iterable,
    forked,
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_on_a_node(
    shared_pool: glasspool.Pool, tmp_path: Path, fault: Callable[[glasspool.Pool, Path], None]
) -> None:
    """Only the task concerned is affected; nobody waits for ever; the pool goes on with both nodes."""
    fault(shared_pool, tmp_path)
    goes_on(shared_pool)


def goes_on(pool: glasspool.Pool) -> None:
    """A pool runs tasks on all its nodes, and has nothing left."""
    count = 40

    def runs() -> bool:
        job = pool.map_async(tasks.square, range(count), chunksize=1)
        assert job.get(LIMIT_S) == [i * i for i in range(count)]
        return len({task.node for task in job.info.tasks}) == NODES

    wait_until(runs, "both nodes work")
    check_ledger(pool)


# Beginnings ----------------------------------------------------------------------------------------


def test_an_initializer_fails(make: Make) -> None:
    """Whoever asks for a result, or for the pool, is told why there are no workers."""
    with pytest.raises(glasspool.InitializerFailed) as told:
        make(initializer=tasks.fail_everywhere).apply_async(tasks.square, (2,)).get(LIMIT_S)
    assert "on no node" in str(told.value) or "on no node" in str(told.value.__cause__)


def test_an_initializer_fails_once(make: Make, tmp_path: Path) -> None:
    """A worker whose initializer fails once is replaced; the pool works with both nodes."""
    pool = make(initializer=tasks.fail_on_one_node, initargs=(str(tmp_path / "one"),))
    goes_on(pool)


def test_an_initializer_hangs(make: Make) -> None:
    """With a limit for the start nobody waits for ever."""

    def run() -> None:
        pool = make(initializer=tasks.hang, start_timeout=1.0)
        pool.apply_async(tasks.square, (2,)).get(LIMIT_S)

    with pytest.raises(glasspool.GlasspoolError):
        run()


# Ends ----------------------------------------------------------------------------------------------


def test_close_runs_everything(make: Make, tmp_path: Path) -> None:
    """All that was handed in before ``close`` runs; ``close`` and ``join`` twice do no harm."""
    pool = make()
    path = str(tmp_path / "ids")
    rows = [pool.apply_async(tasks.note, (path, i, 0.01)) for i in range(100)]
    pool.close()
    pool.close()
    pool.join()
    pool.join()
    assert [row.get(0) for row in rows] == list(range(100))
    with pytest.raises(ValueError, match="not running"):
        pool.apply(tasks.square, (1,))


def test_terminate_ends_what_runs(make: Make, tmp_path: Path) -> None:
    """``terminate`` from several threads, and from a callback, ends all tasks, within seconds."""
    pool = make()
    path = tmp_path / "begun"
    rows = [pool.apply_async(tasks.wait_for, (f"{path}{i}",)) for i in range(20)]
    wait_until(lambda: any(tmp_path.iterdir()), "one runs")
    done = pool.apply_async(tasks.square, (2,), callback=lambda value: pool.terminate())
    begun = time.monotonic()
    threads = [threading.Thread(target=pool.terminate) for _ in range(4)]
    for thread in threads:
        thread.start()
    pool.terminate()
    pool.join()
    for thread in threads:
        thread.join(LIMIT_S)
    assert time.monotonic() - begun < 10
    for row in [*rows, done]:
        ends_as(row, glasspool.TaskCancelled)


def test_drain(make: Make, tmp_path: Path) -> None:
    """``drain`` lets end what runs and tells what did not begin, also what nodes had been sent."""
    pool = make()
    path = tmp_path / "begun"
    rows = [pool.apply_async(tasks.wait_for, (f"{path}{i}",)) for i in range(20)]
    wait_until(lambda: len(list(tmp_path.iterdir())) == NODES, "each worker runs one")
    told: list[Any] = []
    thread = threading.Thread(target=lambda: told.append(pool.drain()))
    thread.start()
    for i in range(20):
        Path(f"{path}{i}.go").touch()
    thread.join(LIMIT_S)
    pool.join()
    ended = []
    for row in rows:
        with contextlib.suppress(glasspool.TaskCancelled):
            ended.append(row.get(0))
    assert len(ended) + len(told[0]) == 20
    begun = {name.name for name in tmp_path.iterdir() if name.suffix != ".go"}
    assert {Path(name).name for name in ended} == begun
