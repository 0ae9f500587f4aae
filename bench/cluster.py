"""Pools on a cluster side by side with what Ray and Dask have themselves: two nodes on loopback.

    python -m bench.cluster [--rounds 3] [--engines dask,ray] [--only 'map*'] [--json FILE]

Each engine gets a cluster of two nodes with one place each, in processes of their own. In each round the
contenders take turns, each in a process of its own that connects, measures all cases, and leaves. Printed are
the median of the rounds with the least and the most, and how often ours goes into theirs: above 1 ours is
the better one; in parentheses its least and most, round by round.

What is theirs: ``ray.util.multiprocessing.Pool``; ``client.map``, ``client.submit`` and ``gather`` of Dask.
A * marks what was measured on a part of the tasks, and scaled up.

The case ``crossed`` is apart (``cluster_wire``): nodes with a network interface each, whose counters tell how
often an array that 64 tasks share has crossed to each node. It needs root.
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from bench import cluster_nodes, cluster_tasks

OURS, THEIRS = "glasspool", "theirs"
ENGINES = ("dask", "ray")
NAMES = {"dask": "Dask's client", "ray": "Ray's pool"}
NODES = 2
LIMIT_S = 400.0
BYTES = 64 << 20
ANSWER = "measured: "


class Sizes(NamedTuple):
    """How much is measured: of ours, and the part of it that theirs get."""

    map: int
    map_part: int
    apply: int
    stream: int
    stream_part: int
    bytes: int
    sharers: int


FULL = Sizes(20_000, 20_000, 500, 5_000, 1_000, BYTES, 64)
SHORT = Sizes(20_000, 2_000, 200, 2_000, 500, BYTES, 64)
QUICK = Sizes(40, 20, 3, 20, 10, 1 << 20, 4)


class Contender:
    """What is measured, as the cases need it: connect in the constructor, ``leave`` at the end."""

    is_ours = False

    def __init__(self, engine: str, address: str, places: int = NODES) -> None:
        raise NotImplementedError

    def ready(self) -> None:
        """Return when all that workers need is there."""
        self.map([0] * 8)

    def map(
        self, items: Sequence[Any], function: Callable[[Any], Any] = cluster_tasks.nothing
    ) -> Any:
        """Have a call for each item, each in a task of its own; return the results."""
        raise NotImplementedError

    def map_chunks(self, items: Sequence[Any]) -> Any:
        """Have a call for each item, grouped as it likes."""
        return self.map(items)

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Have a single call, and wait for it."""
        raise NotImplementedError

    def burst(self, count: int) -> None:
        """Submit so many single calls, then wait for all."""
        raise NotImplementedError

    def stream(self, count: int) -> None:
        """Read the results of so many calls one by one, in order."""
        raise NotImplementedError

    def share(self, array: Any, count: int) -> Any:
        """Have so many calls with the same array."""
        raise NotImplementedError

    def leave(self) -> None:
        """End, and wait for the end."""
        raise NotImplementedError


class Ours(Contender):
    """A pool on the cluster."""

    is_ours = True

    def __init__(self, engine: str, address: str, places: int = NODES) -> None:
        import glasspool

        self.pool = glasspool.Pool(places, engine=engine, address=address)

    def map(
        self, items: Sequence[Any], function: Callable[[Any], Any] = cluster_tasks.nothing
    ) -> Any:
        """As the base says."""
        return self.pool.map(function, items, chunksize=1)

    def map_chunks(self, items: Sequence[Any]) -> Any:
        """As the base says."""
        return self.pool.map(cluster_tasks.nothing, items)

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """As the base says."""
        return self.pool.apply(function, args)

    def burst(self, count: int) -> None:
        """As the base says."""
        made = [self.pool.apply_async(cluster_tasks.nothing, (n,)) for n in range(count)]
        for one in made:
            one.get(LIMIT_S)

    def stream(self, count: int) -> None:
        """As the base says."""
        for _ in self.pool.imap(cluster_tasks.nothing, range(count)):
            pass

    def share(self, array: Any, count: int) -> Any:
        """As the base says."""
        return self.pool.starmap(cluster_tasks.total, [(array, n) for n in range(count)], 1)

    def share_in_partial(self, array: Any, count: int) -> Any:
        """Have so many calls of a function that has the array."""
        return self.pool.map(functools.partial(cluster_tasks.total, array), range(count), 1)

    def leave(self) -> None:
        """As the base says."""
        self.pool.close()
        self.pool.join()


class RayPool(Contender):
    """Ray's own pool."""

    def __init__(self, engine: str, address: str, places: int = NODES) -> None:
        import ray
        from ray.util.multiprocessing import Pool

        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        self.pool: Any = Pool(places)

    def map(
        self, items: Sequence[Any], function: Callable[[Any], Any] = cluster_tasks.nothing
    ) -> Any:
        """As the base says."""
        return self.pool.map(function, items, chunksize=1)

    def map_chunks(self, items: Sequence[Any]) -> Any:
        """As the base says."""
        return self.pool.map(cluster_tasks.nothing, items)

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """As the base says."""
        return self.pool.apply(function, args)

    def burst(self, count: int) -> None:
        """As the base says."""
        made = [self.pool.apply_async(cluster_tasks.nothing, (n,)) for n in range(count)]
        for one in made:
            one.get(LIMIT_S)

    def stream(self, count: int) -> None:
        """As the base says."""
        for _ in self.pool.imap(cluster_tasks.nothing, range(count)):
            pass

    def share(self, array: Any, count: int) -> Any:
        """As the base says."""
        return self.pool.starmap(cluster_tasks.total, [(array, n) for n in range(count)], 1)

    def leave(self) -> None:
        """As the base says."""
        self.pool.close()
        self.pool.terminate()
        self.pool.join()


class DaskClient(Contender):
    """Dask's client; each call is a call of its own, whatever was called before."""

    def __init__(self, engine: str, address: str, places: int = NODES) -> None:
        from distributed import Client

        self.client: Any = Client(address)

    def map(
        self, items: Sequence[Any], function: Callable[[Any], Any] = cluster_tasks.nothing
    ) -> Any:
        """As the base says."""
        return self.client.gather(self.client.map(function, items, pure=False))

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """As the base says."""
        return self.client.submit(function, *args, pure=False).result()

    def burst(self, count: int) -> None:
        """As the base says."""
        submit = self.client.submit
        for one in [submit(cluster_tasks.nothing, n, pure=False) for n in range(count)]:
            one.result()

    def stream(self, count: int) -> None:
        """As the base says."""
        for one in self.client.map(cluster_tasks.nothing, range(count), pure=False):
            one.result()

    def share(self, array: Any, count: int) -> Any:
        """As the base says, in the way that the documentation recommends."""
        there = self.client.scatter(array, broadcast=True)
        made = self.client.map(cluster_tasks.total, [there] * count, range(count), pure=False)
        return self.client.gather(made)

    def leave(self) -> None:
        """As the base says."""
        self.client.close()


CONTENDERS: dict[tuple[str, str], type[Contender]] = {
    ("dask", OURS): Ours,
    ("ray", OURS): Ours,
    ("dask", THEIRS): DaskClient,
    ("ray", THEIRS): RayPool,
}


# The cases. Each returns numbers by the names of rows; less is better in all of them ------------------------

Rows = dict[str, float]


def time_map(one: Contender, sizes: Sizes) -> Rows:
    """Time a map of many tasks that do nothing."""
    part = sizes.map if one.is_ours else sizes.map_part
    taken = _timed(lambda: one.map(range(part)))
    return {f"map of {sizes.map:,} no-ops, chunksize 1 (s)": taken * sizes.map / part}


def time_chunks(one: Contender, sizes: Sizes) -> Rows:
    """Time a map with default chunks."""
    part = sizes.map if one.is_ours else sizes.map_part
    taken = _timed(lambda: one.map_chunks(range(part)))
    return {f"map of {sizes.map:,} no-ops, default chunks (s)": taken * sizes.map / part}


def time_apply(one: Contender, sizes: Sizes) -> Rows:
    """Time single calls, one after the other."""
    taken = sorted(_timed(lambda: one.call(cluster_tasks.nothing, 1)) for _ in range(sizes.apply))
    return {
        "apply, median (ms)": statistics.median(taken) * 1e3,
        "apply, 99 of 100 (ms)": taken[int(len(taken) * 0.99)] * 1e3,
    }


def time_burst(one: Contender, sizes: Sizes) -> Rows:
    """Time single calls that are all submitted at once."""
    part = sizes.stream if one.is_ours else sizes.stream_part
    taken = _timed(lambda: one.burst(part))
    return {f"{sizes.stream:,} of apply_async at once (s)": taken * sizes.stream / part}


def time_stream(one: Contender, sizes: Sizes) -> Rows:
    """Time results that are read one by one."""
    part = sizes.stream if one.is_ours else sizes.stream_part
    taken = _timed(lambda: one.stream(part))
    return {f"imap of {sizes.stream:,} no-ops (s)": taken * sizes.stream / part}


def time_dicts(one: Contender, sizes: Sizes) -> Rows:
    """Time arguments and results of a kilobyte."""
    part = sizes.stream if one.is_ours else sizes.stream_part
    items = [{f"key {n}": "x" * 50 for n in range(15)} | {"n": n} for n in range(part)]
    taken = _timed(lambda: one.map(items, cluster_tasks.same))
    return {
        f"map of {sizes.stream:,} dicts of 1 KB, there and back (s)": taken * sizes.stream / part
    }


def time_large(one: Contender, sizes: Sizes) -> Rows:
    """Time a large argument, and a large result."""
    import numpy as np

    array = np.ones(sizes.bytes // 8)
    there = min(_timed(lambda: one.call(cluster_tasks.total, array)) for _ in range(3))
    back = min(_timed(lambda: one.call(cluster_tasks.zeros, array.size)) for _ in range(3))
    return {"an argument of 64 MB (s)": there, "a result of 64 MB (s)": back}


def time_shared(one: Contender, sizes: Sizes) -> Rows:
    """Time tasks that share a large array, and count what goes over loopback meanwhile."""
    import numpy as np

    array = np.ones(sizes.bytes // 8)
    before = _loopback_bytes()
    taken = _timed(lambda: one.share(array, sizes.sharers))
    crossed = (_loopback_bytes() - before) / sizes.bytes
    what = f"64 MB shared by {sizes.sharers} tasks"
    return {f"{what} (s)": taken, f"{what}: times that it crossed": crossed}


CASES: dict[str, Callable[[Contender, Sizes], Rows]] = {
    "map": time_map,
    "chunks": time_chunks,
    "apply": time_apply,
    "burst": time_burst,
    "stream": time_stream,
    "dicts": time_dicts,
    "large": time_large,
    "shared": time_shared,
}


CROSSED = "crossed"


def _timed(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def _loopback_bytes() -> int:
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, counts = line.partition(":")
        if name.strip() == "lo":
            return int(counts.split()[0])
    return 0


def measure(engine: str, name: str, address: str, cases: Sequence[str], sizes: Sizes) -> Rows:
    """Measure a contender in this process."""
    if engine == "ray" and name == OURS:  # both connect before the clock runs
        import ray

        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    begun = time.perf_counter()
    one = CONTENDERS[engine, name](engine, address)
    one.map([0])
    rows = {"start, to the first result (s)": time.perf_counter() - begun}
    one.ready()
    for case in cases:
        rows |= CASES[case](one, sizes)
    return rows | {"close (s)": _timed(one.leave)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what was asked for, and print a table for each engine."""
    told = _parser().parse_args(arguments)
    sizes = QUICK if told.quick else FULL if told.full else SHORT
    cases = [name for name in CASES if any(fnmatch(name, one) for one in told.only or ["*"])]
    if told.one:
        rows = measure(*told.one, cases, sizes)
        print(ANSWER + json.dumps(rows))
        return 0
    found: dict[str, list[dict[str, Rows]]] = {}
    counted: dict[str, list[Any]] = {}
    engines = told.engines.split(",")
    if cases:
        for engine in engines:
            found[engine] = _rounds(engine, told, sizes)
            _write(told.json, sizes, found, counted)
    if any(fnmatch(CROSSED, one) for one in told.only or ["*"]):
        from bench import cluster_wire  # which needs root

        for engine in engines:
            try:
                rows = cluster_wire.crossed(engine, sizes)
            except OSError as error:
                print(f"{CROSSED}: not measured, as there are no namespaces here: {error}")
                break
            counted[engine] = [row._asdict() for row in rows]
            cluster_wire.print_table(rows, sizes)
            _write(told.json, sizes, found, counted)
    return 0


def _rounds(engine: str, told: argparse.Namespace, sizes: Sizes) -> list[dict[str, Rows]]:
    """Measure both contenders of an engine, and print a table."""
    with cluster_nodes.cluster(engine, NODES) as where:
        rounds = [_round(engine, number, where, told, sizes) for number in range(told.rounds)]
    _print(engine, rounds, sizes, told.markdown)
    return rounds


def _write(
    file: Path | None,
    sizes: Sizes,
    found: dict[str, list[dict[str, Rows]]],
    counted: dict[str, list[Any]],
) -> None:
    if file is not None:
        document = {"sizes": sizes._asdict(), "rounds": found, "crossed": counted}
        file.write_text(json.dumps(document, indent=1))


def _round(
    engine: str, number: int, where: cluster_nodes.Cluster, told: argparse.Namespace, sizes: Sizes
) -> dict[str, Rows]:
    names = (OURS, THEIRS) if number % 2 else (THEIRS, OURS)
    return {name: _apart(engine, name, where, told) for name in names}


def _apart(engine: str, name: str, where: cluster_nodes.Cluster, told: argparse.Namespace) -> Rows:
    """Measure in a process of its own."""
    words = [sys.executable, "-m", "bench.cluster", "--one", engine, name, where.address]
    words += [f"--only={one}" for one in told.only or ()]
    words += ["--quick"] * told.quick + ["--full"] * told.full
    done = subprocess.run(
        words,
        stdout=subprocess.PIPE,
        text=True,
        timeout=LIMIT_S,
        check=True,
        env=where.environ,
        cwd=cluster_nodes.ROOT,
    )
    line = next(line for line in done.stdout.splitlines() if line.startswith(ANSWER))
    found: Rows = json.loads(line.removeprefix(ANSWER))
    return found


def _print(engine: str, rounds: list[dict[str, Rows]], sizes: Sizes, markdown: bool) -> None:
    lines = [(f"{engine}, {NODES} nodes", OURS, NAMES[engine], "theirs / ours")]
    for what in rounds[0][OURS]:
        ours = [each[OURS][what] for each in rounds]
        theirs = [each[THEIRS][what] for each in rounds]
        ratios = [b / a if a else 0.0 for a, b in zip(ours, theirs, strict=True)]
        star = "*" if _is_part(what, sizes) else ""
        lines.append((what, spread(ours), spread(theirs) + star, spread(ratios)))
    if markdown:
        lines.insert(1, ("---", "---:", "---:", "---:"))
        print("\n".join(f"| {' | '.join(line)} |" for line in lines), flush=True)
        return
    for first, *rest in lines:
        print(f"{first:52}" + "".join(f"{word:>26}" for word in rest), flush=True)


def _is_part(what: str, sizes: Sizes) -> bool:
    if f"{sizes.map:,} no-ops" in what and "imap" not in what:
        return sizes.map_part < sizes.map
    return f"{sizes.stream:,} " in what and sizes.stream_part < sizes.stream


def spread(values: Sequence[float]) -> str:
    """Return the median, with the least and the most in parentheses."""
    middle = f"{statistics.median(values):.3g}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.3g} to {max(values):.3g})"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.cluster",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--engines", default=",".join(ENGINES), metavar="NAME,NAME")
    parser.add_argument(
        "--only", action="append", metavar="CASE", help=", ".join([*CASES, CROSSED])
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run at all?")
    parser.add_argument("--full", action="store_true", help="theirs get more, or all of the tasks")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all rounds to FILE")
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
