"""What is seen of a pool on a real cluster of two nodes, from inside and from outside, on Dask and on Ray."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster_view_tasks import double, held

import glasspool
from clusters import Cluster
from glasspool import registry
from glasspool.observe import control
from glasspool.observe.watch import Watch
from glasspool.snapshot import HANDLER_ROLES, PoolInfo, Snapshot, from_dict
from perfetto_reading import read
from pools import wait_until

LIMIT_S = 60

pytestmark = [pytest.mark.clusters, pytest.mark.one_python, pytest.mark.timeout(LIMIT_S)]


@pytest.fixture(scope="module", params=["dask", "ray"])
def cluster(request: pytest.FixtureRequest) -> Cluster:
    """Return a real cluster with two nodes, of each library in turn."""
    made: Cluster = request.getfixturevalue(f"whole_{request.param}_cluster")
    made.top_up(2)
    return made


@pytest.fixture(scope="module")
def pool(cluster: Cluster) -> Iterator[glasspool.Pool]:
    """Return a pool with a worker on each node, which all tests here share."""
    with glasspool.Pool(
        engine=cluster.library, address=cluster.address, processes_per_node=1
    ) as made:
        made.map(double, range(20), chunksize=1)
        yield made


class Held:
    """A task that runs until it is let go."""

    def __init__(self, pool: glasspool.Pool, path: Path) -> None:
        os.mkfifo(path)
        self._path = path
        self.result = pool.apply_async(held, (str(path),))
        wait_until(lambda: self.result.info.state == "running", "the task runs")

    def let_go(self) -> None:
        """Let it end."""
        self._path.write_text("done")
        assert self.result.get(LIMIT_S) == "done"


@pytest.fixture
def running(pool: glasspool.Pool, tmp_path: Path) -> Iterator[Held]:
    """Return a task that runs on one of the nodes."""
    made = Held(pool, tmp_path / "pipe")
    yield made
    if not made.result.ready():
        made.let_go()


def one(picture: Snapshot) -> PoolInfo:
    """Return the only pool of a picture."""
    (found,) = picture.pools
    return found


def places(pool: glasspool.Pool) -> list[Any]:
    """Return where the workers are."""
    return [worker.place for worker in one(pool.inspect()).workers]


def test_every_process_and_thread_is_told_with_its_role(
    pool: glasspool.Pool, running: Held
) -> None:
    """Of each process on both nodes all threads are told that the system has, none as the program's."""
    seen = one(pool.inspect())
    assert [node.state for node in seen.nodes] == ["ready", "ready"]
    for node in seen.nodes:
        there = [process for process in seen.processes if process.node == node.name]
        assert {"agent", "worker", "nanny"} <= {process.role for process in there}
        assert node.pid in {process.pid for process in there if process.role == "agent"}
        assert node.clock_error_s is not None
        assert node.heard_s is not None
    agents = {process.pid for process in seen.processes if process.role == "agent"}
    for process in seen.processes:
        told = {thread.native_id for thread in process.threads}
        system = {int(name) for name in os.listdir(f"/proc/{process.pid}/task")}
        # Libraries start and end threads of their own at any moment.
        least = 0 if process.pid in {*agents, os.getpid()} else len(system)
        assert len(told & system) >= max(least, len(system) - 3)
        assert all(thread.roles for thread in process.threads if process.node is not None)
        assert not any("user" in thread.roles for thread in process.threads if process.node)
    for pid in (os.getpid(), *agents):
        roles = {r for p in seen.processes if p.pid == pid for t in p.threads for r in t.roles}
        assert {*HANDLER_ROLES, "main", "engine"} <= roles
    assert from_dict(pool.inspect().to_dict()).pools[0].nodes[0].name == seen.nodes[0].name


def test_a_running_task_is_told_where_it_runs(pool: glasspool.Pool, running: Held) -> None:
    """Its node, its worker and its thread, by the result, by the list of tasks and by the thread."""
    info = running.result.info
    assert (info.state, info.job) == ("running", info.id)
    seen = one(pool.inspect())
    worker = next(p for p in seen.workers if p.place == (info.node, info.pid))
    (task,) = [thread.task for thread in worker.threads if thread.task is not None]
    assert (task.id, task.function) == (info.id, "cluster_view_tasks.held")
    assert (task.arguments or "").startswith("('/")
    (listed,) = [task for task in seen.tasks if task.id == info.id]
    assert (listed.state, listed.node, listed.pid) == ("running", info.node, info.pid)
    assert info.thread is not None
    assert info.thread.native_id == info.pid
    assert 0 <= (info.begun_at or 0) - (info.submitted_at or 0) < LIMIT_S
    running.let_go()
    after = running.result.info
    assert (after.state, after.node, after.pid) == ("done", info.node, info.pid)


def test_the_stack_of_a_remote_worker(pool: glasspool.Pool, running: Held) -> None:
    """It arrives in under a second, while the other worker goes on."""
    begun = time.monotonic()
    seen = one(pool.inspect(stacks=True))
    assert time.monotonic() - begun < 1.0
    stacks = [thread.stack for p in seen.workers for thread in p.threads if thread.task is not None]
    assert [frame.function for stack in stacks for frame in stack or ()][-1] == "held"
    assert pool.map(double, range(5), chunksize=1) == [0, 2, 4, 6, 8]


def test_from_outside(pool: glasspool.Pool, running: Held) -> None:
    """``ps`` and ``stack`` tell of all nodes; agents are told as such in the list of pools."""
    picture = command("ps", str(os.getpid()), "--json")
    (told,) = [p for p in picture["pools"] if p["name"] == pool.name]
    assert {p["node"] for p in told["processes"]} == {None, *(n["name"] for n in told["nodes"])}
    listed = command("ps", "--json", "--quick")["pools"]
    kinds = [item["kind"] for item in listed if item["name"] == pool.name]
    assert sorted(kinds) == ["glasspool.Agent", "glasspool.Agent", "glasspool.Pool"]
    stacks = command("stack", str(os.getpid()), "--json")
    frames = [
        frame["function"]
        for seen in stacks["pools"]
        for process in seen["processes"]
        if process["node"] is not None
        for thread in process["threads"]
        for frame in thread["stack"] or ()
    ]
    assert "held" in frames


def test_why_judges_the_pool_and_not_its_cluster(pool: glasspool.Pool, running: Held) -> None:
    """Other processes that the program or the cluster has are no pool's."""
    told = command("why", str(os.getpid()), "--json")
    assert told["findings"] == []


def test_acts_by_hand_reach_the_node(pool: glasspool.Pool, running: Held) -> None:
    """A worker of a node is restarted, and a task cancelled, at the word of another process."""
    before = running.result.info
    cancelled = control.cancel(os.getpid(), pool.name, before.id or 0)
    assert cancelled.done, cancelled.text
    with pytest.raises(glasspool.TaskCancelled) as raised:
        running.result.get(LIMIT_S)
    assert "by hand" in " ".join(raised.value.__notes__)
    worker = one(pool.inspect()).workers[0]
    done = control.restart(os.getpid(), pool.name, worker.pid, at_once=True, node=worker.node)
    assert done.done
    assert str(worker.node) in done.text
    wait_until(lambda: worker.place not in places(pool), "the worker has left")
    wait_until(lambda: len(places(pool)) == 2, "another one has its place")
    refused = control.restart(os.getpid(), pool.name, 1, at_once=True)
    assert not refused.done
    assert "no node" in refused.text


def test_a_node_that_does_not_answer(pool: glasspool.Pool, running: Held) -> None:
    """It is told with the reason and with what was seen of it last; nobody waits longer for it."""
    before = one(pool.inspect())
    name, pid = next(p.place for p in before.processes if p.role == "agent")
    os.kill(pid, signal.SIGSTOP)
    try:
        begun = time.monotonic()
        seen = one(pool.inspect())
        assert time.monotonic() - begun < 2.0
    finally:
        os.kill(pid, signal.SIGCONT)
    silent: dict[Any, Any] = {node.name: node.silent for node in seen.nodes}
    assert "did not answer" in str(silent.pop(name))
    assert list(silent.values()) == [None]
    assert any(str(name) in note for note in seen.notes)
    told = [p for p in seen.processes if p.node == name]
    assert {p.role for p in told} >= {"agent", "worker"}
    assert all(p.evidence.age_s > 0 for p in told)
    wait_until(
        lambda: all(n.silent is None for n in one(pool.inspect()).nodes), "all nodes answer again"
    )


def test_inspect_tells_of_all_pools(pool: glasspool.Pool) -> None:
    """``glasspool.inspect()`` lists pools on clusters beside those of this machine."""
    assert pool.name in [seen.name for seen in glasspool.inspect().pools]


def test_a_timeline_of_two_nodes(pool: glasspool.Pool, tmp_path: Path) -> None:
    """Tasks of both nodes stand on the driver's clock, by node, and it is said how well that is known."""
    path = tmp_path / "trace"
    with pool.trace(path):
        assert sum(pool.map(double, range(40), chunksize=1)) == 1560
    found = read(path.read_bytes())
    tasks = [one for one in found.slices if one.category == "task"]
    assert len(tasks) == 40
    nodes = {task.told["node"] for task in tasks}
    assert nodes == {node.name for node in one(pool.inspect()).nodes}
    assert all(any(task.process.startswith(node) for node in nodes) for task in tasks)
    (whole,) = [one for one in found.slices if one.name.startswith("recording of")]
    notes = " ".join(str(value) for value in whole.told.values())
    assert all(f"Times of {node}" in notes and "wrong by" in notes for node in nodes)
    maps = [one for one in found.slices if one.category == "map"]
    slack_ns = 50_000_000
    for task in tasks:  # submitted before, taken in after
        assert maps[0].begin - slack_ns <= task.begin <= (task.end or 0)
        assert (task.end or 0) <= (maps[0].end or 0) + slack_ns


def test_a_report_of_a_pool_that_nobody_recorded(pool: glasspool.Pool) -> None:
    """It has counters and workers of all nodes, and the tasks that the driver remembers, by node."""
    pool.map(double, range(20), chunksize=1)
    report = pool.report()
    (told,) = report.story.recordings
    assert len(told.workers) == 2
    assert len(told.tasks) >= 20
    nodes = {node.name for node in one(pool.inspect()).nodes}
    assert {task.node for task in told.tasks} <= nodes
    assert all(f"on {task.node}" in report.html for task in told.tasks[-5:])


def test_the_last_picture_of_a_pool(cluster: Cluster) -> None:
    """Whoever sees pools before they end sees the workers of all nodes, and the slowest tasks."""
    seen: list[Any] = []
    forget = registry.on_shutdown(lambda *told: seen.append(told))
    try:
        with glasspool.Pool(
            engine=cluster.library, address=cluster.address, processes_per_node=1
        ) as made:
            made.map(double, range(8), chunksize=1)
    finally:
        forget()
    ((picture, slowest),) = [told for told in seen if told[0].name == made.name]
    nodes = {node.name for node in picture.nodes}
    assert len(nodes) == 2
    assert {worker.node for worker in picture.workers} == nodes
    assert len(slowest) == 8
    assert {task.node for task in slowest} <= nodes


def test_tasks_that_ended_are_told_to_a_watch(pool: glasspool.Pool) -> None:
    """Each once, by node and worker, as it ended, on the driver's clock; what was before is told first."""
    watch = Watch(os.getpid())
    try:
        assert [record.pool for record in watch.look().records].count(pool.name) >= 20
        begun_ns = time.monotonic_ns()
        pool.map(double, range(10), chunksize=1)
        with pytest.raises(TypeError):
            pool.apply(double, (None,))
        view = watch.look()
        told = [record for record in view.records if record.pool == pool.name]
        assert [record.status for record in told].count("done") == 10
        assert [record.status for record in told].count("failed") == 1
        assert (len(told), view.lost) == (11, 0)
        workers = {(p.node, p.pid, p.slot) for p in one(pool.inspect()).workers}
        assert {(record.node, record.pid, record.slot) for record in told} <= workers
        slack_ns = 50_000_000
        for record in told:
            assert record.function == "cluster_view_tasks.double"
            assert begun_ns - slack_ns <= (record.begun_ns or 0) <= (record.ended_ns or 0)
            assert (record.ended_ns or 0) <= view.now_ns + slack_ns
        assert [record.pool for record in watch.look().records].count(pool.name) == 0
    finally:
        watch.close()


def test_a_timeline_from_outside(pool: glasspool.Pool, tmp_path: Path) -> None:
    """``glasspool trace PID`` has the tasks that ended on all nodes, by node."""
    pool.map(double, range(10), chunksize=1)
    path = tmp_path / "trace"
    told = command("trace", str(os.getpid()), "--json", "-o", str(path))
    assert told["tasks"] >= 10
    tasks = [one for one in read(path.read_bytes()).slices if one.category == "task"]
    nodes = {node.name for node in one(pool.inspect()).nodes}
    assert {task.told["node"] for task in tasks} <= nodes


def command(*words: str) -> Any:
    """Run a command of glasspool that prints JSON."""
    made = subprocess.run(
        [sys.executable, "-m", "glasspool", *words],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert made.returncode in (0, 1), made.stderr
    return json.loads(made.stdout)
