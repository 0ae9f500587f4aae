"""The page without JavaScript: what a view says, as HTML that any browser shows. Pure.

Names, paths and arguments may hold anything; all of them go through ``_text``.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Sequence
from urllib.parse import urlencode

from glasspool.observe.watch import View
from glasspool.snapshot import (
    DeathCertificate,
    Frame,
    PoolInfo,
    ProcessInfo,
    Snapshot,
    TaskInfo,
    ThreadInfo,
)
from glasspool.views import table

MOST_TASKS = 20
MOST_DEATHS = 50

_NOT_COUNTED = ("workers", "idle", "busy")


def document(view: View, token: str, *, stacks: bool = False) -> str:
    """Return what goes into the body of the page.

    Args:
        view: What is to be seen.
        token: For the links to the page itself.
        stacks: Whether the view has stacks, and they are to be shown.
    """
    return "\n".join(_parts(view, token, stacks))


def _parts(view: View, token: str, stacks: bool) -> Iterator[str]:
    if view.past:
        words = "The past: this is the last that was seen."
        yield f'<p class="past" role="status"><strong>{words}</strong></p>'
    if view.text:
        yield f'<p class="notice">{_text(view.text)}</p>'
    picture = view.snapshot
    if picture is None:
        yield "<p>Nothing has been seen yet.</p>"
        return
    for pool in picture.pools:
        yield from _pool(pool, view, picture, stacks)
    query = urlencode({"token": token} if stacks else {"token": token, "stacks": 1})
    words = "without stacks" if stacks else "with the stack of every thread"
    yield f'<p><a href="/?{_text(query)}">{words}</a></p>'


def _pool(pool: PoolInfo, view: View, picture: Snapshot, stacks: bool) -> Iterator[str]:
    yield f'<section class="pool" aria-label="{_text(pool.name)}">'
    yield f"<h2>{_text(pool.name)}</h2>"
    yield f"<p>{' · '.join(map(_text, _facts(pool, picture.taken_at)))}</p>"
    counters = [*_counters(pool), *_paces(pool, view)]
    if counters:
        yield f"<p>{' · '.join(map(_text, counters))}</p>"
    for note in pool.notes:
        yield f'<p class="note">{_text(note)}</p>'
    if pool.deaths:
        yield from _deaths(pool.deaths)
    yield from _nodes(pool)
    yield from _workers(pool)
    yield from _threads(pool.threads, stacks)
    yield from _tasks(pool)
    yield "</section>"


def _facts(pool: PoolInfo, taken_at: float) -> Iterator[str]:
    yield pool.kind
    if pool.size:
        yield f"{pool.size} worker{'' if pool.size == 1 else 's'}"
    yield f"pid {pool.pid}"
    if pool.engine != "local":
        yield f"{pool.engine}, {len(pool.nodes)} node{'' if len(pool.nodes) == 1 else 's'}"
    yield from filter(None, (pool.start_method, pool.state))
    parent = next((p for p in pool.processes if p.pid == pool.pid), None)
    if parent is not None and parent.started_at and taken_at > parent.started_at:
        yield f"up {table.duration(taken_at - parent.started_at)}"
    if pool.made_at:
        yield f"made at {pool.made_at}"
    if pool.initializer:
        yield f"initializer {pool.initializer}"


def _counters(pool: PoolInfo) -> Iterator[str]:
    for name, value in pool.stats.items():
        if not isinstance(value, int) or not value or name in _NOT_COUNTED:
            continue
        if name.endswith("_bytes"):
            yield f"{name.removesuffix('_bytes')} {table.size(value)}"
        else:
            yield f"{name.replace('_', ' ')} {value:,}"


def _paces(pool: PoolInfo, view: View) -> Iterator[str]:
    pace = view.paces.get(pool.name)
    if pace is None:
        return
    if pace.done_per_s is not None:
        yield f"{pace.done_per_s:,.1f} tasks/s"
    if pace.busy_share is not None:
        yield f"workers busy {pace.busy_share * 100:.0f} %"
    if pace.left_s:
        yield f"{table.duration(pace.left_s)} to go"


# Tables -----------------------------------------------------------------------------------------


def _nodes(pool: PoolInfo) -> Iterator[str]:
    if not pool.nodes:
        return
    rows = [(node.name, table.node_state(node), f"{node.tasks_done:,}") for node in pool.nodes]
    yield from _table("Nodes", ("node", "state", "done"), rows)


def _workers(pool: PoolInfo) -> Iterator[str]:
    # What a pool of another library has counted is not known.
    counts = pool.kind == "glasspool.Pool"
    rows = [_worker(worker, counts) for worker in pool.workers]
    if rows:
        heads = ("slot", "pid", "state", "task", "since", "done", "busy", "CPU", "memory", "starts")
        yield from _table("Workers", heads, rows)


def _worker(worker: ProcessInfo, counts: bool) -> tuple[str, ...]:
    task = next((thread.task for thread in worker.threads if thread.task is not None), None)
    return (
        _on("" if worker.slot is None else str(worker.slot), worker.node),
        str(worker.pid),
        worker.state,
        "" if task is None else _call(task),
        "" if task is None else table.duration(task.run_s),
        str(worker.tasks_done) if counts else "",
        table.duration(worker.busy_s) if counts else "",
        table.duration(worker.cpu_s),
        table.size(worker.rss_bytes),
        str(worker.generation + 1) if counts else "",  # with those that had its slot before
    )


def _threads(threads: Iterable[ThreadInfo], with_stacks: bool) -> Iterator[str]:
    seen: set[tuple[str | None, int, int]] = set()
    rows: list[tuple[str, ...]] = []
    stacks: list[tuple[Frame, ...] | None] = []
    for thread in threads:
        key = thread.node, thread.pid, thread.native_id
        if key not in seen:
            seen.add(key)
            rows.append(
                (
                    _on(thread.process, thread.node),
                    str(thread.pid),
                    thread.name,
                    str(thread.native_id),
                    ", ".join(thread.roles),
                    table.thread_state(thread),
                    table.duration(thread.cpu_s),
                    thread.evidence.source,
                )
            )
            stacks.append(thread.stack if with_stacks else None)
    heads = ("process", "pid", "thread", "native id", "roles", "state", "CPU", "told by")
    yield from _table("Threads", heads, rows, stacks)


def _tasks(pool: PoolInfo) -> Iterator[str]:
    if not pool.tasks:
        return
    # Those that run are told with their workers, too.
    tasks = sorted(pool.tasks, key=lambda task: task.state != "running")[:MOST_TASKS]
    rows = [
        (
            "" if task.id is None else str(task.id),
            _call(task),
            task.state,
            str(task.items),
            _on("" if task.slot is None else str(task.slot), task.node),
        )
        for task in tasks
    ]
    heads = ("task", "call", "state", "items", "slot")
    counts = [pool.stats.get(name, 0) for name in ("waiting", "sent")]
    whole = max(len(pool.tasks), sum(counts))
    yield from _table("Open tasks", heads, rows, count=whole)
    if whole > len(rows):
        yield f"<p>and {whole - len(rows):,} more</p>"


def _deaths(deaths: Sequence[DeathCertificate]) -> Iterator[str]:
    yield f"<h3>Deaths ({len(deaths)})</h3>"
    for death in reversed(deaths[-MOST_DEATHS:]):
        yield f'<pre class="death">{_text(death.text(), lines=True)}</pre>'


def _on(what: str, node: str | None) -> str:
    return what if node is None else f"{what} on {node}".strip()


def _call(task: TaskInfo) -> str:
    words = f"{task.function}{task.arguments or ''}"
    if task.progress is not None:
        done, whole = task.progress
        words += f" ({done:g})" if whole is None else f" ({done:g} of {whole:g})"
    return words if len(words) <= 200 else words[:199] + "…"


def _table(
    title: str,
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    stacks: Sequence[tuple[Frame, ...] | None] = (),
    *,
    count: int | None = None,
) -> Iterator[str]:
    yield f"<h3>{_text(title)} ({len(rows) if count is None else count:,})</h3>"
    yield '<div class="scroll"><table><thead><tr>'
    yield "".join(f'<th scope="col">{_text(head)}</th>' for head in heads)
    yield "</tr></thead><tbody>"
    for index, row in enumerate(rows):
        yield f"<tr>{''.join(map(_cell, row))}</tr>"
        stack = stacks[index] if index < len(stacks) else None
        if stack:
            lines = "\n".join(_frame(frame) for frame in stack)
            yield f'<tr><td colspan="{len(heads)}"><pre>{_text(lines, lines=True)}</pre></td></tr>'
    yield "</tbody></table></div>"


def _cell(text: str) -> str:
    # Numbers with their units stay on one line, however narrow the window is.
    return (
        f'<td class="number">{_text(text)}</td>'
        if text[:1].isdigit()
        else f"<td>{_text(text)}</td>"
    )


def _frame(frame: Frame) -> str:
    return f"{frame.function}  ({frame.file}:{frame.line})"


def _text(text: str, *, lines: bool = False) -> str:
    """Make a text harmless for HTML: no tags, no control characters, nothing that is no character."""
    if lines:
        return "\n".join(_text(line) for line in text.split("\n"))
    return html.escape(table.harmless(text), quote=True)
