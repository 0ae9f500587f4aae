"""The page as a whole: what ran where, what to do about it, and a part for each pool."""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from glasspool.observe.accounts import PARTS, sum_of
from glasspool.observe.advice import advise_on, figures
from glasspool.observe.case import Advice, Case
from glasspool.observe.records import Recording
from glasspool.observe.story import Story
from glasspool.observe.tally import running
from glasspool.snapshot import PoolInfo
from glasspool.views.report_page import accounts, curves, distributions, gantt, style, tables
from glasspool.views.report_page.markup import cut, esc, folded
from glasspool.views.report_page.scales import Colours
from glasspool.views.table import duration, size

SCHEMA = 1
"""Of the figures that stand in the page for programs; rises when a field changes its meaning or goes away."""

POOLS_IN_FULL = 20

_COUNTERS = ("submitted", "done", "failed", "lost", "timeout", "cancelled", "waiting", "running")
_SECOND_COUNTERS = ("deaths", "replaced", "over_memory")
_BAD = ("failed", "lost", "timeout", "cancelled", "deaths", "over_memory")


def document(story: Story) -> str:
    """Return the report as a whole HTML document."""
    machine = story.machine
    recordings = [_from_its_start(one) for one in story.recordings]
    cases = [Case(one, machine.processors, machine.memory_bytes) for one in recordings]
    told = advise_on(cases)
    title = cut(_title(story), 120)
    body = [
        f"<header><h1>{esc(title)}</h1>{_ended(story)}{_facts(story)}</header>",
        "<main>",
        _advice(story, told, cases),
        _contents(story.recordings),
        *(_pool(case, at) for at, case in enumerate(cases[:POOLS_IN_FULL])),
        _more(story.recordings[POOLS_IN_FULL:]),
        _notes("Notes", story.notes),
        "</main>",
        f"<footer>Written by glasspool {esc(machine.glasspool)}, {esc(_clock(story.told_at))}. Times are of "
        "the monotonic clock; what is not known is marked with “?”.</footer>",
        _for_programs(story, told, cases),
        f"<script>{style.SCRIPT}</script>",
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_policy()}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{esc(title)} – glasspool report</title>\n<style>{style.SHEET}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _from_its_start(recording: Recording) -> Recording:
    """Have a journal begin with the first worker: it is switched on just after that."""
    starts = [one.started_ns for one in recording.workers if one.started_ns is not None]
    begun = min(starts, default=recording.begun_ns)
    if recording.source != "journal" or begun >= recording.begun_ns:
        return recording
    return replace(recording, begun_ns=begun)


def _policy() -> str:
    """Nothing is fetched from anywhere, and no script runs but ours, whatever the program's names hold."""
    digest = base64.b64encode(hashlib.sha256(style.SCRIPT.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


# The head -----------------------------------------------------------------------------------------


def _title(story: Story) -> str:
    if story.command:
        return shlex.join(story.command)
    if len(story.recordings) == 1:
        return story.recordings[0].pool
    return f"{len(story.recordings)} pools"


def _ended(story: Story) -> str:
    told = story.ended
    if story.run_s is not None:
        lasted = f"after {duration(story.run_s)}"
        told = f"{told} {lasted}" if told else lasted
    reason = f"<p class=bad>{esc(story.reason)}</p>" if story.reason else ""
    return (f"<p class=lead>{esc(told)}</p>" if told else "") + reason


def _facts(story: Story) -> str:
    machine = story.machine
    begun = story.begun_at
    facts = [
        ("begun", _clock(begun) if begun is not None else ""),
        ("machine", f"{machine.host}, {machine.system}"),
        ("processors", f"{machine.processors} usable"),
        ("memory", size(machine.memory_bytes)),
        ("Python", f"{machine.python} ({machine.executable})"),
        ("glasspool", machine.glasspool),
    ]
    return _definitions(facts)


def _definitions(facts: Sequence[tuple[str, str]]) -> str:
    told = "".join(f"<div><dt>{esc(k)}</dt><dd>{esc(v)}</dd></div>" for k, v in facts if v)
    return f"<dl class=facts>{told}</dl>"


def _clock(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(at))


# Advice -------------------------------------------------------------------------------------------


def _advice(story: Story, told: Sequence[Advice], cases: Sequence[Case]) -> str:
    if not story.recordings:
        return (
            "<section class=pool><h2>No pool</h2><p>The program made no multiprocessing.Pool "
            "that could be recorded.</p></section>"
        )
    if told:
        many = len(story.recordings) > 1
        cards = "".join(_card(one, many) for one in told)
        return (
            f"<section id=advice><h2>What would help</h2><div class=advice>{cards}</div></section>"
        )
    if story.reason:
        return ""
    looked = "".join(_looked_at(case, len(cases) > 1) for case in cases[:POOLS_IN_FULL])
    return (
        f"<section id=advice><h2>Nothing to improve was found</h2>{looked}</section>"
        if any(case.tasks for case in cases)
        else "<section id=advice><h2>No advice: there is no record of any finished task</h2></section>"
    )


def _card(one: Advice, many: bool) -> str:
    where = f" <span class=where>{esc(one.pool)}</span>" if many and one.pool else ""
    return (
        f'<article class=card id="advice-{esc(one.name)}"><h3>{esc(one.sentence)}{where}</h3>'
        f"<p class=figure>{esc(one.figure)}</p><p>{esc(one.what_to_do)}</p></article>"
    )


def _looked_at(case: Case, many: bool) -> str:
    found = figures(case)
    if not found:
        return ""
    name = f"<h4>{esc(case.recording.pool)}</h4>" if many else ""
    return f"{name}{_definitions(found)}"


# Pools --------------------------------------------------------------------------------------------


def _contents(recordings: Sequence[Recording]) -> str:
    if len(recordings) < 2:
        return ""
    links = "".join(
        f'<li><a href="#pool-{at}">{esc(one.pool)}</a> {esc(_in_short(one))}</li>'
        for at, one in enumerate(recordings[:POOLS_IN_FULL])
    )
    return f"<nav><h2>{len(recordings)} pools</h2><ul>{links}</ul></nav>"


def _in_short(recording: Recording) -> str:
    seen = recording.picture
    stats = {} if seen is None else {k: v for k, v in seen.stats.items() if v}
    told = [f"{stats[name]:,} {name}" for name in (*_COUNTERS[1:], "deaths") if name in stats]
    lasted = duration((recording.ended_ns - recording.begun_ns) / 1e9)
    made = [] if seen is None or not seen.made_at else [f"made at {seen.made_at}"]
    return ", ".join([lasted, *told, *made])


def _more(recordings: Sequence[Recording]) -> str:
    if not recordings:
        return ""
    told = "".join(f"<li>{esc(one.pool)}: {esc(_in_short(one))}</li>" for one in recordings)
    return f"<section><h2>{len(recordings)} more pools, in short</h2><ul>{told}</ul></section>"


def _pool(case: Case, at: int) -> str:
    recording = case.recording
    seen = recording.picture
    names = [one.function for one in case.functions]
    names += [task.function for task in running(seen).values()]
    colours = Colours(dict.fromkeys(names))
    parts = [
        _counters(recording),
        _coverage(recording),
        accounts.drawn(case.accounts),
        gantt.drawn(recording, colours),
        curves.drawn(recording, case.course, case.workers),
        distributions.drawn(case.functions, colours),
        tables.slowest(recording),
        tables.failed(recording),
        tables.unended(seen),
        tables.deaths(recording),
        tables.roster(seen),
        _notes("Notes on this pool", _pool_notes(recording)),
    ]
    return (
        f'<section class=pool id="pool-{at}"><h2>{esc(recording.pool)}</h2>{_pool_facts(recording, case)}'
        + "\n".join(part for part in parts if part)
        + "</section>"
    )


def _pool_facts(recording: Recording, case: Case) -> str:
    seen = recording.picture
    lasted = duration((recording.ended_ns - recording.begun_ns) / 1e9)
    facts = [("recorded", lasted), ("workers", str(case.workers))]
    if seen is not None:
        facts = [
            ("kind", seen.kind),
            ("workers", f"{seen.size or case.workers}"),
            ("start method", seen.start_method or "?"),
            ("made at", seen.made_at or "?"),
            ("initializer", seen.initializer or "none"),
            ("state", _state(recording, seen)),
            ("parent", f"pid {recording.pid}"),
            ("recorded", lasted),
        ]
    return _definitions(facts)


def _state(recording: Recording, seen: PoolInfo) -> str:
    """Say how the pool was: the last picture is from before its workers left."""
    gone = [one.ended_ns is not None for one in recording.workers]
    return "ended" if gone and all(gone) else seen.state


def _counters(recording: Recording) -> str:
    seen = recording.picture
    if seen is None:
        return ""
    stats = dict(seen.stats)
    if recording.source == "journal":
        # Those that left at the end were not replaced by anybody.
        stats["replaced"] = sum(one.ended_as in ("dead", "recycled") for one in recording.workers)
    elif seen.state == "ended":
        stats.pop("replaced", None)  # its last workers count, too
    told = []
    for name in (*_COUNTERS, *_SECOND_COUNTERS):
        count = stats.get(name)
        if not isinstance(count, int) or (
            not count and name not in ("submitted", "done", "failed")
        ):
            continue
        style_ = " class=bad" if count and name in _BAD else ""
        told.append(
            f"<div{style_}><b>{count:,}</b><span>{esc(name.replace('_', ' '))}</span></div>"
        )
    return f"<div class=counters>{''.join(told)}</div>"


def _coverage(recording: Recording) -> str:
    """Say which part of the tasks the page covers."""
    count = len(recording.tasks)
    if recording.source == "journal":
        if not recording.lost:
            return ""
        return (
            f"<p class=warn>{recording.lost:,} tasks ended that are not in here, because there was no room "
            f"to keep more than the last {count:,}.</p>"
        )
    missing = f", {recording.lost:,} more are not in here" if recording.lost else ""
    notes = "".join(f" {esc(note)}" for note in recording.notes)
    return (
        "<p class=warn>This pool was not recorded from its beginning: what its living workers still know is "
        f"their last tasks, up to 1,024 each. {count:,} finished tasks are in here{missing}.{notes}</p>"
    )


def _pool_notes(recording: Recording) -> list[str]:
    seen = recording.picture
    notes = list(seen.notes) if seen is not None else []
    if recording.source == "journal":  # else they are told above
        notes = [*recording.notes, *notes]
    if seen is not None and seen.forked_beside:
        notes.append(
            "The pool forked its workers beside threads of the program: "
            f"{', '.join(seen.forked_beside)}. A lock that one of them held then stays locked in them."
        )
    return list(dict.fromkeys(notes))


def _notes(heading: str, notes: Sequence[str]) -> str:
    if not notes:
        return ""
    told = "".join(f"<li>{esc(note)}</li>" for note in notes)
    return folded(heading, f"<ul>{told}</ul>", is_open=True)


# For programs -------------------------------------------------------------------------------------


def _for_programs(story: Story, told: Sequence[Advice], cases: Sequence[Case]) -> str:
    """Put the figures of the page into it, for whoever reads it by program."""
    plain = {
        "schema": SCHEMA,
        "command": list(story.command),
        "pools": [_plain(case) for case in cases],
        "advice": [{"name": one.name, "pool": one.pool, "figure": one.figure} for one in told],
    }
    # In a script element only "</script" and "<!--" mean anything: neither can be without this sign.
    written = json.dumps(plain).replace("<", "\\u003c")
    return f'<script type="application/json" id="figures">{written}</script>'


def _plain(case: Case) -> dict[str, Any]:
    recording, whole = case.recording, sum_of(case.accounts)
    seen = recording.picture
    return {
        "name": recording.pool,
        "source": recording.source,
        "stats": {} if seen is None else dict(seen.stats),
        "tasks": case.tasks,
        "lost_records": recording.lost,
        "functions": {
            one.function: {"tasks": one.tasks, "items": one.items, "ends": dict(one.ends)}
            for one in case.functions
        },
        "workers": [
            {
                "slot": one.slot,
                "pid": one.pid,
                **({} if one.node is None else {"node": one.node}),
                "generation": one.generation,
                "tasks": one.tasks,
                **{part: getattr(one.time, part) for part in PARTS},
                "wall_s": one.wall_s,
                "unexplained_s": one.unexplained_s,
                "inferred": one.inferred,
            }
            for one in case.accounts
        ],
        "wall_s": whole.wall_s,
        "explained_s": whole.time.whole_s,
        "unexplained_share": whole.unexplained_share,
    }
