"""Events: what happens to a pool, told to the logger ``glasspool``.

Each event has a name (``worker.died``), by whose first part it goes to a logger below ``glasspool``
(``glasspool.worker``), a level, a sentence, and fields: attributes of the log record. They are listed in
``docs/logging.md``.

Whoever meets an event only looks whether a handler would have it: no lock is taken, no logger made, and
``logging`` not imported. The record is made and handled on the thread ``NAME logs``, in order with those of
the workers.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glasspool.engines.cluster.engine import ClusterEngine
    from glasspool.engines.local.engine import Grave, LocalEngine
    from glasspool.engines.local.workers import Worker
    from glasspool.ledger import Task
    from glasspool.snapshot import DeathCertificate

DEBUG, INFO, WARNING, ERROR = 10, 20, 30, 40
"""As ``logging`` has them."""


def tell(
    engine: LocalEngine | ClusterEngine,
    level: int,
    event: str,
    text: str,
    *args: Any,
    **fields: Any,
) -> None:
    """Have an event logged, if anybody listens (any thread, never on a hot path)."""
    if engine.logs.elsewhere is not None:
        engine.logs.elsewhere.event(engine.name, level, event, text, args, fields)
        return
    name = f"glasspool.{event.partition('.')[0]}"
    if not is_heard(name, level):
        return
    base = {"event": event, "pool": engine.name, "node": None, "slot": None, "task": None}
    extra = base | fields
    engine.logs.put(lambda: _log(name, level, text, args, extra))


def is_heard(name: str, level: int) -> bool:
    """Tell whether some handler takes records of a logger and level, without a lock."""
    root = getattr(sys.modules.get("logging"), "root", None)
    manager = getattr(root, "manager", None)
    if manager is None or manager.disable >= level:
        return False
    known = manager.loggerDict
    at: Any = known.get(name)
    if not hasattr(at, "handlers"):  # nobody has asked for this logger
        at = known.get("glasspool")
        if not hasattr(at, "handlers"):
            at = root
    return _effective_level(at) <= level and _has_handler(at, level)


def _effective_level(at: Any) -> int:
    while at.parent is not None and not at.level:
        at = at.parent
    return int(at.level)


def _has_handler(at: Any, level: int) -> bool:
    while at is not None:
        for handler in at.handlers:
            if handler.level <= level and type(handler).__name__ != "NullHandler":
                return True
        at = at.parent if at.propagate else None
    return False


def _log(name: str, level: int, text: str, args: tuple[Any, ...], extra: dict[str, Any]) -> None:
    import logging

    top = logging.getLogger("glasspool")
    if not top.handlers:
        top.addHandler(logging.NullHandler())  # as libraries do
    logging.getLogger(name).log(level, text, *args, extra=extra)


# What is told of ------------------------------------------------------------------------------------


def pool_started(engine: LocalEngine | ClusterEngine) -> None:
    """All first workers have a process."""
    tell(
        engine,
        DEBUG,
        "pool.started",
        "%s has started: %d workers by %s, made at %s",
        engine.name,
        engine.size,
        engine.start_method,
        engine.made_at,
        workers=engine.size,
        start_method=engine.start_method,
    )


def pool_closed(engine: LocalEngine | ClusterEngine, how: str) -> None:
    """The pool takes no more calls: it was ``closed``, ``drained`` or ``terminated``."""
    tell(engine, DEBUG, "pool.closed", "%s was %s", engine.name, how, how=how)


def pool_ended(engine: LocalEngine | ClusterEngine) -> None:
    """No worker is left."""
    tell(engine, DEBUG, "pool.ended", "%s has ended", engine.name)


def pool_resized(engine: LocalEngine | ClusterEngine, size: int) -> None:
    """The pool is to have another number of workers."""
    tell(engine, DEBUG, "pool.resized", "%s is to have %d workers", engine.name, size, workers=size)


def pool_failed(engine: LocalEngine | ClusterEngine, error: BaseException) -> None:
    """The pool cannot go on: all its tasks end with this error."""
    text = "%s has failed: %s: %s"
    name = type(error).__name__
    tell(engine, ERROR, "pool.failed", text, engine.name, name, error, error=name)


def pool_short(engine: LocalEngine | ClusterEngine, what: str) -> None:
    """The system has not what the pool needs; it is tried again."""
    tell(engine, WARNING, "pool.short", "%s: %s", engine.name, what)


def pool_stalled(engine: LocalEngine | ClusterEngine, text: str, quiet_s: float) -> None:
    """There is work, and nothing has moved for long."""
    tell(engine, WARNING, "pool.stalled", "%s", text, quiet_s=quiet_s)


def worker_started(engine: LocalEngine | ClusterEngine, worker: Worker) -> None:
    """A worker has run the initializer."""
    tell(
        engine,
        DEBUG,
        "worker.started",
        "worker %d of %s has started (pid %d)",
        worker.slot,
        engine.name,
        worker.pid,
        slot=worker.slot,
        pid=worker.pid,
        generation=worker.generation,
    )


def worker_ended(engine: LocalEngine | ClusterEngine, grave: Grave) -> None:
    """A worker has left on purpose: replaced by another one, or not needed any more."""
    tell(
        engine,
        DEBUG,
        "worker.recycled" if grave.replaced else "worker.ended",
        "worker %d of %s (pid %d) was replaced after %d tasks"
        if grave.replaced
        else "worker %d of %s (pid %d) has ended after %d tasks",
        grave.slot,
        engine.name,
        grave.pid,
        grave.tasks_done,
        slot=grave.slot,
        pid=grave.pid,
        tasks=grave.tasks_done,
        exitcode=grave.exitcode,
        reason=grave.reason,
    )


def worker_died(engine: LocalEngine | ClusterEngine, certificate: DeathCertificate) -> None:
    """A worker has died; told with the first sentence of its certificate."""
    task = certificate.task
    tell(
        engine,
        WARNING,
        "worker.died",
        "%s: %s",
        engine.name,
        certificate.text().partition("\n")[0],
        slot=certificate.slot,
        pid=certificate.pid,
        task=None if task is None else task.id,
        function=None if task is None else task.function,
        exitcode=certificate.exitcode,
        certificate=certificate,
        node=certificate.node,
    )


def task_event(
    engine: LocalEngine | ClusterEngine,
    level: int,
    event: str,
    text: str,
    task: Task,
    worker: Worker | None,
) -> None:
    """Something has happened to a task: ``text`` follows on its name."""
    function = task.job.function_name(task)
    tell(
        engine,
        level,
        event,
        "task %d (%s) of %s %s",
        task.id,
        function,
        engine.name,
        text,
        task=task.id,
        function=function,
        slot=None if worker is None else worker.slot,
        pid=None if worker is None else worker.pid,
        attempts=task.attempts,
    )


def node_joined(engine: ClusterEngine, node: str, workers: int) -> None:
    """A node of a cluster has its workers."""
    tell(
        engine,
        DEBUG,
        "node.joined",
        "%s has %d workers on %s",
        engine.name,
        workers,
        node,
        node=node,
        workers=workers,
    )


def node_left(engine: ClusterEngine, node: str) -> None:
    """A node has no workers any more, as the pool wanted it."""
    tell(engine, DEBUG, "node.left", "%s has left %s", engine.name, node, node=node)


def node_lost(engine: ClusterEngine, node: str, why: str, tasks: int) -> None:
    """A node is gone that had workers, with so many tasks."""
    text = "%s has lost the node %s, which had %d tasks: %s"
    tell(engine, WARNING, "node.lost", text, engine.name, node, tasks, why, node=node, tasks=tasks)


def template_replaced(engine: LocalEngine | ClusterEngine) -> None:
    """The template had died, and another one was forked in its place."""
    tell(engine, WARNING, "template.replaced", "the template of %s was replaced", engine.name)
