"""Making a pool on a cluster: the library's link, the engine, its start."""

from __future__ import annotations

from typing import Any

from glasspool import registry
from glasspool.engines import base
from glasspool.engines.cluster.engine import ClusterEngine
from glasspool.engines.cluster.engine import ClusterPlan as ClusterPlan
from glasspool.engines.cluster.link import Link


def start(plan: ClusterPlan, address: Any) -> ClusterEngine:
    """Connect to a cluster and start a pool there.

    Raises:
        EngineUnavailable: The library is missing, or there is no cluster to be had.
        Exception: The pool cannot be had there.
    """
    engine = ClusterEngine(plan, _connect(plan.engine, address, plan.total))
    registry.add_cluster(engine)
    try:
        engine.start()
    except BaseException:
        engine.give_up()
        raise
    registry.made_cluster(engine)
    return engine


def _connect(name: str, address: Any, processes: int | None) -> Link:
    """Connect; a cluster that is made for the occasion has as many processors as there are processes."""
    if name == base.RAY:
        from glasspool.engines import ray

        return ray.connect(address, processors=processes)
    from glasspool.engines import dask

    return dask.connect(address, processors=processes)
