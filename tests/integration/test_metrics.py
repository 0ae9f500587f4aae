"""Metrics of pools: true, never going back, and as Prometheus' own parsers want them."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable

import prometheus_client
import pytest
from prometheus_client import parser
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics import parser as openmetrics_parser

import glasspool
import glasspool.metrics
from glasspool.observe.watch import View, Watch
from pools import MakePool, wait_until

LIMIT_S = 60
NAME = 'odd "name" \\ {x="y"}'

pytestmark = pytest.mark.timeout(LIMIT_S)


def double(item: int) -> int:
    return 2 * item


def fail(item: int) -> int:
    raise ValueError(item)


def kill_me(_: int) -> None:
    os.kill(os.getpid(), 9)


Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(registry: prometheus_client.CollectorRegistry) -> Samples:
    """Return what a registry tells, through text and parser of both forms, which must agree."""
    plain = prometheus_client.generate_latest(registry).decode()
    told = _parsed(parser.text_string_to_metric_families(plain))
    strict = openmetrics.generate_latest(registry).decode()
    again = _parsed(openmetrics_parser.text_string_to_metric_families(strict))
    # The pool works on between the two, but what there is is the same.
    assert told.keys() == again.keys()
    return told


def _parsed(families) -> Samples:
    found: Samples = {}
    for family in families:
        assert family.documentation.endswith("."), family.name
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found, "told twice"
            found[key] = sample.value
    return found


def value(told: Samples, name: str, **labels: str) -> float:
    """Return one sample of the pool NAME."""
    return told[name, tuple(sorted({"pool": NAME, **labels}.items()))]


@pytest.fixture
def registry() -> prometheus_client.CollectorRegistry:
    """Return a registry of the test's own."""
    return prometheus_client.CollectorRegistry()


def test_the_numbers_are_the_pools(make_forked: MakePool, registry) -> None:
    """What a collector tells of a pool is what the pool tells of itself."""
    pool = make_forked(2, name=NAME)
    glasspool.metrics.register(pool, registry=registry)
    pool.map(double, range(50), chunksize=5)
    for _ in range(3):
        with pytest.raises(ValueError):
            pool.apply(fail, (1,))
    with pytest.raises(glasspool.WorkerDied):
        pool.apply(kill_me, (1,))
    wait_until(lambda: pool.stats()["idle"] == 2, "the worker's replacement")
    told, stats = samples(registry), pool.stats()
    for state in ("done", "failed", "lost", "cancelled", "timeout"):
        assert value(told, "glasspool_tasks_total", state=state) == stats[state], state
    assert (stats["done"], stats["failed"], stats["lost"]) == (10, 3, 1)
    assert value(told, "glasspool_open_tasks", state="waiting") == 0
    assert value(told, "glasspool_open_tasks", state="running") == 0
    assert value(told, "glasspool_workers", state="idle") == 2
    assert value(told, "glasspool_workers", state="busy") == 0
    assert value(told, "glasspool_pool_size") == 2
    assert value(told, "glasspool_worker_deaths_total") == 1
    assert value(told, "glasspool_workers_replaced_total") == stats["replaced"] == 1
    assert value(told, "glasspool_task_duration_seconds_count") == 13
    assert 0 < value(told, "glasspool_task_duration_seconds_sum") < LIMIT_S
    assert value(told, "glasspool_worker_resident_memory_bytes") > 1e6
    assert value(told, "glasspool_worker_cpu_seconds_total") >= 0
    parts = [
        value(told, "glasspool_worker_seconds_total", part=part) for part in glasspool.metrics.PARTS
    ]
    assert all(part >= 0 for part in parts)
    info = [dict(labels) for name, labels in told if name == "glasspool_pool_info"]
    assert [(one["pool"], one["kind"], one["pid"]) for one in info] == [
        (NAME, "glasspool.Pool", str(os.getpid()))
    ]


def test_counters_never_go_back(make_forked: MakePool, registry) -> None:
    """Workers come and go all the time; no counter is ever less than it was."""
    pool = make_forked(2, name=NAME, maxtasksperchild=3)
    glasspool.metrics.register(pool, registry=registry)
    job = pool.map_async(double, range(300), chunksize=1)
    last: Samples = {}
    while not job.ready():
        now = samples(registry)
        for key, before in last.items():
            if key[0].endswith(("_total", "_sum", "_count")):
                assert now[key] >= before, key
        last = now

    def all_are_counted() -> bool:
        return value(samples(registry), "glasspool_task_duration_seconds_count") == 300

    wait_until(all_are_counted, "all tasks counted for their workers")
    assert value(samples(registry), "glasspool_tasks_total", state="done") == 300


def test_names_follow_the_rules(make_forked: MakePool, registry) -> None:
    """Counters end in _total, units are base units and stand in the name, no family has two meanings."""
    make_forked(1, name=NAME)
    glasspool.metrics.register(registry=registry)
    families = list(registry.collect())
    names = [family.name for family in families]
    assert len(set(names)) == len(names)
    for family in families:
        assert family.name.startswith("glasspool_")
        assert not family.name.endswith(("_total", "_count", "_sum", "_bucket", "_info"))
        # Only pools on clusters have nodes.
        assert family.samples or family.name.startswith("glasspool_node_"), family.name
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter")
            assert len(sample.labels) <= 5
        for unit in ("_ms", "_milliseconds", "_minutes", "_kb", "_mb", "_percent"):
            assert unit not in family.name


def test_all_pools_of_the_process(make_forked: MakePool, registry) -> None:
    """A collector without a pool tells of those that there are when it is asked."""
    glasspool.metrics.register(registry=registry)
    with pytest.raises(ValueError, match="Duplicated"):
        glasspool.metrics.register(registry=registry)

    def pools() -> set[str]:
        return {dict(labels).get("pool", "") for _, labels in samples(registry)}

    assert pools() == set()
    one, _ = make_forked(1, name="one"), make_forked(1, name="other")
    assert pools() == {"one", "other"}
    one.terminate()
    one.join()
    assert pools() == {"other"}


def test_a_collector_keeps_nothing_alive(registry) -> None:
    """A pool that its owner drops ends, though a collector tells of it; then there is nothing to tell."""
    pool = glasspool.Pool(1, name=NAME)
    engine = pool._engine
    told = glasspool.metrics.register(pool, registry=registry)
    assert samples(registry)
    dropped = weakref.ref(pool)
    with pytest.warns(ResourceWarning):
        del pool
    assert dropped() is None
    assert engine.done.wait(LIMIT_S)
    assert samples(registry) == {}
    registry.unregister(told)
    with pytest.raises(TypeError, match=r"glasspool\.Pool"):
        glasspool.metrics.collector(42)


def test_a_worker_tells_of_no_pool(make_forked: MakePool, registry) -> None:
    """In a process that was forked, the collector has nothing to tell: the pools are its parent's."""
    told = glasspool.metrics.register()
    try:
        pool = make_forked(1, name=NAME)
        names = pool.apply(names_in_worker)
        assert names == []
    finally:
        prometheus_client.REGISTRY.unregister(told)


def names_in_worker() -> list[str]:
    """Return what the worker's own registry tells of pools."""
    families = prometheus_client.REGISTRY.collect()
    return [f.name for f in families if f.name.startswith("glasspool") and f.samples]


def test_the_text_of_a_watch(make_forked: MakePool) -> None:
    """An exporter writes what a watch saw in the form that the reader accepts; of the past, only that."""
    pool = make_forked(2, name=NAME)
    pool.map(double, range(20), chunksize=1)
    watch = Watch(os.getpid())
    exporter = glasspool.metrics.Exporter()
    view = watch.look()
    watch.close()
    forms: dict[str, Callable] = {
        "": parser.text_string_to_metric_families,
        "text/plain;version=0.0.4": parser.text_string_to_metric_families,
        "application/openmetrics-text; version=1.0.0": openmetrics_parser.text_string_to_metric_families,
    }
    for accept, parse in forms.items():
        text, kind = exporter.exposition(view, accept)
        told = _parsed(parse(text.decode()))
        assert told["glasspool_up", ()] == 1
        assert value(told, "glasspool_tasks_total", state="done") == 20
        assert ("openmetrics" in kind) == ("openmetrics" in accept)
    past = View(view.snapshot, view.taken_at, past=True, problem="gone")
    text, _ = exporter.exposition(past, "")
    assert _parsed(parser.text_string_to_metric_families(text.decode())) == {
        ("glasspool_up", ()): 0
    }
