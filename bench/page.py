"""``python -m bench.page``: write ``docs/benchmarks.md`` and its pictures from the JSON of runs.

Everything on the page is made from the files, but for the remarks, which are written by hand in
``bench/remarks.md``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.contenders import BARE, BASELINE, CONTENDERS, OURS
from bench.plot import picture
from bench.report import (
    Report,
    Row,
    amount,
    markdown_table,
    remarks,
    report_from,
    table,
    times,
)

REMARKS = Path(__file__).with_name("remarks.md")

HEAD = """\
# Benchmarks

glasspool beside the standard library's pool and others, on many shapes of work. This page is written
by

```
{commands}
```

Every measurement has a fresh process. The contenders take turns within each round, and another one
begins each round, so that a machine which gets slower or faster does so for all of them. A number is
the median of the rounds, in parentheses with the smallest and the largest. Less is better in every row.
`stock / glasspool` is by how much glasspool is better: of the medians and, in parentheses, round by
round. Machines are noisy, virtual ones above all: where the ranges of two pools overlap, neither is the
better one. Run it on your own.

The function returns its argument plus one, so that what is measured is the pool. All values that
come back are checked. Of an array the receiver reads a number of every page, so that all of it must have
arrived. "ideal" is the time that no schedule can beat: the sum of all lengths by the number of workers,
or the longest alone. "One by one in order" is the time if each free worker took the next item of the
list, which cost nothing. In both the lengths are those that the naps really have, measured alone
beforehand. `bare` is no pool: for the bursts a hand-written loop over socket pairs in chunks of 64
calls, for `apply` the round trip of 64 bytes through a socket pair with the same placement, for the
arrays a copy in memory.

The rows of one case come from one run of a program that does nothing else. `pyperf` is not used: it
repeats one function in one kind of process, and here pools are made, pinned and killed; its method
(many processes, medians) is kept.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the runs, and write the page and its pictures."""
    options = _parser().parse_args(arguments)
    reports = [(file, report_from(file.read_text())) for file in options.files]
    pictures = {
        _picture_of(file, options.write): picture(report.rows, report.names)
        for file, report in reports
    }
    for path, text in pictures.items():
        path.write_text(text)
    names = [path.name for path in pictures]
    options.write.write_text(page(reports, names, REMARKS.read_text()))
    return 0


def _picture_of(file: Path, page_file: Path) -> Path:
    return page_file.with_name(f"{file.stem}.svg")


def page(reports: Sequence[tuple[Path, Report]], pictures: Sequence[str], by_hand: str) -> str:
    """Return the whole page; the first run is the one that it speaks of."""
    _, first = reports[0]
    commands = [_command(file, report) for file, report in reports]
    commands.append(" ".join(["python -m bench.page", *(str(file) for file, _ in reports)]))
    parts = [HEAD.format(commands="\n".join(commands))]
    for (_, report), image in zip(reports, pictures, strict=True):
        parts += _section(report, image)
        if report is first:
            parts += [
                "\n## Where we lose\n",
                losses([each for _, each in reports]),
                f"\n{by_hand.strip()}\n",
                "\n## What we aim at\n",
                aims(first.rows),
            ]
    parts += ["\n## How the libraries are used\n", _users(reports)]
    return "\n".join(parts) + "\n"


def _command(file: Path, report: Report) -> str:
    options = report.options
    words = ["python -m bench", f"--rounds {options['rounds']}"]
    if set(report.names) - {BASELINE, OURS, BARE}:
        words.append("--contenders all")
    if options["workers"] != 2:
        words.append(f"--workers {options['workers']}")
    if options["quick"]:
        words.append("--quick")
    return " ".join([*words, f"--json {file}"])


def _title(report: Report) -> str:
    others = set(report.names) - {BASELINE, OURS, BARE}
    beside = "Beside other libraries" if others else "Beside the standard library's pool"
    return f"{beside}, {report.options['workers']} workers"


def _section(report: Report, image: str) -> Iterator[str]:
    title = _title(report)
    yield f"\n## {title}\n"
    yield _where(report) + "\n"
    yield f"![{title}: ratios to the standard library's pool]({image})\n"
    yield table(report.rows, report.names, markdown=True)
    told = remarks(report.rows)
    if told:
        yield "\nA dash: no counterpart. A *: a part of the tasks was done, and the total scaled up.\n"
        yield "\n".join(f"- {line}" for line in told)


def _where(report: Report) -> str:
    machine = report.machine
    load = ", ".join(f"{number:.2f}" for number in machine["load"] or ())
    versions = ", ".join(
        f"{name} {version}" for name, version in report.versions.items() if name != BASELINE
    )
    quick = " **Tiny sizes, only to try the page: these numbers say nothing.**"
    return (
        f"Measured on {report.day}, {report.options['rounds']} rounds, on {machine['system']}, "
        f"{machine['usable']} cores of {machine['processor']}, load at the end {load or 'unknown'}. "
        f"Versions: {versions}. Start method fork, where a row does not say another, and the library "
        f"has the choice.{quick if report.options['quick'] else ''}"
    )


def losses(reports: Sequence[Report]) -> str:
    """List, for each run, where ours is worse than another pool, by the medians."""
    parts = []
    for report in reports:
        found = [line for row in report.rows for line in _loss(row)] or ["In no row."]
        parts.append("\n".join([f"{_title(report)}:\n", *found]))
    return "\n\n".join(parts)


def _loss(row: Row) -> Iterator[str]:
    best = row.fastest_other()
    ratio = None if best is None else row.ratio(OURS, best)
    if best is None or ratio is None or ratio >= 1:
        return
    unclear = ", within the noise" if max(row.ratios(OURS, best)) >= 1 else ""
    yield (
        f"- {row.words}: {best} {amount(row.median(best), row.unit)}, "
        f"{OURS} {amount(row.median(OURS), row.unit)} ({times(ratio)}{unclear})"
    )


def aims(rows: Sequence[Row]) -> str:
    """Return the table of what is aimed at, and what is reached."""
    body = []
    for row in rows:
        for against, number in row.aims:
            reached = row.reached(against, number)
            told, sign = ("not measured", "")
            if reached is not None:
                value, enough = reached
                told = amount(value, row.unit) if against == "most" else f"{times(value)} x"
                sign = "✓" if enough else "✗"
            body.append((row.words, _aim(against, number, row.unit), told, sign))
    return markdown_table(("", "aim", "reached", ""), body)


def _aim(against: str, number: float, unit: str) -> str:
    if against == "most":
        return f"at most {amount(number, unit)}"
    return f"{times(number)} x {'by hand' if against == 'bare' else against}"


def _users(reports: Sequence[tuple[Path, Report]]) -> str:
    names = dict.fromkeys(name for _, report in reports for name in report.names)
    versions = {name: version for _, report in reports for name, version in report.versions.items()}
    body = [
        (name, f"`{CONTENDERS[name].title}`", versions.get(name, ""), CONTENDERS[name].notes)
        for name in names
    ]
    return markdown_table(("", "pool", "version", "used as"), body, left=4)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.page", description="Write the page of the benchmarks."
    )
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="what python -m bench --json wrote"
    )
    parser.add_argument(
        "--write",
        type=Path,
        default=Path("docs/benchmarks.md"),
        metavar="FILE",
        help="the page (default: docs/benchmarks.md); its pictures stand beside it",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
