"""The lines on top: which pool it is, how fast it gets on, how many tasks stand where.

Pure. The counters are those of the picture, number by number as ``glasspool ps PID --json`` has them.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from glasspool.snapshot import PoolInfo
from glasspool.views.table import duration, harmless
from glasspool.views.top.grid import cells, cut
from glasspool.views.top.model import bar, clock
from glasspool.views.top.session import Session, Watched


class Words(NamedTuple):
    """A piece of a line, and a word for how it is shown (as in ``grid.Row``)."""

    text: str
    style: str = ""


Line = tuple[Words, ...]

_COUNTERS = ("done", "waiting", "sent", "running", "failed")
_ALSO = ("lost", "timeout", "cancelled", "deaths", "over_memory")
_WRONG = ("failed", "lost", "timeout", "deaths")
_NAMES = {"sent": "handed out", "timeout": "timed out", "over_memory": "over memory"}


def lines(session: Session, one: Watched, place: tuple[int, int], width: int) -> list[Line]:
    """Return the lines for one pool: three, and one for notes. ``place`` is which one of how many it is."""
    told = [_identity(one, place, width), _speed(one, width), _counts(one.info)]
    notes = one.info.notes
    if notes:
        more = f" (and {len(notes) - 1} more, see the log)" if len(notes) > 1 else ""
        text = harmless(" ".join(notes[-1].split()))
        told.append((Words(cut(text, width - len(more)) + more, "waits"),))
    return [clipped(line, width) for line in told]


def clipped(line: Line, width: int) -> Line:
    """Cut a line to a width."""
    kept: list[Words] = []
    for words in line:
        text = cut(words.text, width)
        width -= cells(text)
        kept.append(Words(text, words.style))
    return tuple(kept)


def _identity(one: Watched, place: tuple[int, int], width: int) -> Line:
    pool = one.info
    number, count = place
    facts = [
        harmless(pool.kind.rpartition(".")[2] if pool.kind.startswith("glasspool") else pool.kind)
    ]
    facts[0] = "" if facts[0] == "Pool" else facts[0]
    if pool.engine != "local":
        several = "" if len(pool.nodes) == 1 else "s"
        facts.append(f"{harmless(pool.engine)}, {len(pool.nodes)} node{several}")
    if pool.start_method:
        facts.append(harmless(pool.start_method))
    facts.append(f"pid {pool.pid}")
    parent = next((p for p in pool.processes if p.pid == pool.pid), None)
    if parent is not None and parent.started_at and one.taken_at > parent.started_at:
        facts.append(f"up {duration(one.taken_at - parent.started_at)}")
    facts.append("past" if one.ended_at is not None else harmless(pool.state))
    if parent is not None and parent.command:
        facts.append(_brief(parent.command))
    which = f"  pool {number} of {count} (Tab)" if count > 1 else ""
    text = cut(" · ".join(fact for fact in facts if fact), width - len(pool.name) - 2 - len(which))
    return (Words(harmless(pool.name), "strong"), Words(f"  {text}"), Words(which, "key"))


def _brief(command: str) -> str:
    first, *rest = harmless(" ".join(command.split())).split(" ")
    return " ".join([os.path.basename(first), *rest])


def _speed(one: Watched, width: int) -> Line:
    pool, pace = one.info, one.pace
    if one.ended_at is not None:
        why = harmless(" ".join(one.why.split())) or "it is there no more"
        return (Words(cut(f"ended at {clock(one.ended_at)}: {why}", width), "bad"),)
    busy, count = busy_workers(pool), len(pool.workers)
    share = pace.busy_share
    known = share if share is not None else busy / count if count else 0.0
    percent = "" if share is None else f" {100 * share:.0f}%"
    length = max(8, min(30, width - 70))
    return (
        Words("workers "),
        Words(bar(known, length), "busy"),
        Words(f"{percent}  {busy} of {count} busy"),
        Words(f"  {rate(pace.done_per_s)}" if "done" in pool.stats else "", "strong"),
        Words(f"  {left(pace.left_s)}" if pace.left_s is not None else ""),
        Words(f"  {pace.failed_per_s:,.1f} failed/s" if pace.failed_per_s else "", "bad"),
    )


def busy_workers(pool: PoolInfo) -> int:
    """Count the workers that the picture calls busy."""
    return sum(process.state == "busy" for process in pool.workers)


def rate(per_s: float | None) -> str:
    """Say how many tasks a second."""
    if per_s is None:
        return "rate not known yet"
    if 0 < per_s < 10:
        return f"{per_s:.1f} tasks/s"
    return f"{per_s:,.0f} tasks/s"


def left(left_s: float | None) -> str:
    """Say how long it will take."""
    return "" if left_s is None else f"{duration(left_s)} to go"


def _counts(pool: PoolInfo) -> Line:
    words = [Words("tasks ")]
    known = [key for key in _COUNTERS if isinstance(pool.stats.get(key), int)]
    known += [key for key in _ALSO if pool.stats.get(key)]
    for key in known:
        count = pool.stats[key]
        if key == "sent" and count == pool.stats.get("running"):
            continue  # each worker has what it runs, and nothing more
        style = "bad" if key in _WRONG and count else "strong" if count else ""
        words += [Words(f"  {_NAMES.get(key, key)} "), Words(f"{count:,}", style)]
    if not known:
        words.append(Words(f"  running {busy_workers(pool)}"))
        words.append(Words("  (its other counters cannot be read from outside)", "faint"))
    return tuple(words)


def plain(line: Line) -> str:
    """Return a line as text."""
    return "".join(words.text for words in line).rstrip()
