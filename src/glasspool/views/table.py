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
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from io import StringIO
from typing import TYPE_CHECKING, Any, TextIO

from glasspool.snapshot import (
    DeathCertificate,
    Evidence,
    Frame,
    NodeInfo,
    PoolInfo,
    ProcessInfo,
    Snapshot,
    TaskInfo,
    ThreadInfo,
    describe_exit,
)

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

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
_ASCII = str.maketrans(
    {
        "├": "|",
        "└": "`",
        "─": "-",
        "│": "|",
        "…": "~",
        "·": "-",
        "×": "x",
        "↓": "v",
        "━": "=",
        "╸": "-",
    }
)
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
_ARGUMENTS_MOST = 40
_SOURCES = {
    "self": "its own word",
    "scoreboard": "from the scoreboard",
    "os": "from the operating system",
    "inferred": "inferred",
}

# The standard library of another interpreter: a program that is looked at may run any.
_LIBRARY = re.compile(r".*[/\\]lib(?:64)?[/\\]python3\.\d+t?[/\\]")

# Stands for a blank at which no line may be broken, until the text is laid out.
_TIED = "\ue000"
_UNITS = re.compile(
    r"(?<=\d) (?=(µs|ms|s|min|h|B|kB|MB|GB|of|done|items?)\b)"
    r"|(?<=task|.job|item) (?=\d)|(?<=chunk) (?=\d)"
)


@dataclass(frozen=True, slots=True)
class _Row:
    """One line of the tree; ``stack`` is printed below it, behind ``indent``, and how it was got."""

    label: str
    numbers: str = ""
    roles: str = ""
    state: str = ""
    now: str = ""
    cpu: str = ""
    style: str = ""
    stack: tuple[Frame, ...] = ()
    origin: str = ""
    indent: str = ""


@dataclass(frozen=True, slots=True)
class _Widths:
    label: int
    numbers: int
    roles: int
    state: int
    now: int
    cpu: int


def snapshot_text(
    snapshot: Snapshot,
    *,
    width: int | None = None,
    color: bool = False,
    fold: bool = True,
    flow: bool = False,
) -> str:
    """Render a snapshot as text: for each pool a headline and its processes and threads.

    Args:
        snapshot: What to show.
        width: Columns to fit into; COLUMNS or the terminal's width if None.
        color: Whether to put escape codes in.
        fold: Whether workers that look the same, and threads of a process that do, share one entry.
        flow: Whether to show before that how work goes through the pool.
    """
    columns = _columns(width)
    parts: list[RenderableType] = []
    for number, pool in enumerate(snapshot.pools):
        if number:
            parts.append("")
        before = [other.pid for other in snapshot.pools[:number]]
        parts.extend(_headlines(pool, snapshot.taken_at, columns))
        if flow:
            parts.extend(_flow_parts(pool, columns))
        others = frozenset(other.name for other in snapshot.pools) - {pool.name}
        parts.extend(_pool_parts(pool, columns, fold, before=before, others=others))
    if not snapshot.pools:
        parts.append("no pools")
    return _render(parts, columns, color)


def threads_text(
    threads: Iterable[ThreadInfo], *, width: int | None = None, color: bool = False
) -> str:
    """Render threads as text, grouped by process."""
    columns = _columns(width)
    rows: list[_Row] = []
    for (process, pid, node), members in _grouped(threads).items():
        where = "" if node is None else f" on {harmless(node)}"
        rows.append(_Row(harmless(process) + where, str(pid), style="bold"))
        rows.extend(_thread_rows([(thread,) for thread in members]))
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
    if certificate.whole_node:
        facts[0] = ("agent", f"pid {certificate.pid}")
    if certificate.node:
        facts.insert(0, ("node", harmless(certificate.node)))
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
        facts.append(("OOM killer", f"{likely}: {harmless(certificate.oom_evidence)}"))
    if certificate.stack:
        age = "" if not certificate.stack_age_s else f", {duration(certificate.stack_age_s)} before"
        calls = [
            harmless(f"{frame.function} ({short_path(frame.file)}:{frame.line})")
            for frame in reversed(certificate.stack)
        ]
        facts.append(("last stack", "\n".join(calls)))
        facts.append(("", f"(from {certificate.stack_source}{age})"))
    if certificate.last_log:
        facts.append(("last log", "\n".join(map(harmless, certificate.last_log[-5:]))))
    if certificate.last_output:
        facts.append(("last output", "\n".join(map(harmless, certificate.last_output))))
    return facts


def deaths_text(deaths: Sequence[DeathCertificate]) -> list[str]:
    """Return the text of each death; of all but the last few, its first line."""
    first = max(0, len(deaths) - DEATHS_IN_FULL)
    texts = [death.text() for death in deaths]
    return [*(text.split("\n", 1)[0] for text in texts[:first]), *texts[first:]]


def print_snapshot(
    snapshot: Snapshot, file: TextIO | None = None, *, fold: bool = True, flow: bool = False
) -> None:
    """Print a snapshot, with colours and width as the file allows.

    Colours need a terminal and no NO_COLOR in the environment; a file that cannot hold the lines
    of the tree gets plain signs instead.
    """
    out = sys.stdout if file is None else file
    text = snapshot_text(
        snapshot, width=width_of(out), color=takes_color(out), fold=fold, flow=flow
    )
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
    if others := _LIBRARY.match(path):
        return path[others.end() :]
    here = os.getcwd() + os.sep
    return path[len(here) :] if path.startswith(here) else path


# Pools and processes -----------------------------------------------------------------------------


def _flow_parts(pool: PoolInfo, columns: int) -> Iterator[RenderableType]:
    from rich.text import Text

    from glasspool.views import flow

    told = flow.lines(pool, columns)
    if told:
        yield ""
        yield from (Text(line) for line in told)
        yield ""


def _pool_parts(
    pool: PoolInfo, columns: int, fold: bool, *, before: Sequence[int], others: frozenset[str]
) -> list[RenderableType]:
    rows: list[_Row] = []
    for node, processes in _by_node(pool):
        if node is not None:
            rows.append(_node_row(node))
        for group in _groups(processes, fold):
            # The parent serves every pool: what is no pool's own is told with its first one. A worker may
            # be the parent of another pool, which tells of its threads.
            again = group[0].role == "parent" and pool.pid in before
            told = (*others, None) if again else others
            rows.extend(_process_rows([_without(process, told) for process in group], fold))
    return [
        *_tree_parts(rows, columns),
        *(_note(f"died: {text}", "red") for text in deaths_text(pool.deaths)),
        *(_note(note, "dim") for note in (*_legend(rows), *pool.notes)),
    ]


def _by_node(pool: PoolInfo) -> Iterator[tuple[NodeInfo | None, Sequence[ProcessInfo]]]:
    """Put together the processes of each node, those of this machine first."""
    yield None, [process for process in pool.processes if process.node is None]
    for node in pool.nodes:
        is_there = node.state != "lost"
        yield node, [p for p in pool.processes if is_there and p.node == node.name]


def _node_row(node: NodeInfo) -> _Row:
    """Tell of a node in one line: what it has, what its clock says, why it is not seen."""
    return _Row(
        label=f"node {harmless(node.name)}",
        state=node_state(node),
        style=f"bold {_STYLES.get('dead' if node.reason or node.silent else '', 'underline')}",
    )


def node_state(node: NodeInfo) -> str:
    """Say in words what a node is at, and how well its clock is known."""
    if node.reason:
        return f"{node.state}: {harmless(node.reason)}"
    said = [node.state, f"{node.workers} worker{'' if node.workers == 1 else 's'}"]
    if node.tasks:
        said.append(f"{node.tasks} task{'' if node.tasks == 1 else 's'}")
    if node.clock_offset_s is not None:
        said.append(f"clock {clock_words(node)}")
    if node.silent:
        said.append(harmless(node.silent))
    return ", ".join(said)


def clock_words(node: NodeInfo) -> str:
    """Say how a node's clock was set right, and how wrong that may be."""
    if node.clock_offset_s is None or node.clock_error_s is None:
        return "not known yet"
    return f"±{duration(node.clock_error_s)}"


def _without(process: ProcessInfo, pools: Collection[str | None]) -> ProcessInfo:
    if not pools:
        return process
    return replace(process, threads=tuple(t for t in process.threads if t.pool not in pools))


def _legend(rows: Iterable[_Row]) -> Iterator[str]:
    if any("?" in row.roles for row in rows):
        yield "?: inferred from names, the process tree and what the kernel says, not read"


def _headlines(pool: PoolInfo, taken_at: float, columns: int) -> list[RenderableType]:
    from rich.text import Text

    parent = next((p for p in pool.processes if p.pid == pool.pid), None)
    facts = [harmless(pool.kind)]
    if pool.size:
        facts.append(f"{pool.size} worker{'' if pool.size == 1 else 's'}")
    # Of a pool that is not ours only its running is known: that it was seen says as much.
    ours = pool.kind.startswith("glasspool") or pool.state != "running"
    if pool.engine != "local":
        facts.append(f"{pool.engine}, {len(pool.nodes)} node{'' if len(pool.nodes) == 1 else 's'}")
    facts.extend(fact for fact in (pool.start_method, pool.state if ours else None) if fact)
    if parent is not None and parent.python_version:
        facts.append(f"Python {harmless(parent.python_version)}")
    if parent is not None and parent.started_at and taken_at > parent.started_at:
        facts.append(f"up {duration(taken_at - parent.started_at)}")
    if pool.made_at:
        facts.append(f"made at {harmless(pool.made_at)}")
    first, *rest = _joined(facts, " · ", columns - 4, columns - len(pool.name) - 2)
    lines: list[RenderableType] = [Text.assemble((harmless(pool.name), "bold"), "  ", first)]
    lines.extend(Text(f"    {line}") for line in rest)
    if parent is not None and parent.command:
        command = _cut(harmless(parent.command), 2 * (columns - 2))
        lines.append(_note(command, "dim"))
    counters = _counters(pool.stats)
    if pool.initializer:
        counters.append(f"initializer {harmless(pool.initializer)}")
    native = native_threads(pool)
    if native:
        counters.append(f"native threads per worker: {native}")
    if counters:
        lines.append(Text("  " + " · ".join(counters)))
    return lines


def native_threads(pool: PoolInfo) -> str:
    """Say how many threads BLAS and OpenMP may use in each worker; nothing where none is loaded."""
    found: dict[str, set[int]] = {}
    for worker in pool.workers:
        for name, number in (worker.native_threads or {}).items():
            found.setdefault(name, set()).add(number)
    return ", ".join(
        f"{harmless(name)} {min(numbers)}" + (f"-{max(numbers)}" if len(numbers) > 1 else "")
        for name, numbers in sorted(found.items())
    )


def _joined(facts: Sequence[str], sign: str, columns: int, first: int) -> list[str]:
    """Put facts on lines that fit, the first one of ``first`` columns; no fact is broken."""
    lines = [facts[0]]
    for fact in facts[1:]:
        room = first if len(lines) == 1 else columns
        if _cells(lines[-1] + sign + fact) <= room:
            lines[-1] += sign + fact
        else:
            lines[-1] += sign.rstrip()
            lines.append(fact)
    return lines


def _counters(stats: Mapping[str, Any]) -> list[str]:
    return [
        f"{harmless(str(key)).replace('_', ' ')} {value}"
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
    if any(thread.task is not None for thread in process.threads):
        return None
    layout = tuple((_thread_look(group[0]), len(group)) for group in _folded(process.threads, True))
    state = process.initializer.state if process.initializer else None
    return process.role, process.state, process.exitcode, state, layout


def _thread_look(thread: ThreadInfo) -> Any:
    """Return what must be equal for two threads to share an entry."""
    return (
        re.sub(r"\d+", "#", thread.name),
        *(_roles(thread), thread.state, thread.kernel, thread.library),
        *(thread.is_main, thread.stack, _origin(thread.evidence, with_age=False)),
    )


def _folded(threads: Iterable[ThreadInfo], fold: bool) -> list[tuple[ThreadInfo, ...]]:
    """Put together the threads of one process that look the same: lanes at rest, native threads."""
    groups: dict[Any, list[ThreadInfo]] = {}
    for number, thread in enumerate(threads):
        alone = not fold or thread.is_main or thread.task is not None
        groups.setdefault(number if alone else _thread_look(thread), []).append(thread)
    return [tuple(group) for group in groups.values()]


def _process_rows(group: Sequence[ProcessInfo], fold: bool) -> Iterator[_Row]:
    first = group[0]
    yield _Row(
        label=_process_label(group),
        numbers=_ranges([process.pid for process in group], most=2),
        state=_process_state(group),
        now=_share(_total(t.cpu_share for process in group for t in process.threads)),
        cpu=duration(_total(process.cpu_s for process in group)),
        style=f"bold {_STYLES.get(first.state, '')}".strip(),
    )
    columns = zip(*(_folded(process.threads, fold) for process in group), strict=True)
    merged = [tuple(thread for part in column for thread in part) for column in columns]
    for row in _thread_rows(merged, of=len(group)):
        yield row if len(group) == 1 else replace(row, numbers="", label=_unnumbered(row.label))


def _unnumbered(label: str) -> str:
    # A name such as "gp1 w03 task" is true for one worker only.
    return re.sub(r"\bw\d+\b", "w…", label)


def _process_label(group: Sequence[ProcessInfo]) -> str:
    first = group[0]
    if first.role != "worker":
        name = harmless(first.name)
        return first.role if name in ("", first.role) else f"{first.role} {name}"
    slots = [process.slot for process in group if process.slot is not None]
    if len(group) == 1:
        named = f"worker {first.slot}" if slots else harmless(first.name)
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


def _thread_rows(groups: Sequence[Sequence[ThreadInfo]], of: int = 1) -> Iterator[_Row]:
    """Give each group of threads that look the same its row; ``of`` so many processes."""
    for number, group in enumerate(groups):
        last = number == len(groups) - 1
        thread = _as_one(group)
        each = len(group) // of
        # The numbers of one process's threads: of those that are folded, the first and the last.
        numbers = _ranges([one.native_id for one in group[:each]], most=1)
        name = harmless(thread.name) if each == 1 else _name_of_many(group[:each])
        yield _Row(
            label=("└─ " if last else "├─ ") + name,
            numbers=numbers,
            roles=", ".join(_roles(thread)),
            state=thread_state(thread),
            now=_share(thread.cpu_share),
            cpu=duration(thread.cpu_s),
            style="dim" if not thread.python else "",
            stack=thread.stack or (),
            origin=_origin(thread.evidence) if thread.stack else "",
            indent="   " if last else "│  ",
        )


def _as_one(group: Sequence[ThreadInfo]) -> ThreadInfo:
    """Add the figures of threads that look the same."""
    if len(group) == 1:
        return group[0]
    oldest = max((thread.evidence for thread in group), key=lambda evidence: evidence.age_s)
    return replace(
        group[0],
        cpu_s=_total(thread.cpu_s for thread in group),
        cpu_share=_total(thread.cpu_share for thread in group),
        since_s=None,
        evidence=oldest,
    )


def _name_of_many(group: Sequence[ThreadInfo]) -> str:
    first = harmless(group[0].name)
    same = all(thread.name == group[0].name for thread in group)
    # The count comes first: a name may be cut.
    return f"{len(group)} × {first if same else re.sub(r'[0-9]+$', '…', first)}"


def _roles(thread: ThreadInfo) -> tuple[str, ...]:
    """Return the roles of a thread, those with a question mark that are only inferred."""
    if thread.evidence.source != "inferred":
        return thread.roles
    sure = ("main", "native", "user")
    return tuple(role if role in sure else f"{role}?" for role in thread.roles)


def _origin(evidence: Evidence, *, with_age: bool = True) -> str:
    """Say how a stack was got: by whom, how old it is, and whether it can be trusted."""
    words = [_SOURCES.get(evidence.source, f"read by {harmless(evidence.source)}")]
    if with_age:
        words.append(f"{duration(round(evidence.age_s, 3))} old" if evidence.age_s else "just now")
    if evidence.paused_s is not None:
        paused = f"paused for {duration(evidence.paused_s)} at most"
        words.append(paused if evidence.paused_s > 0 else "target not paused")
    if evidence.whole is not None:
        words.append("whole" if evidence.whole else "perhaps torn")
    return ", ".join(words)


def _share(part: float | None) -> str:
    """Say a part of one processor: ``98 %``; nothing for a thread at rest."""
    return "" if part is None or part < 0.005 else f"{part * 100:.0f} %"


def thread_state(thread: ThreadInfo, *, kernel: bool = True) -> str:
    """Say in words what a thread does: its state, task, for how long, and what the kernel says."""
    said = harmless(thread.state)
    if thread.task is not None:
        task = _task_words(thread.task, said)
        said = f"{said}: {task}" if task and said else said or task
    if thread.since_s is not None:
        said = f"{said}, for {duration(thread.since_s)}" if said else duration(thread.since_s)
    if thread.library:
        said = f"{harmless(thread.library)}: {said}"
    if kernel and thread.kernel and thread.kernel not in said:
        said = f"{said} [{harmless(thread.kernel)}]" if said else harmless(thread.kernel)
    return said


def _task_words(task: TaskInfo, said: str) -> str:
    words = []
    if task.id is None and task.job is not None:
        words.append(f"job {task.job}, {'chunk' if task.items > 1 else 'item'} {task.index}")
    elif task.id is not None and f"task {task.id}" not in said:
        words.append(f"task {task.id}")
    function = harmless(task.function)
    function = "" if _says(said, function) else function
    arguments = _cut(harmless(task.arguments or ""), _ARGUMENTS_MOST)
    if function or arguments:
        words.append(function + arguments)
    if task.items > 1 and task.item is not None:
        words.append(f"item {task.item + 1} of {task.items}")
    elif task.items > 1:
        words.append(f"({task.items} items)")
    if task.attempts > 1:
        words.append(f"(attempt {task.attempts})")
    return " ".join(words)


def _says(text: str, word: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text) is not None


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _task_number(task: TaskInfo) -> str:
    if task.id is not None:
        return str(task.id)
    return "" if task.job is None else f"{task.job}.{task.index}"


def _function_and_items(task: TaskInfo) -> str:
    words = harmless(task.function)
    if task.arguments:
        words += harmless(task.arguments)
    return f"{words} ({task.items} items)" if task.items > 1 else words


def _task_place(task: TaskInfo) -> str:
    slot = "" if task.slot is None else str(task.slot)
    pid = "" if task.pid is None else f"pid {task.pid}"
    place = f"{slot} ({pid})" if slot and pid else slot or pid
    return f"{place} on {harmless(task.node)}".strip() if task.node else place


def _grouped(
    threads: Iterable[ThreadInfo],
) -> dict[tuple[str, int, str | None], list[ThreadInfo]]:
    groups: dict[tuple[str, int, str | None], list[ThreadInfo]] = {}
    for thread in threads:
        groups.setdefault((thread.process, thread.pid, thread.node), []).append(thread)
    return groups


# Layout ------------------------------------------------------------------------------------------


def _tree_parts(rows: Sequence[_Row], columns: int) -> list[RenderableType]:
    """Lay rows out in one table, interrupted by the stacks that stand below their threads."""
    now = "NOW" if any(row.now for row in rows) else ""
    heading = _Row("PROCESS / THREAD", "PID / TID", "ROLES", "STATE", now, "CPU", style="bold")
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
    cpu, now = max(len(row.cpu) for row in rows), max(len(row.now) for row in rows)
    left = columns - numbers - cpu - now - (5 if now else 4) * _GAP
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
    return _Widths(label, numbers, roles, state, now, cpu)


def _tree_table(rows: Sequence[_Row], widths: _Widths) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, _GAP, 0, 0), pad_edge=False, expand=False)
    table.add_column(width=widths.label, no_wrap=True, overflow="ellipsis")
    table.add_column(width=widths.numbers, overflow="fold", justify="right")
    table.add_column(width=widths.roles, overflow="fold")
    table.add_column(width=widths.state, overflow="fold")
    if widths.now:
        table.add_column(width=widths.now, no_wrap=True, justify="right")
    table.add_column(width=widths.cpu, no_wrap=True, justify="right")
    for row in rows:
        state_style = row.style or _STYLES.get(row.state.partition(" ")[0], "")
        table.add_row(
            Text(row.label, style=row.style),
            Text(row.numbers, style="bold" if row.label == "PROCESS / THREAD" else "dim"),
            Text(row.roles, style=row.style or "cyan"),
            Text(_UNITS.sub(_TIED, row.state), style=state_style),
            *([Text(row.now, style=row.style)] if widths.now else []),
            Text(row.cpu, style=row.style),
        )
    return table


def _stack_lines(row: _Row, columns: int) -> Iterator[RenderableType]:
    from rich.text import Text

    if row.origin:
        yield Text(f"{row.indent}    ({row.origin})", style="dim")
    for frame in row.stack:
        where = f"{harmless(short_path(frame.file))}:{frame.line}"
        if not frame.line:
            where = harmless(os.path.basename(frame.file))  # a call of C code
        function = f"  {harmless(frame.function)}"
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


def console_on(out: StringIO, columns: int, color: bool) -> Console:
    """Return a console of Rich that writes what it is told and nothing else, whatever the terminal is."""
    from rich.console import Console

    return Console(
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


def _render(parts: Iterable[RenderableType], columns: int, color: bool) -> str:
    out = StringIO()
    console = console_on(out, columns, color)
    for part in parts:
        console.print(part, soft_wrap=False)
    text = out.getvalue().replace(_TIED, " ")
    # Rich pads cells to their width; trailing blanks would only wrap in a narrower terminal.
    return "\n".join(line.rstrip() for line in text.splitlines())


def _cells(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text)


def harmless(text: str) -> str:
    """Make a name harmless for a terminal: it may hold anything, escape codes and newlines too."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)


def _safe_lines(text: str) -> str:
    return "\n".join(harmless(line) for line in text.splitlines())


def _columns(width: int | None) -> int:
    told = width or shutil.get_terminal_size((WIDTH_OFF_TERMINAL, 24)).columns
    return max(LEAST_COLUMNS, told)
