"""Values as pieces of HTML, for notebooks: what ``_repr_html_`` of pools, results and pictures returns.

Pure: from frozen values to text, every name of the user's escaped. No script, no class, no style sheet: a
notebook keeps what it was given for ever, beside other outputs, on a light page or a dark one. So text has
the page's own colour, and lines and backgrounds are half transparent.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from glasspool import progress as words
from glasspool.progress import State
from glasspool.snapshot import (
    DeathCertificate,
    Frame,
    NodeInfo,
    PoolInfo,
    ProcessInfo,
    Snapshot,
    TaskInfo,
    ThreadInfo,
    describe_exit,
)
from glasspool.views.table import clock_words, duration, harmless, short_path, size, thread_state

MOST_ROWS = 300
"""A table has so many rows at most; how many there are more is told."""

TASKS_SHOWN = 50

_GREY = "rgba(128,128,128,.35)"
_FAINT = "rgba(128,128,128,.12)"
_GREEN, _YELLOW, _RED, _BLUE = "#2e9e5b", "#b8860b", "#d64545", "#3b82c4"
_BASE = "font-size:13px;line-height:1.45;text-align:left"
_MONO = "font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace"
_DIM = "opacity:.65"
_STATE_COLORS = {
    "busy": _GREEN,
    "running": _GREEN,
    "done": _GREEN,
    "initializing": _YELLOW,
    "starting": _YELLOW,
    "stopped": _YELLOW,
    "closed": _YELLOW,
    "stopping": _YELLOW,
    "cancelled": _YELLOW,
    "dead": _RED,
    "failed": _RED,
    "lost": _RED,
    "timeout": _RED,
}
_COUNTS = ("done", "waiting", "running", "failed", "lost", "timeout", "cancelled")


def escape(text: object) -> str:
    """Make a text harmless: what it holds is shown as it is, whatever it is."""
    return html.escape(harmless(str(text)))


# Progress ----------------------------------------------------------------------------------------


def progress(told: State) -> str:
    """Draw one job's progress: label, bar, figures."""
    troubles = words.troubles(told)
    color = _YELLOW if troubles or told.note else (_GREEN if told.is_over else _BLUE)
    bar = ""
    if told.share is not None:
        bar = (
            f'<div style="width:180px;height:10px;border-radius:5px;background:{_GREY};'
            'overflow:hidden;flex:none">'
            f'<div style="width:{told.share * 100:.1f}%;height:10px;background:{color}"></div></div>'
        )
    figures = [
        words.percent(told),
        words.counts(told) + ("" if told.total is not None else " done"),
    ]
    if told.running:
        figures.append(f"{told.running:,} running")
    figures.append(words.rate(told.rate))
    if told.is_over:
        took = words.clock(told.elapsed_s) if told.elapsed_s >= 10 else f"{told.elapsed_s:.1f} s"
        figures.append(f"in {took}")
    elif told.left_s is not None:
        figures.append(f"{words.clock(told.left_s)} left")
    else:
        figures.append(words.clock(told.elapsed_s))
    said = " &nbsp; ".join(escape(figure) for figure in figures if figure)
    bad = [word for _, word in troubles] + ([told.note] if told.note else [])
    if bad:
        said += f' &nbsp; <span style="color:{_RED}">{escape(", ".join(bad))}</span>'
    slowest = words.slowest(told)
    below = f'<div style="{_DIM};font-size:12px">{escape(slowest)}</div>' if slowest else ""
    return (
        f'<div style="{_BASE}"><div style="display:flex;flex-wrap:wrap;gap:4px 12px;'
        f'align-items:center"><b>{escape(told.label)}</b>{bar}'
        f'<span style="font-variant-numeric:tabular-nums">{said}</span></div>{below}</div>'
    )


# Pools -------------------------------------------------------------------------------------------


def snapshot(picture: Snapshot) -> str:
    """Draw a picture of pools: for each one its counters, processes, threads, tasks, deaths."""
    if not picture.pools:
        return _box("no pools")
    return "".join(pool(one) for one in picture.pools)


def pool(info: PoolInfo) -> str:
    """Draw one pool."""
    facts = [info.kind, info.start_method or "", f"pid {info.pid}"]
    if info.engine != "local":
        facts.insert(1, f"{info.engine}, {_count(len(info.nodes), 'node')}")
    if info.made_at:
        facts.append(f"made at {info.made_at}")
    head = (
        f"<div><b>{escape(info.name)}</b> {_state(info.state)} "
        f'<span style="{_DIM}">{escape(" · ".join(fact for fact in facts if fact))}</span></div>'
    )
    notes = "".join(f'<div style="color:{_YELLOW}">{escape(note)}</div>' for note in info.notes)
    parts = [head, _counters(info), notes, _nodes(info.nodes), _processes(info.processes)]
    threads = [(process, thread) for process in info.processes for thread in process.threads]
    if threads:
        parts.append(_details(_count(len(threads), "thread"), _threads(threads)))
    if info.tasks:
        more = "" if len(info.tasks) <= TASKS_SHOWN else f", the first {TASKS_SHOWN}"
        shown = tasks(info.tasks[:TASKS_SHOWN])
        parts.append(_details(_count(len(info.tasks), "open task") + more, shown))
    if info.deaths:
        died = "".join(certificate(death) for death in info.deaths[-10:])
        parts.append(_details(_count(len(info.deaths), "death"), died, is_open=True))
    return _box("".join(parts))


def no_pool(name: str, text: str) -> str:
    """Draw a pool of which there is nothing to be seen (any more)."""
    return _box(f'<b>{escape(name)}</b> <span style="{_DIM}">{escape(text)}</span>')


def _counters(info: PoolInfo) -> str:
    stats = info.stats
    chips = [
        f'<span style="white-space:nowrap"><b style="font-variant-numeric:tabular-nums">'
        f'{escape(f"{stats[word]:,}")}</b> <span style="{_DIM}">{word}</span></span>'
        for word in _COUNTS
        if stats.get(word) or (word in ("done", "waiting", "running") and word in stats)
    ]
    if not chips:
        return ""
    chips.insert(0, f'<span style="{_DIM}">tasks:</span>')
    return f'<div style="display:flex;flex-wrap:wrap;gap:2px 14px">{"".join(chips)}</div>'


def _nodes(nodes: Sequence[NodeInfo]) -> str:
    if not nodes:
        return ""
    rows = [
        (
            escape(node.name),
            _state(node.state if node.silent is None else "silent"),
            escape(node.reason or node.silent or ""),
            str(node.workers),
            str(node.tasks),
            f"{node.tasks_done:,}",
            escape(clock_words(node)),
        )
        for node in nodes
    ]
    headings = ("node", "state", "", "workers", "tasks", "done", "clock")
    return _table(headings, rows, right=(3, 4, 5, 6))


def _processes(processes: Sequence[ProcessInfo]) -> str:
    rows = []
    for process in processes:
        task = next((thread.task for thread in process.threads if thread.task), None)
        since = next((thread.since_s for thread in process.threads if thread.task), None)
        state = process.state or ("" if process.role == "worker" else "running")
        if process.state == "dead":
            state = f"dead: {describe_exit(process.exitcode)}"
        rows.append(
            (
                escape(_process_name(process)),
                str(process.pid),
                _state(state),
                _task_words(task) if task is not None else "",
                escape(duration(since)),
                f"{process.tasks_done:,}" if process.role == "worker" else "",
                escape(duration(process.cpu_s)),
                escape(size(process.rss_bytes)),
            )
        )
    headings = ("process", "pid", "state", "task", "since", "done", "cpu", "memory")
    return _table(headings, rows, right=(1, 4, 5, 6, 7))


def _process_name(process: ProcessInfo) -> str:
    name = _name_there(process)
    return name if process.node is None else f"{name} on {process.node}"


def _name_there(process: ProcessInfo) -> str:
    if process.role != "worker":
        return process.role
    name = f"worker {process.slot}" if process.slot is not None else process.name
    return f"{name} (no. {process.generation + 1})" if process.generation else name


def _threads(threads: Iterable[tuple[ProcessInfo, ThreadInfo]]) -> str:
    rows = [
        (
            escape(_process_name(process)),
            str(thread.native_id),
            escape(thread.name),
            escape(", ".join(thread.roles)),
            escape(thread_state(thread)),
            escape(duration(thread.cpu_s)),
            _stack(thread.stack) if thread.stack else "",
        )
        for process, thread in threads
    ]
    headings: tuple[str, ...] = ("process", "tid", "thread", "roles", "state", "cpu", "stack")
    if not any(row[-1] for row in rows):
        headings, rows = headings[:-1], [row[:-1] for row in rows]  # type: ignore[misc]
    return _table(headings, rows, right=(1, 5))


def thread(info: ThreadInfo) -> str:
    """Draw one thread."""
    facts = [
        ("thread", escape(info.name)),
        ("process", escape(f"{info.process} (pid {info.pid})")),
        ("tid", str(info.native_id)),
        ("roles", escape(", ".join(info.roles))),
        ("state", escape(thread_state(info))),
        ("cpu", escape(duration(info.cpu_s))),
    ]
    if info.stack:
        facts.append(("stack", _frames(info.stack)))
    note = info.evidence.note
    facts.append(("known from", escape(info.evidence.source + (f": {note}" if note else ""))))
    return _box(_facts(facts))


def _stack(frames: Sequence[Frame]) -> str:
    last = frames[-1]
    head = f"{escape(last.function)} <span style='{_DIM}'>{escape(_place(last))}</span>"
    return f"<details><summary>{head}</summary>{_frames(frames)}</details>"


def _frames(frames: Sequence[Frame]) -> str:
    lines = "<br>".join(
        f"{escape(frame.function)} <span style='{_DIM}'>{escape(_place(frame))}</span>"
        for frame in frames
    )
    return f'<div style="{_MONO};font-size:12px">{lines}</div>'


def _place(frame: Frame) -> str:
    return f"{short_path(frame.file)}:{frame.line}" if frame.line else short_path(frame.file)


# Tasks and results -------------------------------------------------------------------------------


def tasks(infos: Iterable[TaskInfo]) -> str:
    """Draw tasks, one a row."""
    rows = [
        (
            str(info.id) if info.id is not None else "",
            _state(info.state),
            _task_words(info),
            "" if info.slot is None else str(info.slot),
            escape(duration(info.queue_wait_s)),
            escape(duration(info.run_s)),
        )
        for info in infos
    ]
    return _table(
        ("task", "state", "function", "worker", "waited", "ran"), rows, right=(0, 3, 4, 5)
    )


def task(info: TaskInfo, title: str = "task") -> str:
    """Draw one task, or a job with its tasks."""
    ended = sum(1 for part in info.tasks if part.ended_at is not None)
    facts = [
        (title, f"{_task_words(info)} {_state(info.state)}"),
        ("chunks", f"{ended:,} of {len(info.tasks):,} ended" if info.tasks else ""),
        ("worker", _worker_words(info)),
        ("waited", escape(duration(info.queue_wait_s))),
        ("ran", escape(duration(info.run_s or None))),
        ("attempts", str(info.attempts) if info.attempts > 1 else ""),
        ("arguments", escape(size(info.argument_bytes))),
        ("result", escape(size(info.result_bytes or None))),
    ]
    if info.progress is not None:
        facts.append(("says", escape(_own_progress(info.progress))))
    below = ""
    if info.tasks:
        shown = info.tasks[:TASKS_SHOWN]
        more = "" if len(info.tasks) <= TASKS_SHOWN else f", the first {TASKS_SHOWN}"
        below = _details(_count(len(info.tasks), "task") + more, tasks(shown))
    return _box(_facts(facts) + below)


def iterator(label: str, ended: int, of: int | None, has_ended: bool) -> str:
    """Draw the iterator of an ``imap``: how many of its tasks have ended."""
    count = f"{ended:,}" if of is None else f"{ended:,} of {of:,}"
    state = _state("done" if has_ended else "running")
    return _box(_facts([("imap", f"{escape(label)} {state}"), ("tasks", f"{count} ended")]))


def _task_words(info: TaskInfo) -> str:
    function = f"<b>{escape(info.function)}</b>" + escape(_cut(info.arguments or ""))
    if info.items > 1:
        of = f"{info.items:,} items"
        if info.item is not None:
            of = f"item {info.item + 1:,} of {info.items:,}"
        function += f' <span style="{_DIM}">{of}</span>'
    if info.progress is not None:
        function += f' <span style="{_DIM}">({escape(_own_progress(info.progress))})</span>'
    return function


def _own_progress(said: tuple[float, float | None]) -> str:
    done, total = said
    if total:
        return f"{int(words.fraction(done, total) * 100)} %"
    return f"{done:,.15g} done"


def _worker_words(info: TaskInfo) -> str:
    if info.slot is None:
        return ""
    thread = "" if info.thread is None else f", {info.thread.name}"
    return escape(f"{info.slot} (pid {info.pid}{thread})")


# Deaths ------------------------------------------------------------------------------------------


def certificate(death: DeathCertificate) -> str:
    """Draw what is known of a worker that died."""
    task = death.task
    facts = [
        ("worker", escape(f"{death.slot} (pid {death.pid})")),
        ("pool", escape(death.pool or "")),
        ("cause", f'<span style="color:{_RED}">{escape(death.cause)}</span>'),
        ("task", "" if task is None else _task_words(task)),
        ("ran for", "" if task is None else escape(duration(task.run_s))),
        ("attempts", f"{death.attempts} of {max(death.attempts, death.attempts_allowed)}"),
        ("peak memory", escape(size(death.peak_memory_bytes))),
        ("OOM killer", _oom(death)),
        ("last stack", _frames(death.stack) if death.stack else ""),
        ("last log", _lines(death.last_log[-20:])),
        ("last output", _lines(death.last_output)),
        ("advice", escape(death.advice or "")),
    ]
    edge = f"border-left:3px solid {_RED};margin:4px 0;padding-left:8px"
    return f'<div style="{edge};{_BASE}">{_facts(facts)}</div>'


def _oom(death: DeathCertificate) -> str:
    if not death.oom_evidence:
        return ""
    likely = {True: "likely", False: "no", None: "not known"}[death.oom_likely]
    return escape(f"{likely}: {death.oom_evidence}")


def _lines(lines: Sequence[str]) -> str:
    if not lines:
        return ""
    said = "<br>".join(escape(line) for line in lines)
    return f'<div style="{_MONO};font-size:12px">{said}</div>'


# Pieces ------------------------------------------------------------------------------------------


def _box(inside: str) -> str:
    return f'<div style="{_BASE};max-width:100%">{inside}</div>'


def _state(word: str) -> str:
    color = _STATE_COLORS.get(word.partition(":")[0])
    if not word:
        return ""
    style = f"color:{color}" if color else _DIM
    return f'<span style="{style}">{escape(word)}</span>'


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}" + ("" if number == 1 else "s")


def _cut(text: str, most: int = 60) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _details(summary: str, inside: str, is_open: bool = False) -> str:
    opened = " open" if is_open else ""
    head = f'<summary style="cursor:pointer;display:list-item">{escape(summary)}</summary>'
    return f'<details{opened} style="margin-top:4px">{head}{inside}</details>'


def _facts(facts: Iterable[tuple[str, str]]) -> str:
    rows = "".join(
        '<tr style="background:transparent">'
        f'<td style="{_CELL};{_DIM};white-space:nowrap">{escape(name)}</td>'
        f'<td style="{_CELL};overflow-wrap:anywhere">{value}</td></tr>'
        for name, value in facts
        if value
    )
    return f'<table style="{_TABLE}">{rows}</table>'


_TABLE = "border-collapse:collapse;margin:2px 0;font-size:13px;border:none"
_CELL = "text-align:left;vertical-align:top;padding:1px 10px 1px 0;border:none"


def _table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()
) -> str:
    """Lay cells out, which are HTML already; columns without a word are left out."""
    shown = [at for at in range(len(headings)) if any(row[at] for row in rows)]
    more = len(rows) - MOST_ROWS

    def cell(at: int, text: str, tag: str) -> str:
        side = "right;white-space:nowrap" if at in right else "left"
        weight = f"font-weight:600;{_DIM}" if tag == "th" else ""
        return (
            f'<{tag} style="{_CELL};text-align:{side};border-bottom:1px solid {_FAINT};{weight}">'
            f"{text}</{tag}>"
        )

    head = "".join(cell(at, escape(headings[at]), "th") for at in shown)
    body = "".join(
        '<tr style="background:transparent">'
        + "".join(cell(at, row[at], "td") for at in shown)
        + "</tr>"
        for row in rows[:MOST_ROWS]
    )
    below = f'<div style="{_DIM}">and {more:,} more</div>' if more > 0 else ""
    return (
        '<div style="max-height:420px;overflow:auto;max-width:100%">'
        f'<table style="{_TABLE}"><tr style="background:transparent">{head}</tr>{body}</table>'
        f"{below}</div>"
    )
