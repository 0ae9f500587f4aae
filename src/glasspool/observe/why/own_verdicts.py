"""Pure: the verdicts on pools of our own, from their own pictures and the sights of the same time.

A pool of ours says itself what its workers do, and ``diagnosis`` puts it into words. Whether that is wrong,
or only takes its time, two pictures and the sights between them tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from glasspool.observe.diagnosis import AT_REST, Clue, Finding, LineOf, diagnose
from glasspool.observe.why.movement import Series
from glasspool.snapshot import PoolInfo, Snapshot

_KINDS = {
    "stopped": "stopped",
    "initializer": "initializer-hanging",
    "callback": "callback",
    "iterable": "iterable",
    "nested": "nested",
    "no-worker": "other",
    "idle": "other",
}
"""Which verdict a finding of ``diagnosis`` is. The others are no fault."""

_SLOW = frozenset({"initializer", "callback", "iterable"})
"""What may only take its time: only a thread that has not moved for long counts."""

_REMEDIES = {
    "stopped": "kill -CONT the process, or let the debugger go on",
    "initializer-hanging": "look at what the initializer waits for; no task begins before it has ended",
    "callback": "have the callback only hand the result on",
    "iterable": "look at what the iterable waits for",
    "nested": "don't wait for tasks of a pool inside tasks of the same pool: use a second pool",
    "other": "look at the program's standard error",
}


def needs_long(picture: Snapshot) -> bool:
    """Tell whether a picture shows something that may be wrong if it lasts."""
    return any(finding.kind in _SLOW for finding in diagnose(picture))


def judge(
    before: Snapshot, after: Snapshot, series: Series, *, is_long: bool, line_of: LineOf
) -> tuple[Finding, ...]:
    """Say what is wrong with our pools.

    Args:
        before: A picture with stacks, from the beginning of the series.
        after: One from its end.
        series: The sights between them.
        is_long: Whether the series is as long as it takes to call something slow that which hangs.
        line_of: Gives lines of source.
    """
    if _done(after) != _done(before):
        return ()
    shares = _shares(series)
    found = []
    for finding in diagnose(after, quiet_s=series.window_s, shares=shares, line_of=line_of):
        kind = _KINDS.get(finding.kind)
        if kind is None or (finding.kind == "nested" and finding.pid is not None):
            continue
        if finding.kind in _SLOW and not (is_long and _rests(finding, series, shares)):
            continue
        clue = Clue(finding.text, "self", finding.pid)
        found.append(replace(finding, kind=kind, evidence=(clue,), remedy=_REMEDIES[kind]))
    return tuple(found)


def without_ours(findings: Iterable[Finding], after: Snapshot) -> tuple[Finding, ...]:
    """Leave out what is no fault in a process of ours: a worker at rest waits for its pool alone."""
    busy, ours = set(), set()
    for pool in after.pools:
        for process in pool.processes:
            if process.node is not None:
                continue  # the sights are of this machine
            if process.role != "parent":
                ours.add(process.pid)
            if process.role == "worker" and process.state not in ("idle", "starting", "leaving"):
                busy.add(process.pid)
    waits = ("task", "fork-lock", "nested")
    return tuple(f for f in findings if f.kind not in waits or f.pid not in ours - busy)


def progress(before: Snapshot, after: Snapshot, window_s: float) -> dict[str, Any]:
    """Count what our pools did meanwhile."""
    pools, ended = list(_ours(after)), _done(after) - _done(before)
    running = sum(int(pool.stats.get("running", 0)) for pool in pools)
    return {
        "workers": sum(len(pool.workers) for pool in pools),
        "busy": running,
        "idle": sum(w.state == "idle" for pool in pools for w in pool.workers),
        "tasks_ended": ended,
        "tasks_waiting": sum(int(pool.stats.get("waiting", 0)) for pool in pools),
        "tasks_per_s": round(ended / window_s, 1) if window_s > 0 else None,
    }


def fine(told: dict[str, Any], window_s: float) -> str:
    """Say that nothing is wrong with our pools."""
    if told["tasks_ended"]:
        return (
            f"nothing is wrong: {told['tasks_ended']} tasks ended within {window_s:.1f} s "
            f"({told['tasks_per_s']:g} a second), {told['busy']} run and {told['tasks_waiting']} wait"
        )
    if told["busy"]:
        return (
            f"nothing is wrong: {told['busy']} tasks run and {told['tasks_waiting']} wait; none ended within "
            f"{window_s:.1f} s"
        )
    return f"nothing is wrong: the pool is idle, {told['idle']} of {told['workers']} workers wait for work"


def _ours(picture: Snapshot) -> Iterator[PoolInfo]:
    return (pool for pool in picture.pools if pool.kind.startswith("glasspool."))


def _done(picture: Snapshot) -> int:
    return sum(int(pool.stats.get("done", 0)) for pool in _ours(picture))


def _shares(series: Series) -> dict[int, float]:
    used: dict[int, float] = {}
    for actor in series.actors:
        used[actor.pid] = used.get(actor.pid, 0.0) + actor.used_s
    window_s = max(series.window_s, 0.001)
    return {pid: used_s / window_s for pid, used_s in used.items()}


def _rests(finding: Finding, series: Series, shares: dict[int, float]) -> bool:
    if finding.kind == "initializer":
        return shares.get(finding.pid or 0, 1.0) < AT_REST
    # Our threads carry their duty in the name that the system has for them.
    return any(
        actor.is_still
        for actor in series.of(finding.pid or 0)
        if actor.os.name.endswith(finding.kind)
    )
