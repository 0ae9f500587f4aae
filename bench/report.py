"""From measured seconds to rows, tables and JSON."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from bench.cases import Case, Sizes
from bench.contenders import BASELINE, CONTENDERS

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Row:
    """One metric of one case: the seconds of each round, by contender, in the order of the rounds."""

    case: str
    metric: str
    words: str
    seconds: dict[str, tuple[float, ...]]

    def median(self, contender: str) -> float:
        """Return the median of the rounds."""
        return median(self.seconds[contender])

    def ratios(self, contender: str) -> tuple[float, ...]:
        """Return, round by round, how many times as long the baseline took."""
        pairs = zip(self.seconds[BASELINE], self.seconds[contender], strict=True)
        return tuple(base / own for base, own in pairs)

    def ratio(self, contender: str) -> float:
        """Return how many times as long the baseline took, by the medians."""
        return self.median(BASELINE) / self.median(contender)


def rows_of(case: Case, sizes: Sizes, measured: dict[str, list[dict[str, float]]]) -> list[Row]:
    """Sort the rounds of a case by metric."""
    return [
        Row(
            case.name,
            metric,
            sizes.put_in(words),
            {name: tuple(round_[metric] for round_ in rounds) for name, rounds in measured.items()},
        )
        for metric, words in case.metrics.items()
    ]


def table(rows: Sequence[Row], names: Sequence[str], markdown: bool = False) -> str:
    """Return the rows as an aligned table, or as one in Markdown."""
    others = [name for name in names if name != BASELINE and BASELINE in names]
    head = ["", *names, *(f"{BASELINE} / {name}" for name in others)]
    body = [
        [
            row.words,
            *(
                duration(row.median(name)) + _range(map(duration, sorted(row.seconds[name])))
                for name in names
            ),
            *(
                f"{row.ratio(name):.2f}"
                + _range(f"{ratio:.2f}" for ratio in sorted(row.ratios(name)))
                for name in others
            ),
        ]
        for row in rows
    ]
    return markdown_table(head, body) if markdown else aligned_table([head, *body])


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


def duration(seconds: float) -> str:
    """Write a time with three digits and its unit."""
    for factor, unit in ((1, "s"), (1e3, "ms")):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def _range(words: Iterable[str]) -> str:
    """Put the first and the last of the sorted rounds into parentheses; nothing for a single one."""
    low, *rest = words
    return f" ({low} to {rest[-1]})" if rest else ""


def document(rows: Sequence[Row], names: Sequence[str], options: dict[str, Any]) -> str:
    """Return everything as JSON."""
    return json.dumps(
        {
            "schema": SCHEMA,
            "baseline": BASELINE,
            "options": options,
            "machine": machine(),
            "versions": {
                "python": platform.python_version(),
                **{name: CONTENDERS[name].version() for name in names},
            },
            "rows": [_plain(row, names) for row in rows],
        },
        indent=1,
    )


def _plain(row: Row, names: Sequence[str]) -> dict[str, Any]:
    return {
        "case": row.case,
        "metric": row.metric,
        "words": row.words,
        "unit": "s",
        "rounds": {name: list(row.seconds[name]) for name in names},
        "median": {name: row.median(name) for name in names},
        "ratio": {name: row.ratio(name) for name in names if BASELINE in names},
    }


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
