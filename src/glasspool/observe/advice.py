"""What would make a pool faster: from recordings to sentences, each with the figure behind it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from glasspool.observe.accounts import sum_of
from glasspool.observe.case import Advice, Case, percent
from glasspool.observe.records import Recording
from glasspool.observe.rules import LEAST_LOSS_S, RULES
from glasspool.views.table import duration, size

PLACES_AGAIN = 5
"""A place that makes a pool for the fifth time stands in a loop."""

AGAIN_PART = 0.1
"""A tenth is enough here: all of it but the first start goes away."""


def advise(
    recordings: Sequence[Recording], processors: int, memory_bytes: int | None = None
) -> tuple[Advice, ...]:
    """Say what would make the pools of some recordings faster or safer; nothing if nothing was found.

    Args:
        recordings: What happened in each pool.
        processors: How many the program may use.
        memory_bytes: How much the program may use, if known.
    """
    return advise_on([Case(one, processors, memory_bytes) for one in recordings])


def advise_on(cases: Sequence[Case]) -> tuple[Advice, ...]:
    """Say the same of cases that somebody else looks at, too."""
    found = [advice for case in cases for rule in RULES if (advice := rule(case)) is not None]
    return (*found, *_made_again(cases))


def _made_again(cases: Sequence[Case]) -> Iterator[Advice]:
    """Say where one place of the program makes one pool after the other."""
    places: dict[str, list[Case]] = {}
    for case in cases:
        if case.picture is not None and case.picture.made_at:
            places.setdefault(case.picture.made_at, []).append(case)
    for place, found in places.items():
        whole = sum_of(account for one in found for account in one.accounts)
        before_s = whole.time.start_s + whole.time.initializer_s
        if len(found) < PLACES_AGAIN or before_s < AGAIN_PART * whole.wall_s:
            continue
        if before_s < LEAST_LOSS_S:
            continue
        yield Advice(
            "pools-again",
            "The same place makes one pool after the other.",
            f"{len(found)} pools were made at {place}; their workers spent {duration(before_s)} of "
            f"{duration(whole.wall_s)} ({percent(before_s, whole.wall_s)}) on starting",
            "Make the pool once, outside of the loop, and use it for all.",
        )


def figures(case: Case) -> tuple[tuple[str, str], ...]:
    """Return the figures that the rules looked at, in words: what a healthy pool is shown for."""
    work, sum_ = case.work, case.sum
    found = [
        ("workers in tasks, while there was work", percent(work.busy_s, work.worker_s)),
        ("a task ran, on average", duration(case.mean_run_s)),
        ("moved by a task, on average", size(round(case.bytes_per_task))),
        (
            "receiving and sending, of the workers' time",
            percent(sum_.time.receiving_s + sum_.time.sending_s, sum_.wall_s),
        ),
        (
            "start and initializer, of the workers' time",
            percent(sum_.time.start_s + sum_.time.initializer_s, sum_.wall_s),
        ),
    ]
    return tuple(found) if case.tasks else ()
