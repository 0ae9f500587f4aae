"""What travels to the nodes of real clusters and back: how much of it, and what becomes of what cannot."""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import cluster_data_tasks as tasks
import numpy as np
import pytest

import glasspool
from clusters import Cluster
from glasspool.engines.cluster import agent, freight, words
from glasspool.engines.cluster.nodes import RemoteNode
from glasspool.engines.local.segments import MOST_IDLE

pytestmark = [pytest.mark.clusters, pytest.mark.one_python, pytest.mark.timeout(120)]

LIBRARIES = ("dask", "ray")
LIMIT_S = 30.0

MB = 1_000_000

MOST_KEPT = 2 * MOST_IDLE
"""A process keeps so many segments that are idle, or lent by its one worker: however many there were."""


@pytest.fixture(params=LIBRARIES)
def cluster(request: pytest.FixtureRequest) -> Cluster:
    """Return a cluster of each library, with two nodes."""
    found: Cluster = request.getfixturevalue(f"{request.param}_cluster")
    return found


@contextlib.contextmanager
def pool_on(cluster: Cluster, *args: Any, **options: Any) -> Iterator[glasspool.Pool]:
    """Have a pool with a worker on each node."""
    options = {"processes_per_node": 1} | options
    pool = glasspool.Pool(None, *args, engine=cluster.library, address=cluster.address, **options)
    try:
        yield pool
        pool.close()
        pool.join()
    finally:
        pool.terminate()


class Sent:
    """How many bytes of memory were sent to each node, with what the cluster keeps for it."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.by_node: dict[str, int] = {}
        flush = RemoteNode.flush

        def counting(node: RemoteNode) -> None:
            for buffer in node.buffers:
                size = getattr(buffer, "nbytes", None)  # else Ray keeps it, and fetches it once
                self.by_node[node.name] = self.by_node.get(node.name, 0) + (size or 8 * MB)
            flush(node)

        patch.setattr(RemoteNode, "flush", counting)

    def take(self) -> list[int]:
        """Return what was sent since it was asked the last time, in whole megabytes."""
        counts, self.by_node = sorted(self.by_node.values()), {}
        return [count // MB for count in counts]


def wait_until(is_true: Callable[[], bool]) -> None:
    """Wait for what nothing announces."""
    pause = threading.Event()
    for _ in range(int(LIMIT_S / 0.02)):
        if is_true():
            return
        pause.wait(0.02)
    raise TimeoutError(f"not within {LIMIT_S} s")


def segments_of(pid: int) -> int:
    """Return how many descriptors of segments a process has."""
    count = 0
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            count += "memfd:glasspool" in os.readlink(f"/proc/{pid}/fd/{fd}")
    return count


def test_shared_memory_goes_to_each_node_once(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An array that 64 tasks share is sent to a node once, and dropped on all sides when its job is over."""
    sent, array = Sent(monkeypatch), np.arange(1_000_000.0)
    wanted = [8.0 * MB + index for index in range(64)]
    with pool_on(cluster, tasks.keep, (array,)) as pool:
        engine: Any = pool._engine
        nodes = list(engine.collector.nodes.values())
        before = [segments_of(node.about["pid"]) for node in nodes]
        assert pool.map(functools.partial(tasks.element, array), range(64), 1) == wanted
        assert sent.take() == [8, 8]
        assert pool.starmap(tasks.element, [(array, index) for index in range(64)], 1) == wanted
        assert sent.take() == [8, 8]
        assert pool.map(tasks.kept_element, range(64), 1) == wanted
        assert sent.take() == []  # it came with the order of the agents
        gc.collect()
        wait_until(lambda: not len(engine.collector.sharing))
        wait_until(
            lambda: all(
                segments_of(node.about["pid"]) <= count + MOST_KEPT
                for node, count in zip(nodes, before, strict=True)
            )
        )
        assert not any(node.shared for node in nodes)


def test_large_values_arrive(cluster: Cluster) -> None:
    """Results of any size, larger than a store of Ray's too, arrive to be written to; so do arguments."""
    with pool_on(cluster) as pool:
        small, large = pool.map(tasks.filled, [3 * MB, 20 * MB], 1)
        for array, length in ((small, 3 * MB), (large, 20 * MB)):
            assert array.shape == (length,)
            assert array.sum() == length
            array[:] = 2.0
        assert pool.apply(tasks.element, (large, 5)) == 2.0 + 160 * MB


@pytest.mark.whole_matrix
def test_many_large_values_leave_nothing(cluster: Cluster) -> None:
    """After 300 tasks with large arguments and results no process has more segments than it may keep."""
    with pool_on(cluster) as pool:
        nodes = list(pool._engine.collector.nodes.values())  # type: ignore[attr-defined]
        pids = [os.getpid(), *(node.about["pid"] for node in nodes)]
        before = [segments_of(pid) for pid in pids]
        array = np.zeros(100_000)
        for index, result in enumerate(pool.imap(tasks.numbered, range(200))):
            assert result[7] == index
        results = [pool.apply_async(tasks.element, (array, index)) for index in range(100)]
        assert [result.get(LIMIT_S) for result in results] == [800_000.0] * 100
        del results, result
        gc.collect()
        wait_until(lambda: not any(node.held and len(node.held) for node in nodes))
        wait_until(
            lambda: all(
                segments_of(pid) <= count + MOST_KEPT
                for pid, count in zip(pids, before, strict=True)
            )
        )
        assert sum(node.bytes_held for node in nodes) == 0


MAIN = """
import dataclasses, enum, sys
import glasspool

class Colour(enum.Enum):
    RED = 1
    BLUE = 2

@dataclasses.dataclass
class Point:
    x: int
    def moved(self, by): return Point(self.x + by)

class Wrong(Exception):
    def __init__(self, text, code):
        super().__init__(text, code)
        self.code = code

state = None
counts = {}
factor = 1

def begin(value):
    global state
    state = value

def scaled(x): return (state, x * factor)
def count(x):
    counts[x] = True
    return len(counts)
def is_even(n): return n == 0 or is_odd(n - 1)
def is_odd(n): return n != 0 and is_even(n - 1)
def other(colour): return Colour.BLUE if colour is Colour.RED else Colour.RED
def fail(x): raise Wrong("no", x)
def adder(n): return lambda x: x + n

if __name__ == "__main__":
    with glasspool.Pool(1, begin, ("begun",), engine=sys.argv[1], address=sys.argv[2]) as pool:
        print(pool.map(scaled, [1, 2]), pool.map(count, [1, 2], 1), pool.map(count, [3], 1))
        factor = 10
        print(pool.map(scaled, [1]), pool.map(is_even, [7, 8]))
        moved = pool.apply(Point(1).moved, (2,))
        print(moved, type(moved) is Point, pool.apply(other, (Colour.RED,)) is Colour.BLUE)
        print(pool.apply(adder, (5,))(1), pool.map(lambda x: x * factor, [2]))
        try:
            pool.apply(fail, (7,))
        except Wrong as error:
            print("Wrong", error.code)
"""


def test_the_main_module_travels(cluster: Cluster, tmp_path: Path) -> None:
    """Functions, classes, exceptions and globals of a script do as on one machine; nothing else is said."""
    (tmp_path / "program.py").write_text(MAIN)
    done = subprocess.run(
        [sys.executable, "program.py", cluster.library, cluster.address],
        cwd=tmp_path,
        env=cluster.environment(),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "[('begun', 1), ('begun', 2)] [1, 2] [3]",
        "[('begun', 10)] [False, True]",
        "Point(x=3) True True",
        "6 [20]",
        "Wrong 7",
    ]


@pytest.fixture
def absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return a module which this process has imported, and that no other one finds."""
    path = tmp_path / "absent_there.py"
    path.write_text("class Kind:\n    pass\n\ndef double(x):\n    return 2 * x\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("absent_there")
    path.unlink()
    yield module
    del sys.modules["absent_there"]


def test_a_missing_module_is_named(cluster: Cluster, absent: Any, tmp_path: Path) -> None:
    """Wherever a module is missing, one error names it and the node; by value it does without."""
    with pool_on(cluster) as pool:
        names = [node.name for node in pool._engine.collector.nodes.values()]  # type: ignore[attr-defined]

        def told(call: Callable[[], object]) -> str:
            with pytest.raises(glasspool.SerializationError, match="absent_there") as caught:
                call()
            return str(caught.value)

        for text in (
            told(lambda: pool.apply(absent.double, (1,))),
            told(lambda: pool.map(absent.double, [1])),
            told(lambda: pool.apply(tasks.same, (absent.Kind(),))),
        ):
            assert any(f"on the node {name} " in text for name in names)
            assert "Install it there" in text
            assert "register_pickle_by_value(absent_there)" in text
        with pytest.raises(ModuleNotFoundError, match="absent_there"):
            pool.apply(tasks.imports, ("absent_there",))
        with pytest.raises(glasspool.SerializationError, match="on_the_node_alone"):
            pool.apply(tasks.of_a_module_of_the_node, (str(tmp_path),))
        cloudpickle.register_pickle_by_value(absent)
        try:
            assert pool.apply(absent.double, (1,)) == 2
            assert pool.map(absent.double, [1, 2]) == [2, 4]
            assert isinstance(pool.apply(tasks.same, (absent.Kind(),)), absent.Kind)
        finally:
            cloudpickle.unregister_pickle_by_value(absent)
        assert pool.apply(tasks.square, (3,)) == 9


def test_an_initializer_that_is_missing(dask_cluster: Cluster, absent: Any) -> None:
    """No task runs, and the one error says what is missing, where, and what to do."""
    with (
        pool_on(dask_cluster, absent.double, (1,)) as pool,
        pytest.raises(glasspool.InitializerFailed, match=r"absent_there(.|\n)*Install it there"),
    ):
        pool.apply(len, ("",))


def test_what_the_cluster_cannot_keep(
    dask_cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory that the cluster refuses, or loses, ends its tasks with the reason; the pool goes on."""
    with pool_on(dask_cluster) as pool:
        array, engine = np.zeros(1_000_000), pool._engine
        partial = functools.partial(tasks.element, array)

        def refuse(buffer: Any, node: Any) -> Any:
            raise OSError("the store is full")

        monkeypatch.setattr(engine.collector.sharing, "_put", refuse)  # type: ignore[attr-defined]
        with pytest.raises(
            glasspool.GlasspoolError, match=r"its function could not .* store is full"
        ):
            pool.map(partial, range(8), 1)
        monkeypatch.undo()
        assert pool.map(partial, range(8), 1) == [8.0 * MB] * 8


def test_a_node_lost_in_the_middle_of_a_result(
    dask_cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A result of which only some pieces have come is no result: its task is done elsewhere, once."""
    with pool_on(dask_cluster) as pool:
        engine: Any = pool._engine
        members = {member.name: member for member in dask_cluster.members}
        add, killed = freight.Coming.add, threading.Event()

        def kill(coming: freight.Coming, total: int, at: int, piece: Any) -> None:
            if not killed.is_set():
                killed.set()
                node = next(n for n in engine.collector.nodes.values() if n.coming is coming)
                next(m for name, m in members.items() if node.name.endswith(name)).kill()
            add(coming, total, at, piece)

        monkeypatch.setattr(freight.Coming, "add", kill)
        results = pool.map(tasks.filled, [10 * MB] * 4, 1, retries=1)
        assert [float(result.sum()) for result in results] == [10.0 * MB] * 4
        assert killed.is_set()
        stats = pool.stats()
        assert (stats["done"], stats["lost"]) == (4, 0)


@pytest.mark.parametrize(
    ("order", "wanted"),
    [
        ((words.VERSION, (2, 7), agent.own_versions()), "Python 2.7 and this node on"),
        ((words.VERSION + 1, sys.version_info[:2], ("0.0.1", "3.0")), "has glasspool 0.0.1 and"),
        (
            (words.VERSION, sys.version_info[:2], (agent.own_versions()[0], "0.1")),
            "has cloudpickle 0.1 and this node",
        ),
    ],
)
def test_versions_that_differ_are_refused(order: tuple[Any, ...], wanted: str) -> None:
    """An agent looks at the versions before all else, and says what differs."""
    refused = agent.Agent(pickle.dumps(order), "far", lambda: None)
    message = refused.collect()
    assert message is not None
    ((word, packed),) = pickle.loads(message[0])
    assert word == words.FAILED
    assert wanted in str(freight.unpack_error(packed))
