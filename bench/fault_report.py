"""From verdicts to a table, to JSON, and to ``docs/faults.md``."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from bench.fault_cases import CASES, GROUPS
from bench.fault_pools import POOLS
from bench.fault_run import Verdict
from bench.fault_scene import AFTER_S, WAIT_S
from bench.report import aligned_table, machine, markdown_table

SCHEMA = 1
OURS = "glasspool"

REASONS: dict[str, str] = {}
"""Why glasspool does not pass a case, by the case's name, for as long as it does not."""

HEAD = """\
# Faults

What becomes of the calls when something goes wrong: the same {count} faults, caused for real, on
glasspool and on other process pools of Python. This page is written by

```
python -m bench.faults --json docs/faults.json --write docs/faults.md
```

which measures what is installed; `--only LIBRARY` and `--case NAME` measure a part anew, `--help`
tells the rest.

Every case is a small program in a process and a session of its own, on Linux, with the start method
that is the library's default. A call that has not ended {wait:g} s after its fault counts as hanging,
and so does a program that does not end {after:g} s after its last line, where that is looked at.
{patient} have {factor:g} times as long, because their own time limits or restarts take
longer than that by design.

Each library is used in the way that it documents; what it has no call for is "–", and counts neither
for nor against it. A cell says what was seen in one run (on a machine that had other work, too); what
did not pass was run again with `--again`, and the second run counts. Races may end differently on
another machine. What a pass means is said per row below: it is never about a feature that only one
library has, but a library may have decided on purpose against what a row asks for
(`ProcessPoolExecutor`, for example, ends all its work when one worker dies).

"""


@dataclass(slots=True)
class Column:
    """What one library did: its version, the day, and the verdicts by case."""

    version: str
    day: str
    verdicts: dict[str, Verdict]


def today() -> str:
    """Return the day of a measurement."""
    return date.today().isoformat()


def document(columns: Mapping[str, Column]) -> str:
    """Return everything as JSON."""
    return json.dumps(
        {
            "schema": SCHEMA,
            "machine": _where(),
            "columns": {
                name: {
                    "version": column.version,
                    "day": column.day,
                    "verdicts": {
                        case: verdict.plain() for case, verdict in column.verdicts.items()
                    },
                }
                for name, column in columns.items()
            },
        },
        indent=1,
        ensure_ascii=False,
    )


def columns_from(file: Path) -> dict[str, Column]:
    """Read what an earlier run has measured."""
    told = json.loads(file.read_text())
    return {
        name: Column(
            column["version"],
            column["day"],
            {case: Verdict(**verdict) for case, verdict in column["verdicts"].items()},
        )
        for name, column in told["columns"].items()
    }


def summary(columns: Mapping[str, Column], cases: Sequence[str]) -> str:
    """Return the table for a terminal."""
    names = _names(columns)
    lines = [["", *names]]
    lines += [
        [case, *(_cell(columns[name].verdicts.get(case)) for name in names)] for case in cases
    ]
    lines.append(["failed (hanging) of", *(_total(columns[name], cases) for name in names)])
    return aligned_table(lines)


def page(columns: Mapping[str, Column]) -> str:
    """Return the whole page."""
    names = _names(columns)
    patient = [library for library in POOLS.values() if library.patience > 1]
    head = HEAD.format(
        count=len(CASES),
        wait=WAIT_S,
        after=AFTER_S,
        patient=_listed([library.name for library in patient]),
        factor=max(library.patience for library in patient),
    )
    return "\n".join(
        [
            head + _who(columns, names),
            "\n## The table\n",
            "✓ passed, ✗ did not, – has no such call. *hangs*: something did not end in time.\n",
            _table(columns, names),
            "\n## How each fault is caused, and what passing means\n",
            _rules(),
            "\n## Where glasspool is not good\n",
            _ours(columns.get(OURS)),
            "\n## What was seen where a case did not pass\n",
            *(_seen(name, columns[name]) for name in names),
        ]
    )


def _names(columns: Mapping[str, Column]) -> list[str]:
    return [name for name in POOLS if name in columns]


def _who(columns: Mapping[str, Column], names: Iterable[str]) -> str:
    lines = [
        (
            f"`{POOLS[name].title}`",
            name,
            columns[name].version,
            columns[name].day,
            POOLS[name].notes,
        )
        for name in names
    ]
    return (
        f"Measured on {_where()}.\n\n"
        + markdown_table(("pool", "column", "version", "measured", "used as"), lines, left=5)
        + "\n"
    )


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _where() -> str:
    about = machine()
    system = f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}"
    return (
        f"{system}, {about['usable']} cores of {about['processor']}, "
        f"Python {platform.python_version()}"
    )


def _table(columns: Mapping[str, Column], names: Sequence[str]) -> str:
    body: list[list[str]] = []
    for group, cases in GROUPS.items():
        body.append([f"**{group}**", *("" for _ in names)])
        body += [
            [case.words, *(_cell(columns[name].verdicts.get(case.name)) for name in names)]
            for case in cases
        ]
    body.append(
        ["**failed (of these hanging) of judged**"]
        + [f"**{_total(columns[name], list(CASES))}**" for name in names]
    )
    return markdown_table(["", *names], body, left=len(names) + 1)


def _cell(verdict: Verdict | None) -> str:
    if verdict is None:
        return ""
    if verdict.sign == "ok":
        return "✓"
    return "–" if verdict.sign == "none" else f"✗ {verdict.word}"


def _total(column: Column, cases: Sequence[str]) -> str:
    signs = [column.verdicts[case].sign for case in cases if case in column.verdicts]
    hangs = signs.count("hangs")
    failed = signs.count("fails") + hangs
    return f"{failed} ({hangs}) of {len(signs) - signs.count('none')}"


def _rules() -> str:
    lines = [
        (f"{group}: {case.words}", f"`{case.name}`", case.how, case.rule)
        for group, cases in GROUPS.items()
        for case in cases
    ]
    return markdown_table(("fault", "name", "caused by", "passes if"), lines, left=4)


def _ours(column: Column | None) -> str:
    if column is None:
        return "It was not measured.\n"
    bad = {
        name: verdict
        for name, verdict in column.verdicts.items()
        if verdict.sign in ("fails", "hangs") and name in CASES
    }
    if not bad:
        return f"Nowhere in this table: it passes all {len(column.verdicts)}.\n"
    return (
        "\n".join(
            f"- `{name}`: {verdict.seen}. {REASONS.get(name, 'The reason is not known yet.')}"
            for name, verdict in bad.items()
        )
        + "\n"
    )


def _seen(name: str, column: Column) -> str:
    lines = [
        f"- `{case}`: {'no such call: ' if verdict.sign == 'none' else ''}{verdict.seen}"
        for case, verdict in ((case, column.verdicts.get(case)) for case in CASES)
        if verdict is not None and verdict.sign != "ok"
    ]
    return f"### {name}\n\n" + "\n".join(lines or ["All passed."]) + "\n"
