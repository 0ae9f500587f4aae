"""Pure: who waits for whom: threads, locks, pipes and processes, with edges "waits for" and "held by".

The graph tells what was seen, and what a pool is known to do: that the queue of results is fed by its
workers, and the queue of tasks by its task-handler. A root is what others wait for and what waits for
nothing itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from glasspool.observe import procfs
from glasspool.observe.why.movement import Actor, Crew, Series

WAITS, HELD = "waits for", "held by"

_READS = ("pipe read", "read", "pipe")
_WRITES = ("pipe write", "write")


@dataclass(frozen=True, slots=True)
class Node:
    """One thread, lock, pipe or process. ``id`` begins with the ``kind``."""

    id: str
    kind: str
    text: str
    pid: int | None = None
    tid: int | None = None


@dataclass(frozen=True, slots=True)
class Edge:
    """One node that waits for another, or is held by it: ``kind`` says which."""

    source: str
    target: str
    kind: str


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes, edges, and the roots: what others wait for, and what itself waits for nothing."""

    nodes: tuple[Node, ...] = ()
    edges: tuple[Edge, ...] = ()
    roots: tuple[str, ...] = ()


def graph(series: Series) -> Graph:
    """Build the graph of the latest sight."""
    found = _Build(series)
    found.build()
    used = {e.source for e in found.edges} | {e.target for e in found.edges}
    waits = {edge.source for edge in found.edges}
    roots = {edge.target for edge in found.edges} - waits
    return Graph(
        tuple(node for node in found.nodes.values() if node.id in used),
        tuple(dict.fromkeys(found.edges)),
        tuple(sorted(roots)),
    )


class _Build:
    def __init__(self, series: Series) -> None:
        self.series = series
        self.nodes: dict[str, Node] = {}
        self.edges: list[Edge] = []

    def build(self) -> None:
        """Collect all edges."""
        for crew in self.series.crews:
            self._crew(crew)
        for actor in self.series.actors:
            self._kernel(actor)
            self._gil(actor)

    # Nodes ----------------------------------------------------------------------------------------

    def _thread(self, actor: Actor) -> str:
        words = actor.place.words if actor.place else procfs.state_words(actor.os)
        return self._node(
            "thread", f"{actor.pid}/{actor.tid}", f"{actor.name}: {words}", actor.pid, actor.tid
        )

    def _node(
        self, kind: str, name: str, text: str, pid: int | None = None, tid: int | None = None
    ) -> str:
        key = f"{kind}:{name}"
        self.nodes.setdefault(key, Node(key, kind, text, pid, tid))
        return key

    def _edge(self, source: str, target: str, kind: str) -> None:
        self.edges.append(Edge(source, target, kind))

    # What a pool is known to do -------------------------------------------------------------------

    def _crew(self, crew: Crew) -> None:
        helpers = dict.fromkeys(crew.helpers.values())
        for actor in self.series.python_of(crew.pid):
            if actor.place is not None and actor.place.roles == ("caller",) and helpers:
                taker = crew.helpers.get("result-handler") or next(iter(helpers))
                self._edge(self._thread(actor), self._thread(taker), WAITS)
        if not crew.of_threads:
            self._locks(crew)
        self._duties(crew)

    def _locks(self, crew: Crew) -> None:
        pairs = (("tasks", "lock", "receive"), ("results", "send-lock", "send"))
        for queue, waits, holds in pairs:
            waiting = [w for w in crew.workers if w.step == waits]
            holders = [w for w in crew.workers if w.step == holds]
            if not waiting:
                continue
            lock = self._node("lock", f"{queue} of {crew.name}", f"lock of the queue of {queue}")
            for worker in waiting:
                self._edge(self._thread(worker), lock, WAITS)
            for worker in holders:
                self._edge(lock, self._thread(worker), HELD)
            if not holders and all(w.stays_at(waits) for w in waiting):
                dead = self._node("process", "dead", "a process that has died")
                self._edge(lock, dead, HELD)

    def _duties(self, crew: Crew) -> None:
        taker, feeder = crew.helpers.get("result-handler"), crew.helpers.get("task-handler")
        for worker in crew.workers:
            if taker is not None and taker is not worker and worker.step in ("send", "send-lock"):
                self._edge(self._thread(worker), self._thread(taker), WAITS)
            if feeder is not None and feeder.step not in ("wait", "") and worker.step == "receive":
                self._edge(self._thread(worker), self._thread(feeder), WAITS)
            if taker is not None and taker.step == "wait" and worker.step == "task":
                self._edge(self._thread(taker), self._thread(worker), WAITS)
        if feeder is not None and feeder.step == "send":
            for worker in crew.workers:
                self._edge(self._thread(feeder), self._thread(worker), WAITS)

    # What the kernel tells ------------------------------------------------------------------------

    def _kernel(self, actor: Actor) -> None:
        name = self.series.extra.semaphores.get(actor.tid)
        if name is not None and actor.step not in ("lock", "send-lock"):
            self._edge(self._thread(actor), self._node("lock", name, f"semaphore {name}"), WAITS)
        elif actor.waits_privately and actor.step == "task":
            lock = self._node(
                "lock",
                f"{actor.pid}/{actor.os.syscall_args[0]:#x}",
                f"lock at {actor.os.syscall_args[0]:#x} of process {actor.pid}",
                actor.pid,
            )
            self._edge(self._thread(actor), lock, WAITS)
        for words in (_READS, _WRITES):
            pipe = actor.pipe(*words)
            if pipe is not None:
                self._pipe(actor, pipe, reads=words is _READS)
        for child in self._awaited(actor):
            target = self._node("process", str(child), f"process {child}", child)
            self._edge(self._thread(actor), target, WAITS)
        if actor.os.state in "Tt" and actor.tid == actor.pid:
            by = actor.process.tracer
            target = self._node(
                "process",
                str(by or "stopped"),
                f"debugger {by}" if by else "a signal (SIGSTOP)",
                by,
            )
            self._edge(self._thread(actor), target, HELD)

    def _pipe(self, actor: Actor, pipe: str, *, reads: bool) -> None:
        number = pipe.removeprefix("pipe:").strip("[]")
        target = self._node("pipe", number, pipe)
        self._edge(self._thread(actor), target, WAITS)
        if not reads:
            for pid in sorted(self.series.extra.readers.get(pipe, frozenset()) - {actor.pid}):
                holder = self._node("process", str(pid), f"process {pid} holds its end", pid)
                self._edge(target, holder, HELD)

    def _awaited(self, actor: Actor) -> Iterator[int]:
        """Return the child processes for whose end a thread waits."""
        if not any(frame.function.endswith("Process.join") for frame in actor.stack[-4:]):
            return
        told = actor.os.syscall_args
        if procfs.sleeps_in(actor.os) == "wait for a child" and told:
            yield told[0]

    def _gil(self, actor: Actor) -> None:
        if actor.python is None or not actor.wants_gil:
            return
        lock = self._node(
            "lock", f"gil of {actor.pid}", f"interpreter lock of process {actor.pid}", actor.pid
        )
        self._edge(self._thread(actor), lock, WAITS)
        for other in self.series.python_of(actor.pid):
            if other.python is not None and other.python.owns_gil:
                self._edge(lock, self._thread(other), HELD)
