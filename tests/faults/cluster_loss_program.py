"""A program whose cluster loses its scheduler, or head: it says how its calls end."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cluster_fault_tasks as tasks

import glasspool
from clusters import DaskCluster, RayCluster, opened

LIMIT_S = 90.0


def end_of(result: Any) -> str:
    """Return the name of a result's error."""
    try:
        result.get(LIMIT_S)
    except Exception as error:
        print(error, file=sys.stderr)
        return type(error).__name__
    return "a value"


def main(library: str) -> None:
    """Have a cluster, a pool, and then no cluster."""
    with opened(DaskCluster if library == "dask" else RayCluster) as cluster:
        pool = glasspool.Pool(engine=library, address=cluster.address)
        begun = Path(tempfile.mkdtemp(dir=cluster.folder)) / "begun"
        rows = [pool.apply_async(tasks.wait_for, (f"{begun}{i}", 300.0)) for i in range(20)]
        while not list(begun.parent.iterdir()):
            time.sleep(0.05)
        gone = cluster.head if isinstance(cluster, RayCluster) else cluster.scheduler
        gone.kill()
        print(f"running: {end_of(rows[0])}")
        print(f"waiting: {end_of(rows[-1])}")
        print(f"new: {end_of(pool.apply_async(tasks.square, (2,)))}")
        pool.close()
        pool.join()
        print("joined: yes", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
