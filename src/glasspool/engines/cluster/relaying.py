"""Relaying: what nodes tell besides the ends of tasks: log records, events, what tasks have written.

``Relay`` is the agent's side: its local pool tells it in place of its own process's loggers. ``Relayed`` is
the driver's; the program's handlers run on its thread ``NAME logs``. How many bytes of records that has
handled is told back, so that workers whose records pile up there wait, as those of one machine do.

Words are built-in types; the fields of an event, among them a certificate, are pickled in them.
"""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from glasspool.engines.cluster import words
from glasspool.engines.local import events, logs
from glasspool.engines.local.outputs import Output

if TYPE_CHECKING:
    from glasspool.engines.cluster.engine import ClusterEngine
    from glasspool.engines.cluster.nodes import RemoteNode
    from glasspool.ledger import Task

HANDLED_BYTES = 256 << 10
"""An agent is told of so many bytes of records at a time."""

Written = tuple[list[bytes], list[int]]
"""The ends of a task's standard output and error, and how much they were in all."""


class Relay:
    """What an agent's local pool tells its loggers, told to the driver instead. Any thread."""

    def __init__(
        self,
        pool: str,
        say: Callable[[tuple[Any, ...]], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._pool = pool  # the driver's, whose name is told
        self._say = say
        self._failed = failed

    def record(self, message: bytes) -> None:
        """Take a worker's record as it came."""
        self._say((words.LOGS, message))

    def event(
        self, pool: str, level: int, event: str, text: str, args: tuple[Any, ...], fields: Any
    ) -> None:
        """Take one of the pool's events: those of its life are the driver's business."""
        if event == "pool.failed":
            self._failed(args[-1])
        elif event == "pool.short" or not event.startswith("pool."):
            args = tuple(self._pool if one == pool else one for one in args)
            self._say((words.EVENT, level, event, text, args, pickle.dumps(fields, words.PROTOCOL)))


def written(ended: Sequence[Task]) -> list[Written | None]:
    """Return what tasks that have ended have written (an agent with ``capture_output``)."""
    outputs = (getattr(task, "output", None) for task in ended)
    return [None if output is None else (output.tails, output.totals) for output in outputs]


class NodeOutputs:
    """What tasks on nodes have written, as far as it has been told: at their ends."""

    def live(self, record: int | None, task: Task) -> tuple[str, str]:
        """Return what a task has written."""
        output: Output | None = getattr(task, "output", None)
        return ("", "") if output is None else output.texts()

    def take(self, tasks: Sequence[Task | None], told: Sequence[Written | None]) -> None:
        """Take what some tasks have written (dispatcher)."""
        for task, one in zip(tasks, told, strict=True):
            if task is None:
                continue
            task.output = None
            if one is not None:
                output = task.output = Output(task.attempts)
                output.tails, output.totals = one


class Relayed:
    """Records and events of nodes, on their way to the program's loggers."""

    def __init__(self, engine: ClusterEngine) -> None:
        self._engine = engine

    def record(self, node: RemoteNode, message: bytes) -> None:
        """Have a worker's record handled (dispatcher)."""
        self._engine.logs.put(functools.partial(self._give, node, message))

    def _give(self, node: RemoteNode, message: bytes) -> None:
        """Handle a record (the thread ``logs``)."""
        try:
            logs.give(message, self._engine.name, node.name)
        finally:
            node.records_bytes += len(message)
            if node.records_bytes >= HANDLED_BYTES:
                size, node.records_bytes = node.records_bytes, 0
                self._engine.collector.mailbox.put(lambda: node.say(words.LOGGED, size))

    def event(
        self, node: RemoteNode, level: int, event: str, text: str, args: Any, packed: bytes
    ) -> None:
        """Tell an event of a node's local pool (dispatcher)."""
        fields = pickle.loads(packed)
        certificate = fields.get("certificate")
        if certificate is not None:
            certificate = replace(certificate, node=node.name, pool=self._engine.name)
            if certificate.task is None:  # else it comes with the end of the task
                self._engine.died(certificate)
            events.worker_died(self._engine, certificate)
            return
        fields["node"] = node.name
        events.tell(self._engine, level, event, f"{text} (on %s)", *args, node.name, **fields)
