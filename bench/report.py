"""From measurements to a table and to JSON. Pure, but for ``machine``."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from statistics import median
from typing import TYPE_CHECKING, Any

from bench.contenders import BARE, BASELINE, CONTENDERS, OURS

if TYPE_CHECKING:
    from bench.cases import Aim, Case
    from bench.measures import Sizes
    from bench.run import Outcome

SCHEMA = 2
FEW = 3
"""Up to so many contenders the table has the smallest and the largest of the rounds as well."""


@dataclass(frozen=True, slots=True)
class Row:
    """One metric of one case: the number of each round, by contender, in the order of the rounds.

    Less is better in every one. ``missing`` has the contenders without numbers, with a word and the
    reason; ``scaled`` those that did a part of the work, with how much it was.
    """

    case: str
    metric: str
    words: str
    unit: str
    aims: tuple[tuple[str, float], ...]
    rounds: dict[str, tuple[float, ...]]
    missing: dict[str, tuple[str, str]]
    scaled: dict[str, str]

    def median(self, name: str) -> float:
        """Return the median of the rounds."""
        return median(self.rounds[name])

    def ratio(self, name: str, base: str = BASELINE) -> float | None:
        """Return how many times as much the baseline took, by the medians; None without numbers."""
        if name not in self.rounds or base not in self.rounds:
            return None
        return _divided(self.median(base), self.median(name))

    def ratios(self, name: str, base: str = BASELINE) -> tuple[float, ...]:
        """Return the same round by round."""
        pairs = zip(self.rounds.get(base, ()), self.rounds.get(name, ()), strict=False)
        return tuple(_divided(many, few) for many, few in pairs)

    def fastest_other(self) -> str | None:
        """Return the best of the contenders that are pools, besides ours; None if there is none."""
        others = [name for name in self.rounds if name not in (OURS, BARE)]
        return min(others, key=self.median, default=None)

    def reached(self, against: str, number: float) -> tuple[float, bool] | None:
        """Return what was reached of an aim, and whether that is enough; None if it is not known."""
        if against == "most":
            if OURS not in self.rounds:
                return None
            return self.median(OURS), self.median(OURS) <= number
        ratio = self.ratio(OURS, BARE if against == "bare" else BASELINE)
        return None if ratio is None else (ratio, ratio >= number)


def _divided(many: float, few: float) -> float:
    if few > 0:
        return many / few
    return 1.0 if many == few else math.inf


def rows_of(case: Case, sizes: Sizes, workers: int, outcomes: Mapping[str, Outcome]) -> list[Row]:
    """Sort the rounds of a case by metric."""
    return [
        Row(
            case.name,
            name,
            sizes.put_in(metric.words, case.count_workers(workers)),
            metric.unit,
            tuple(_plain_aim(aim) for aim in metric.aims),
            {
                who: tuple(numbers[name] for numbers in outcome.rounds)
                for who, outcome in outcomes.items()
                if outcome.missing is None and all(name in each for each in outcome.rounds)
            },
            {
                who: (outcome.missing or "–", outcome.reason)
                for who, outcome in outcomes.items()
                if outcome.missing is not None or not all(name in each for each in outcome.rounds)
            },
            {
                who: outcome.scaled
                for who, outcome in outcomes.items()
                if outcome.scaled is not None
            },
        )
        for name, metric in case.metrics.items()
    ]


def _plain_aim(aim: Aim) -> tuple[str, float]:
    return aim.against, aim.number


# Tables ---------------------------------------------------------------------------------------------


def table(rows: Sequence[Row], names: Sequence[str], markdown: bool = False) -> str:
    """Return the rows as an aligned table, or as one in Markdown."""
    wide = len([name for name in names if name != BARE]) > FEW
    columns = _ratio_columns(names, wide)
    head = ["", *names, *columns]
    body = [
        [
            row.words,
            *(cell(row, name, with_range=not wide) for name in names),
            *(tell(row) for tell in columns.values()),
        ]
        for row in rows
    ]
    return markdown_table(head, body) if markdown else aligned_table([head, *body])


def _ratio_columns(names: Sequence[str], wide: bool) -> dict[str, Callable[[Row], str]]:
    """Return the last columns: by how much each is better than stock; of many only ours."""
    if BASELINE not in names:
        return {}
    others = [name for name in names if name not in (BASELINE, BARE)]
    if wide:
        others = [name for name in others if name == OURS]

    def of(name: str) -> Callable[[Row], str]:
        return lambda row: _ratio_cell(row, name)

    columns = {f"{BASELINE} / {name}": of(name) for name in others}
    if wide and OURS in names:
        columns[f"best other / {OURS}"] = _best_cell
    return columns


def _best_cell(row: Row) -> str:
    best = row.fastest_other()
    if best is None or OURS not in row.rounds:
        return ""
    return f"{times(row.ratio(OURS, best))} ({best})"


def cell(row: Row, name: str, with_range: bool) -> str:
    """Return what a contender needed, or why that is not known."""
    if name in row.missing:
        return row.missing[name][0]
    if name not in row.rounds:
        return ""
    amounts = [amount(number, row.unit) for number in sorted(row.rounds[name])]
    text = amount(row.median(name), row.unit) + ("*" if name in row.scaled else "")
    return text + (_range(amounts) if with_range else "")


def _ratio_cell(row: Row, name: str) -> str:
    ratio = row.ratio(name)
    if ratio is None:
        return ""
    return times(ratio) + _range([times(each) for each in sorted(row.ratios(name))])


def aligned_table(lines: Sequence[Sequence[str]]) -> str:
    """Return lines of cells in columns of equal width, the first one to the left."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def markdown_table(head: Sequence[str], body: Iterable[Sequence[str]], left: int = 1) -> str:
    """Return lines of cells as a table in Markdown, so many columns to the left, the others right."""
    rule = [*["---"] * left, *["---:"] * (len(head) - left)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *body))


def amount(number: float, unit: str) -> str:
    """Write a number with three digits and its unit."""
    if unit == "s":
        return duration(number)
    if unit == "B":
        return f"{number:,.0f} B"
    if unit == "x":
        return f"{number:.3f}"
    return f"{number:,.0f}"


def duration(seconds: float) -> str:
    """Write a time with three digits and its unit."""
    if seconds == 0:
        return "0 s"
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "µs")):
        if abs(seconds) * factor >= 0.9995:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def times(ratio: float | None) -> str:
    """Write a ratio with three digits at most, and two behind the point."""
    if ratio is None:
        return ""
    if math.isinf(ratio):
        return "∞"
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:.1f}" if ratio < 100 else f"{ratio:,.0f}"


def _range(words: Sequence[str]) -> str:
    """Put the first and the last of the sorted rounds into parentheses; nothing for a single one."""
    return f" ({words[0]} to {words[-1]})" if len(words) > 1 else ""


def remarks(rows: Sequence[Row]) -> list[str]:
    """Say why cells have no number, and what was scaled up."""
    found: dict[str, None] = {}
    for row in rows:
        for name, (word, reason) in row.missing.items():
            if reason:
                found[
                    f"{row.case}, {name}: {'has no counterpart' if word == '–' else word}: {reason}"
                ] = None
        for name, part in row.scaled.items():
            found[f"{row.case}, {name}: * did {part}"] = None
    return list(found)


# JSON -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Report:
    """One run: everything that the tables and the page are made of."""

    day: str
    options: dict[str, Any]
    machine: dict[str, Any]
    versions: dict[str, str]
    names: tuple[str, ...]
    rows: tuple[Row, ...]


def report_of(rows: Sequence[Row], names: Sequence[str], options: dict[str, Any]) -> Report:
    """Put a run together with where it took place."""
    versions = {name: CONTENDERS[name].version() for name in names if name != BARE}
    return Report(
        date.today().isoformat(),
        options,
        machine(),
        {"python": platform.python_version(), **versions},
        tuple(names),
        tuple(rows),
    )


def document(report: Report) -> str:
    """Return a run as JSON; beside the rounds it has the medians and the ratios to stock."""
    plain = asdict(report)
    for row, told in zip(report.rows, plain["rows"], strict=True):
        told["median"] = {name: row.median(name) for name in row.rounds}
        told["ratio"] = {name: _finite(row.ratio(name)) for name in row.rounds}
    return json.dumps(
        {"schema": SCHEMA, "baseline": BASELINE, **plain}, indent=1, ensure_ascii=False
    )


def _finite(ratio: float | None) -> float | None:
    return None if ratio is None or math.isinf(ratio) else ratio


def report_from(text: str) -> Report:
    """Read a run from its JSON."""
    told = json.loads(text)
    if told["schema"] != SCHEMA:
        raise ValueError(f"this is schema {told['schema']}, not {SCHEMA}: measure anew")
    rows = tuple(
        Row(
            row["case"],
            row["metric"],
            row["words"],
            row["unit"],
            tuple((against, number) for against, number in row["aims"]),
            {name: tuple(numbers) for name, numbers in row["rounds"].items()},
            {name: (word, reason) for name, (word, reason) in row["missing"].items()},
            row["scaled"],
        )
        for row in told["rows"]
    )
    return Report(
        told["day"],
        told["options"],
        told["machine"],
        told["versions"],
        tuple(told["names"]),
        rows,
    )


def machine() -> dict[str, Any]:
    """Describe what this runs on."""
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "processors": os.cpu_count(),
        "usable": len(affinity(0)) if affinity else os.cpu_count(),
        "load": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux: platform knows something
    return platform.processor() or platform.machine()
