"""What all tests share: the guard against hangs, the checks for leaks and of the ledger, the start
methods, pools and gates."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import sys
import tempfile
import zlib
from collections.abc import Generator, Iterator
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import BaseContext
from pathlib import Path

import pytest

import glasspool
from clusters import Cluster, DaskCluster, RayCluster, Wire, driver_threads_ended, opened
from gates import Gate
from glasspool import registry
from glasspool.engines import ray as ray_engine
from hang_guard import HangGuard
from leaks import nothing_left
from pools import LedgerWatch, MakePool, maker

START_METHODS = ("fork", "spawn", "forkserver")

_CHECKED_FOLDERS = ("integration", "faults", "conformance")

_FAILED = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Offer what takes too long for every day."""
    parser.addoption(
        "--whole-matrix",
        action="store_true",
        help="every fault at every moment with every start method, not only under fork",
    )
    parser.addoption(
        "--share",
        type=_share,
        default=((0,), 1),
        metavar="K[,K]/N",
        help="of the tests that run on several Pythons only these of N shares (from 1)",
    )


def _share(text: str) -> tuple[tuple[int, ...], int]:
    """Read a share: the numbers, from 0, and of how many."""
    told, _, of = text.partition("/")
    numbers = tuple(int(one) - 1 for one in told.split(","))
    if not all(0 <= number < int(of) for number in numbers):
        raise argparse.ArgumentTypeError(f"1/{of} to {of}/{of}, not {text}")
    return numbers, int(of)


def pytest_configure(config: pytest.Config) -> None:
    """Start the guard before anything can hang."""
    config.pluginmanager.register(HangGuard(), "glasspool-hang-guard")
    config.pluginmanager.register(ClustersLast(), "glasspool-clusters-last")
    config.addinivalue_line("markers", "whole_matrix: only with --whole-matrix")
    config.addinivalue_line("markers", "one_python: long, and alike on each version of Python")
    config.addinivalue_line("markers", "browser: in a real Chromium")
    config.addinivalue_line("markers", "clusters: on real clusters of Dask and Ray")
    os.environ.pop("PYTEST_ADDOPTS", None)  # meant for this run, not for those that tests start
    _keep_pytest_out_of_children()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what was not asked for."""
    whole = config.getoption("--whole-matrix")
    numbers, of = config.getoption("--share")

    def is_anothers(item: pytest.Item) -> bool:
        if item.get_closest_marker("one_python") or item.get_closest_marker("browser"):
            return False
        return zlib.crc32(item.nodeid.encode()) % of not in numbers  # alike on each machine

    left_out = {
        item
        for item in items
        if (item.get_closest_marker("whole_matrix") and not whole) or is_anothers(item)
    }
    if left_out:
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]


class ClustersLast:
    """Has the tests of clusters after all others: Dask and Ray change the process that uses them for good.

    They start threads beside which others would fork, keep descriptors, and are large.
    """

    @pytest.hookimpl(
        trylast=True
    )  # pytest itself has brought together by now what shares a fixture
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Put them there, and otherwise leave the order as it is."""
        items.sort(key=lambda item: item.get_closest_marker("clusters") is not None)


def _keep_pytest_out_of_children() -> None:
    # A spawned child imports the parent's main module again. Here that is pytest, which takes
    # longer than most tests; no test's function lives in it.
    main = sys.modules["__main__"]
    main.__spec__ = None
    if hasattr(main, "__file__"):
        del main.__file__


@pytest.fixture(scope="session", autouse=True)
def glasspool_dir() -> Iterator[Path]:
    """Keep scoreboards and sockets of the tests apart from the user's.

    The path is short because that of a Unix socket may have 107 bytes at most.
    """
    folder = tempfile.mkdtemp(prefix="gp", dir="/tmp")
    os.environ["GLASSPOOL_DIR"] = folder
    yield Path(folder)
    os.environ.pop("GLASSPOOL_DIR", None)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def standing_processes(glasspool_dir: Path) -> None:
    """Start the two processes of ``multiprocessing`` that live as long as the interpreter."""
    resource_tracker.ensure_running()
    forkserver.ensure_running()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember whether the test itself failed."""
    report = yield
    if report.when == "call":
        item.stash[_FAILED] = report.failed
    return report


@pytest.fixture(autouse=True)
def leak_check(request: pytest.FixtureRequest) -> Iterator[None]:
    """Check around each test with real processes that all is given back.

    A test that borrows a ``shared_pool`` is not checked by itself: that fixture checks its own
    whole life. Nor is a test that failed: its traceback keeps alive what it used.
    """
    if request.path.parent.name not in _CHECKED_FOLDERS or "shared_pool" in request.fixturenames:
        yield
        return
    request.getfixturevalue("standing_processes")
    check = nothing_left(beside_clusters=request.node.get_closest_marker("clusters") is not None)
    check.__enter__()
    yield
    if not request.node.stash.get(_FAILED, False):
        check.__exit__(None, None, None)


@pytest.fixture(autouse=True)
def ledger_check(
    request: pytest.FixtureRequest, leak_check: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Check the ledger of every pool that a test with real processes made or used."""
    if request.path.parent.name not in _CHECKED_FOLDERS:
        yield
        return
    watch = LedgerWatch()
    monkeypatch.setattr(registry, "add", watch.add)
    yield
    if not request.node.stash.get(_FAILED, False):
        watch.check()


@pytest.fixture(scope="session", params=START_METHODS)
def start_method(request: pytest.FixtureRequest) -> str:
    """Run the test with each start method in turn."""
    method: str = request.param
    return method


@pytest.fixture(scope="session")
def ctx(start_method: str) -> BaseContext:
    """Return the ``multiprocessing`` context of the start method."""
    return multiprocessing.get_context(start_method)


@pytest.fixture
def make(ctx: BaseContext, ledger_check: None) -> Iterator[MakePool]:
    """Return a callable that makes pools with each start method, and ends them with the test."""
    yield from maker(ctx)


@pytest.fixture
def make_forked(ledger_check: None) -> Iterator[MakePool]:
    """Return a callable that makes pools under fork, where that is enough."""
    yield from maker(multiprocessing.get_context("fork"))


@pytest.fixture
def gate(ctx: BaseContext, leak_check: None) -> Iterator[Gate]:
    """Return a gate for each start method."""
    made = Gate(ctx)
    yield made
    made.drop()


@pytest.fixture
def forked_gate(leak_check: None) -> Iterator[Gate]:
    """Return a gate for pools under fork."""
    made = Gate(multiprocessing.get_context("fork"))
    yield made
    made.drop()


@pytest.fixture(scope="session")
def whole_dask_cluster() -> Iterator[DaskCluster]:
    """Have a cluster of Dask for all tests that ask for one."""
    with opened(DaskCluster) as cluster:
        _check_usable(cluster)
        yield cluster


@pytest.fixture(scope="session")
def whole_ray_cluster() -> Iterator[RayCluster]:
    """Have a cluster of Ray for all tests that ask for one.

    This process connects to it once before all tests: Ray keeps some descriptors from then on.
    """
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    with opened(RayCluster) as cluster:
        ray_engine.connect(cluster.address).close()
        _check_usable(cluster)
        yield cluster


def _check_usable(cluster: Cluster) -> None:
    """Fail here, once, if no pool can be had there: else each of some hundred tests would wait for one."""
    pool = glasspool.Pool(engine=cluster.library, address=cluster.address, start_timeout=60.0)
    try:
        assert pool.apply_async(len, ("glass",)).get(60.0) == 5
    finally:
        pool.terminate()
        pool.join()


@pytest.fixture(scope="session", params=["dask", "ray"])
def each_whole_cluster(request: pytest.FixtureRequest) -> Cluster:
    """Have a cluster of each library in turn."""
    made: Cluster = request.getfixturevalue(f"whole_{request.param}_cluster")
    return made


@pytest.fixture
def each_cluster(each_whole_cluster: Cluster) -> Cluster:
    """Return a cluster of each library in turn, with two nodes that run; a test may break them."""
    each_whole_cluster.top_up(2)
    return each_whole_cluster


@pytest.fixture
def dask_cluster(whole_dask_cluster: DaskCluster) -> DaskCluster:
    """Return a cluster of Dask with two nodes that run; a test may break them."""
    whole_dask_cluster.top_up(2)
    return whole_dask_cluster


@pytest.fixture
def ray_cluster(whole_ray_cluster: RayCluster) -> RayCluster:
    """Return a cluster of Ray with two nodes that run; a test may break them, but not the head."""
    whole_ray_cluster.top_up(2)
    return whole_ray_cluster


@pytest.fixture(scope="module", autouse=True)
def driver_ended() -> Iterator[None]:
    """End what the libraries of clusters leave running in the driver, for those who fork after that."""
    yield
    driver_threads_ended()


@pytest.fixture(scope="session")
def wire() -> Iterator[Wire]:
    """Return a network whose nodes can be cut off, where that can be had."""
    try:
        made = Wire()
    except OSError as error:
        pytest.skip(f"no network namespaces can be made here: {error}")
    yield made
    made.close()
