"""Run the measurements: each in a process and a session of its own, which has a limit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.cases import Case
from bench.contenders import BARE
from bench.fault_run import MARK, Family

GRACE_S = 2.0
"""So long what a measurement leaves running may take to end by itself."""
ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Plan:
    """How everything is measured."""

    names: Sequence[str]
    rounds: int
    workers: int
    quick: bool
    limit_s: float


@dataclass(slots=True)
class Outcome:
    """What one contender did in one case: the numbers of its rounds, or why there are none.

    ``missing`` is the word for the table: a dash if the library has no such thing, else what went wrong.
    ``scaled`` says how much was done of what was asked, where it was not all.
    """

    rounds: list[dict[str, float]]
    missing: str | None = None
    reason: str = ""
    scaled: str | None = None


def measure(case: Case, plan: Plan, say: Callable[[str], None]) -> dict[str, Outcome]:
    """Measure one case on all contenders, in turns."""
    outcomes = {name: Outcome([]) for name in plan.names if _has(case, name)}
    outcomes |= {name: Outcome([], "–") for name in plan.names if name not in outcomes}
    for number in range(plan.rounds):
        # Another one begins each round: none has always the warmer machine.
        first = number % len(plan.names)
        for name in [*plan.names[first:], *plan.names[:first]]:
            if outcomes[name].missing is None:
                begun = time.monotonic()
                _add(outcomes[name], _told(case, name, plan))
                took_s = time.monotonic() - begun
                word = outcomes[name].missing or ""
                say(f"{case.name:<16}{number + 1:>2}  {name:<10}{took_s:>7.1f} s  {word}")
    return outcomes


def _has(case: Case, name: str) -> bool:
    if name == BARE:
        return case.bare is not None
    return case.only is None or name in case.only


def _add(outcome: Outcome, told: dict[str, Any]) -> None:
    if "missing" in told:
        outcome.missing, outcome.reason = told["missing"], told["reason"]
        outcome.rounds.clear()
    else:
        outcome.rounds.append(told["numbers"])
        outcome.scaled = told["scaled"]


def _told(case: Case, name: str, plan: Plan) -> dict[str, Any]:
    """Measure once. What the measurement leaves running is ended."""
    with tempfile.TemporaryDirectory(prefix="gb", ignore_cleanup_errors=True) as folder:
        file = Path(folder, "told")
        order = {
            "case": case.name,
            "contender": name,
            "workers": plan.workers,
            "quick": plan.quick,
            "file": str(file),
        }
        log = Path(folder, "log")
        with log.open("w") as stream:
            program = subprocess.Popen(
                [sys.executable, "-m", "bench.child", json.dumps(order)],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
                env=_environment(folder),
            )
        late = False
        try:
            program.wait(plan.limit_s)
        except subprocess.TimeoutExpired:
            late = True
        finally:
            _end(program, folder)
        if file.exists():
            told: dict[str, Any] = json.loads(file.read_text())
            return told
        if late:
            return {"missing": "hangs", "reason": f"cut off after {plan.limit_s:g} s"}
        lines = log.read_text(errors="replace").strip().splitlines() or ["nothing written"]
        return {"missing": "dies", "reason": lines[-1][:120]}


def _environment(folder: str) -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "TMPDIR": folder, MARK: folder, "PYTHONPATH": path}
    # An installed package has its bytecode beside it; so it shall be here after the first import.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return environment


def _end(program: subprocess.Popen[bytes], mark: str) -> None:
    """End the program and all that it has started, wherever they went."""
    if Path("/proc/self/environ").exists():
        family = Family(program.pid, mark)
        if program.poll() is not None:
            _let_go(family)
        family.end()
    elif program.poll() is None:
        os.killpg(program.pid, signal.SIGKILL)
    program.wait()


def _let_go(family: Family) -> None:
    """Give the rest some time to end by itself: trackers of resources remove files as they leave."""
    deadline = time.monotonic() + GRACE_S
    while family.search() and time.monotonic() < deadline:
        time.sleep(0.02)
