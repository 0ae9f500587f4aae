"""``python -m bench``: measure pools side by side, in interleaved rounds."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from bench.cases import CASES, FULL, QUICK, Case
from bench.contenders import BASELINE, CONTENDERS
from bench.report import Row, document, machine, rows_of, table

ROUNDS = 5
LIMIT_S = 300
"""No single measurement takes longer; one that hangs is a failure."""

DESCRIPTION = """\
Measure glasspool beside the standard library's pool. Every measurement has a
process of its own. The contenders take turns within each round, so that a
machine which gets slower or faster does so for all of them; the table gives the
median of the rounds and, in parentheses, the smallest and the largest. The last
column is stock's time by ours, by the medians and, in parentheses, round by
round: above 1 ours is the faster one.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what was asked for, and print the table."""
    options = _parser().parse_args(arguments)
    options.rounds = options.rounds or (1 if options.quick else ROUNDS)
    cases = [case for case in CASES.values() if _is_wanted(case, options.only)]
    if not cases:
        _say(f"no case is named {' or '.join(options.only)}; there are:")
    if options.list or not cases:
        for case in CASES.values():
            print(f"{case.name:<18}{FULL.put_in('; '.join(case.metrics.values()))}")
        return 0 if options.list else 2
    names = options.contenders
    sizes = QUICK if options.quick else FULL
    _say(f"on {machine()}")
    rows: list[Row] = []
    for case in cases:
        why_not = case.why_not()
        if why_not is not None:
            _say(f"{case.name}: left out, {why_not}")
            continue
        rows += rows_of(case, sizes, _measure(case, names, options))
    if options.markdown:
        print(table(rows, names, markdown=True))
    else:
        print(table(rows, names))
    if options.json is not None:
        told = {"rounds": options.rounds, "workers": options.workers, "quick": options.quick}
        options.json.write_text(document(rows, names, told) + "\n")
    return 0


def _measure(
    case: Case, names: Sequence[str], options: argparse.Namespace
) -> dict[str, list[dict[str, float]]]:
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for number in range(options.rounds):
        _say(f"{case.name}: round {number + 1} of {options.rounds}")
        # Another one begins each round: none has always the warmer machine.
        first = number % len(names)
        for name in [*names[first:], *names[:first]]:
            order = {
                "case": case.name,
                "contender": name,
                "workers": options.workers,
                "quick": options.quick,
            }
            measured[name].append(_in_fresh_process(order))
    return measured


def _in_fresh_process(order: dict[str, object]) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "bench.child", json.dumps(order)],
        cwd=Path(__file__).parent.parent,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        timeout=LIMIT_S,
        check=True,
        text=True,
    )
    seconds: dict[str, float] = json.loads(done.stdout)
    return seconds


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
        default=list(CONTENDERS),
        metavar="NAME,NAME",
        help=f"which pools (default: {','.join(CONTENDERS)}); ratios are to {BASELINE}",
    )
    parser.add_argument("--workers", type=_count, default=2, help="of each pool (default: 2)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run at all?")
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
    names = words.split(",")
    unknown = [name for name in names if name not in CONTENDERS]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"no contender {unknown[0]!r}; there is: {', '.join(CONTENDERS)}"
        )
    return names


if __name__ == "__main__":
    sys.exit(main())
