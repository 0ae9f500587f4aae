"""Snapshots as aligned text: a tree of processes and threads in columns of fixed width.

Widths are settled here and not left to Rich, so that roles and states are wrapped but never cut,
and rows stay aligned when stacks are printed between them. Only names are shortened.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from io import StringIO
from typing import TYPE_CHECKING, Any, TextIO

from glasspool.snapshot import (
    DeathCertificate,
    Frame,
    PoolInfo,
    ProcessInfo,
    Snapshot,
    TaskInfo,
    ThreadInfo,
    describe_exit,
)

if TYPE_CHECKING:
    from rich.console import RenderableType

DEATHS_IN_FULL = 5
"""A picture tells so many deaths, the last ones, with all their lines."""

WIDTH_OFF_TERMINAL = 100
"""Columns where neither a terminal nor COLUMNS says how many there are."""

LEAST_COLUMNS = 72
"""Below this a table would have to cut what it tells: it is left to the terminal to wrap it."""

_GAP = 2
_NAME_LEAST, _PROCESS_MOST = 19, 24
_ROLES_MOST = 18
_STATE_LEAST, _STATE_FAIR, _STATE_GOOD = 16, 21, 40
_ASCII = str.maketrans({"├": "|", "└": "`", "─": "-", "│": "|", "…": "~", "·": "-", "×": "x"})
_STYLES = {
    "busy": "green",
    "running": "green",
    "initializing": "yellow",
    "starting": "yellow",
    "dead": "red",
    "failed": "red",
    "lost": "red",
    "timeout": "red",
    "stopped": "yellow",
}
_NOT_SHOWN = ("size",)

# Stands for a blank at which no line may be broken, until the text is laid out.
_TIED = "\ue000"
_UNITS = re.compile(r"(?<=\d) (?=(µs|ms|s|min|h|B|kB|MB|GB|of|done|items?)\b)|(?<=task) (?=\d)")


@dataclass(frozen=True, slots=True)
class _Row:
    """One line of the tree; ``stack`` is printed below it, behind ``indent``."""

    label: str
    numbers: str = ""
    roles: str = ""
    state: str = ""
    cpu: str = ""
    style: str = ""
    stack: tuple[Frame, ...] = ()
    indent: str = ""


@dataclass(frozen=True, slots=True)
class _Widths:
    label: int
    numbers: int
    roles: int
    state: int
    cpu: int


def snapshot_text(
    snapshot: Snapshot, *, width: int | None = None, color: bool = False, fold: bool = True
) -> str:
    """Render a snapshot as text: for each pool a headline and its processes and threads.

    Args:
        snapshot: What to show.
        width: Columns to fit into; COLUMNS or the terminal's width if None.
        color: Whether to put escape codes in.
        fold: Whether workers that look the same share one entry.
    """
    columns = _columns(width)
    parts: list[RenderableType] = []
    for number, pool in enumerate(snapshot.pools):
        if number:
            parts.append("")
        parts.extend(_pool_parts(pool, columns, fold, several=len(snapshot.pools) > 1, at=number))
    if not snapshot.pools:
        parts.append("no pools")
    return _render(parts, columns, color)


def threads_text(
    threads: Iterable[ThreadInfo], *, width: int | None = None, color: bool = False
) -> str:
    """Render threads as text, grouped by process."""
    columns = _columns(width)
    rows: list[_Row] = []
    for (process, pid), members in _grouped(threads).items():
        rows.append(_Row(_safe(process), str(pid), style="bold"))
        rows.extend(_thread_rows(tuple(members)))
    return _render(_tree_parts(rows, columns), columns, color)


def tasks_text(tasks: Iterable[TaskInfo], *, width: int | None = None, color: bool = False) -> str:
    """Render tasks as text, one a row."""
    columns = _columns(width)
    headings: tuple[str, ...] = ("TASK", "STATE", "FUNCTION", "WORKER", "WAITED", "RAN")
    lines: list[tuple[str, ...]] = [
        (
            _task_number(task),
            task.state,
            _function_and_items(task),
            _task_place(task),
            duration(task.queue_wait_s),
            duration(task.run_s),
        )
        for task in tasks
    ]
    if not lines:
        return "no tasks"
    shown = [i for i, _ in enumerate(headings) if i < 4 or any(line[i] for line in lines)]
    headings = tuple(headings[i] for i in shown)
    lines = [tuple(line[i] for i in shown) for line in lines]
    return _render([_plain_table(headings, lines, columns, flexible=2)], columns, color)


def certificate_text(
    certificate: DeathCertificate, *, width: int | None = None, color: bool = False
) -> str:
    """Render what is known of a worker's death."""
    columns = _columns(width)
    facts = [
        ("worker", f"{certificate.slot} (pid {certificate.pid})"),
        ("cause", certificate.cause),
    ]
    if certificate.pool:
        facts.insert(0, ("pool", certificate.pool))
    if certificate.exitcode is not None or certificate.signal is not None:
        code = certificate.exitcode
        facts.append(("ended", describe_exit(-(certificate.signal or 0) if code is None else code)))
    if certificate.task is not None:
        task = certificate.task
        facts.append(("task", f"{_task_number(task)} {_function_and_items(task)}".strip()))
        facts.append(("attempts", str(certificate.attempts)))
        if task.run_s is not None:
            facts.append(("ran for", duration(task.run_s)))
    facts += _found_on(certificate)
    if certificate.advice:
        facts.append(("advice", certificate.advice))
    return _render([_plain_table(("", ""), facts, columns, flexible=1)], columns, color)


def _found_on(certificate: DeathCertificate) -> list[tuple[str, str]]:
    """List what a certificate tells beyond who died of what."""
    facts: list[tuple[str, str]] = []
    if certificate.peak_memory_bytes is not None:
        facts.append(("peak memory", size(certificate.peak_memory_bytes)))
    if certificate.oom_evidence:
        likely = {True: "likely", False: "no", None: "not known"}[certificate.oom_likely]
        facts.append(("OOM killer", f"{likely}: {_safe(certificate.oom_evidence)}"))
    if certificate.stack:
        age = "" if not certificate.stack_age_s else f", {duration(certificate.stack_age_s)} before"
        calls = [
            _safe(f"{frame.function} ({short_path(frame.file)}:{frame.line})")
            for frame in reversed(certificate.stack)
        ]
        facts.append(("last stack", "\n".join(calls)))
        facts.append(("", f"(from {certificate.stack_source}{age})"))
    if certificate.last_log:
        facts.append(("last log", "\n".join(map(_safe, certificate.last_log))))
    if certificate.last_output:
        facts.append(("last output", "\n".join(map(_safe, certificate.last_output))))
    return facts


def deaths_text(deaths: Sequence[DeathCertificate]) -> list[str]:
    """Return the text of each death; of all but the last few, its first line."""
    first = max(0, len(deaths) - DEATHS_IN_FULL)
    texts = [death.text() for death in deaths]
    return [*(text.split("\n", 1)[0] for text in texts[:first]), *texts[first:]]


def print_snapshot(snapshot: Snapshot, file: TextIO | None = None, *, fold: bool = True) -> None:
    """Print a snapshot, with colours and width as the file allows.

    Colours need a terminal and no NO_COLOR in the environment; a file that cannot hold the lines
    of the tree gets plain signs instead.
    """
    out = sys.stdout if file is None else file
    text = snapshot_text(snapshot, width=width_of(out), color=takes_color(out), fold=fold)
    print(fitted(text, out), file=out)


def takes_color(file: TextIO) -> bool:
    """Tell whether a file wants escape codes: a terminal does, unless the environment objects."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    isatty = getattr(file, "isatty", None)
    return bool(isatty and isatty())


def width_of(file: TextIO) -> int:
    """Return how many columns a file has: COLUMNS, else its terminal's, else the default."""
    told = os.environ.get("COLUMNS", "")
    if told.isdigit() and int(told) > 0:
        return int(told)
    try:
        return os.get_terminal_size(file.fileno()).columns or WIDTH_OFF_TERMINAL
    except (OSError, ValueError, AttributeError):
        return WIDTH_OFF_TERMINAL  # no terminal, a closed file, or one without a descriptor


def fitted(text: str, file: TextIO) -> str:
    """Replace the signs of the tree where the file's encoding lacks them."""
    encoding = getattr(file, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return text.translate(_ASCII).encode("ascii", "replace").decode("ascii")
    return text


def duration(seconds: float | None) -> str:
    """Say a duration for people: ``350 ms``, ``12.3 s``, ``4 min``, ``2.5 h``; nothing for None."""
    if seconds is None:
        return ""
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} µs" if seconds > 0 else "0 s"
    if seconds < 0.9995:
        return f"{seconds * 1e3:.0f} ms"
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    if seconds < 5970:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def size(count: int | None) -> str:
    """Say a number of bytes for people: ``12.3 MB``; nothing for None."""
    if count is None:
        return ""
    amount = float(count)
    for unit in ("B", "kB", "MB"):
        if amount < 999.5:
            return f"{amount:.0f} {unit}"
        amount /= 1000
    return f"{amount:.1f} GB"


def short_path(path: str) -> str:
    """Shorten a source path: installed packages and the standard library by their own names."""
    _, found, inside = path.rpartition(f"{os.sep}site-packages{os.sep}")
    if found:
        return inside
    library = sysconfig.get_path("stdlib") + os.sep
    if path.startswith(library):
        return path[len(library) :]
    here = os.getcwd() + os.sep
    return path[len(here) :] if path.startswith(here) else path


# Pools and processes -----------------------------------------------------------------------------


def _pool_parts(
    pool: PoolInfo, columns: int, fold: bool, *, several: bool, at: int
) -> list[RenderableType]:
    rows: list[_Row] = []
    for group in _groups(pool.processes, fold):
        shown = group[0]
        if several and shown.role == "parent":
            # The parent serves every pool: what is no pool's own is told with the first one.
            owners = (pool.name, None) if at == 0 else (pool.name,)
            mine = tuple(t for t in shown.threads if t.pool in owners)
            group = (replace(shown, threads=mine),)
        rows.extend(_process_rows(group))
    return [
        *_headlines(pool),
        *_tree_parts(rows, columns),
        *(_note(f"died: {text}", "red") for text in deaths_text(pool.deaths)),
        *(_note(note, "dim") for note in pool.notes),
    ]


def _headlines(pool: PoolInfo) -> list[RenderableType]:
    from rich.text import Text

    facts = [_safe(pool.kind)]
    facts.append(f"{pool.size} worker{'' if pool.size == 1 else 's'}")
    facts.extend(fact for fact in (pool.start_method, pool.state) if fact)
    if pool.made_at:
        facts.append(f"made at {_safe(pool.made_at)}")
    lines: list[RenderableType] = [
        Text.assemble((_safe(pool.name), "bold"), "  ", " · ".join(facts)),
    ]
    counters = _counters(pool.stats)
    if pool.initializer:
        counters.append(f"initializer {_safe(pool.initializer)}")
    if counters:
        lines.append(Text("  " + " · ".join(counters)))
    return lines


def _counters(stats: Mapping[str, Any]) -> list[str]:
    return [
        f"{_safe(str(key)).replace('_', ' ')} {value}"
        for key, value in stats.items()
        if key not in _NOT_SHOWN and value and isinstance(value, int) and value is not True
    ]


def _note(text: str, style: str) -> RenderableType:
    from rich.padding import Padding
    from rich.text import Text

    return Padding(Text(_safe_lines(text), style=style), (0, 0, 0, 2))


def _groups(processes: Iterable[ProcessInfo], fold: bool) -> list[tuple[ProcessInfo, ...]]:
    """Put together the workers that look the same, at the place of the first of them."""
    groups: dict[Any, list[ProcessInfo]] = {}
    for number, process in enumerate(processes):
        key = _look(process) if fold and process.role == "worker" else None
        groups.setdefault(number if key is None else key, []).append(process)
    return [tuple(group) for group in groups.values()]


def _look(process: ProcessInfo) -> Any:
    """Return what must be equal for two workers to share an entry; None if one stands alone."""
    if any(thread.stack is not None or thread.task is not None for thread in process.threads):
        return None
    layout = tuple(
        (re.sub(r"\d+", "#", t.name), t.roles, t.state, t.is_main) for t in process.threads
    )
    state = process.initializer.state if process.initializer else None
    return process.role, process.state, process.exitcode, state, layout


def _process_rows(group: Sequence[ProcessInfo]) -> Iterator[_Row]:
    first = group[0]
    alone = len(group) == 1
    yield _Row(
        label=_process_label(group),
        numbers=_ranges([process.pid for process in group], most=1),
        state=_process_state(group),
        cpu=duration(_total(process.cpu_s for process in group)),
        style=f"bold {_STYLES.get(first.state, '')}".strip(),
    )
    if alone:
        yield from _thread_rows(first.threads)
        return
    merged = []
    for column in zip(*(process.threads for process in group), strict=True):
        cpu_s = _total(thread.cpu_s for thread in column)
        merged.append(replace(column[0], cpu_s=cpu_s, since_s=None))
    for row in _thread_rows(tuple(merged)):
        yield replace(row, numbers="", label=_unnumbered(row.label, group))


def _unnumbered(label: str, group: Sequence[ProcessInfo]) -> str:
    # A name such as "gp1 w03 task" is true for one worker only.
    return re.sub(r"\bw\d+\b", "w…", label) if len(group) > 1 else label


def _process_label(group: Sequence[ProcessInfo]) -> str:
    first = group[0]
    if first.role != "worker":
        name = _safe(first.name)
        return first.role if name in ("", first.role) else f"{first.role} {name}"
    slots = [process.slot for process in group if process.slot is not None]
    if len(group) == 1:
        named = f"worker {first.slot}" if slots else _safe(first.name)
        return f"{named} (no. {first.generation + 1})" if first.generation else named
    if len(slots) == len(group):
        return f"worker {_ranges(slots)} ({len(group)} ×)"
    return f"worker ({len(group)} ×)"


def _process_state(group: Sequence[ProcessInfo]) -> str:
    first = group[0]
    said = [first.state] if first.state else []
    if first.state == "dead":
        said = [f"dead: {describe_exit(first.exitcode)}"]
    done = sum(process.tasks_done for process in group)
    if done:
        busy_s = sum(process.busy_s for process in group)
        said.append(f"{done} done" + (f" in {duration(busy_s)}" if busy_s else ""))
    initializer = first.initializer
    if initializer is not None and initializer.state in ("running", "failed"):
        said.append(f"initializer {initializer.state}")
    memory = _total(process.rss_bytes for process in group)
    if memory:
        said.append(size(int(memory)))
    return ", ".join(said)


def _total(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _ranges(numbers: Sequence[int], most: int = 3) -> str:
    """Write numbers briefly: ``1-3, 5``, with an ellipsis after so many ranges."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    words = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    return ", ".join(words[:most]) + (" …" if len(words) > most else "")


# Threads and tasks -------------------------------------------------------------------------------


def _thread_rows(threads: Sequence[ThreadInfo]) -> Iterator[_Row]:
    for number, thread in enumerate(threads):
        last = number == len(threads) - 1
        yield _Row(
            label=("└─ " if last else "├─ ") + _safe(thread.name),
            numbers=str(thread.native_id),
            roles=", ".join(thread.roles),
            state=_thread_state(thread),
            cpu=duration(thread.cpu_s),
            style="dim" if not thread.python else "",
            stack=thread.stack or (),
            indent="   " if last else "│  ",
        )


def _thread_state(thread: ThreadInfo) -> str:
    said = _safe(thread.state)
    if thread.task is not None:
        task = _task_words(thread.task, said)
        said = f"{said}: {task}" if task and said else said or task
    if thread.since_s is not None:
        said = f"{said}, for {duration(thread.since_s)}" if said else duration(thread.since_s)
    return said


def _task_words(task: TaskInfo, said: str) -> str:
    words = []
    if _task_number(task) and f"task {task.id}" not in said:
        words.append(f"task {_task_number(task)}")
    function = _safe(task.function)
    if function and function not in said:
        words.append(function)
    if task.items > 1 and task.item is not None:
        words.append(f"item {task.item + 1} of {task.items}")
    elif task.items > 1:
        words.append(f"({task.items} items)")
    if task.attempts > 1:
        words.append(f"(attempt {task.attempts})")
    return " ".join(words)


def _task_number(task: TaskInfo) -> str:
    if task.id is not None:
        return str(task.id)
    return "" if task.job is None else f"{task.job}.{task.index}"


def _function_and_items(task: TaskInfo) -> str:
    words = _safe(task.function)
    if task.arguments:
        words += _safe(task.arguments)
    return f"{words} ({task.items} items)" if task.items > 1 else words


def _task_place(task: TaskInfo) -> str:
    slot = "" if task.slot is None else str(task.slot)
    pid = "" if task.pid is None else f"pid {task.pid}"
    return f"{slot} ({pid})" if slot and pid else slot or pid


def _grouped(threads: Iterable[ThreadInfo]) -> dict[tuple[str, int], list[ThreadInfo]]:
    groups: dict[tuple[str, int], list[ThreadInfo]] = {}
    for thread in threads:
        groups.setdefault((thread.process, thread.pid), []).append(thread)
    return groups


# Layout ------------------------------------------------------------------------------------------


def _tree_parts(rows: Sequence[_Row], columns: int) -> list[RenderableType]:
    """Lay rows out in one table, interrupted by the stacks that stand below their threads."""
    heading = _Row("PROCESS / THREAD", "PID / TID", "ROLES", "STATE", "CPU", style="bold")
    widths = _widths([heading, *rows], columns)
    parts: list[RenderableType] = []
    batch = [heading]
    for row in rows:
        batch.append(row)
        if row.stack:
            parts.append(_tree_table(batch, widths))
            parts.extend(_stack_lines(row, columns))
            batch = []
    if batch:
        parts.append(_tree_table(batch, widths))
    return parts


def _widths(rows: Sequence[_Row], columns: int) -> _Widths:
    """Share the columns out: every column gets its least, then the rest goes by turns."""
    numbers = min(max(len(row.numbers) for row in rows), 19)
    cpu = max(len(row.cpu) for row in rows)
    left = columns - numbers - cpu - 4 * _GAP
    label_wish = max(_cells(row.label) for row in rows)
    state_wish = max(_cells(row.state) for row in rows)
    roles_wish = max((len(row.roles) for row in rows if len(row.roles) <= _ROLES_MOST), default=0)
    # A single role is never broken, whatever the width.
    roles = max(len(role) for row in rows for role in [*row.roles.split(), "ROLES"])
    state = min(state_wish, _STATE_LEAST)
    # Names of threads say little more than their roles; those of processes are told here only.
    processes = max((_cells(row.label) for row in rows if row.label[:1] not in "├└"), default=0)
    least = max(_NAME_LEAST, min(processes, _PROCESS_MOST))
    label = max(8, min(label_wish, least, left - roles - state))
    spare = left - label - roles - state
    for column, wish in (
        ("state", _STATE_FAIR),
        ("roles", roles_wish),
        ("state", _STATE_GOOD),
        ("label", label_wish),
        ("state", state_wish),
        ("roles", max(len(row.roles) for row in rows)),
    ):
        have = {"label": label, "roles": roles, "state": state}[column]
        more = max(0, min(wish - have, spare, (state_wish if column == "state" else wish) - have))
        spare -= more
        label += more if column == "label" else 0
        roles += more if column == "roles" else 0
        state += more if column == "state" else 0
    return _Widths(label, numbers, roles, state, cpu)


def _tree_table(rows: Sequence[_Row], widths: _Widths) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, _GAP, 0, 0), pad_edge=False, expand=False)
    table.add_column(width=widths.label, no_wrap=True, overflow="ellipsis")
    table.add_column(width=widths.numbers, overflow="fold", justify="right")
    table.add_column(width=widths.roles, overflow="fold")
    table.add_column(width=widths.state, overflow="fold")
    table.add_column(width=widths.cpu, no_wrap=True, justify="right")
    for row in rows:
        state_style = row.style or _STYLES.get(row.state.partition(" ")[0], "")
        table.add_row(
            Text(row.label, style=row.style),
            Text(row.numbers, style="bold" if row.label == "PROCESS / THREAD" else "dim"),
            Text(row.roles, style=row.style or "cyan"),
            Text(_UNITS.sub(_TIED, row.state), style=state_style),
            Text(row.cpu, style=row.style),
        )
    return table


def _stack_lines(row: _Row, columns: int) -> Iterator[RenderableType]:
    from rich.text import Text

    for frame in row.stack:
        where = f"{_safe(short_path(frame.file))}:{frame.line}"
        function = f"  {_safe(frame.function)}"
        room = max(12, columns - len(row.indent) - 4 - _cells(function))
        if len(where) > room:
            where = "…" + where[len(where) - room + 1 :]
        yield Text.assemble(f"{row.indent}    ", (where, "dim"), function)


def _plain_table(
    headings: Sequence[str], lines: Sequence[Sequence[str]], columns: int, *, flexible: int
) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    rows = [headings, *lines] if any(headings) else list(lines)
    widths = [max(_cells(row[at]) for row in rows) for at in range(len(headings))]
    others = sum(widths) - widths[flexible] + _GAP * (len(widths) - 1)
    widths[flexible] = min(widths[flexible], max(_STATE_LEAST, columns - others))
    table = Table.grid(padding=(0, _GAP, 0, 0), pad_edge=False)
    for width in widths:
        table.add_column(width=width, overflow="fold")
    for number, row in enumerate(rows):
        style = "bold" if number == 0 and any(headings) else ""
        table.add_row(*(Text(_safe_lines(cell), style=style) for cell in row))
    return table


def _render(parts: Iterable[RenderableType], columns: int, color: bool) -> str:
    from rich.console import Console

    out = StringIO()
    console = Console(
        file=out,
        width=columns,
        color_system="standard" if color else None,
        force_terminal=color,
        no_color=not color,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
        _environ={},
    )
    for part in parts:
        console.print(part, soft_wrap=False)
    text = out.getvalue().replace(_TIED, " ")
    # Rich pads cells to their width; trailing blanks would only wrap in a narrower terminal.
    return "\n".join(line.rstrip() for line in text.splitlines())


def _cells(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text)


def _safe(text: str) -> str:
    """Make a name harmless for a terminal: it may hold anything, escape codes and newlines too."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)


def _safe_lines(text: str) -> str:
    return "\n".join(_safe(line) for line in text.splitlines())


def _columns(width: int | None) -> int:
    told = width or shutil.get_terminal_size((WIDTH_OFF_TERMINAL, 24)).columns
    return max(LEAST_COLUMNS, told)
