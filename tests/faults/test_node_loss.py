"""Whole nodes of clusters that are killed, stand still, are slow, or leave; and the cluster itself gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cluster_fault_tasks as tasks
import psutil
import pytest

import glasspool
from clusters import Cluster, DaskCluster, Wire, opened
from glasspool.engines.cluster import silence
from pools import check_ledger, wait_until

pytestmark = [pytest.mark.clusters, pytest.mark.one_python, pytest.mark.timeout(180)]

LIMIT_S = 60.0
ENGINES = ("dask", "ray")
NOTICED_S = 10.0
"""So soon after the engine's noticing everything that a lost node held has ended, or runs elsewhere."""

Make = Callable[..., glasspool.Pool]


@pytest.fixture(params=ENGINES)
def cluster(request: pytest.FixtureRequest) -> Cluster:
    """Return a cluster with two nodes, which may be broken; not the first one."""
    found: Cluster = request.getfixturevalue(f"{request.param}_cluster")
    return found


@pytest.fixture
def make(cluster: Cluster) -> Iterator[Make]:
    """Make pools that end with the test."""
    made: list[glasspool.Pool] = []

    def one(**told: Any) -> glasspool.Pool:
        made.append(glasspool.Pool(engine=cluster.library, address=cluster.address, **told))
        return made[-1]

    yield one
    for pool in made:
        pool.terminate()
        pool.join()
    sweep()


def sweep() -> None:
    """Remove what agents have left in the folder of this machine that were killed."""
    for file in Path(os.environ["GLASSPOOL_DIR"]).glob("*.*.*"):
        if not _lives(int(file.suffixes[-2][1:])):
            file.unlink(missing_ok=True)


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def nodes_of(pool: glasspool.Pool) -> list[Any]:
    """Return the nodes of a pool that are ready."""
    nodes: Any = pool._engine.collector
    return [node for node in nodes.nodes.values() if node.state == "ready"]


def lost(pool: glasspool.Pool) -> list[Any]:
    """Return the nodes that a pool has lost."""
    nodes: Any = pool._engine.collector
    return [node for node in nodes.gone if node.state == "lost"]


def seen(path: Path) -> Counter[int]:
    """Return how often each task has begun."""
    return Counter(map(int, path.read_text().split()))


@pytest.mark.parametrize("retries", [0, 1])
def test_a_node_killed_among_10000_tasks(
    cluster: Cluster, make: Make, tmp_path: Path, retries: int
) -> None:
    """Every task ends once; only those of the lost node are lost, or run twice; the pool goes on."""
    count, path = 10_000, tmp_path / "ids"
    pool = make(retries=retries)
    assert len(nodes_of(pool)) == 2
    rows = [pool.apply_async(tasks.note, (str(path), i, 0.001)) for i in range(count)]
    ended: Any = pool._engine.collector.ledger.ended
    wait_until(lambda: ended["done"] > count // 10, "it is in the middle of it")
    cluster.remove(cluster.members[-1])
    wait_until(lambda: lost(pool), "it is noticed")
    noticed = time.monotonic()
    (gone,) = {node.name for node in lost(pool)}
    held = [row for row in rows if row.ready() and not row.successful()]
    assert time.monotonic() - noticed < NOTICED_S
    died, told = [], set()
    for i, row in enumerate(rows):
        try:
            assert row.get(LIMIT_S) == i
        except glasspool.WorkerDied as error:
            died.append(i)
            certificate = error.certificate
            told.add((certificate.node, certificate.whole_node, gone in str(error)))
    assert told <= {(gone, True, True)}
    begun = seen(path)
    twice = {i for i, times in begun.items() if times > 1}
    assert max(begun.values()) <= 1 + retries
    assert not {*range(count)} - {*begun} - {*died}, "each ran, or was lost"
    if retries:
        assert not died
        assert len(twice) < 2_000
    else:
        assert not twice
        assert 0 < len(died) < 2_000
        assert len(held) <= len(died)
    assert ended == {"done": count - len(died), "failed": 0, "lost": len(died), "cancelled": 0,
                     "timeout": 0}  # fmt: skip
    check_ledger(pool)
    if retries == 0:
        cluster.add()
        wait_until(lambda: len(nodes_of(pool)) == 2, "a node that joins is used", LIMIT_S)
        job = pool.map_async(tasks.agent_pid, range(20), chunksize=1)
        assert len(set(job.get(LIMIT_S))) == 2


def test_an_agent_killed(cluster: Cluster, make: Make, tmp_path: Path) -> None:
    """If only the agent's process dies, its task is lost, its workers end, and the node gets a new agent."""
    if cluster.library == "dask":
        pytest.skip("an agent of Dask lives in the worker: that is the whole node")
    pool = make()
    first, second = nodes_of(pool)
    rows = [pool.apply_async(tasks.wait_for, (str(tmp_path / f"{i}"),)) for i in range(2)]
    wait_until(lambda: len(list(tmp_path.iterdir())) == 2, "both run")
    os.kill(second.about["pid"], signal.SIGKILL)
    wait_until(lambda: lost(pool), "it is noticed")
    (died,) = [row for row in rows if _died(row)]
    with pytest.raises(glasspool.WorkerDied) as caught:
        died.get(LIMIT_S)
    assert caught.value.certificate.node == second.name
    for i in range(2):
        (tmp_path / f"{i}.go").touch()
    wait_until(lambda: len(nodes_of(pool)) == 2, "there is a new agent")
    wait_until(
        lambda: len(set(pool.map(tasks.agent_pid, range(20), chunksize=1))) == 2, "both work"
    )
    assert first in nodes_of(pool)


def _died(row: Any) -> bool:
    row.wait(5)
    return row.ready() and not row.successful()


@pytest.mark.whole_matrix
def test_a_node_that_stands_still(
    cluster: Cluster, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A silent node counts as lost after a while; what it says when it wakes up counts for nothing."""
    monkeypatch.setenv(silence.VARIABLE, "4")
    path, count = tmp_path / "ids", 400
    pool = make(retries=1)
    assert len(nodes_of(pool)) == 2
    rows = [pool.apply_async(tasks.note, (str(path), i, 0.03)) for i in range(count)]
    ended: Any = pool._engine.collector.ledger.ended
    wait_until(lambda: ended["done"] > 20, "it is in the middle of it")
    victim = cluster.members[-1]
    victim.stop()
    try:
        assert [row.get(LIMIT_S) for row in rows] == list(range(count))
        gone = lost(pool)  # perhaps several times: Ray goes on to list it for a while
        assert len({node.name for node in gone}) == 1
        if cluster.library == "dask":  # the head of Ray may be the first to miss it
            assert "has not answered" in gone[0].why
    finally:
        victim.resume()

    def are_two() -> bool:
        cluster.top_up(2)  # a node of Ray ends when it hears that it counts as lost
        return len(nodes_of(pool)) == 2

    wait_until(are_two, "it is back, or there is another", LIMIT_S)
    assert ended["done"] == count
    assert max(seen(path).values()) <= 2
    assert pool.map(tasks.square, range(100), chunksize=1) == [i * i for i in range(100)]
    check_ledger(pool)


def test_a_slow_node(cluster: Cluster, make: Make, tmp_path: Path) -> None:
    """What a busy node has been given ahead goes to one that is idle."""
    pool = make()
    assert len(nodes_of(pool)) == 2
    stuck = pool.apply_async(tasks.wait_for, (str(tmp_path / "stuck"),))
    wait_until(lambda: (tmp_path / "stuck").exists(), "one node is busy")
    rows = [pool.apply_async(tasks.square, (i,)) for i in range(500)]
    assert [row.get(LIMIT_S) for row in rows] == [i * i for i in range(500)]
    (tmp_path / "stuck.go").touch()
    stuck.get(LIMIT_S)


def test_a_node_lost_while_the_pool_closes(cluster: Cluster, make: Make, tmp_path: Path) -> None:
    """``join`` returns, and every task has ended."""
    pool = make()
    rows = [pool.apply_async(tasks.wait_for, (str(tmp_path / f"{i}"),)) for i in range(2)]
    wait_until(lambda: len(list(tmp_path.iterdir())) == 2, "both run")
    pool.close()
    cluster.remove(cluster.members[-1])
    wait_until(lambda: sum(row.ready() for row in rows) == 1, "one is lost")
    for i in range(2):
        (tmp_path / f"{i}.go").touch()
    pool.join()
    assert all(row.ready() for row in rows)
    assert sum(row.successful() for row in rows) == 1


def test_a_node_that_leaves(make: Make, tmp_path: Path, cluster: Cluster) -> None:
    """Fewer workers are wanted: what the node that goes has not begun runs elsewhere, all else ends there."""
    pool = make(processes=2)
    path, count = tmp_path / "ids", 200
    rows = [pool.apply_async(tasks.note, (str(path), i, 0.02)) for i in range(count)]
    wait_until(lambda: path.exists(), "it has begun")
    pool.resize(1)
    assert [row.get(LIMIT_S) for row in rows] == list(range(count))
    wait_until(lambda: len(nodes_of(pool)) == 1, "it has left")
    assert set(seen(path).values()) == {1}


# The cluster gone ----------------------------------------------------------------------------------


@pytest.mark.whole_matrix  # a head of Ray is given a quarter of a minute to answer
@pytest.mark.parametrize("library", ENGINES)
def test_the_cluster_is_gone(library: str) -> None:
    """Without a scheduler, or a head, all calls end with an error that says so, and ``join`` returns.

    In a program of its own: a process can be connected to one cluster of Ray only.
    """
    program = Path(__file__).with_name("cluster_loss_program.py")
    paths = [str(Path(__file__).parents[1]), str(Path(glasspool.__file__).parents[1])]
    done = subprocess.run(
        [sys.executable, str(program), library],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*paths, str(program.parent)])},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    sweep()
    assert done.returncode == 0, done.stderr[-4000:]
    told = dict(line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line)
    assert told["running"] in ("EngineUnavailable", "WorkerDied")
    assert told["waiting"] == "EngineUnavailable"
    assert told["new"] == "EngineUnavailable"
    assert told["joined"] == "yes"


@pytest.mark.whole_matrix
def test_a_network_that_is_cut(wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node without a network is lost; when it is mended nothing counts twice, and it works again."""
    monkeypatch.setenv(silence.VARIABLE, "4")
    path, count = tmp_path / "ids", 300
    with opened(lambda: DaskCluster(2, wire)) as cluster:
        pool = glasspool.Pool(engine="dask", address=cluster.address, retries=1)
        rows = [pool.apply_async(tasks.note, (str(path), i, 0.01)) for i in range(count)]
        ended: Any = pool._engine.collector.ledger.ended
        wait_until(lambda: ended["done"] > 20, "it is in the middle of it")
        cluster.members[-1].cut()
        assert [row.get(LIMIT_S) for row in rows] == list(range(count))
        assert lost(pool)
        cluster.members[-1].heal()
        assert pool.map(tasks.square, range(100), chunksize=1) == [i * i for i in range(100)]
        assert ended["done"] == count + 100
        assert max(seen(path).values()) <= 2
        pool.close()
        pool.join()
    sweep()
