"""Pure, but for ``explain``: from a series of sights to the one reason why a program's pools do not get on.

The judges of ``thread_faults`` and ``pool_faults`` each know one way to go wrong. They all look; what is only
a consequence of something else that was found is then left out, by the order below.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from glasspool.observe.diagnosis import Clue, Finding, LineOf, no_source
from glasspool.observe.why import pool_faults, thread_faults
from glasspool.observe.why.case import Case, count, listed, seconds
from glasspool.observe.why.movement import IDLE_STEPS, Actor, Crew, Look, Series
from glasspool.observe.why.waitgraph import Graph, graph

LOOK_S = 4.0
"""For so long a program is looked at where a healthy one may rest for a while."""

LONG_S = 2.6
"""What has not moved for so long does not move. A look is longer: a thread may have come to rest late."""

ORDER = (
    "stopped",
    "gil",
    "fork-lock",
    "handler-dead",
    "lock-dead",
    "idle-killed",
    "nested",
    "callback",
    "pipe-full",
    "initializer-failing",
    "workers-failing",
    "initializer-hanging",
    "task-lost",
    "iterable",
    "pool-broken",
    "task",
    "oversubscribed",
    "other",
)
"""Causes before their consequences: the first of the findings is the verdict."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was found: the verdict first, then what else is wrong. Nothing is wrong if there is no finding.

    ``sentence`` says it in one sentence, ``pending`` are findings that would need a longer look. ``progress``
    counts what moved meanwhile.
    """

    pid: int
    findings: tuple[Finding, ...]
    sentence: str
    evidence: tuple[Clue, ...] = ()
    pending: tuple[Finding, ...] = ()
    graph: Graph = field(default_factory=Graph)
    progress: Mapping[str, Any] = field(default_factory=dict)
    looked_s: float = 0.0
    sights: int = 0
    has_pool: bool = True

    @property
    def verdict(self) -> str:
        """The name of the verdict: ``busy`` or ``idle`` if nothing is wrong."""
        if self.findings:
            return self.findings[0].kind
        return "busy" if self.progress.get("busy") else "idle"


def judge(
    looks: Sequence[Look], *, long_s: float = LONG_S, line_of: LineOf = no_source
) -> Judgement:
    """Say why the pools of a program do not get on, from one or more sights, the latest last.

    Args:
        looks: Sights with stacks. One alone proves nothing.
        long_s: For how long a thread must not have moved where a healthy program may rest for a while.
        line_of: Gives lines of source, which tell a wait for a lock from others.
    """
    cases = [
        _judged(Series(tuple(looks[start:])), long_s, line_of)
        for start in range(max(1, len(looks) - 1))
    ]
    series, found = cases[0].series, _each_once(f for case in cases for f in case.found)
    findings = _in_order(found)
    progress = _progress(series)
    return Judgement(
        pid=series.last.pid,
        findings=findings,
        sentence=findings[0].text if findings else _fine(cases[0], progress),
        evidence=findings[0].evidence if findings else _evidence(cases[0]),
        pending=_pending(cases, found),
        graph=graph(series),
        progress=progress,
        looked_s=series.window_s + series.last.took_s,
        sights=len(series.looks),
        has_pool=bool(series.crews),
    )


def _judged(series: Series, long_s: float, line_of: LineOf) -> Case:
    """Have all judges look at a series. Who rests for ever may have begun to after the first sight."""
    case = Case(series, long_s, line_of)
    thread_faults.stopped(case)
    thread_faults.gil(case)
    thread_faults.closed_processes(case)
    for crew in series.crews:
        _judge_crew(case, crew)
    pool_faults.shared_locks(case)
    thread_faults.full_pipes(case)
    thread_faults.oversubscribed(case)
    pool_faults.broken(case)
    return case


def _pending(cases: Sequence[Case], found: Sequence[Finding]) -> tuple[Finding, ...]:
    """Return what would need a longer look, but for what is certain already."""
    known = {(finding.kind, finding.pid, finding.tid) for finding in found}
    pending = _each_once(f for case in cases for f in case.pending)
    return _in_order([f for f in pending if (f.kind, f.pid, f.tid) not in known])


def _each_once(findings: Iterable[Finding]) -> list[Finding]:
    """Keep of each finding the first, which is that of the longest series."""
    kept: dict[tuple[str, int | None, int | None], Finding] = {}
    for finding in findings:
        kept.setdefault((finding.kind, finding.pid, finding.tid), finding)
    return list(kept.values())


def with_findings(judgement: Judgement, findings: Sequence[Finding]) -> Judgement:
    """Return a judgement with these findings in place of its own."""
    ordered = _in_order(_each_once(findings))
    if not ordered:
        return replace(judgement, findings=())
    return replace(
        judgement, findings=ordered, sentence=ordered[0].text, evidence=ordered[0].evidence
    )


def _judge_crew(case: Case, crew: Crew) -> None:
    pool_faults.handlers(case, crew)
    pool_faults.queue_locks(case, crew)
    pool_faults.turnover(case, crew)
    thread_faults.initializer(case, crew)
    thread_faults.callback(case, crew)
    thread_faults.iterable(case, crew)
    thread_faults.nested(case, crew)
    pool_faults.lost_tasks(case, crew)


def _in_order(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda finding: ORDER.index(finding.kind)))


# Nothing wrong --------------------------------------------------------------------------------


def _progress(series: Series) -> dict[str, Any]:
    """Count what moved from the first sight to the last."""
    workers = [worker for crew in series.crews for worker in crew.workers]
    taken = sum(_moved(crew, "result-handler") for crew in series.crews)
    ended = max(taken, sum(_ended(worker) for worker in workers))
    jobs = [crew.jobs for crew in series.crews if crew.jobs]
    started = _started(series)
    helpers = {helper for crew in series.crews for helper in crew.helpers.values()}
    busy = sum(worker.step not in IDLE_STEPS for worker in workers)
    busy = busy or sum(helper.step in ("iterable", "callback") for helper in helpers)
    window_s = series.window_s
    return {
        "workers": len(workers),
        # Of workers that come and go, the last sight may have caught none.
        "busy": busy or int(bool(ended or (jobs and (started or not workers)))),
        "idle": sum(worker.step in IDLE_STEPS for worker in workers),
        "tasks_ended": ended,
        "tasks_handed_out": sum(_moved(crew, "task-handler") for crew in series.crews),
        "tasks_per_s": round(ended / window_s, 1) if window_s > 0 else None,
        "open_jobs": sum(max(1, text.count(": <")) for text in jobs),
        "workers_started": started,
        "cpu_s": round(sum(actor.used_s for actor in series.actors), 3),
    }


def _ended(worker: Actor) -> int:
    """Return how many tasks a worker has ended since the first sight, as far as can be told."""
    counts = [p.completed for p in worker.places if p is not None and p.completed is not None]
    if counts:
        return counts[-1] - counts[0]
    tasks = [(p.job, p.index, p.arguments) for p in worker.places if p is not None]
    return sum(before != after for before, after in pairwise(tasks))


def _moved(crew: Crew, role: str) -> int:
    """Return by how many tasks a helper thread has got on within one job, as its last task tells."""
    helper = crew.helpers.get(role)
    if helper is None:
        return 0
    told = [p.variables for p in helper.places if p is not None]
    if role == "task-handler":
        numbers = [_number(v.get("task", "")) for v in told]
    else:
        numbers = [int(v["i"]) if v.get("i", "").isdigit() else None for v in told]
    known = [number for number in numbers if number is not None]
    return max(0, known[-1] - known[0]) if len(known) > 1 else 0


def _number(task: str) -> int | None:
    """Return the index within its job from a task's text, ``(JOB, INDEX, ...``."""
    parts = task.strip("(").split(",")
    return int(parts[1]) if len(parts) > 1 and parts[1].strip().isdigit() else None


def _started(series: Series) -> int:
    first = {process.pid for process in series.looks[0].sight.processes}
    return sum(process.pid not in first for process in series.last.processes)


def _fine(case: Case, progress: Mapping[str, Any]) -> str:
    """Say that nothing is wrong, and what the program does."""
    series = case.series
    if not series.crews:
        return f"no pool was found in process {series.last.pid}, and nothing that keeps its threads"
    told = _helpers_at(case) or _states(series, progress)
    unread = sum(len(series.unread(crew)) for crew in series.crews)
    if unread:
        told += f" ({count(unread, 'worker')} could not be read in time)"
    if progress["busy"]:
        rate = f", {progress['tasks_per_s']:g} a second" if progress["tasks_ended"] else ""
        ended = f"{count(progress['tasks_ended'], 'task')} ended within {seconds(series.window_s)}{rate}"
        return f"nothing is wrong: {told}; {ended}"
    return f"nothing is wrong: {told}"


def _helpers_at(case: Case) -> str | None:
    """Tell of the program's own code on helper threads, for which workers may wait."""
    for crew in case.series.crews:
        for helper in dict.fromkeys(crew.helpers.values()):
            if helper.step == "iterable" and any(w.step in IDLE_STEPS for w in crew.workers):
                n = _moved(crew, "task-handler")
                moves = "it moves" if not helper.is_still else "it has not moved yet"
                return (
                    f"your iterable is what the workers wait for, and {moves} ({count(n, 'item')} in "
                    f"{seconds(case.series.window_s)})"
                )
            if helper.step == "callback":
                moves = "it moves" if not helper.is_still else "it has not moved yet"
                return f"your callback is what the results wait for, and {moves}"
    return None


def _states(series: Series, progress: Mapping[str, Any]) -> str:
    workers = [worker for crew in series.crews for worker in crew.workers]
    busy = [worker for worker in workers if worker.step not in IDLE_STEPS]
    if busy:
        at: dict[str, int] = {}
        for worker in busy:
            words = worker.place.words if worker.place else ""
            at[words] = at.get(words, 0) + 1
        what = listed(f"{words} ({n})" if n > 1 else words for words, n in at.items())
        return f"{len(busy)} of {count(len(workers), 'worker')} at work: {what}"
    if progress["busy"]:
        started = progress["workers_started"]
        more = f"; {count(started, 'worker')} started or replaced meanwhile" if started else ""
        return f"the pool is at work{more}"
    waits = "waits" if len(workers) == 1 else "wait"
    jobs = progress["open_jobs"]
    more = f", {count(jobs, 'job')} open" if jobs else " and no job is open"
    return f"the pool is idle: {count(len(workers), 'worker')} {waits} for work{more}"


def _evidence(case: Case) -> tuple[Clue, ...]:
    """Tell of the workers and helper threads, which is what shows that nothing is wrong."""
    clues: list[Clue] = []
    for crew in case.series.crews:
        for actor in (*dict.fromkeys(crew.helpers.values()), *crew.workers):
            if actor.place is not None and len(clues) < 16:
                clues.append(case.clue(actor, actor.place.words))
    return tuple(clues)
