"""``python -m bench.torture``: hurt pools at random, and prove that they account for everything."""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import random
import sys
from collections.abc import Sequence
from multiprocessing import forkserver, resource_tracker

import glasspool
from bench.torture import mixed, moments, pools
from bench.torture.calls import MIXED

DESCRIPTION = """\
Hurt a pool at random (kills, stops, resizes) under a load with timeouts and
cancellations, and prove at the end, from the callers' books and from the pool's
ledger, that each task ended exactly once. Ends with code 1 if anything is not
as promised. The load is mixed; with --tasks it is short tasks only.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Torture as asked for, print the account, and say whether all is well."""
    options = _parser().parse_args(arguments)
    make = functools.partial(
        glasspool.Pool, context=multiprocessing.get_context(options.start_method)
    )
    if options.start_method != "fork":  # they live as long as the program, with no fault of a pool
        resource_tracker.ensure_running()
        forkserver.ensure_running()
    print(f"seed {options.seed}, {options.processes} workers, {options.start_method}", flush=True)
    if options.moments:
        rows = moments.run(
            make, options.processes, options.moments, options.seed, options.begin_limit_ms / 1000
        )
    elif options.pools:
        rows = pools.run(make, options.processes, options.pools, options.seed)
    else:
        rows = mixed.run(_plan(options, make))
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    print(table(rows))
    return 1 if any(row.fine is False for row in rows) else 0


def table(rows: Sequence[mixed.Row]) -> str:
    """Return the account as text."""
    words = {True: "ok", False: "WRONG", None: ""}
    width = max(len(row.what) for row in rows)
    return "\n".join(f"{words[row.fine]:<6}{row.what:<{width}}  {row.seen}" for row in rows)


def _plan(options: argparse.Namespace, make: functools.partial[glasspool.Pool]) -> mixed.Plan:
    seconds = options.seconds
    if options.tasks is None and seconds is None:
        seconds = 60.0
    load = options.load or ("short" if options.tasks is not None else "mixed")
    every_ms = {
        "kill": options.kill_every_ms,
        "stop": options.stop_every_ms if load == "mixed" else 0,
        "resize": options.resize_every_ms if load == "mixed" else 0,
        "template": options.kill_template_every_ms,
    }
    return mixed.Plan(
        make=make,
        processes=options.processes,
        seed=options.seed,
        tasks=options.tasks,
        seconds=seconds,
        callers=options.callers,
        retries=options.retries,
        every_s={name: ms / 1000 for name, ms in every_ms.items() if ms},
        kinds=mixed.kinds_of(load, options.without),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.torture",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--seconds", type=float, help="how long (default: 60, if --tasks is not given)")
    add("--tasks", type=int, help="how many tasks")
    add("--load", choices=("short", "mixed"), help="short tasks only, or all kinds of calls")
    add("--without", action="append", default=[], choices=list(MIXED), help="leave out a kind")
    add("--processes", type=int, default=4, help="workers (default: 4)")
    add("--callers", type=int, default=2, help="threads that make calls (default: 2)")
    add("--retries", type=int, default=0, help="of each task (default: 0)")
    add("--seed", type=int, default=random.randrange(10**6), help="of all random choices")
    methods = multiprocessing.get_all_start_methods()
    add("--start-method", choices=methods, default=methods[0], help="of the workers")
    for what, default in (("kill", 50), ("stop", 200), ("resize", 500), ("kill-template", 0)):
        add(
            f"--{what}-every-ms",
            type=float,
            default=default,
            metavar="MS",
            help=f"0: never (default: {default})",
        )
    add("--moments", type=int, metavar="N", help="instead: a kill at N moments, and what follows")
    add(
        "--begin-limit-ms",
        type=float,
        default=100,
        metavar="MS",
        help="with --moments: so soon another task must begin (default: 100)",
    )
    add("--pools", type=int, metavar="N", help="instead: make and end N pools")
    return parser


if __name__ == "__main__":
    sys.exit(main())
