"""What is in a trace, in words and numbers. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from glasspool.observe.records import Recording
from glasspool.views import table

VIEWER = "https://ui.perfetto.dev"


@dataclass(frozen=True, slots=True)
class Summary:
    """How much recordings hold: pools, workers and tasks, over how long; what is missing."""

    pools: int
    workers: int
    tasks: int
    lost: int
    deaths: int
    seconds: float

    def text(self) -> str:
        """Return it as a part of a sentence."""
        pools = "" if self.pools == 1 else f" of {self.pools} pools"
        deaths = f", {_number(self.deaths, 'death')}" if self.deaths else ""
        workers = _number(self.workers, "worker")
        over = table.duration(self.seconds)
        return f"{_number(self.tasks, 'task')} of {workers}{pools} over {over}{deaths}"

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain numbers."""
        return asdict(self)


def summary(recordings: Sequence[Recording]) -> Summary:
    """Count what is in some recordings."""
    workers = {(r.pool, life.node, life.pid) for r in recordings for life in r.workers}
    workers.update(
        (r.pool, task.node, task.pid) for r in recordings for task in r.tasks if task.pid
    )
    begun = min((r.begun_ns for r in recordings), default=0)
    ended = max((r.ended_ns for r in recordings), default=0)
    return Summary(
        pools=len(recordings),
        workers=len(workers),
        tasks=sum(len(r.tasks) for r in recordings),
        lost=sum(r.lost for r in recordings),
        deaths=sum(len(r.deaths) for r in recordings),
        seconds=(ended - begun) / 1e9,
    )


def told(summary: Summary, where: str, size: int) -> str:
    """Say in some lines what was written, what is missing, and how to look at it."""
    lines = [f"wrote {summary.text()} to {where} ({table.size(size)})"]
    if summary.lost:
        lines.append(
            f"{summary.lost:,} more task{' is' if summary.lost == 1 else 's are'} not in it: "
            "there was no room, or nobody could read them in time"
        )
    lines.append(f"open it at {VIEWER} (it stays in your browser)")
    return "\n".join(lines)


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
