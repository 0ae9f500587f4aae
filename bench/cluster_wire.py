"""How many bytes of a shared array cross to each node: the counters of real network interfaces.

    python -m bench.cluster --only crossed [--engines dask,ray] [--json FILE]

Two nodes have a network namespace each, joined to the driver's by a bridge: all that goes to a node goes
through one interface, and the kernel counts it. The head of Ray is a node on the driver's side, whose workers
have tasks, too. Needs root, and the command ``ip``. What else crosses meanwhile is counted as well.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench import cluster, cluster_nodes

sys.path.append(str(cluster_nodes.ROOT / "tests"))

import clusters

NODES = 2
SETTLE_S = 0.3
"""So long after the last result late packets are waited for."""


class Crossed(NamedTuple):
    """What crossed to the nodes while tasks ran that share an array."""

    engine: str
    name: str
    how: str
    taken_s: float
    to_node: list[float]  # how often the array's size


class DaskCluster(clusters.DaskCluster):
    """One whose workers find the functions of the benchmarks."""

    def environment(self) -> dict[str, str]:
        """Return the environment of the nodes' processes."""
        return super().environment() | cluster_nodes.environment()


class RayCluster(clusters.RayCluster):
    """One whose workers find the functions of the benchmarks."""

    def environment(self) -> dict[str, str]:
        """Return the environment of the nodes' processes."""
        return super().environment() | cluster_nodes.environment()


def crossed(engine: str, sizes: cluster.Sizes) -> list[Crossed]:
    """Have both contenders share an array on nodes with an interface each, and count.

    Raises:
        OSError: Network namespaces cannot be made here.
    """
    wire = clusters.Wire()
    try:
        # The head of Ray is a node, too, on the driver's side.
        made = DaskCluster(NODES, wire) if engine == "dask" else RayCluster(NODES + 1, wire)
        try:
            ends = [one.line.end for one in made.members if one.line is not None]
            return [
                Crossed(*row)
                for name in (cluster.OURS, cluster.THEIRS)
                for row in _apart(engine, name, made, ends, sizes)
            ]
        finally:
            made.close()
    finally:
        wire.close()


def _apart(
    engine: str, name: str, made: clusters.Cluster, ends: Sequence[str], sizes: cluster.Sizes
) -> list[Any]:
    """Measure in a process of its own."""
    told = [engine, name, made.address, ",".join(ends), str(sizes.bytes), str(sizes.sharers)]
    done = subprocess.run(
        [sys.executable, "-m", "bench.cluster_wire", *told],
        stdout=subprocess.PIPE,
        text=True,
        timeout=cluster.LIMIT_S,
        check=True,
        env=made.environment(),
        cwd=cluster_nodes.ROOT,
    )
    found = [line for line in done.stdout.splitlines() if line.startswith(cluster.ANSWER)]
    rows: list[Any] = json.loads(found[0].removeprefix(cluster.ANSWER))
    return rows


def measure(
    engine: str, name: str, address: str, ends: Sequence[str], size: int, count: int
) -> list[Crossed]:
    """Share arrays with tasks, in this process, and count what crosses to each node."""
    import numpy as np

    places = NODES + (engine == "ray")
    one = cluster.CONTENDERS[engine, name](engine, address, places)
    one.map(range(500))  # each node has run the functions' module
    ways = {"one list of arguments": one.share}
    if isinstance(one, cluster.Ours):
        ways["a function's own memory"] = one.share_in_partial
    found = []
    for how, share in ways.items():
        array = np.random.default_rng(1).random(size // 8)  # nothing that could be compressed
        before, begun = _sent(ends), time.perf_counter()
        share(array, count)
        taken_s = time.perf_counter() - begun
        time.sleep(SETTLE_S)
        to_node = [(now - then) / size for now, then in zip(_sent(ends), before, strict=True)]
        found.append(Crossed(engine, name, how, taken_s, to_node))
    one.leave()
    return found


def _sent(ends: Sequence[str]) -> list[int]:
    """Return how many bytes have gone to each node through its interface."""
    files = [Path("/sys/class/net", end, "statistics/tx_bytes") for end in ends]
    return [int(file.read_text()) for file in files]


def print_table(rows: Sequence[Crossed], sizes: cluster.Sizes) -> None:
    """Print how often the array crossed to each node."""
    size = f"{sizes.bytes / (1 << 20):.3g} MB shared by {sizes.sharers} tasks"
    print(f"{size:48}{'times to node 1':>18}{'to node 2':>12}{'time':>10}")
    for one in rows:
        nodes = "".join(f"{times:>{18 - 6 * n}.2f}" for n, times in enumerate(one.to_node))
        name = one.name if one.name == cluster.OURS else cluster.NAMES[one.engine]
        print(f"{f'{one.engine}: {name}, {one.how}':48}{nodes}{one.taken_s:8.2f} s", flush=True)


def main() -> int:
    """Measure one contender for another process."""
    parser = argparse.ArgumentParser(prog="python -m bench.cluster_wire", description=__doc__)
    for word in ("engine", "name", "address", "ends", "bytes", "sharers"):
        parser.add_argument(word)
    told = parser.parse_args()
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    rows = measure(
        told.engine,
        told.name,
        told.address,
        told.ends.split(","),
        int(told.bytes),
        int(told.sharers),
    )
    print(cluster.ANSWER + json.dumps(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
