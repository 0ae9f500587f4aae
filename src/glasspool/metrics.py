"""Metrics of pools for Prometheus: a collector for a registry of this process, and the text of ``serve``.

Needs ``prometheus_client``: ``pip install 'glasspool[metrics]'``. A collector asks its pools when it is
scraped, some milliseconds for each, and costs nothing in between::

    import glasspool.metrics
    glasspool.metrics.register()                      # all pools of this process, in the default registry
    glasspool.metrics.register(pool, registry=mine)   # one pool

``docs/metrics.md`` lists the metrics.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from glasspool import extras
from glasspool.snapshot import PoolInfo, ProcessInfo

if TYPE_CHECKING:
    from glasspool.engines.local.engine import LocalEngine
    from glasspool.observe.watch import View
    from glasspool.pool import Pool

__all__ = ["Exporter", "PoolCollector", "collector", "register"]

ENDS = ("done", "failed", "lost", "cancelled", "timeout")
PARTS = ("start", "initializer", "waiting", "receiving", "running", "sending", "exit")
WORKER_STATES = ("starting", "initializing", "idle", "busy", "spare", "leaving")

_OURS = "glasspool.Pool"
_FOLDED = 1000


def collector(pool: Pool | None = None) -> PoolCollector:
    """Return a collector that any registry of ``prometheus_client`` takes.

    Args:
        pool: The pool that it tells of; None: all that this process has when it is asked, of other libraries
            too. It does not keep the pool alive, and tells nothing after its end.

    Raises:
        MissingExtra: ``prometheus_client`` is not installed.
        TypeError: It is no ``glasspool.Pool``.
    """
    return PoolCollector(pool)


def register(pool: Pool | None = None, *, registry: Any = None) -> PoolCollector:
    """Put a collector into a registry, and return it: ``registry.unregister(...)`` takes it out again.

    Args:
        pool: As for ``collector``.
        registry: A ``CollectorRegistry``; None: the default one.

    Raises:
        MissingExtra: ``prometheus_client`` is not installed.
        ValueError: The registry has a collector with metrics of these names.
    """
    made = collector(pool)
    if registry is None:
        registry = extras.load("prometheus_client", "metrics").REGISTRY
    registry.register(made)
    return made


class PoolCollector:
    """Tells of pools of this process when a registry asks. Any thread may ask."""

    def __init__(self, pool: Pool | None = None) -> None:
        self._core = extras.load("prometheus_client.core", "metrics")
        self._engine: LocalEngine | None = None
        if pool is not None:
            engine = getattr(pool, "_engine", None)
            if engine is None:
                raise TypeError(f"pool must be a glasspool.Pool, not {type(pool).__name__}")
            self._engine = engine
        self._pid = os.getpid()
        self._asking = threading.Lock()
        self._totals: dict[tuple[int, str], Totals] = {}

    def describe(self) -> Iterable[Any]:
        """Tell the names of the metrics, so that a registry need not ask the pools for them."""
        return Families(self._core).all()

    def collect(self) -> Iterator[Any]:
        """Ask the pools, and yield the metrics."""
        pools = self._pools()
        with self._asking:  # two scrapes at once share the totals
            told = Families(self._core)
            tell(told, pools, self._totals)
        yield from told.all()

    def _pools(self) -> Sequence[PoolInfo]:
        if os.getpid() != self._pid:
            return ()  # a child that the user forked, such as a worker: the pools are its parent's
        if self._engine is None:
            from glasspool.observe import entry

            return entry.inspect(None).pools
        if self._engine.done.is_set():
            return ()
        if self._engine.is_cluster:
            from glasspool.observe import cluster

            return (cluster.describe(self._engine),)  # type: ignore[arg-type]
        from glasspool.observe import roster

        return (roster.describe(self._engine),)


class Exporter:
    """Turns the views of a watch into the text that Prometheus reads. One thread at a time calls it.

    Raises:
        MissingExtra: ``prometheus_client`` is not installed.
    """

    def __init__(self) -> None:
        self._core = extras.load("prometheus_client.core", "metrics")
        self._writer = extras.load("prometheus_client.exposition", "metrics")
        self._asking = threading.Lock()
        self._totals: dict[tuple[int, str], Totals] = {}

    def exposition(self, view: View, accept: str) -> tuple[bytes, str]:
        """Return the text of a view, and its content type.

        Args:
            view: What the watch saw. If it is past, nothing is told but that.
            accept: What the reader's ``Accept`` header says: Prometheus' own text, or OpenMetrics.
        """
        told = Families(self._core, watched=True)
        lives = view.snapshot is not None and not view.past
        told.up.add_metric((), 1 if lives else 0)
        if lives and view.snapshot is not None:
            with self._asking:
                tell(told, view.snapshot.pools, self._totals)
        registry = self._core.CollectorRegistry(auto_describe=False)
        registry.register(_Told(told.all()))
        write, kind = self._writer.choose_encoder(accept)
        return write(registry), kind


class _Told:
    """A collector of what has been collected."""

    def __init__(self, families: Sequence[Any]) -> None:
        self._families = families

    def collect(self) -> Sequence[Any]:
        return self._families


class Families:
    """The metrics, empty at first."""

    def __init__(self, core: Any, *, watched: bool = False) -> None:
        counter, gauge = core.CounterMetricFamily, core.GaugeMetricFamily
        pool = ("pool",)
        self.tasks: Any = counter("glasspool_tasks", _TASKS, labels=("pool", "state"))
        self.open: Any = gauge("glasspool_open_tasks", _OPEN, labels=("pool", "state"))
        self.workers: Any = gauge("glasspool_workers", _WORKERS, labels=("pool", "state"))
        self.size: Any = gauge(
            "glasspool_pool_size", "Workers that the pool shall have.", labels=pool
        )
        self.deaths: Any = counter("glasspool_worker_deaths", _DEATHS, labels=pool)
        self.replaced: Any = counter("glasspool_workers_replaced", _REPLACED, labels=pool)
        self.duration: Any = core.SummaryMetricFamily(
            "glasspool_task_duration_seconds", _DURATION, labels=pool
        )
        self.time: Any = counter("glasspool_worker_seconds", _TIME, labels=("pool", "part"))
        self.cpu: Any = counter("glasspool_worker_cpu_seconds", _CPU, labels=pool)
        self.memory: Any = gauge("glasspool_worker_resident_memory_bytes", _MEMORY, labels=pool)
        self.arguments: Any = gauge("glasspool_waiting_argument_bytes", _ARGUMENTS, labels=pool)
        node = ("pool", "node")
        self.node_workers: Any = gauge("glasspool_node_workers", _NODE_WORKERS, labels=node)
        self.node_open: Any = gauge("glasspool_node_open_tasks", _NODE_OPEN, labels=node)
        self.node_tasks: Any = counter("glasspool_node_tasks", _NODE_TASKS, labels=node)
        self.info: Any = core.InfoMetricFamily("glasspool_pool", _INFO, labels=pool)
        self._watched = watched
        if watched:
            self.up: Any = gauge("glasspool_up", "Whether the watched program runs.", labels=())

    def all(self) -> list[Any]:
        """Return them in the order in which they are told."""
        told = [
            self.tasks,
            self.open,
            self.duration,
            self.workers,
            self.size,
            self.deaths,
            self.replaced,
            self.time,
            self.cpu,
            self.memory,
            self.arguments,
            self.node_workers,
            self.node_open,
            self.node_tasks,
            self.info,
        ]
        return [self.up, *told] if self._watched else told


_TASKS = "Tasks that have ended, by how: a chunk of a map is one task."
_OPEN = "Tasks that wait for a worker, and tasks that run."
_WORKERS = "Worker processes, by what they are at."
_DEATHS = "Workers that died though nobody wanted it."
_REPLACED = "Workers that another one has followed, on purpose or after a death."
_DURATION = "How long tasks took in their workers: how many there were, and all their time."
_TIME = "What workers spent their time with. The parts add up to all of it."
_CPU = "Processor time of the workers."
_MEMORY = "Resident memory of all workers; pages that several share count for each."
_ARGUMENTS = "Arguments of tasks that wait, in bytes."
_NODE_WORKERS = "Workers that a node of a cluster shall have; a node that was lost is told no more."
_NODE_OPEN = "Tasks that a node of a cluster has and has not ended."
_NODE_TASKS = "Tasks that a node of a cluster has ended."
_INFO = "What the pool is."


class Totals:
    """Sums over all workers that a pool ever had, which never go back.

    A worker that has died is in no picture until it is buried, and of those that were buried only the last
    are told of. So what was seen of each is kept: in ``_known`` while pictures tell of it, then in the sum.
    """

    def __init__(self) -> None:
        self._known: dict[_Whose, list[float]] = {}
        self._folded: dict[_Whose, list[float]] = {}
        self._base = [0.0] * _PLACES
        self._told = [0.0] * _PLACES

    def see(self, pool: PoolInfo) -> list[float]:
        """Take in a picture, and return the sums: see ``_values``."""
        seen = {_whose(p): _values(p) for p in (*pool.ended, *pool.workers)}
        for key, values in seen.items():
            before = self._known.get(key)
            if before is None and (before := self._folded.pop(key, None)) is not None:
                self._base = [sum_ - part for sum_, part in zip(self._base, before, strict=True)]
            if before is not None:
                values = [max(pair) for pair in zip(before, values, strict=True)]
            self._known[key] = values
        for key in self._known.keys() - seen.keys():
            values = self._known.pop(key)
            self._base = [sum_ + part for sum_, part in zip(self._base, values, strict=True)]
            self._folded[key] = values
        while len(self._folded) > _FOLDED:
            del self._folded[next(iter(self._folded))]
        sums = (sum(column) for column in zip(self._base, *self._known.values(), strict=True))
        # The same numbers in another order may add up to a little less, which Prometheus would take for a
        # counter that has begun anew.
        self._told = [max(pair) for pair in zip(self._told, sums, strict=True)]
        return self._told


_PLACES = 3 + len(PARTS)

_Whose = tuple[str | None, int, int]
"""A worker: its node, its pid and its generation."""


def _whose(process: ProcessInfo) -> _Whose:
    return process.node, process.pid, process.generation


def _values(process: ProcessInfo) -> list[float]:
    """Return tasks done, busy seconds, processor seconds, and seconds by part."""
    time = process.time
    parts = [0.0 if time is None else float(getattr(time, f"{part}_s")) for part in PARTS]
    return [float(process.tasks_done), process.busy_s, process.cpu_s or 0.0, *parts]


def tell(told: Families, pools: Iterable[PoolInfo], totals: dict[tuple[int, str], Totals]) -> None:
    """Fill metrics from a picture.

    Args:
        told: Where to.
        pools: The picture's pools.
        totals: What was seen before of each pool; it is kept up.
    """
    seen = {(pool.pid, pool.name): pool for pool in pools}
    for gone in totals.keys() - seen.keys():
        del totals[gone]
    for key, pool in seen.items():
        kept = totals.get(key)
        if kept is None:
            kept = totals[key] = Totals()
        _tell_pool(told, pool, kept.see(pool))


def _tell_pool(told: Families, pool: PoolInfo, sums: Sequence[float]) -> None:
    label = (pool.name,)
    facts = {"kind": pool.kind, "pid": str(pool.pid), "start_method": pool.start_method or ""}
    if pool.engine != "local":
        facts["engine"] = pool.engine
    told.info.add_metric(label, facts)
    _tell_nodes(told, pool)
    if pool.size:
        told.size.add_metric(label, pool.size)
    states = [w.state if w.state in WORKER_STATES else "other" for w in pool.workers]
    for state in (*WORKER_STATES, "other"):
        told.workers.add_metric((pool.name, state), states.count(state))
    memory = [worker.rss_bytes for worker in pool.workers if worker.rss_bytes is not None]
    told.memory.add_metric(label, sum(memory))
    done, busy_s, cpu_s, *parts = sums
    told.cpu.add_metric(label, cpu_s)
    if pool.kind != _OURS:
        return  # what a pool of another library has done is nowhere to be read
    told.duration.add_metric(label, count_value=int(done), sum_value=busy_s)
    if any(worker.time is not None for worker in pool.workers):
        for part, seconds in zip(PARTS, parts, strict=True):
            told.time.add_metric((pool.name, part), seconds)
    _tell_counters(told, pool)


def _tell_nodes(told: Families, pool: PoolInfo) -> None:
    for node in pool.nodes:
        if node.state not in ("lost", "gone"):
            told.node_workers.add_metric((pool.name, node.name), node.workers)
            told.node_open.add_metric((pool.name, node.name), node.tasks)
            told.node_tasks.add_metric((pool.name, node.name), node.tasks_done)


def _tell_counters(told: Families, pool: PoolInfo) -> None:
    stats = pool.stats
    if "failed" not in stats:
        return  # it did not answer: a scoreboard counts only what its present workers did
    for state in ENDS:
        told.tasks.add_metric((pool.name, state), stats.get(state, 0))
    for state in ("waiting", "running"):
        told.open.add_metric((pool.name, state), stats.get(state, 0))
    told.deaths.add_metric((pool.name,), stats.get("deaths", 0))
    told.replaced.add_metric((pool.name,), stats.get("replaced", 0))
    told.arguments.add_metric((pool.name,), stats.get("waiting_bytes", 0))
