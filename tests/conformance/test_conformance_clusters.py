"""The programs of this folder on pools of clusters: on Dask and on Ray.

All tests of its modules run here, but for those in ``differing.DIFFERENCES``, each with the reason; what
these show on a cluster stands below.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.pool
from collections.abc import Iterator
from typing import Any

import conformance_tasks
import psutil
import pytest
import test_conformance_attributes
import test_conformance_calls
import test_conformance_lifecycle
import test_conformance_places
import test_conformance_results
import test_conformance_state
from conformance_kinds import PoolMaker
from conformance_tasks import identity, pid_of, set_shared, square
from differing import DIFFERENCES
from everywhere import Everywhere

import glasspool
import leaks

pytestmark = [pytest.mark.clusters, pytest.mark.one_python]

MODULES = (
    test_conformance_attributes,
    test_conformance_calls,
    test_conformance_lifecycle,
    test_conformance_places,
    test_conformance_results,
    test_conformance_state,
)

LIMIT_S = 30

for _module in MODULES:
    for _name, _value in vars(_module).items():
        if _name.startswith("test_") and _name not in {one.test for one in DIFFERENCES}:
            globals()[_name] = _value

gated = test_conformance_results.gated


class ClusterPoolMaker(PoolMaker):
    """Makes pools on a cluster, whatever context a test means."""

    def __init__(self, engine: str, address: Any) -> None:
        super().__init__("glasspool")
        self.engine, self.address = engine, address

    def __call__(self, *args: Any, **kwds: Any) -> multiprocessing.pool.Pool:
        kwds.pop("context", None)
        pool = glasspool.Pool(*args, engine=self.engine, address=self.address, **kwds)
        self._made.append(pool)
        return pool


@pytest.fixture(scope="module", params=["dask", "ray"])
def engine(request: pytest.FixtureRequest) -> str:
    """Run the test on each engine in turn."""
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def address(engine: str, request: pytest.FixtureRequest) -> Any:
    """Return the cluster of an engine."""
    return request.getfixturevalue(f"{engine}_address")


@pytest.fixture(scope="module")
def start_method() -> str:
    """Return how workers of clusters are started."""
    return "forkserver"


@pytest.fixture(scope="module")
def ctx() -> Iterator[Any]:
    """Return events and locks that work from any machine."""
    made = Everywhere()
    yield made
    made.end()


@pytest.fixture
def one_ctx(ctx: Any) -> Any:
    """Return the same."""
    return ctx


@pytest.fixture
def make_pool(address: Any, engine: str, ctx: Any, leak_check: None) -> Iterator[PoolMaker]:
    """Return a callable that makes pools on the cluster."""
    maker = ClusterPoolMaker(engine, address)
    yield maker
    maker.end()


make_ours = make_pool


@pytest.fixture(scope="module")
def shared_pool(
    address: Any, engine: str, ctx: Any, standing_processes: None
) -> Iterator[multiprocessing.pool.Pool]:
    """Return a pool of two workers, on two nodes, that the tests of this module share."""
    with leaks.nothing_left(beside_clusters=True):
        pool = glasspool.Pool(2, engine=engine, address=address)
        yield pool
        pool.terminate()
        pool.join()


def test_workers_seen_from_inside(shared_pool: Any) -> None:
    """A worker's process is daemonic, its pid is the true one, and that of a worker in ``inspect()``."""
    seen = shared_pool.apply(identity)
    assert seen["daemon"] is True
    assert seen["pid"] == seen["os_pid"]
    assert seen["pid"] in {worker.pid for worker in shared_pool.inspect().workers}


def test_numbers_of_workers(shared_pool: Any) -> None:
    """A worker's name has its start method and its identity."""
    seen = shared_pool.apply(identity)
    numbers = ":".join(map(str, seen["identity"]))
    assert numbers
    assert seen["name"].endswith(f"ForkServerPoolWorker-{numbers}")


def test_no_children_here(shared_pool: Any) -> None:
    """``active_children()`` has no worker of a cluster."""
    here = {child.pid for child in multiprocessing.active_children()}
    assert not here & set(shared_pool.map(pid_of, range(4), 1))


def test_size_without_handles(shared_pool: Any) -> None:
    """``_processes`` is the size; for processes there are no handles, and asking says what there is."""
    assert shared_pool._processes == 2
    assert "pool_size=2" in repr(shared_pool)
    with pytest.raises(glasspool.EngineCannot, match=r"inspect\(\)"):
        _ = shared_pool._pool


class OwnProcesses(glasspool.Pool):
    """A pool whose processes are of another class."""

    @staticmethod
    def Process(ctx: Any, *args: Any, **kwds: Any) -> Any:
        """Return a process that nobody will want."""
        return ctx.Process(*args, **kwds)


class OwnContext(multiprocessing.context.SpawnContext):
    """A context whose processes are of another class."""

    Process = type("Process", (multiprocessing.context.SpawnProcess,), {})


def test_own_processes(engine: str, address: Any, leak_check: None) -> None:
    """A pool or a context with processes of its own is refused before anything is started."""
    with pytest.raises(glasspool.EngineCannot, match="Process"):
        OwnProcesses(1, engine=engine, address=address)
    with pytest.raises(glasspool.EngineCannot, match="Process"):
        glasspool.Pool(1, engine=engine, address=address, context=OwnContext())


def test_fork_is_refused(engine: str, address: Any, leak_check: None) -> None:
    """Fork is refused, and what may be given in its place is named."""
    with pytest.raises(glasspool.EngineCannot, match="forkserver, spawn"):
        glasspool.Pool(
            1, engine=engine, address=address, context=multiprocessing.get_context("fork")
        )


def test_workers_are_gone(make_pool: PoolMaker) -> None:
    """After ``join`` no worker is alive."""
    pool = make_pool(2)
    workers = [psutil.Process(pid) for pid in set(pool.map(pid_of, range(20), 1))]
    pool.close()
    pool.join()
    assert psutil.wait_procs(workers, LIMIT_S)[1] == []


def test_forgotten_while_it_runs(engine: str, address: Any, leak_check: None) -> None:
    """A pool that is forgotten while it runs gives a ResourceWarning, and ends."""
    held: list[Any] = [glasspool.Pool(1, engine=engine, address=address)]
    assert held[0].apply(square, (2,)) == 4
    with pytest.warns(ResourceWarning, match="unclosed running"):
        test_conformance_lifecycle.forget(held)


def test_size_of_a_cluster(make_pool: PoolMaker) -> None:
    """Without a size a pool has as many workers as the cluster has processors."""
    pool: Any = make_pool()
    nodes = pool._engine.collector.nodes.values()
    assert pool._processes == sum(node.node.processors for node in nodes) > 1
    assert len(nodes) == 2


@pytest.mark.parametrize("end", ["close", "terminate"])
def test_submit_after(make_pool: PoolMaker, end: str) -> None:
    """A closed or terminated pool refuses work."""
    pool = make_pool(1)
    getattr(pool, end)()
    for submission in test_conformance_lifecycle.SUBMISSIONS.values():
        with pytest.raises(ValueError, match="Pool not running"):
            submission(pool)
    pool.join()


def test_initializer_by_value(make_pool: PoolMaker) -> None:
    """An initializer may be a lambda, and its arguments may hold one: they travel by value."""
    local = {"function": lambda: "travelled"}
    pool = make_pool(2, lambda value: set_shared(value["function"]()), (local,))
    assert pool.map(conformance_tasks.get_shared, range(4), 1) == ["travelled"] * 4


def test_each_difference_is_one() -> None:
    """What is declared as different is a test of the local pool's, and what stands for it is here."""
    shown = {name for module in MODULES for name in vars(module)}
    assert {one.test for one in DIFFERENCES} <= shown
    assert {one.instead for one in DIFFERENCES} - {""} <= set(globals())
