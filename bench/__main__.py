"""``python -m bench``: measure pools side by side, in interleaved rounds."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from fnmatch import fnmatch
from pathlib import Path

from bench.cases import CASES, Case
from bench.contenders import BARE, BASELINE, CONTENDERS, DEFAULT, OURS
from bench.measures import FULL, QUICK
from bench.report import Row, document, machine, remarks, report_of, rows_of, table
from bench.run import Plan, measure

ROUNDS = 5
LIMIT_S = 120.0
"""No single measurement takes longer; one that hangs is cut off."""

DESCRIPTION = """\
Measure glasspool beside the standard library's pool and others. Every measurement
has a process of its own. The contenders take turns within each round, so that a
machine which gets slower or faster does so for all of them; the table gives the
median of the rounds and, in parentheses, the smallest and the largest. The last
columns are stock's number by ours, by the medians and, in parentheses, round by
round: above 1 ours is the better one. Less is better in every row.

"bare" is no pool: where there is something like it, it is what the same costs by
hand or at least. A * marks what was measured on a part of the tasks, and scaled up.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what was asked for, and print the table; 1: glasspool failed, 2: nothing to do."""
    options = _parser().parse_args(arguments)
    cases = [case for case in CASES.values() if _is_wanted(case, options.only)]
    sizes = QUICK if options.quick else FULL
    if not cases:
        _say(f"no case is named {' or '.join(options.only)}; there are:")
    if options.list or not cases:
        for case in CASES.values():
            words = "; ".join(
                sizes.put_in(metric.words, case.count_workers(options.workers))
                for metric in case.metrics.values()
            )
            print(f"{case.name:<18}{words}")
        return 0 if options.list else 2
    names = _installed(options.contenders)
    if not names:
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that nothing is left behind
    plan = Plan(
        names=names,
        rounds=options.rounds or (1 if options.quick else ROUNDS),
        workers=options.workers,
        quick=options.quick,
        limit_s=options.limit,
    )
    _say(f"on {machine()}")
    rows: list[Row] = []
    for case in cases:
        why_not = case.why_not()
        if why_not is not None:
            _say(f"{case.name}: left out, {why_not}")
            continue
        rows += rows_of(case, sizes, plan.workers, measure(case, plan, _say))
        if options.json is not None:  # what is measured is kept if the rest fails
            options.json.write_text(document(report_of(rows, plan.names, asdict(plan))) + "\n")
    print(table(rows, plan.names, markdown=options.markdown))
    for line in remarks(rows):
        _say(line)
    return 1 if any(row.missing.get(OURS, ("–", ""))[0] != "–" for row in rows) else 0


def _installed(names: Sequence[str]) -> list[str]:
    for name in names:
        contender = CONTENDERS[name]
        if not contender.is_installed():
            _say(f"{name}: left out, it is not installed: pip install {contender.package}")
    return [name for name in names if CONTENDERS[name].is_installed()]


def _is_wanted(case: Case, patterns: Sequence[str] | None) -> bool:
    return patterns is None or any(fnmatch(case.name, pattern) for pattern in patterns)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--rounds", type=_count, help=f"how many (default: {ROUNDS}; with --quick: 1)"
    )
    parser.add_argument(
        "--only",
        action="append",
        metavar="CASE",
        help="a case, as 'map-1' or 'start-*'; repeatable",
    )
    parser.add_argument(
        "--contenders",
        type=_names,
        default=list(DEFAULT),
        metavar="NAME,NAME",
        help=f"which pools, or 'all' that are installed (default: {','.join(DEFAULT)}; there are "
        f"{', '.join(CONTENDERS)}); ratios are to {BASELINE}, {BARE} is none",
    )
    parser.add_argument("--workers", type=_count, default=2, help="of each pool (default: 2)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run at all?")
    parser.add_argument(
        "--limit",
        type=float,
        default=LIMIT_S,
        metavar="SECONDS",
        help=f"of one measurement, after which it counts as hanging (default: {LIMIT_S:g})",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all rounds to FILE")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parser.add_argument("--list", action="store_true", help="list the cases and leave")
    return parser


def _count(word: str) -> int:
    count = int(word)
    if count < 1:
        raise argparse.ArgumentTypeError(f"{word!r}: give a number from 1 on")
    return count


def _names(words: str) -> list[str]:
    if words == "all":
        return list(CONTENDERS)
    names = words.split(",")
    unknown = [name for name in names if name not in CONTENDERS]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"no contender {unknown[0]!r}; there is: {', '.join(CONTENDERS)}"
        )
    return list(dict.fromkeys(names))


if __name__ == "__main__":
    sys.exit(main())
