"""The two kinds of pool that every program here runs on: the standard library's, and ours."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.pool
from collections.abc import Iterator
from multiprocessing.context import BaseContext

import pytest
from conformance_kinds import KINDS, PoolMaker, class_of

from clusters import DaskCluster, Member, RayCluster, opened
from leaks import nothing_left

# The stock pool forks replacements beside its own helper threads, which 3.12 and later warn of.
_STOCK_FORKS_BESIDE_THREADS = "ignore:.*multi-threaded, use of fork.*:DeprecationWarning"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the stock pool warn of what it is known for; ours may not.

    On the stock pool it is the tests that are tested: on one version of Python that is enough.
    """
    for item in items:
        callspec = getattr(item, "callspec", None)
        if callspec is not None and callspec.params.get("kind") == "stock":
            item.add_marker(pytest.mark.filterwarnings(_STOCK_FORKS_BESIDE_THREADS))
            item.add_marker(pytest.mark.one_python)


@pytest.fixture(scope="session", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Run the test on each kind of pool in turn."""
    name: str = request.param
    return name


@pytest.fixture
def one_ctx() -> BaseContext:
    """Return the context of events and locks for what is tried with one start method."""
    return multiprocessing.get_context("fork")


@pytest.fixture
def make_pool(kind: str, leak_check: None) -> Iterator[PoolMaker]:
    """Return a callable that makes pools of the kind under test."""
    maker = PoolMaker(kind)
    yield maker
    maker.end()


@pytest.fixture
def make_ours(leak_check: None) -> Iterator[PoolMaker]:
    """Return a callable that makes pools of ours, for what the stock pool cannot do."""
    maker = PoolMaker("glasspool")
    yield maker
    maker.end()


@pytest.fixture(scope="module")
def shared_pool(
    kind: str, ctx: BaseContext, standing_processes: None
) -> Iterator[multiprocessing.pool.Pool]:
    """Return a pool of two workers that the tests of a module share.

    Ours gives everything back when joined. The stock pool does so only when nothing refers to it
    any more, and pytest does.
    """
    with nothing_left() if kind == "glasspool" else contextlib.nullcontext():
        pool = class_of(kind)(2, context=ctx)
        yield pool
        pool.terminate()
        pool.join()


class RoomyRay(RayCluster):
    """A cluster whose nodes have place for the agents of several pools: Ray counts processors."""

    def _begin(self, processors: int, is_head: bool = False) -> Member:
        return super()._begin(4, is_head)


@pytest.fixture(scope="session")
def ray_address() -> Iterator[str]:
    """Return where a cluster of Ray with two nodes is."""
    with opened(RoomyRay) as cluster:
        yield cluster.address


@pytest.fixture(scope="session")
def dask_address(whole_dask_cluster: DaskCluster) -> str:
    """Return where a cluster of Dask with two nodes is."""
    whole_dask_cluster.top_up(2)
    return whole_dask_cluster.address
