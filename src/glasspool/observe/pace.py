"""How fast pools get on: rates from the differences between pictures of the last seconds. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from glasspool.snapshot import PoolInfo, ProcessInfo

WINDOW_S = 5.0
_LEAST_S = 0.2
"""Pictures closer together than this give no rate."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a pool gets on. Rates are per second over the last few seconds, None: not known yet.

    ``left_s`` is how long what waits and runs will take at this pace.
    """

    done_per_s: float | None = None
    failed_per_s: float | None = None
    left_s: float | None = None
    busy_share: float | None = None
    """The part of the workers' time that was spent in tasks, 0 to 1."""


class _Sample(NamedTuple):
    at: float
    taken_at: float
    done: int | None
    failed: int | None
    busy_s: Mapping[tuple[str | None, int], float]
    share: float | None


class Pacer:
    """Remembers the last seconds of one pool."""

    def __init__(self) -> None:
        self._samples: deque[_Sample] = deque()

    def pace(self, pool: PoolInfo, at: float, taken_at: float) -> Pace:
        """Note one more picture of the pool, and say how fast it gets on.

        Args:
            pool: The picture.
            at: When it was taken, by the monotonic clock.
            taken_at: The same in seconds since the epoch.
        """
        now = _sample(pool, at, taken_at)
        samples = self._samples
        if samples and not _follows(now, samples[-1]):
            samples.clear()
        samples.append(now)
        while len(samples) > 2 and samples[1].at <= at - WINDOW_S:
            samples.popleft()
        before = samples[0]
        passed_s = now.at - before.at
        if passed_s < _LEAST_S:
            return Pace()
        done, failed = _rate(before.done, now.done, passed_s), None
        if before.failed is not None:
            failed = _rate(before.failed, now.failed, passed_s)
        return Pace(done, failed, _left(pool, done, failed), self._busy_share(pool, before, now))

    def _busy_share(self, pool: PoolInfo, before: _Sample, now: _Sample) -> float | None:
        """Return which part of their time the workers of now spent in tasks since an earlier sample."""
        if not now.busy_s:
            shares = [sample.share for sample in self._samples if sample.share is not None]
            return sum(shares) / len(shares) if shares else None
        whole_s = busy_s = 0.0
        for worker in pool.workers:
            place = worker.node, worker.pid
            if place in before.busy_s:
                whole_s += now.at - before.at
                busy_s += now.busy_s.get(place, 0.0) - before.busy_s[place]
            else:
                lived_s = now.taken_at - (worker.started_at or now.taken_at)
                whole_s += min(max(0.0, lived_s), now.at - before.at)
                busy_s += now.busy_s.get(place, 0.0)
        return min(1.0, max(0.0, busy_s / whole_s)) if whole_s > 0 else None


def _follows(now: _Sample, before: _Sample) -> bool:
    """Tell whether two samples can be compared: the same counters, and none went back."""
    pairs = ((now.done, before.done), (now.failed, before.failed))
    return all(
        (new is None) == (old is None) and (new is None or old is None or new >= old)
        for new, old in pairs
    )


def _sample(pool: PoolInfo, at: float, taken_at: float) -> _Sample:
    workers = pool.workers
    counted = pool.kind == "glasspool.Pool"
    busy = {(w.node, w.pid): _busy_s(w, taken_at) for w in workers} if counted else {}
    states = [worker.state == "busy" for worker in workers if worker.state in ("busy", "idle")]
    return _Sample(
        at=at,
        taken_at=taken_at,
        done=pool.stats.get("done"),
        # A picture from outside counts other things than the pool itself, and has no failures.
        failed=pool.stats.get("failed"),
        busy_s=busy,
        share=sum(states) / len(states) if states else None,
    )


def _busy_s(worker: ProcessInfo, taken_at: float) -> float:
    """Return for how long a worker was in tasks so far, the running ones included: a mean of its lanes."""
    lanes = sum("task" in thread.roles for thread in worker.threads)
    running = [
        thread.task.run_s or 0.0
        for thread in worker.threads
        if thread.task is not None and thread.task.state == "running" and "task" in thread.roles
    ]
    return (worker.busy_s + sum(running)) / max(1, lanes)


def _rate(before: int | None, now: int | None, passed_s: float) -> float | None:
    return None if before is None or now is None else (now - before) / passed_s


def _left(pool: PoolInfo, done: float | None, failed: float | None) -> float | None:
    """Return how long the open tasks take at this pace, None if nobody can say."""
    stats = pool.stats
    if "waiting" not in stats:
        return None
    still = stats["waiting"] + max(stats.get("sent", 0), stats.get("running", 0))
    if not still:
        return 0.0
    pace = (done or 0.0) + (failed or 0.0)
    return still / pace if pace > 0 else None
