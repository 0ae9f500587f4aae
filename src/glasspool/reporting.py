"""Reports on pools of this process: what ``Pool.report`` returns, and what ``glasspool run --report`` writes.

A pool that is recorded (``Pool(record=True)``) is told of from its beginning. Of any other one the report has
what is known without a journal: counters, the workers' times, and the tasks that the rings of its living
workers still hold; it says which part of all tasks that is.
"""

from __future__ import annotations

import html
import os
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from glasspool.observe.records import Recording, TaskRecord, WorkerLife
from glasspool.observe.story import Story, this_machine

if TYPE_CHECKING:
    from glasspool.engines.local.engine import LocalEngine
    from glasspool.observe.recording import Recorder
    from glasspool.snapshot import PoolInfo, ProcessInfo

_SENT_ALONG = "(sent with its task)"


class Report:
    """A report on a pool, as it was when it was asked for. In a notebook it shows itself.

    ``html`` is the whole page, made when it is first asked for; ``story`` is what it is made of.
    """

    def __init__(self, story: Story) -> None:
        self.story = story
        self._html: str | None = None

    @property
    def html(self) -> str:
        """The page: one HTML document that needs nothing besides."""
        if self._html is None:
            from glasspool.views import report_page

            self._html = report_page.document(self.story)
        return self._html

    def save(self, path: str | os.PathLike[str]) -> str:
        """Write the page to a file and return its path.

        Raises:
            OSError: The file cannot be written.
        """
        page = self.html  # first: a page that cannot be made leaves the file as it was
        with open(path, "w", encoding="utf-8") as file:
            file.write(page)
        return os.fspath(path)

    def _repr_html_(self) -> str:
        # In a frame: the page's style is not the notebook's, and its script can reach nothing there.
        return (
            f'<iframe srcdoc="{html.escape(self.html)}" sandbox="allow-scripts" title="glasspool report" '
            'style="width:100%;height:80vh;border:0"></iframe>'
        )

    def __repr__(self) -> str:
        pools = ", ".join(recording.pool for recording in self.story.recordings)
        tasks = sum(len(recording.tasks) for recording in self.story.recordings)
        return (
            f"<Report on {pools or 'no pool'}: {tasks:,} tasks; .save(path) writes it, .html is it>"
        )


def of_pool(engine: LocalEngine, recorder: Recorder | None = None) -> Report:
    """Report on one pool of this process, so far."""
    recording = recorder.so_far() if recorder is not None else from_rings(engine)
    return Report(
        Story(
            recordings=(recording,),
            machine=this_machine(),
            told_at=time.time(),
            command=tuple(sys.argv) if sys.argv and sys.argv[0] else (),
            begun_at=(recording.begun_ns + recording.wall_ns) / 1e9,
        )
    )


def from_rings(engine: LocalEngine) -> Recording:
    """Tell of a pool that nobody records what it knows by itself: the last tasks of each living worker."""
    picture = _picture(engine)
    now = time.monotonic_ns()
    tasks = tuple(sorted(_finished(engine), key=lambda task: task.ended_ns or 0))
    wall_ns = time.time_ns() - now
    ended = sum(int(picture.stats.get(how, 0)) for how in ("done", "failed"))
    lost = max(0, ended - len(tasks))
    lives = tuple(_life(worker, wall_ns) for worker in picture.workers)
    starts = [life.started_ns for life in lives if life.started_ns is not None]
    begins = [task.begun_ns for task in tasks if task.begun_ns is not None]
    # Of a pool that has run for long, the rings have the last moments only.
    begun = min(begins if lost and begins else [*starts, *begins], default=now)
    return Recording(
        pool=engine.name,
        pid=engine.pid,
        begun_ns=begun,
        ended_ns=now,
        wall_ns=wall_ns,
        source="ring",
        tasks=tasks,
        workers=lives,
        deaths=picture.deaths,
        lost=lost,
        picture=picture,
        notes=_notes(picture),
    )


def _picture(engine: LocalEngine) -> PoolInfo:
    if engine.is_cluster:
        from glasspool.observe import cluster

        return cluster.describe(engine)  # type: ignore[arg-type]
    from glasspool.observe import roster

    return roster.describe(engine)


def _notes(picture: PoolInfo) -> tuple[str, ...]:
    more = (
        "To have all tasks, with arguments and waiting times, make the pool with record=True, or run the "
        "program with “glasspool run --report”."
    )
    if picture.state != "ended":
        return (more,)
    return more, "The pool had ended when the report was made, and its workers with it."


def _finished(engine: LocalEngine) -> Iterator[TaskRecord]:
    from glasspool.engines.local import scoreboard as sb

    if engine.is_cluster:
        from glasspool.observe import cluster

        yield from cluster.finished(engine)  # type: ignore[arg-type]
        return
    for worker in engine.handler.workers.copy().values():
        try:
            entries = list(engine.board.finished(worker.record))
        except ValueError:
            return  # the pool has ended meanwhile, and its scoreboard with it
        for entry in entries:
            yield TaskRecord(
                pool=engine.name,
                slot=worker.slot,
                pid=worker.pid,
                generation=worker.generation,
                task=entry.task,
                function=engine.callables.name(entry.call) if entry.call else _SENT_ALONG,
                status="done" if entry.status == sb.DONE else "failed",
                begun_ns=entry.begun_ns,
                ended_ns=entry.ended_ns,
                called_ns=entry.called_ns or None,
                boxed_ns=entry.boxed_ns or None,
                result_bytes=entry.bytes,
                lane=entry.lane,
            )


def _life(worker: ProcessInfo, wall_ns: int) -> WorkerLife:
    def ns(at: float | None) -> int | None:
        return None if at is None else int(at * 1e9) - wall_ns

    prepared = worker.initializer
    begun = None if prepared is None else ns(prepared.begun_at)
    lasted = None if prepared is None else prepared.run_s
    return WorkerLife(
        pid=worker.pid,
        slot=worker.slot or 0,
        generation=worker.generation,
        name=worker.name,
        native_id=next((one.native_id for one in worker.threads if one.is_main), None),
        started_ns=ns(worker.started_at),
        initializer_begun_ns=begun,
        initializer_ended_ns=None if begun is None or lasted is None else begun + int(lasted * 1e9),
    )
