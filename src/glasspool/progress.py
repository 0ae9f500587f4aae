"""Progress of a job: what is counted, how fast it goes, when it will be done, and the words for it.

Counted are items: calls of the user's function, however many of them travel together. Each counts once,
when it has ended for good; a call that is tried anew has not ended.

Pure: no thread, no clock, no I/O; times are passed in. ``Tally`` is written by one thread (the collector,
through ``settle_row`` of the job) and read by any: it holds numbers only.
"""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from glasspool.engines.local import wire
from glasspool.engines.local.outcome import RAISED, Segment
from glasspool.errors import TaskCancelled, TaskTimeout, WorkerDied

if TYPE_CHECKING:
    from glasspool.ledger import Task

T = TypeVar("T")

WORDS = {
    "failed": "failed",
    "lost": "lost",
    "timeout": "timed out",
    "cancelled": "cancelled",
    "skipped": "not run",
}
"""How calls end other than well, and the words for that, in the order in which they are told."""

WINDOW_S = 30.0
"""The rate is that of the last so many seconds, or of the last half of the time if that is more."""

_SAMPLES = 200
_SLOW_S = 3.0
_ITEM_AT = 7


class Tally:
    """How the items of one job have ended so far.

    Attributes:
        total: How many there are; None while nobody knows.
        done: Calls that returned.
        failed: Calls that raised, or whose value could not be sent.
        lost: Calls that were with a worker that died.
        timeout: Calls that took too long.
        cancelled: Calls that were cancelled.
        skipped: Calls that were never made: an earlier one of their chunk raised, or the job ended.
        drawn: How many the iterable has given, where its length is not known.
        is_over: Whether the job has ended: nothing changes any more.
        note: Why it ended before its time; empty if it did not.
    """

    __slots__ = (
        "cancelled",
        "done",
        "drawn",
        "failed",
        "is_over",
        "lost",
        "note",
        "skipped",
        "timeout",
        "total",
    )

    def __init__(self, total: int | None = None) -> None:
        self.total: int | None = total
        self.done: int = 0
        self.failed: int = 0
        self.lost: int = 0
        self.timeout: int = 0
        self.cancelled: int = 0
        self.skipped: int = 0
        self.drawn: int = 0
        self.is_over: bool = False
        self.note: str = ""

    @property
    def ended(self) -> int:
        """How many have ended, in whatever way."""
        others = self.failed + self.lost + self.timeout + self.cancelled + self.skipped
        return self.done + others

    def take(self, tasks: Sequence[Task]) -> None:
        """Count the items of tasks that have ended."""
        if self.is_over:
            return
        done = 0
        for task in tasks:
            if task.ended_as <= wire.OK_SEGMENT:
                done += task.items
            else:
                self._take_other(task)
        self.done += done

    def _take_other(self, task: Task) -> None:
        kind, body = task.outcome[:2]
        items = task.items
        if kind == RAISED:
            end = _end_of(body)
            setattr(self, end, getattr(self, end) + items)
            return
        at = None
        if items > 1 and kind != wire.UNSENDABLE:
            at = failed_item(body)
        if at is None or not 0 <= at < items:
            self.failed += items  # they never ran, or all ran and their values could not be sent
            return
        self.done += at
        self.failed += 1
        self.skipped += items - at - 1

    def count(self, values: Iterable[T]) -> Iterator[T]:
        """Yield the values of an iterable of unknown length, and know how many when it ends."""
        try:
            for value in values:
                self.drawn += 1
                yield value
        finally:
            self.total = self.drawn

    def end(self, error: BaseException | None = None) -> None:
        """Take note that the job has ended, and that what has not will count no more."""
        if self.is_over:
            return
        known = self.drawn if self.total is None else self.total
        rest = max(0, known - self.ended)
        if isinstance(error, (TaskCancelled, KeyboardInterrupt)):
            self.cancelled += rest
        else:
            self.skipped += rest
        self.total = known if error is not None else self.ended
        self.note_error(error)
        self.is_over = True

    def note_error(self, error: BaseException | None) -> None:
        """Take note of why there will be no more items than there are, if there is a reason."""
        self.note = self.note or _note(error)


def failed_item(body: bytes | Segment) -> int | None:
    """Return which item of a chunk raised, from what its worker told; None if no item ran."""
    # Built-in types only: nothing of the user's is rebuilt here.
    told = pickle.loads(body.raw() if isinstance(body, Segment) else body)
    return told[_ITEM_AT] if len(told) > _ITEM_AT else None


def _end_of(error: BaseException) -> str:
    if isinstance(error, WorkerDied):
        return "lost"
    if isinstance(error, TaskCancelled):
        return "cancelled"
    return "timeout" if isinstance(error, TaskTimeout) else "failed"


def _note(error: BaseException | None) -> str:
    if error is None:
        return ""
    if isinstance(error, TaskCancelled):
        return "cancelled"
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return f"stopped by {type(error).__qualname__}"


class Pace:
    """How fast something grows, from what it was at some moments."""

    def __init__(self, now_s: float) -> None:
        self._begun_s = now_s
        self._samples: deque[tuple[float, float]] = deque([(now_s, 0.0)], maxlen=_SAMPLES)

    def rate(self, now_s: float, amount: float) -> float | None:
        """Take note of an amount, and return the growth per second; None if there is nothing to tell."""
        age_s = now_s - self._begun_s
        window_s = max(WINDOW_S, age_s / 2)
        samples = self._samples
        # The oldest one stays that is just outside of the window, so that it is always covered.
        while len(samples) > 1 and samples[1][0] <= now_s - window_s:
            samples.popleft()
        since_s, before = samples[0]
        if now_s - samples[-1][0] >= 2 * window_s / _SAMPLES:
            samples.append((now_s, amount))
        passed_s = now_s - since_s
        if passed_s <= 0 or amount <= before:
            return None
        return (amount - before) / passed_s


class Slow(NamedTuple):
    """The task of a job that has run for the longest time.

    ``words`` names it: the function's arguments, as far as they can be told. ``done`` and ``total`` are
    what it says of itself by ``report_progress``.
    """

    slot: int
    since_s: float
    words: str = ""
    done: float | None = None
    total: float | None = None


class Running(NamedTuple):
    """What a job has with workers at one moment: ``partial`` are items of it that are done inside tasks.

    A task that says how much of it is done counts as such a part of an item.
    """

    running: int = 0
    partial: float = 0.0
    slowest: Slow | None = None


class State(NamedTuple):
    """A job's progress at one moment, as displays get it.

    ``rate`` is in items per second; ``left_s`` is how long the rest will take. None: not known.
    """

    label: str
    total: int | None
    done: int
    failed: int
    lost: int
    timeout: int
    cancelled: int
    skipped: int
    running: int
    amount: float
    elapsed_s: float
    rate: float | None
    left_s: float | None
    slowest: Slow | None
    is_over: bool
    note: str

    @property
    def ended(self) -> int:
        """How many items have ended, in whatever way."""
        others = self.failed + self.lost + self.timeout + self.cancelled + self.skipped
        return self.done + others

    @property
    def counted(self) -> int:
        """How many items count as dealt with: in the end only those whose call was made."""
        return self.ended - self.cancelled - self.skipped if self.is_over else self.ended

    @property
    def share(self) -> float | None:
        """How much of the job is done, from 0 to 1; None while its length is not known."""
        if self.total is None:
            return None
        return min(1.0, self.amount / self.total) if self.total else 1.0


def state(
    label: str, tally: Tally, pace: Pace, running: Running, begun_s: float, now_s: float
) -> State:
    """Put a job's progress together."""
    is_over, total, ended = tally.is_over, tally.total, tally.ended
    amount = ended + running.partial
    if is_over:
        amount = float(ended - tally.cancelled - tally.skipped)
    if total is not None:
        amount = min(amount, float(total))
    elapsed_s = now_s - begun_s
    if is_over:
        called = tally.done + tally.failed
        rate = called / elapsed_s if called and elapsed_s > 0 else None
    else:
        rate = pace.rate(now_s, amount)
    left_s = None
    if total is not None and rate and not is_over:
        left_s = (total - amount) / rate
    return State(
        label=label,
        total=total,
        done=tally.done,
        failed=tally.failed,
        lost=tally.lost,
        timeout=tally.timeout,
        cancelled=tally.cancelled,
        skipped=tally.skipped,
        running=0 if is_over else running.running,
        amount=amount,
        elapsed_s=elapsed_s,
        rate=rate,
        left_s=left_s,
        slowest=None if is_over else running.slowest,
        is_over=is_over,
        note=tally.note,
    )


# Words -------------------------------------------------------------------------------------------


def percent(told: State) -> str:
    """Say how much is done: ``37 %``; rounded down, as 100 % is said only of what is done."""
    share = told.share
    return "" if share is None else f"{int(share * 100 + 1e-9)} %"


def counts(told: State) -> str:
    """Say how many items have ended: ``3,700/10,000``, or ``3,700`` where nobody knows of how many."""
    counted = f"{told.counted:,}"
    return counted if told.total is None else f"{counted}/{told.total:,}"


def troubles(told: State) -> tuple[tuple[str, str], ...]:
    """Say how many items did not end well: ``("failed", "2 failed")`` and so on; often nothing."""
    return tuple(
        (end, f"{getattr(told, end):,} {word}") for end, word in WORDS.items() if getattr(told, end)
    )


def rate(per_s: float | None) -> str:
    """Say a rate: ``1,234/s``, ``1.2/s``, ``7.5/min``, ``3/h``; nothing for None."""
    if per_s is None:
        return ""
    for amount, unit in ((per_s, "s"), (per_s * 60, "min"), (per_s * 3600, "h")):
        if amount >= 0.95 or unit == "h":
            return f"{amount:,.0f}/{unit}" if amount >= 9.95 else f"{amount:.1f}/{unit}"
    return ""


def clock(seconds: float | None) -> str:
    """Say a time as a clock does: ``0:51``, ``12:03``, ``1:02:03``, ``3 d 04:05``; nothing for None."""
    if seconds is None:
        return ""
    whole = max(0, round(seconds))
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    if not hours:
        return f"{minute}:{second:02}"
    days, hour = divmod(hours, 24)
    return f"{days} d {hour:02}:{minute:02}" if days else f"{hours}:{minute:02}:{second:02}"


def slowest(told: State) -> str:
    """Say which task has run for the longest time, once that is worth a word; else nothing."""
    slow = told.slowest
    if slow is None or (slow.since_s < _SLOW_S and slow.done is None):
        return ""
    words = f"slowest: worker {slow.slot} for {clock(slow.since_s)}"
    own = own_progress(slow)
    if own:
        words += f", {own}"
    return f"{words}, {slow.words}" if slow.words else words


def own_progress(slow: Slow) -> str:
    """Say what a task says of itself: ``40 %`` or ``12 done``; nothing if it says nothing."""
    if slow.done is None:
        return ""
    if slow.total:
        return f"{int(min(1.0, max(0.0, slow.done / slow.total)) * 100)} %"
    return f"{slow.done:,.15g} done"


def line(told: State) -> str:
    """Say all of it in one line of text, as for a log."""
    parts = [f"{percent(told)} ({counts(told)})" if told.total is not None else counts(told)]
    parts += [words for _, words in troubles(told)]
    if told.running:
        parts.append(f"{told.running:,} running")
    parts.append(rate(told.rate))
    if told.is_over:
        parts.append(f"in {clock(told.elapsed_s)}" if told.elapsed_s >= 10 else _short(told))
        parts.append(told.note)
    else:
        parts.append(f"{clock(told.left_s)} left" if told.left_s is not None else "")
        parts.append(slowest(told))
    said = ", ".join(part for part in parts if part)
    return f"{told.label}: {said}" if told.label else said


def _short(told: State) -> str:
    return f"in {told.elapsed_s:.1f} s"


def fraction(done: Any, total: Any) -> float:
    """Return which part of itself a task has done, 0.0 if it cannot be told."""
    try:
        return min(1.0, max(0.0, float(done) / float(total))) if total else 0.0
    except (TypeError, ValueError, OverflowError):
        return 0.0
