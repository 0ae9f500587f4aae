"""What limits a pool on many nodes: a model of the driver, and how far it is from what is measured.

    python -m bench.scale [--fakes 10,100,1000] [--nodes 1,2,4,8,16] [--ray 2] [--json FILE]

Two parts:

* The driver alone, with nodes that are made up: seats that answer at once, each task by itself as long
  ones do, or all of a message together as short ones do, or one call after the other. The processor time
  of the dispatcher's thread is fitted by a cost for each task, each message there and back, each turn of
  its loop and, in each turn, each node. The fit is made on some numbers of nodes and tried on others.
* Real nodes: workers of Dask, and nodes of Ray, on loopback with one place each, with tasks that sleep and
  tasks that do nothing. The processor time of the whole driver, its library with it, is fitted by a cost for
  each task and each message on the fewest nodes, and tried on those with more.

``docs/internals/scale.md`` says what follows.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import json
import pickle
import queue
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from bench import cluster_nodes, cluster_tasks

PLACES = 4
SLEEP_S = 0.05
EACH = 12
"""So many sleeping tasks for each node are timed; of no-ops ``NO_OPS`` in all."""
NO_OPS = 20_000
REST_S = 10.0
"""Each node's clock is asked for once in this time."""

FITTED = 4
"""Real runs with at most so many nodes give the constants; those with more are predicted."""


# Nodes that are made up ----------------------------------------------------------------------------------


class FakeSeat:
    """A seat whose agent ends each task at once."""

    def __init__(self, link: FakeLink, told: Any) -> None:
        self._link = link
        self._told = told

    def send(self, message: Any) -> None:
        """As the protocol says."""
        self._link.sent += 1
        self._link.line.put((self._told, message.body))

    def end(self, grace_s: float) -> None:
        """As the protocol says."""
        self._told.lost("it was ended")


class FakeLink:
    """So many nodes, which exist only in the driver; one thread answers for all of them."""

    library = "dask"
    address = "nowhere"

    def __init__(self, count: int, pace_ns: int, singly: bool) -> None:
        self._nodes = count
        self._pace_ns = pace_ns
        self._singly = singly
        self.sent = self.heard = 0  # messages
        self.line: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._answer, name="answers", daemon=True)
        self._thread.start()

    def nodes(self) -> list[Any]:
        """As the protocol says."""
        from glasspool.engines.cluster.link import Node

        return [Node(f"n{n}", f"n{n}", "here", PLACES) for n in range(self._nodes)]

    def seat(self, node: Any, setup: bytes, processors: int, told: Any) -> FakeSeat:
        """As the protocol says."""
        from glasspool.engines.cluster import words

        seat = FakeSeat(self, told)
        about = {"version": words.VERSION, "pid": 1, "host": node.name, "places": PLACES}
        about |= {"size": PLACES, "python": "", "start_method": "forkserver", "scoreboard": ""}
        self._say(
            told, [(words.HELLO, about), (words.WORKER, 1, 0, 0, 1, 1, 1, "MainThread", True, 0)]
        )
        return seat

    def put(self, buffer: Any, node: Any) -> Any:
        """As the protocol says."""
        return buffer

    def close(self) -> None:
        """As the protocol says."""
        self.line.put(None)

    def _say(self, told: Any, said: list[tuple[Any, ...]]) -> None:
        self.heard += 1
        told.arrived(pickle.dumps(said, 5), ())

    def _answer(self) -> None:
        from glasspool.engines.cluster import words

        while (item := self.line.get()) is not None:
            told, body = item
            for word in pickle.loads(body):
                if word[0] == words.TASKS:
                    ids = word[4]
                    for some in [[one] for one in ids] if self._singly else [ids]:
                        self._say(told, [self._ends(some)])
                elif word[0] == words.PING:
                    now = time.monotonic_ns()
                    self._say(told, [(words.PONG, word[1], now, time.time_ns())])
                elif word[0] in (words.CLOSE, words.TERMINATE):
                    self._say(told, [(words.GONE,)])

    def _ends(self, ids: list[int]) -> tuple[Any, ...]:
        from glasspool.engines.cluster import words
        from glasspool.engines.local import wire

        now, count = time.monotonic_ns(), len(ids)
        begun, ended = [now - self._pace_ns] * count, [now] * count
        return (words.ENDS, ids, [wire.OK_PLAIN] * count, [None] * count, [1] * count, begun, ended)


class Driven(NamedTuple):
    """What the driver's threads did for so many tasks on so many nodes."""

    nodes: int
    how: str
    tasks: int
    sent: int
    heard: int
    turns: int
    dispatcher_s: float  # processor time of its thread
    wall_s: float
    join_s: float  # until all nodes had joined
    leave_s: float  # from ``close`` until all had left
    resting: float  # processors, while there is nothing to do


@contextlib.contextmanager
def fake_pool(link: FakeLink) -> Iterator[Any]:
    """Make a pool on nodes that are made up."""
    import glasspool
    from glasspool.engines.cluster import making

    with mock.patch.object(making, "_connect", return_value=link):
        pool = glasspool.Pool(engine="dask")
    try:
        yield pool
    finally:
        pool.terminate()
        pool.join()


SINGLY, TOGETHER, ALONE = "singly", "together", "alone"
PARTS = {SINGLY: 4, TOGETHER: 1, ALONE: 40}
"""What becomes of the tasks on the nodes that are made up, and which part of them is enough."""


def drive(nodes: int, tasks: int, how: str) -> Driven:
    """Measure the driver alone."""
    pace_ns, singly = 20_000 if how == TOGETHER else 1_000_000_000, how != TOGETHER
    link = FakeLink(nodes, pace_ns, singly)
    begun = time.perf_counter()
    with fake_pool(link) as pool:
        join_s = time.perf_counter() - begun
        engine = pool._engine
        pool.map(cluster_tasks.nothing, range(nodes * PLACES), chunksize=1)  # the pace is known
        turns = 0
        flush = engine.collector._flush

        def counted() -> None:  # the last act of each turn
            nonlocal turns
            turns += 1
            flush()

        engine.collector._flush = counted
        ident = engine.threads["task-handler+result-handler"].ident
        clock = time.pthread_getcpuclockid(ident)
        sent, heard, used_s = link.sent, link.heard, time.clock_gettime(clock)
        begun = time.perf_counter()
        if how == ALONE:
            for number in range(tasks):
                pool.apply(cluster_tasks.nothing, (number,))
        else:
            pool.map(cluster_tasks.nothing, range(tasks), chunksize=1)
        wall_s = time.perf_counter() - begun
        used_s = time.clock_gettime(clock) - used_s
        counts = (link.sent - sent, link.heard - heard, turns)
        resting = _resting() if how == ALONE else 0.0
        begun = time.perf_counter()
        pool.close()
        pool.join()
        leave_s = time.perf_counter() - begun
    return Driven(nodes, how, tasks, *counts, used_s, wall_s, join_s, leave_s, resting)


def _resting() -> float:
    """Return how much of a processor a pool takes that has nothing to do, all its threads."""
    time.sleep(2.0)  # the first looks at the clocks of nodes follow each other closely
    used_s = time.process_time()
    time.sleep(REST_S)
    return (time.process_time() - used_s) / REST_S


def memory(nodes: int = 200, tasks: int = 50_000) -> tuple[float, float]:
    """Return how many bytes of the driver a node takes, and a task that waits."""
    tracemalloc.start()
    try:
        with fake_pool(FakeLink(1, 20_000, False)) as pool:  # all is imported
            pool.map(cluster_tasks.nothing, range(100), chunksize=1)
        before = _traced()
        with fake_pool(FakeLink(nodes, 20_000, False)) as pool:
            pool.map(cluster_tasks.nothing, range(nodes * PLACES), chunksize=1)
            of_node = (_traced() - before) / nodes
            pool._engine.collector.hand_out = lambda: None  # nothing leaves
            before = _traced()
            pool.map_async(cluster_tasks.nothing, range(tasks), chunksize=1)
            limit = time.monotonic() + 60.0
            while pool.stats()["waiting"] < tasks and time.monotonic() < limit:
                time.sleep(0.02)
            return of_node, (_traced() - before) / tasks
    finally:
        tracemalloc.stop()


def _traced() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


class Costs(NamedTuple):
    """Of the dispatcher's thread, in microseconds."""

    task: float
    sent: float  # a message to a node
    heard: float  # one from a node
    turn: float
    node: float  # in each turn


def fit(found: Sequence[Driven]) -> Costs:
    """Fit the costs, with errors in proportion to what was measured; none is negative."""
    import numpy as np

    rows = np.array(
        [(one.tasks, one.sent, one.heard, one.turns, one.nodes * one.turns) for one in found], float
    )
    taken = np.array([one.dispatcher_s for one in found])
    rows, ones = rows / taken[:, None], np.ones(len(found))
    use = [0, 1, 2, 3, 4]
    while True:
        costs, *_ = np.linalg.lstsq(rows[:, use], ones, rcond=None)
        if (costs >= 0).all():
            break
        del use[int(costs.argmin())]
    full = dict(zip(use, costs * 1e6, strict=True))
    return Costs(*(float(full.get(n, 0.0)) for n in range(5)))


def predicted_s(costs: Costs, one: Driven) -> float:
    """Return what the model says for a run."""
    in_turns = (costs.turn + costs.node * one.nodes) * one.turns
    in_messages = costs.sent * one.sent + costs.heard * one.heard
    return (costs.task * one.tasks + in_messages + in_turns) / 1e6


# Real nodes ----------------------------------------------------------------------------------------------


class Real(NamedTuple):
    """A run of tasks on so many real nodes on this machine."""

    library: str
    nodes: int
    what: str
    tasks: int
    messages: int  # both ways
    wall_s: float
    driver_s: float  # processor time of the driver's process, the library's threads with it
    all_s: float  # of all processes
    start_s: float
    inspect_s: float


class Loads(NamedTuple):
    """What a message costs a driver and a task does, in microseconds, with all of the library's work."""

    task: float
    message: float


SLEEPS, NOTHING = f"sleeps of {SLEEP_S * 1e3:.0f} ms", "no-ops"


def real(library: str, nodes: int) -> list[Real]:
    """Measure a pool on so many real nodes with one place each."""
    import glasspool

    with cluster_nodes.cluster(library, nodes) as where, _counted() as counts:
        pids = [one.pid for one in where.processes]
        begun = time.perf_counter()
        with glasspool.Pool(nodes, engine=library, address=where.address) as pool:
            start_s = time.perf_counter() - begun
            for _ in range(2):  # everybody has run both
                pool.map(cluster_tasks.lasting, [0.01] * (2 * nodes), chunksize=1)
                pool.map(cluster_tasks.nothing, range(500 * nodes), chunksize=1)
            inspect_s = min(_used(pool.inspect, pids)[0] for _ in range(3))
            found = []
            for what, function, items in (
                (SLEEPS, cluster_tasks.lasting, [SLEEP_S] * (EACH * nodes)),
                (NOTHING, cluster_tasks.nothing, range(NO_OPS)),
            ):
                before = sum(counts.values())
                used = _used(functools.partial(pool.map, function, items, 1), pids)
                messages = sum(counts.values()) - before
                row = (library, nodes, what, len(items), messages, *used, start_s, inspect_s)
                found.append(Real(*row))
            pool.close()
            pool.join()
    return found


@contextlib.contextmanager
def _counted() -> Iterator[dict[str, int]]:
    """Count the messages of pools on clusters; each kind belongs to one thread."""
    from glasspool.engines.cluster.nodes import Ear, RemoteNode

    counts = {"sent": 0, "heard": 0}
    flush, arrived = RemoteNode.flush, Ear.arrived

    def flushed(node: RemoteNode) -> None:
        counts["sent"] += 1
        flush(node)

    def heard(ear: Ear, body: bytes, buffers: Sequence[Any]) -> None:
        counts["heard"] += 1
        arrived(ear, body, buffers)

    with mock.patch.object(RemoteNode, "flush", flushed), mock.patch.object(Ear, "arrived", heard):
        yield counts


def _used(call: Callable[[], object], pids: Sequence[int]) -> tuple[float, float, float]:
    """Return how long a call took, and what processor time of this process, and of all of them."""
    before, mine, begun = _children_s(pids), time.process_time(), time.perf_counter()
    call()
    wall_s, mine_s = time.perf_counter() - begun, time.process_time() - mine
    return wall_s, mine_s, mine_s + _children_s(pids) - before


def _children_s(pids: Sequence[int]) -> float:
    import psutil

    taken = 0.0
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            top = psutil.Process(pid)
            for one in (top, *top.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    times = one.cpu_times()
                    taken += times.user + times.system
    return taken


def loads(known: Sequence[Real]) -> Loads:
    """Fit what a task and what a message costs a driver, with errors in proportion."""
    import numpy as np

    taken = np.array([one.driver_s for one in known])
    rows = np.array([(one.tasks, one.messages) for one in known], float) / taken[:, None]
    costs, *_ = np.linalg.lstsq(rows, np.ones(len(known)), rcond=None)
    return Loads(*(max(0.0, float(cost)) * 1e6 for cost in costs))


# Tables --------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, fit, and print prediction against measurement."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.scale",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--fakes", default="3,10,30,100,300,1000", metavar="N,N", help="made-up nodes"
    )
    parser.add_argument("--nodes", default="1,2,4,8,16", metavar="N,N", help="workers of Dask")
    parser.add_argument("--ray", default="2", metavar="N", help="nodes of Ray")
    parser.add_argument("--tasks", type=int, default=40_000, help="of the driver alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all that was measured")
    told = parser.parse_args(arguments)
    driven = _driver([int(n) for n in told.fakes.split(",") if n], told.tasks)
    found = _nodes("dask", [int(n) for n in told.nodes.split(",") if n])
    found += _nodes("ray", [int(n) for n in told.ray.split(",") if n])
    if told.json is not None:
        document = {
            "driven": [one._asdict() for one in driven],
            "real": [r._asdict() for r in found],
        }
        told.json.write_text(json.dumps(document, indent=1))
    return 0


def _driver(counts: Sequence[int], tasks: int) -> list[Driven]:
    """Fit on every second number of nodes, and predict the others."""
    if not counts:
        return []
    of_node, of_task = memory()
    found = [drive(count, tasks // part, how) for count in counts for how, part in PARTS.items()]
    known = [one for one in found if one.nodes in counts[::2]]
    costs = fit(known)
    print(
        f"the dispatcher's thread: {costs.task:.2f} µs for a task, {costs.sent:.1f} µs for a message to a "
        f"node and {costs.heard:.1f} µs for one from it, "
        f"{costs.turn:.1f} µs for a turn and {costs.node:.3f} µs for each node in it; "
        f"memory: {of_node / 1024:.1f} KB for a node, {of_task:.0f} bytes for a task that waits"
    )
    print(f"{'nodes':>6} {'tasks travel':<12}{'sent':>9}{'heard':>9}{'turns':>7}{'measured':>12}{'model':>12}"
          f"{'error':>8}  {'tasks/s at most':>16}")  # fmt: skip
    for one in found:
        model = predicted_s(costs, one)
        word = "fitted" if one in known else f"{(model / one.dispatcher_s - 1) * 100:+.0f} %"
        print(
            f"{one.nodes:6} {one.how:<12}{one.sent:9}{one.heard:9}{one.turns:7}"
            f"{one.dispatcher_s * 1e6 / one.tasks:9.2f} µs"
            f"{model * 1e6 / one.tasks:9.2f} µs{word:>8}  {one.tasks / one.dispatcher_s:16,.0f}",
            flush=True,
        )
    print(
        f"{'nodes':>6}{'all have joined':>18}{'all have left':>16}{'one call':>12}{'at rest':>20}"
    )
    for one in (each for each in found if each.how == ALONE):
        print(
            f"{one.nodes:6}{one.join_s * 1e3:15.0f} ms{one.leave_s * 1e3:13.0f} ms"
            f"{one.wall_s / one.tasks * 1e3:9.2f} ms{one.resting * 100:10.1f} % of one"
        )
    return found


def _nodes(library: str, counts: Sequence[int]) -> list[Real]:
    """Fit on the fewest nodes, and predict the others."""
    found = [one for count in counts for one in real(library, count)]
    known = [one for one in found if one.nodes <= max(FITTED, min(counts))]
    if not found:
        return []
    costs = loads(known)
    print(f"a driver on {library}, with the library: {costs.task:.1f} µs for a task, "
          f"{costs.message:.0f} µs for a message")  # fmt: skip
    print(f"{'nodes':>6} {'tasks':<24}{'messages':>9}{'driver/task':>14}{'model':>12}{'error':>8}"
          f"{'all/task':>12}{'took':>9}{'start':>9}{'inspect()':>11}")  # fmt: skip
    for one in found:
        model_s = (costs.task * one.tasks + costs.message * one.messages) / 1e6
        error = "fitted" if one in known else f"{(model_s / one.driver_s - 1) * 100:+.0f} %"
        each = 1e6 / one.tasks
        print(
            f"{one.nodes:6} {f'{one.tasks:,} {one.what}':<24}{one.messages:9}"
            f"{one.driver_s * each:11.1f} µs{model_s * each:9.1f} µs{error:>8}{one.all_s * each:9.0f} µs"
            f"{one.wall_s:7.2f} s{one.start_s:7.2f} s{one.inspect_s * 1e3:8.0f} ms",
            flush=True,
        )
    return found


if __name__ == "__main__":
    sys.exit(main())
