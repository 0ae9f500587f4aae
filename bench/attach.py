"""What it does to a busy stock pool to be looked at from outside: ``python -m bench.attach``.

Rounds of work alternate: one is looked at, the next is not, in one run of one pool, so that whatever else the
machine does falls on both. It tells the throughput of both, and whether all went right: results, calls in C
that a stop or a signal would cut short (``--kind calls``), and that nothing is left behind. Readers are busy
themselves: their processor time, which a machine of few processors has to share, is told apart.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from bench.attach_load import TASKS
from glasspool.observe import foreign, procfs, pyspy, sight

_LOAD = Path(__file__).with_name("attach_load.py")


class Load:
    """The program that is looked at."""

    def __init__(self, method: str, kind: str, tasks: int) -> None:
        """Start it, and wait until its pool has worked once."""
        command = [sys.executable, str(_LOAD), method, kind, str(tasks)]
        self._program = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid: int = self._answer()["pid"]

    def begin(self) -> None:
        """Let it do a round."""
        assert self._program.stdin is not None
        self._program.stdin.write("\n")
        self._program.stdin.flush()

    def end(self) -> dict[str, Any]:
        """Wait for the end of the round."""
        return self._answer()

    def close(self) -> int:
        """Let it end, and return its exit code."""
        self._program.communicate(timeout=60)
        return self._program.returncode

    def _answer(self) -> dict[str, Any]:
        assert self._program.stdout is not None
        answer: dict[str, Any] = json.loads(self._program.stdout.readline())
        return answer


def look(pid: int, pause: pyspy.Pause) -> tuple[int, int]:
    """Look once; return of how many threads a stack was seen, and how many processes were stopped."""
    seen = sight.take(pid, pause=pause)
    try:
        foreign.pools(seen)
    except NotImplementedError:
        pass  # reading what was seen touches no process
    return (
        sum(t.python is not None for process in seen.processes for t in process.threads),
        sum(process.dump.paused_s > 0 for process in seen.processes),
    )


def measure(
    *,
    method: str,
    kind: str,
    inspections: int,
    every_s: float,
    tasks: int | None = None,
    pause: pyspy.Pause = "if-needed",
) -> dict[str, Any]:
    """Measure until so many inspections were made, one each ``every_s`` (0: one after the other)."""
    load = Load(method, kind, tasks or TASKS[kind])
    looked: list[float] = []
    alone: list[float] = []
    with_looks: list[float] = []
    wrong: dict[str, list[Any]] = {"alone": [], "with_looks": []}
    stacks = stopped = 0
    used_before = _reader_cpu_s()
    while len(looked) < inspections:
        for kind_of_round, rounds, looker in (
            ("alone", alone, None),
            ("with_looks", with_looks, partial(look, pause=pause)),
        ):
            took_s, bad, seen = _round(load, looker, every_s, looked)
            rounds.append(took_s)
            wrong[kind_of_round].extend(bad)
            stacks += sum(count for count, _ in seen)
            stopped += sum(count for _, count in seen)
    used_s = _reader_cpu_s() - used_before
    after = _states(load.pid)
    ratios = [one / other for one, other in zip(alone, with_looks, strict=True)]
    return {
        "python": platform.python_version(),
        "method": method,
        "kind": kind,
        "inspections": len(looked),
        "every_s": every_s,
        "pause": pause,
        "rounds": len(alone),
        "throughput": _spread(ratios),
        "throughput_of_medians": statistics.median(alone) / statistics.median(with_looks),
        "round_alone_s": _spread(alone),
        "round_with_looks_s": _spread(with_looks),
        "inspection_s": _spread(looked),
        "reader_cpu_s_per_inspection": used_s / len(looked),
        "stacks_per_inspection": stacks / len(looked),
        "stopped": stopped,
        "wrong": wrong["with_looks"],
        "wrong_alone": wrong["alone"],
        "left": after,
        "exit_code": load.close(),
    }


def _round(
    load: Load,
    looker: Callable[[int], tuple[int, int]] | None,
    every_s: float,
    looked: list[float],
) -> tuple[float, list[Any], list[tuple[int, int]]]:
    """Do one round, looking at it until it ends."""
    answers: list[dict[str, Any]] = []
    over = threading.Event()

    def wait() -> None:
        answers.append(load.end())
        over.set()

    waiter = threading.Thread(target=wait, name="bench attach waits", daemon=True)
    load.begin()
    waiter.start()
    seen: list[tuple[int, int]] = []
    # Begun in the midst of an interval, so that short rounds are looked at as often as long ones.
    while looker is not None and not over.wait(every_s if seen else every_s / 2):
        began = time.perf_counter()
        seen.append(looker(load.pid))
        looked.append(time.perf_counter() - began)
    waiter.join()
    wrong = answers[0]["wrong"]
    return answers[0]["took_s"], [wrong] if wrong else [], seen


def _states(pid: int) -> list[str]:
    """List what must not be: threads that are stopped or traced, readers that are left."""
    found = []
    for one in procfs.family(pid):
        if procfs.tracer(one) is not None:
            found.append(f"process {one} is traced")
        for tid in procfs.thread_ids(one):
            told = procfs.thread(one, tid)
            if told is not None and told.state in "Tt":
                found.append(f"thread {tid} of process {one} is stopped")
    readers = (procfs.process(child) for child in procfs.children(os.getpid()))
    left = [told.pid for told in readers if told is not None and told.name == "py-spy"]
    return found + [f"reader {one} is left" for one in left]


def _reader_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _spread(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    cuts = statistics.quantiles(ordered, n=4) if len(ordered) > 1 else [ordered[0]] * 3
    return {
        "min": round(ordered[0], 4),
        "quarter": round(cuts[0], 4),
        "median": round(cuts[1], 4),
        "three_quarters": round(cuts[2], 4),
        "max": round(ordered[-1], 4),
    }


def main() -> int:
    """Measure, print JSON, and fail if anything went wrong."""
    parser = argparse.ArgumentParser(prog="python -m bench.attach", description=__doc__)
    parser.add_argument("--inspections", type=int, default=1000)
    parser.add_argument(
        "--every", type=float, default=0.5, metavar="SECONDS", help="0: back to back"
    )
    parser.add_argument("--method", default="fork", choices=("fork", "forkserver", "spawn"))
    parser.add_argument("--kind", default="threads", choices=("threads", "calls"))
    parser.add_argument(
        "--pause",
        default="if-needed",
        choices=("never", "if-needed", "always"),
        help="of the readers",
    )
    chosen = parser.parse_args()
    report = measure(
        method=chosen.method,
        kind=chosen.kind,
        inspections=chosen.inspections,
        every_s=chosen.every,
        pause=chosen.pause,
    )
    print(json.dumps(report, indent=1))
    return 1 if report["wrong"] or report["left"] or report["exit_code"] else 0


if __name__ == "__main__":
    sys.exit(main())
