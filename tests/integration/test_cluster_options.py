"""What a pool may be told does on a cluster what it does on one machine."""

from __future__ import annotations

import gc
import itertools
import logging
import multiprocessing
import os
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cluster_option_tasks as tasks
import psutil
import pytest
from cluster_option_tasks import square, where

import glasspool
from clusters import Cluster

pytestmark = [pytest.mark.clusters, pytest.mark.one_python, pytest.mark.timeout(120)]

LIMIT_S = 30
MB = 1 << 20


@pytest.fixture(scope="module", params=["dask", "ray"])
def connected(request: pytest.FixtureRequest) -> Cluster:
    """Return a cluster; if it is Ray's, this process is connected to it: each time it keeps a log open."""
    whole: Cluster = request.getfixturevalue(f"whole_{request.param}_cluster")
    if whole.library == "ray":
        import ray

        ray.init(address=whole.address, log_to_driver=False, logging_level="error")
    pool = glasspool.Pool(2, engine=whole.library, address=whole.address)
    pool.terminate()  # the first one makes the library start what it keeps
    return whole


@pytest.fixture
def cluster(connected: Cluster) -> Cluster:
    """Return a cluster with two nodes of one processor each."""
    connected.top_up(2)
    return connected


@pytest.fixture
def make_pool(cluster: Cluster, leak_check: None) -> Iterator[Callable[..., glasspool.Pool]]:
    """Return what makes pools on it, which end with the test."""
    made: list[glasspool.Pool] = []

    def make(**told: Any) -> glasspool.Pool:
        pool = glasspool.Pool(engine=cluster.library, address=cluster.address, **told)
        made.append(pool)
        return pool

    yield make
    for pool in made:
        pool.terminate()
        pool.join()


@pytest.fixture
def records() -> Iterator[list[logging.LogRecord]]:
    """Return a list of what the program's handlers are given."""
    found: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = found.append  # type: ignore[method-assign, assignment]
    loggers = [logging.getLogger(name) for name in ("cluster", "glasspool")]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
    yield found
    for logger in loggers:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)


def wait_until(is_true: Callable[[], bool]) -> None:
    """Wait for what nothing announces here."""
    deadline = time.monotonic() + LIMIT_S
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_what_workers_are_made_of(make_pool: Any, tmp_path: Path) -> None:
    """Initializer, environment of each slot, seed, finalizer and lanes' limits are as on one machine."""
    mark = tmp_path / "finalized"
    pool = make_pool(
        processes=4,
        initializer=tasks.keep,
        initargs=("yes",),
        env=lambda slot: {"MY_SLOT": str(slot)},
        seed=7,
        native_threads=3,
        finalizer=tasks.Finalizer(str(mark)),
    )
    drawn = pool.map(tasks.draw, range(6)), list(pool.imap(tasks.draw, range(3)))
    with glasspool.Pool(1, seed=7, context=multiprocessing.get_context("forkserver")) as here:
        assert (here.map(tasks.draw, range(6)), list(here.imap(tasks.draw, range(3)))) == drawn
    assert pool._processes == 4
    assert "pool_size=4" in repr(pool)
    assert pool.apply(tasks.kept) == ["yes"]
    seen = pool.run_on_all(where)
    assert len({node for node, *_ in seen}) == 2
    assert [slot for _, slot, *_ in seen] == [0, 1, 0, 1], "in the order of nodes and slots"
    assert {pool_name for *_, pool_name in seen} == {pool.name}
    assert pool.run_on_all(tasks.variable, "MY_SLOT") == ["0", "1", "0", "1"]
    assert pool.apply(tasks.variable, ("OMP_NUM_THREADS",)) == "3"
    pool.close()
    pool.join()
    assert mark.stat().st_size == 4


def test_lanes_context_and_memory(make_pool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lanes run beside each other, context variables travel, and a worker may not grow for ever."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    pool = make_pool(
        processes=2,
        threads=3,
        contextvars=[tasks.chosen],
        max_memory_hard=400 * MB,
        native_threads=None,
    )
    assert len(set(pool.map(tasks.lane_of, range(12), 1))) == 6
    tasks.chosen.set("mine")
    assert pool.apply(tasks.chosen_here) == "mine"
    assert pool.apply(tasks.variable, ("OMP_NUM_THREADS",)) is None, "what the library set"
    with pytest.raises(glasspool.WorkerDied, match="max_memory_hard") as caught:
        pool.apply(tasks.take_memory, (500 * MB,))
    assert caught.value.certificate.pool == pool.name
    assert pool.map(square, range(3)) == [0, 1, 4]


def test_rounds(make_pool: Any) -> None:
    """Every worker makes a round, those to come too, unless it raised: that is raised here."""
    pool = make_pool(processes=2)
    assert pool.run_on_all(tasks.keep, "round") == [None, None]
    first, second = (node for node, *_ in pool.run_on_all(where))
    with pytest.raises(KeyError, match=str(second)) as caught:
        pool.run_on_all(tasks.fail_on, second)
    assert caught.value.__notes__ == [f"On the node {second}."]
    pool.resize(4)
    assert pool.run_on_all(tasks.kept) == [["round"]] * 4
    assert {node for node, *_ in pool.run_on_all(where)} == {first, second}


def test_output_and_logs(make_pool: Any, records: list[logging.LogRecord]) -> None:
    """What tasks write comes with their end, and what they log to the program's handlers, with its place."""
    pool = make_pool(processes=1, capture_output=True)
    result = pool.apply_async(tasks.speak, (5,))
    assert result.get(LIMIT_S) == 5
    assert result.info.stdout == "out 5\nchild\n"
    assert result.info.stderr == "err\n"
    with pytest.raises(glasspool.WorkerDied) as caught:
        pool.apply(tasks.speak_and_die)
    certificate = caught.value.certificate
    assert certificate.node == result.info.node
    assert certificate.last_output == ("last line",)
    assert certificate.last_log[-1].endswith("last record")
    assert certificate.task.function.endswith("speak_and_die")
    pool.close()
    pool.join()
    told = [one for one in records if one.name == "cluster.options"]
    assert [one.getMessage() for one in told] == ["number 5", "last record"]
    place = (pool.name, result.info.node, 0, result.info.id)
    assert (told[0].pool, told[0].node, told[0].slot, told[0].task) == place  # type: ignore[attr-defined]
    events = [vars(one)["event"] for one in records if one.name.startswith("glasspool.")]
    for event in ("pool.started", "node.joined", "worker.died", "pool.closed", "pool.ended"):
        assert event in events
    died = next(one for one in records if vars(one).get("event") == "worker.died")
    assert result.info.node in died.getMessage()


def test_sizes(make_pool: Any) -> None:
    """A pool has so many workers as it was told, in all or on each node; a change waits for processes."""
    pool = make_pool(processes_per_node=2)
    assert pool._processes == 4
    for size in (6, 1, 3):
        pool.resize(size)
        assert pool._processes == size
        assert len(pool.run_on_all(where)) == size
    with pytest.raises(ValueError, match="at most"):
        pool.resize(10_000)
    assert pool.map(square, range(4)) == [0, 1, 4, 9]


def test_a_node_that_joins(make_pool: Any, cluster: Cluster, tmp_path: Path) -> None:
    """A node that joins is given workers, which make the rounds so far; with a lost one its workers go."""
    pool = make_pool()
    size = pool._processes
    pool.run_on_all(tasks.keep, "early")
    begun = time.monotonic()
    added = cluster.add()
    wait_until(lambda: pool._processes == size + 1)
    wait_until(lambda: len({node for node, *_ in pool.map(where, range(60), 1)}) == 3)
    print(f"joined after {time.monotonic() - begun:.1f} s")
    assert pool.run_on_all(tasks.kept) == [["early"]] * (size + 1)
    until = tmp_path / "go on"
    slow = pool.map_async(tasks.report_and_wait, [str(until)] * (size + 1), 1, retries=1)
    cluster.remove(added)
    wait_until(lambda: pool._processes == size)
    until.touch()
    slow.get(LIMIT_S)
    assert len(pool.run_on_all(where)) == size
    pool.terminate()
    for left in Path(os.environ["GLASSPOOL_DIR"]).iterdir():
        left.unlink()  # the node was killed, and its disk is this machine's


def test_progress(make_pool: Any, tmp_path: Path) -> None:
    """What shows a call's progress knows what runs on nodes, and how far that is inside."""
    pool = make_pool(processes=2)
    until = tmp_path / "go on"
    seen: list[Any] = []
    result = pool.map_async(tasks.report_and_wait, [str(until)] * 2, 1)

    from glasspool.engines.local import running

    def is_half_done() -> bool:
        seen.append(running.look(pool._engine, result))
        return seen[-1].running == 2 and seen[-1].partial == 1.0

    wait_until(is_half_done)
    until.touch()
    result.get(LIMIT_S)


def test_lives_of_workers_and_attempts(make_pool: Any, tmp_path: Path) -> None:
    """Workers are replaced after so many tasks; a task is tried again as often as it may be."""
    pool = make_pool(processes=2, maxtasksperchild=2, retries=3, retry_on=OSError)
    assert len({pid for *_, pid, _ in pool.map(where, range(12), 1)}) >= 6
    result = pool.apply_async(tasks.fail_twice, (str(tmp_path / "attempts"),))
    assert result.get(LIMIT_S) == 3
    assert result.info.attempts == 3


def test_ends(make_pool: Any, tmp_path: Path) -> None:
    """``drain`` gives back what was not begun; results of a pool that was terminated are cancelled."""
    pool = make_pool(processes=2)
    until = tmp_path / "go on"
    marks = [tmp_path / f"begun{n}" for n in range(2)]
    begun = [pool.apply_async(tasks.touch_and_wait, (str(mark), str(until))) for mark in marks]
    wait_until(lambda: all(mark.exists() for mark in marks))
    waiting = [pool.apply_async(square, (n,)) for n in range(5)]
    mapped = pool.map_async(square, range(10, 16), 3)
    pool.apply_async(until.touch)
    threading_drain = glasspool.ThreadPool(1)
    undone = threading_drain.apply_async(pool.drain)
    until.touch()
    given_back = undone.get(LIMIT_S)
    threading_drain.terminate()
    threading_drain.join()
    assert [one.get(LIMIT_S) for one in begun] == [None, None]
    calls = [call for one in given_back for call in one.calls() if call[0].__name__ == "square"]
    done = [one for one in waiting if one.successful()]
    assert len(calls) + len(done) + (6 if mapped.successful() else 0) == 11
    ended = make_pool(processes=2)
    result = ended.apply_async(time.sleep, (LIMIT_S,))
    ended.terminate()
    ended.join()
    with pytest.raises(glasspool.TaskCancelled):
        result.get(LIMIT_S)


def test_a_pool_that_is_dropped(make_pool: Any, cluster: Cluster) -> None:
    """A pool that nobody closed says so when it is dropped, and leaves no process on its nodes."""
    pool = glasspool.Pool(2, engine=cluster.library, address=cluster.address)
    pids = {pid for *_, pid, _ in pool.run_on_all(where)}
    done = pool._engine.done
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", ResourceWarning)
        del pool
        gc.collect()
    assert any("unclosed running" in str(one.message) for one in told)
    assert done.wait(LIMIT_S)
    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in pids))


def test_endless_iterables(make_pool: Any) -> None:
    """An ``imap`` draws little ahead of its reader, and as much as it was told."""
    pool = make_pool(processes=2)
    drawn: list[list[int]] = [[], []]

    def numbers(at: int) -> Iterator[int]:
        for number in itertools.count():
            drawn[at].append(number)
            yield number

    with pool:
        bound = pool.imap(square, numbers(0), buffersize=3)
        assert [next(bound) for _ in range(10)] == [n * n for n in range(10)]
        assert len(drawn[0]) <= 13
        free = pool.imap(square, numbers(1))
        assert next(free) == 0
        assert len(drawn[1]) <= 20
        assert list(itertools.islice(free, 1000)) == [n * n for n in range(1, 1001)]


def test_mistakes(make_pool: Any, cluster: Cluster) -> None:
    """What cannot be had is an error of the call that asked for it, or of the tasks."""
    before = os.getpid()
    with pytest.raises(IndexError, match="list index"):
        make_pool(processes=2, env=lambda slot: [][slot])
    with pytest.raises(TypeError, match="env must map"):
        make_pool(processes=2, env={"name": 1})
    pool = make_pool(processes=2, initializer=tasks.raise_value_error)
    with pytest.raises(glasspool.InitializerFailed, match="raise_value_error") as caught:
        pool.apply(square, (2,))
    assert isinstance(caught.value.__cause__, ValueError)
    assert os.getpid() == before
