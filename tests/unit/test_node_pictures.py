"""What a node tells, put into the driver's words: times, names, ages, tasks."""

from __future__ import annotations

import json
import time
from typing import Any

from glasspool.engines.cluster.link import Node
from glasspool.engines.cluster.nodes import RemoteNode
from glasspool.observe import node_pictures, on_node
from glasspool.observe.node_pictures import Reply
from glasspool.snapshot import PoolInfo, ProcessInfo, TaskInfo, ThreadInfo, as_plain

AHEAD_NS = 500 * 1_000_000_000
WALL_AHEAD_S = 3600.0


def a_node() -> RemoteNode:
    """Return a node whose clocks are ahead of ours, by so much on one and so much on the other."""
    node = RemoteNode(Node("id-7", "there", "host", 2), 1, [])
    node.about = {"pid": 70, "host": "host"}
    node.clock.answered(1_000_000, 1_000_000 + AHEAD_NS, 1_000_000)
    return node


def a_pool(begun_at: float) -> PoolInfo:
    """Return a picture as an agent takes it, with a task that runs."""
    task = TaskInfo(5, 0, "f", "running", slot=0, pid=71, begun_at=begun_at, run_s=2.0)
    main = ThreadInfo(71, "worker 0", "MainThread", 71, ("task",), "in f", task=task, pool="p-2")
    worker = ProcessInfo(71, "worker 0", "worker", (main,), state="busy", slot=0)
    loop = ThreadInfo(70, "x", "IO loop", 72, ("user",), "sleeping")
    own = ThreadInfo(70, "x", "MainThread", 70, ("main",), "sleeping", is_main=True)
    agent = ProcessInfo(70, "MainProcess", "parent", (own, loop))
    return PoolInfo("p-2", "glasspool.Agent", 70, (agent, worker), (task,), {"idle": 0})


def a_reply(node: RemoteNode, pool: PoolInfo) -> Reply:
    """Return what the node's agent sends now."""
    told: dict[str, Any] = {"pool": as_plain(on_node.as_of_agent(pool))}
    told["clock_ns"] = time.monotonic_ns() + AHEAD_NS
    told["wall_ns"] = time.time_ns() + int(WALL_AHEAD_S * 1e9)
    return Reply(node, json.dumps(told).encode())


def test_times_are_told_on_our_clock() -> None:
    """A clock that is an hour ahead there changes nothing here."""
    node, now = a_node(), time.time()
    seen = node_pictures.seen(node, a_reply(node, a_pool(now + WALL_AHEAD_S - 2.0)), "p")
    assert abs((seen.tasks[5].begun_at or 0) - (now - 2.0)) < 0.5
    assert seen.silent is None


def test_names_and_roles_are_told_as_ours() -> None:
    """The pool has the driver's name, all has the node's, and its library's threads are no program's."""
    node = a_node()
    seen = node_pictures.seen(node, a_reply(node, a_pool(time.time())), "p")
    agent, worker = seen.processes
    assert (agent.role, agent.place, worker.place) == ("agent", ("there", 70), ("there", 71))
    assert [thread.roles for thread in agent.threads] == [("main", "engine"), ("engine",)]
    assert [(t.pool, t.node) for t in worker.threads] == [("p", "there")]


def test_a_silent_node_keeps_what_it_told_last() -> None:
    """With its age, and the reason; without anything told before, its agent at least."""
    node = a_node()
    first = node_pictures.seen(node, Reply(node, None, "it did not answer within 1 s"), "p")
    assert [process.role for process in first.processes] == ["agent"]
    node_pictures.seen(node, a_reply(node, a_pool(time.time())), "p")
    assert node.seen is not None
    node.seen = (node.seen[0] - 7.0, node.seen[1])
    later = node_pictures.seen(node, Reply(node, None, "it did not answer within 1 s"), "p")
    assert "did not answer within 1 s" in str(later.silent)
    assert "7.0 s old" in str(later.silent)
    assert all(process.evidence.age_s >= 7.0 for process in later.processes)
    assert 5 in later.tasks


def test_a_node_that_has_not_begun() -> None:
    """Nothing is known of it but that."""
    node = RemoteNode(Node("id-8", "new", "host", 2), 1, [])
    seen = node_pictures.seen(node, None, "p")
    assert (seen.processes, seen.silent) == ((), "starting: its agent has not answered yet")


def test_a_task_is_told_by_both() -> None:
    """The driver knows the job and when it was submitted, the node who runs it and since when."""
    known = TaskInfo(5, 3, "f", "sent", submitted_at=10.0, node="there", attempts=0)
    told = TaskInfo(5, 0, "?", "running", slot=1, pid=71, begun_at=12.5, progress=(1.0, 4.0))
    info = node_pictures.joined(known, told)
    assert (info.job, info.function, info.state, info.pid) == (3, "f", "running", 71)
    assert (info.queue_wait_s, info.attempts, info.progress) == (2.5, 1, (1.0, 4.0))
    assert node_pictures.joined(known, None) == known
