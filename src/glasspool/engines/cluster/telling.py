"""What a pool on a cluster tells of its threads, tasks and losses."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from glasspool.snapshot import DeathCertificate

if TYPE_CHECKING:
    from glasspool.engines.cluster.engine import ClusterEngine
    from glasspool.engines.cluster.nodes import RemoteNode
    from glasspool.ledger import Task


def own_threads(engine: ClusterEngine) -> dict[threading.Thread, tuple[tuple[str, ...], str]]:
    """Return the pool's threads in the driver with their roles and states."""
    found: dict[threading.Thread, tuple[tuple[str, ...], str]] = {}
    states = {"worker-handler": engine.state, "task-handler+result-handler": engine.collector.state}
    for role, thread in list(engine.threads.items()):
        found[thread] = (tuple(role.split("+")), states[role])
    callbacks = engine.callbacks
    if callbacks.thread is not None:
        job = callbacks.running
        words = "waiting for a callback to run"
        if job is not None:
            words = f"running the callback of {job.label()}"
        found[callbacks.thread] = (("callback",), words)
    for thread, feed in list(engine.feeders.items()):
        found[thread] = (("iterable",), feed.state)
    for showing in engine._showing.values():
        if showing.thread is not None:
            found[showing.thread] = (("progress",), showing.state)
    if engine.logs.thread is not None:
        found[engine.logs.thread] = (("logs",), engine.logs.state)
    return found


def certificate(engine: ClusterEngine, node: RemoteNode, task: Task | None) -> DeathCertificate:
    """Say what is known of a node that was lost, and of a task that it held."""
    from glasspool.results import task_info

    allowed = 1 if task is None or task.policy is None else 1 + task.policy.retries
    return DeathCertificate(
        pid=int(node.about.get("pid", 0)),
        slot=0,
        cause=f"was lost: {node.why}",
        task=None if task is None else task_info(engine, task),  # type: ignore[arg-type]
        attempts=1 if task is None else task.attempts,
        died_at=time.time(),
        pool=engine.name,
        attempts_allowed=allowed,
        node=node.name,
        whole_node=True,
    )
