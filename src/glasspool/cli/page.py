"""What ``glasspool run --report`` writes: the report of a run as an HTML page."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from glasspool.observe.records import Recording
from glasspool.snapshot import describe_exit

if TYPE_CHECKING:
    from glasspool.cli.report import Run
    from glasspool.observe.story import Story

_FROM_OUTSIDE = "Its own record ended with the program; this was read from outside before."


def write(run: Run, recordings: Sequence[Recording], path: str) -> str:
    """Write the report of a run, and return what there is to say of that."""
    from glasspool.reporting import Report
    from glasspool.views.table import size

    try:
        Report(story(run, recordings)).save(path)
    except OSError as error:
        return f"glasspool: cannot write {path}: {error.strerror}"
    return f"glasspool: the report is in {path} ({size(os.stat(path).st_size)})"


def story(run: Run, recordings: Sequence[Recording]) -> Story:
    """Tell of a run with what was recorded of its pools."""
    from glasspool.observe.story import Story, this_machine

    how = "was interrupted" if run.exitcode == -2 else describe_exit(run.exitcode)
    if run.hang is not None:
        how = f"was ended by glasspool, with exit code {run.exitcode},"
    return Story(
        recordings=tuple(_with_pictures(run, recordings)),
        machine=this_machine(),
        told_at=time.time(),
        command=run.command,
        ended=f"{how} ({run.error})" if run.error and run.exitcode == 1 else how,
        begun_at=run.begun_at,
        run_s=run.run_s,
        reason=run.reason,
        notes=tuple(_notes(run)),
    )


def _with_pictures(run: Run, recordings: Iterable[Recording]) -> Iterable[Recording]:
    """Give those that lack a picture the one of the account."""
    seen = {account.pool.name: account.pool for account in run.pools}
    for one in recordings:
        yield one if one.picture is not None else replace(one, picture=seen.get(one.pool))


def _notes(run: Run) -> Iterable[str]:
    if run.off is not None:
        yield f"The standard library's pools were used, which nobody can record: {run.off}."
    for item in run.left_alone:
        yield f"Left alone: {item.count} x {item.kind}, made at {item.made_at}: {item.reason}"


def recordings_of(pids: Iterable[int]) -> tuple[Recording, ...]:
    """Read from outside what the pools of running programs still know of their last tasks."""
    from glasspool.observe.gathering import Gathering
    from glasspool.observe.watch import Watch

    found: list[Recording] = []
    for pid in dict.fromkeys(pids):
        watch = Watch(pid)
        try:
            gathering = Gathering(watch)
            gathering.look()
            found += [replace(one, notes=(_FROM_OUTSIDE,)) for one in gathering.recordings()]
        finally:
            watch.close()
    return tuple(found)
