"""scikit-learn's searches on joblib: our backend beside loky, cold and warm, with small and medium data.

    python -m bench.search [--rounds 5]

Each round runs a process for each backend, in turn: the first search of a process is the cold one (its
pool is started, and loky's workers import scikit-learn), the median of the next ones the warm one. "work" is
the processor time of a warm one, of all processes together, which other programs on the machine disturb
less. Printed is, for each case, the median over the rounds of both, of their ratio (loky's time is 1), and
the extremes of that.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

BACKENDS = ("loky", "glasspool")
LIMIT_S = 600


class Case(NamedTuple):
    """A search: how many rows and columns it is over, and how often it runs warm."""

    rows: int
    columns: int
    make: Callable[[], Any]
    warm: int


def _svm() -> Any:
    from sklearn.model_selection import GridSearchCV
    from sklearn.svm import SVC

    grid = {"C": [0.1, 1, 10], "gamma": [0.01, 0.1]}
    return GridSearchCV(SVC(random_state=0), grid, cv=5, n_jobs=2)


def _forest() -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(n_estimators=40, random_state=0, n_jobs=2)


def _ridge() -> Any:
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import GridSearchCV

    return GridSearchCV(Ridge(random_state=0), {"alpha": [0.1, 1.0, 10.0, 100.0]}, cv=5, n_jobs=2)


CASES = {
    "grid of SVMs, 300 x 20": Case(300, 20, _svm, 5),
    "grid of SVMs, 2,000 x 20": Case(2_000, 20, _svm, 2),
    "forest, 2,000 x 20": Case(2_000, 20, _forest, 3),
    "grid of ridges, 50,000 x 100 (40 MB)": Case(50_000, 100, _ridge, 2),
}


def measure(name: str, backend: str) -> dict[str, float]:
    """Time the first search of this process, and the next ones; in seconds."""
    import joblib
    import numpy as np

    import glasspool

    glasspool.register_joblib()
    case = CASES[name]
    random = np.random.default_rng(0)
    data = random.normal(size=(case.rows, case.columns))
    target = (data[:, 0] + data[:, 1] ** 2 + random.normal(size=case.rows) > 1).astype(int)
    taken: list[float] = []
    before_s = 0.0
    case.make()  # imported
    with joblib.parallel_config(backend=backend):
        for number in range(1 + case.warm):
            if number == 1:
                before_s = _processor_s()
            begun = time.perf_counter()
            case.make().fit(data, target)
            taken.append(time.perf_counter() - begun)
        work_s = (_processor_s() - before_s) / case.warm
    return {"cold": taken[0], "warm": statistics.median(taken[1:]), "work": work_s}


def _processor_s() -> float:
    """Return the processor time of this process and of all that descend from it."""
    import psutil

    me = psutil.Process()
    times = [process.cpu_times() for process in (me, *me.children(recursive=True))]
    return sum(one.user + one.system for one in times)


def main() -> None:
    """Measure, in processes of their own."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--one", nargs=2, metavar=("CASE", "BACKEND"), help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.one:
        print(json.dumps(measure(*told.one)))
        return
    print(f"{'':40}{'loky':>10}{'glasspool':>12}{'ratio':>8}   (least to most)")
    for name in CASES:
        found: list[dict[str, dict[str, float]]] = []
        for number in range(told.rounds):
            order = BACKENDS if number % 2 else BACKENDS[::-1]
            found.append({backend: _apart(name, backend) for backend in order})
        for kind in ("cold", "warm", "work"):
            times = {one: [each[one][kind] for each in found] for one in BACKENDS}
            ratios = [ours / lokys for lokys, ours in zip(*times.values(), strict=True)]
            lokys, ours = (statistics.median(times[one]) for one in BACKENDS)
            print(
                f"{f'{name}, {kind}':40}{lokys:9.3f} s{ours:10.3f} s{statistics.median(ratios):8.2f}   "
                f"({min(ratios):.2f} to {max(ratios):.2f})",
                flush=True,
            )


def _apart(name: str, backend: str) -> dict[str, float]:
    """Measure in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.search", "--one", name, backend],
        stdout=subprocess.PIPE,
        text=True,
        timeout=LIMIT_S,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
