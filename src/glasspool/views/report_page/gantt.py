"""Who ran what when: a row for each worker, as SVG that is stretched to the width of the page.

A task that is wide enough to be seen is a rectangle of its own, with its story as its title. All shorter ones
are drawn together, column by column: the height says which part of that time the worker was in tasks, the
colour whose they were for the most part. So the size of the drawing is bounded, whatever the number of tasks.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from glasspool.observe.records import Recording, TaskRecord, WorkerLife
from glasspool.observe.tally import Bins, end_ns, run_ns, running, wait_ns
from glasspool.views.report_page.markup import cut, esc, section
from glasspool.views.report_page.scales import Colours, axis, grid, how_long
from glasspool.views.table import size

CELLS = 40_000
"""Rows times columns: some 15 bytes each at most."""

MOST_COLUMNS = 1500
ALONE = 4000
"""So many tasks have a rectangle with a title, some 200 bytes each: the longest ones."""

ALONE_COLUMNS = 3
"""Below that width nobody hits it with a pointer."""

LIVES = 2000
LEVELS = 8
_UNIT = 16
_THIN = 5
_NODE_MOST = 24


@dataclass(slots=True)
class _Row:
    """A lane of a slot: what is drawn alone, and what is drawn together, by colour."""

    node: str
    slot: int
    lane: int
    alone: list[TaskRecord] = field(default_factory=list)
    merged: dict[int, Bins] = field(default_factory=dict)
    bad: set[int] = field(default_factory=set)


def drawn(recording: Recording, colours: Colours) -> str:
    """Return the part of the page with the rows of all workers."""
    tasks = [
        task for task in recording.tasks if task.begun_ns is not None and task.slot is not None
    ]
    if not tasks and not recording.workers:
        return section("Who ran what when", "<p>No task has begun in this time.</p>")
    chart = _Chart(recording, colours, tasks)
    return section("Who ran what when", chart.html(), _hint(chart))


def _hint(chart: _Chart) -> str:
    rows = "lane of each worker" if any(row.lane for row in chart.rows.values()) else "worker"
    told = f"A row for each {rows}; the time is counted from the beginning of the recording."
    if chart.merges:
        told += (
            " Where tasks are too short to be seen one by one, the height says which part of the time the "
            "worker was in tasks."
        )
    return told


class _Chart:
    def __init__(self, recording: Recording, colours: Colours, tasks: Sequence[TaskRecord]) -> None:
        self.recording = recording
        self.colours = colours
        self.begun = recording.begun_ns
        self.span = max(1, recording.ended_ns - recording.begun_ns)
        # Slots count from 0 on each node of a cluster.
        places = {(task.node or "", task.slot or 0, task.lane) for task in tasks}
        places |= {(life.node or "", life.slot, 0) for life in recording.workers}
        self.rows = {place: _Row(*place) for place in sorted(places)}
        self.columns = max(40, min(MOST_COLUMNS, CELLS // len(self.rows)))
        self.merges = False
        self._least_ns = self._least_alone(tasks)
        for task in tasks:
            self._place(task)

    def _least_alone(self, tasks: Iterable[TaskRecord]) -> int:
        """Return how long a task must be for a rectangle of its own."""
        least = self.span * ALONE_COLUMNS // self.columns
        lasted = (_lasted(task) for task in tasks)
        longest = heapq.nlargest(ALONE + 1, (one for one in lasted if one >= least))
        return least if len(longest) <= ALONE else longest[-1] + 1

    def _place(self, task: TaskRecord) -> None:
        row = self.rows[task.node or "", task.slot or 0, task.lane]
        if _lasted(task) >= self._least_ns:
            row.alone.append(task)
            return
        self.merges = True
        colour = self.colours.number(task.function)
        bins = row.merged.get(colour)
        if bins is None:
            ended = self.begun + self.span
            bins = row.merged[colour] = Bins(self.begun, ended, self.columns)
        begun, end = task.begun_ns or 0, end_ns(task) or 0
        bins.add(begun, end)
        if task.status != "done":
            row.bad.add(min(self.columns - 1, max(0, int(self._x(end)))))

    def _x(self, at_ns: int) -> float:
        return min(max(0, at_ns - self.begun), self.span) * self.columns / self.span

    # Drawing --------------------------------------------------------------------------------------

    def html(self) -> str:
        """Return legend, rows and axis."""
        pixels = 18 if len(self.rows) <= 24 else 11 if len(self.rows) <= 64 else 6
        height = len(self.rows) * _UNIT
        span_s = self.span / 1e9
        drawing = "".join(self._row(row, at * _UNIT) for at, row in enumerate(self.rows.values()))
        drawing += "".join(self._running())
        return (
            f"<ul class=legend>{self.colours.legend()}{self._marks()}</ul>\n"
            f"<div class=chart><div class=labels>{self._labels(pixels)}</div><div class=plot>"
            f'<svg viewBox="0 0 {self.columns} {height}" preserveAspectRatio=none role=img '
            f'aria-label="tasks of each worker over time" style="height:{len(self.rows) * pixels}px">'
            f"{self._lives()}{grid(span_s, self.columns, height)}{drawing}</svg>{axis(span_s)}</div></div>"
        )

    def _marks(self) -> str:
        told = ""
        if any(life.time is not None and life.time.start_s > 0 for life in self.recording.workers):
            told += "<li><i class=t-start></i>start</li>"
        if any(life.initializer_ended_ns for life in self.recording.workers):
            told += "<li><i class=t-initializer></i>initializer</li>"
        if self.recording.workers:
            told += "<li><i class=g-life></i>worker at rest</li>"
        if running(self.recording.picture):
            told += "<li><i class=g-open></i>still running</li>"
        if any(task.status != "done" for task in self.recording.tasks):
            told += "<li><i class=g-bad></i>failed, lost, cancelled or timed out</li>"
        if any(life.ended_as == "dead" for life in self.recording.workers):
            told += "<li><i class=g-dead></i>worker died</li>"
        return told

    def _labels(self, pixels: int) -> str:
        every = 1 if pixels >= 11 else 10
        lanes = any(row.lane for row in self.rows.values())
        told, node = [], ""
        for at, row in enumerate(self.rows.values()):
            name = f"{row.slot}.{row.lane}" if lanes else str(row.slot)
            if row.node and (at == 0 or node != row.node):
                name = f"{esc(cut(row.node, _NODE_MOST))} {name}"
            node = row.node
            told.append(name if at % every == 0 else "")
        return "".join(f'<span style="height:{pixels}px">{name}</span>' for name in told)

    def _lives(self) -> str:
        order = {place: at * _UNIT for at, place in enumerate(self.rows)}
        lives = self.recording.workers
        return "".join(
            self._life(life, order[life.node or "", life.slot, 0]) for life in lives[:LIVES]
        )

    def _life(self, life: WorkerLife, top: int) -> str:
        begun = self.begun if life.started_ns is None else life.started_ns
        ended = self.recording.ended_ns if life.ended_ns is None else life.ended_ns
        told = self._rect("g-life", begun, ended, top + 1, _UNIT - 2, _life_words(life))
        if life.started_ns is not None and life.time is not None and life.time.start_s > 0:
            ready = life.started_ns + int(life.time.start_s * 1e9)
            words = f"{_worker(life)}: start, {how_long(life.time.start_s)}"
            told += self._rect("t-start", life.started_ns, ready, top + _THIN, _THIN, words)
        if life.initializer_begun_ns is not None and life.initializer_ended_ns is not None:
            lasted = (life.initializer_ended_ns - life.initializer_begun_ns) / 1e9
            words = f"{_worker(life)}: initializer, {how_long(lasted)}"
            told += self._rect(
                "t-initializer",
                life.initializer_begun_ns,
                life.initializer_ended_ns,
                top + _THIN,
                _THIN,
                words,
            )
        if life.ended_as == "dead" and life.ended_ns is not None:
            x = self._x(life.ended_ns)
            told += f'<path class=g-dead d="M{x:.1f} {top}v{_UNIT}"/>'
        return told

    def _rect(self, style: str, begun: int, ended: int, y: float, high: float, words: str) -> str:
        x = self._x(begun)
        width = max(0.3, self._x(ended) - x)
        return (
            f'<rect class="{style}" x={x:.1f} y={y:g} width={width:.1f} height={high:g}>'
            f"<title>{esc(words)}</title></rect>"
        )

    def _row(self, row: _Row, top: int) -> str:
        return (
            "".join(self._merged(row, top))
            + "".join(self._alone(task, top) for task in row.alone)
            + self._bad(row, top)
        )

    def _alone(self, task: TaskRecord, top: int) -> str:
        style = f"f{self.colours.number(task.function)}" + (" bad" if task.status != "done" else "")
        begun, end = task.begun_ns or 0, end_ns(task) or 0
        return self._rect(style, begun, end, top + 2, _UNIT - 4, story(task))

    def _running(self) -> Iterator[str]:
        """Draw the tasks that had not ended, up to the end of the recording."""
        tops = {place: at * _UNIT for at, place in enumerate(self.rows)}
        open_tasks = running(self.recording.picture)
        over = {task.task for task in self.recording.tasks if task.task in open_tasks}
        for number, task in open_tasks.items():
            top = tops.get((task.node or "", -1 if task.slot is None else task.slot, 0))
            if top is None or task.begun_at is None or number in over:
                continue
            begun = int(task.begun_at * 1e9) - self.recording.wall_ns
            words = f"{cut(task.function, 80)}{cut(task.arguments or '', 120)}, task {task.id}, still running"
            style = f"f{self.colours.number(task.function)} open"
            yield self._rect(style, begun, self.recording.ended_ns, top + 2, _UNIT - 4, words)

    def _merged(self, row: _Row, top: int) -> Iterator[str]:
        """Draw what is too short to be seen: a path for each colour, equal neighbours in one piece."""
        means = {colour: bins.means() for colour, bins in row.merged.items()}
        if not means:
            return
        runs: dict[int, list[tuple[int, int, int]]] = {colour: [] for colour in means}
        for column in range(self.columns):
            here = {colour: values[column] for colour, values in means.items()}
            colour = max(here, key=lambda one: here[one])
            busy = sum(here.values())
            if busy <= 0.001:
                continue
            level = max(1, min(LEVELS, round(busy * LEVELS)))
            mine = runs[colour]
            if mine and mine[-1][1] == column and mine[-1][2] == level:
                mine[-1] = (mine[-1][0], column + 1, level)
            else:
                mine.append((column, column + 1, level))
        for colour, found in runs.items():
            if found:
                path = "".join(_box(first, last, level, top) for first, last, level in found)
                yield f'<path class=f{colour} d="{path}"/>'

    def _bad(self, row: _Row, top: int) -> str:
        if not row.bad:
            return ""
        path = "".join(f"M{column} {top}h1v3h-1z" for column in sorted(row.bad))
        return f'<path class=g-bad d="{path}"/>'


def _box(first: int, last: int, level: int, top: int) -> str:
    room = _UNIT - 4
    high = room * level / LEVELS
    return f"M{first} {top + 2 + room - high:g}h{last - first}v{high:g}h{first - last}z"


def _lasted(task: TaskRecord) -> int:
    end = end_ns(task)
    return 0 if end is None or task.begun_ns is None else end - task.begun_ns


def _worker(one: WorkerLife | TaskRecord) -> str:
    return f"worker {one.slot} (pid {one.pid})" + (f" on {one.node}" if one.node else "")


def _life_words(life: WorkerLife) -> str:
    told = _worker(life)
    if life.generation:
        told += f", no. {life.generation + 1} at this place"
    if life.ended_as:
        told += f": {life.ended_as}" + (f", {life.reason}" if life.reason else "")
    return told


def story(task: TaskRecord) -> str:
    """Say all of one task that fits on a line or two."""
    ran, waited = run_ns(task), wait_ns(task)
    told = [f"{cut(task.function, 80)}{cut(task.arguments or '', 120)}"]
    if task.items > 1:
        told.append(f"{task.items:,} items")
    told.append(f"task {task.task}" + ("" if task.job is None else f" of job {task.job}"))
    if ran is not None:
        told.append(f"ran {how_long(ran / 1e9)}")
    if waited is not None:
        told.append(f"waited {how_long(waited / 1e9)}")
    if task.result_bytes is not None:
        told.append(f"result {size(task.result_bytes)}")
    if task.status != "done":
        told.append(task.status)
    if task.attempts > 1:
        told.append(f"attempt {task.attempts}")
    told.append(_worker(task))
    return ", ".join(told)
