"""``glasspool doctor``: what this machine and container allow, and what follows from it."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from glasspool.cli import parsing

if TYPE_CHECKING:
    from glasspool.observe.machine.check import Check

DESCRIPTION = """\
Tries what glasspool needs and can use here: Python and packages, the right to
read other processes, limits of the container, shared memory, the folder of
scoreboards, a small pool with each start method. With the PID of a process:
what may be read of it, and why not. Nothing outside this machine is asked,
and nothing is left behind.
"""

EPILOG = """\
marks:
  ok        works
  limited   glasspool works, with less to see or to use; "do:" says what helps
  no        does not work

exit codes:
   0  all that a pool needs works (it may be limited)
   1  something that a pool needs does not work
   2  bad usage
   3  no such process, or it has ended

examples:
  glasspool doctor               this machine, container and Python
  glasspool doctor 4242          and what may be read of process 4242
  docker exec BOX glasspool doctor
  kubectl exec POD -- glasspool doctor --json
"""

SCHEMA = 1

_NEEDS_MISSING, _NO_PROCESS = 1, 3
_COLORS = {"ok": "32", "limited": "33", "no": "31"}
_MARK, _NAME, _LEAST_TEXT = 8, 14, 40


def main(arguments: Sequence[str]) -> int:
    """Print what was found, as a table or as JSON; return the exit code."""
    options = make_parser().parse_args(list(arguments))
    from glasspool.observe.running import NoSuchProcess

    try:
        # The process first: it may end while the rest is tried.
        target = _target(options.pid)
    except NoSuchProcess as error:
        print(f"glasspool: {error}", file=sys.stderr)
        return _NO_PROCESS
    checks = [*_machine(), *target]
    failed = [check for check in checks if check.mark == "no" and check.needed]
    if options.json:
        _print_json(checks, options.pid, works=not failed)
    else:
        _print_table(checks)
    return _NEEDS_MISSING if failed else 0


def _machine() -> Iterator[Check]:
    from glasspool.observe.machine import container, interpreter, limits, places, pools, reading

    for part in (interpreter, reading, container, limits, places, pools):
        yield from part.checks()


def _target(pid: int | None) -> list[Check]:
    if pid is None:
        return []
    from glasspool.observe.machine import target

    return list(target.checks(pid))


def _print_json(checks: Iterable[Check], pid: int | None, *, works: bool) -> None:
    from glasspool.snapshot import as_plain

    plain: dict[str, Any] = {
        "schema": SCHEMA,
        "works": works,
        "pid": pid,
        "checks": [as_plain(check) for check in checks],
    }
    print(json.dumps(plain, indent=1), flush=True)


def _print_table(checks: Sequence[Check]) -> None:
    from glasspool.views.table import fitted, takes_color, width_of

    text = table(checks, width_of(sys.stdout), color=takes_color(sys.stdout))
    print(fitted(text, sys.stdout), flush=True)


def table(checks: Sequence[Check], width: int, *, color: bool) -> str:
    """Render checks, grouped by topic: mark, name, what was found, and what follows from it."""
    lines: list[str] = []
    topic = None
    for check in checks:
        if check.topic != topic:
            lines += ["", check.topic] if lines else [check.topic]
            topic = check.topic
        lines += _rows(check, width, color)
    return "\n".join([*lines, "", _summary(checks)])


def _rows(check: Check, width: int, color: bool) -> Iterator[str]:
    mark = check.mark.ljust(_MARK)
    if color:
        mark = f"\033[{_COLORS[check.mark]}m{mark}\033[0m"
    name = check.key.rpartition(".")[2]
    margin = " " * (2 + _MARK + 1 + _NAME + 1)
    # An "ok" with its consequence is one paragraph; of what is limited each part begins a line.
    parts = [check.found, check.means, f"do: {check.remedy}" if check.remedy else ""]
    if check.mark == "ok":
        parts = [f"{check.found}. {check.means}" if check.means else check.found]
    room = max(_LEAST_TEXT, width - len(margin))
    lines = [
        line
        for part in parts
        if part
        for line in textwrap.wrap(_safe(part), room, break_long_words=False, break_on_hyphens=False)
    ]
    for number, line in enumerate(lines):
        yield (f"  {mark} {name.ljust(_NAME)} " if number == 0 else margin) + line


def _safe(text: str) -> str:
    """Leave out what a terminal would obey: command lines and paths may hold anything."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)


def _summary(checks: Sequence[Check]) -> str:
    failed = [check.key for check in checks if check.mark == "no" and check.needed]
    limited = sum(check.mark != "ok" for check in checks) - len(failed)
    if failed:
        return f"Pools do not work here: {', '.join(failed)}."
    if limited:
        return f"All that a pool needs works; {limited} thing{'s are' if limited > 1 else ' is'} limited."
    return "All that a pool needs works."


def make_parser() -> argparse.ArgumentParser:
    """Return what reads the command's words."""
    parser = parsing.parser("doctor", DESCRIPTION, EPILOG)
    parser.add_argument(
        "pid", type=parsing.pid, metavar="PID", nargs="?", help="a process: what may be read of it"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    return parser
