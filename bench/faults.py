"""``python -m bench.faults``: cause the same faults on several pools, and tell what became of the calls."""

from __future__ import annotations

import argparse
import itertools
import signal
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path
from threading import Lock

from bench.fault_cases import CASES
from bench.fault_pools import POOLS, Library, missing
from bench.fault_report import Column, columns_from, document, page, summary, today
from bench.fault_run import Verdict, watch
from bench.fault_scene import Case

DESCRIPTION = """\
Cause each fault for real, on each library that is installed, and judge what becomes of
the calls. Every case runs in a process of its own, which has a deadline; what it leaves
behind is ended. A column of a file given with --json is kept where it is not measured
anew, so that libraries can be measured one after the other.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cases that were asked for, and print the table."""
    options = _parser().parse_args(arguments)
    cases = [case for case in CASES.values() if _is_wanted(case.name, options.case)]
    if options.list or not cases:
        for case in CASES.values():
            print(f"{case.name:<20}{case.words}: {case.how}")
        return 0 if options.list else 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that nothing is left behind
    columns = columns_from(options.json) if options.json and options.json.exists() else {}
    libraries = [] if options.only == [] else _installed(options.only or list(POOLS))
    _measure(cases, libraries, columns, options)
    if options.write is not None:
        options.write.write_text(page(columns))
    print(summary(columns, [case.name for case in cases]))
    return 0


def _installed(names: Iterable[str]) -> list[Library]:
    libraries = [POOLS[name] for name in names]
    for library in libraries:
        if missing(library):
            _say(f"{library.name}: left out, {library.package or library.name} is not installed")
    return [library for library in libraries if not missing(library)]


def _measure(
    cases: Sequence[Case],
    libraries: Sequence[Library],
    columns: dict[str, Column],
    options: argparse.Namespace,
) -> None:
    """Run every case on every library, some at a time, and put the verdicts into the columns."""
    for library in libraries:
        before = columns.get(library.name)
        columns[library.name] = Column(
            library.version(), today(), dict(before.verdicts) if before else {}
        )
    pairs = [
        (library, case)
        for library, case in itertools.product(libraries, cases)
        if _is_due(columns[library.name].verdicts.get(case.name), options)
    ]
    number = itertools.count(1)
    one_at_a_time = Lock()

    def run(pair: tuple[Library, Case]) -> None:
        library, case = pair
        verdict: Verdict = watch(case, library)
        with one_at_a_time:
            columns[library.name].verdicts[case.name] = verdict
            if options.json is not None:  # an interrupted run goes on where it was, with --lacking
                options.json.write_text(document(columns) + "\n")
            _say(
                f"{next(number):>4} of {len(pairs)}  {library.name:<10}{case.name:<20}"
                f"{verdict.sign:<6}{verdict.took_s:>6.1f} s  {verdict.seen}"
            )

    watchers = ThreadPoolExecutor(options.jobs, thread_name_prefix="watch")
    try:
        for done in [watchers.submit(run, pair) for pair in pairs]:
            done.result()
    finally:  # those that run end within their deadlines, and clean up
        watchers.shutdown(cancel_futures=True)


def _is_due(known: Verdict | None, options: argparse.Namespace) -> bool:
    if options.again:
        return known is not None and known.sign in ("fails", "hangs")
    return known is None or not options.lacking


def _is_wanted(name: str, patterns: Sequence[str] | None) -> bool:
    return patterns is None or any(fnmatch(name, pattern) for pattern in patterns)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.faults",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only",
        nargs="*",
        choices=list(POOLS),
        metavar="LIBRARY",
        help=f"which libraries (default: all); none: only print what --json FILE has. There are: "
        f"{', '.join(POOLS)}",
    )
    parser.add_argument("--case", nargs="+", metavar="NAME", help="cases, as 'killed-*'")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time (default: 2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep all verdicts in FILE")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--lacking", action="store_true", help="only what --json FILE lacks")
    which.add_argument(
        "--again",
        action="store_true",
        help="only what did not pass in --json FILE; this run counts",
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the page to FILE")
    parser.add_argument("--list", action="store_true", help="list the cases and leave")
    return parser


if __name__ == "__main__":
    sys.exit(main())
