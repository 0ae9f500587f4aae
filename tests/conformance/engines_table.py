"""The page that says what each engine does: ``docs/engines.md``.

    python tests/conformance/engines_table.py > docs/engines.md

Made of the flags of the engines, by which what an engine cannot do raises, and of the behaviour suite:
which of its programs run on clusters, and why the others do not.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from differing import DIFFERENCES

from glasspool.engines.base import _INSTEAD, CAPABILITIES, NAMES, Capabilities

HERE = Path(__file__).parent
MODULES = ("attributes", "calls", "lifecycle", "places", "results", "state")

HEAD = """\
# What each engine does

`Pool(engine=...)`: `local` (processes of this machine), `dask` and `ray` ([clusters](howto/clusters.md)). One
behaviour suite runs on all three: {shared} programs of the local pool's suite run on Dask and on Ray as they
stand, beside the faults of one machine and those that only clusters have (a node killed, stopped, slow, cut
off; the scheduler or head lost). What an engine cannot do is declared by a flag, and raises `EngineCannot`
with what there is in its place; nothing is silently ignored.

*This page is made by `python tests/conformance/engines_table.py` from the flags and from the suite; a test
compares them.*

## Flags

| | local | dask | ray |
|---|---|---|---|
"""

WORDS = {
    "addresses": "`address=`: which cluster",
    "per_node": "`processes_per_node=`",
    "elastic": "nodes that come are given workers, and those that go lose them",
    "guided_maps": "maps without a chunk size have chunks by what items take",
    "lends": "a synchronous `apply` takes a worker for itself, past the pool's threads",
    "own_processes": "a subclass or a context may bring its own class of processes",
    "handles": "`pool._pool` has the workers' processes",
    "run_on_all": "`run_on_all()`",
    "records": "`record=`, `report()`, `trace()`",
    "stall_watch": "`stall_after=`: warns when nothing moves",
    "cell_output": "what tasks print in a notebook appears in the cell that called",
    "captures_output": "`capture_output=True`",
    "forwards_logs": "`forward_logs=`: records of workers reach the program's handlers",
}


def shared_tests() -> int:
    """Return how many programs of the local suite run on clusters as they stand."""
    left_out = {one.test for one in DIFFERENCES}
    found: set[str] = set()
    for module in MODULES:
        tree = ast.parse((HERE / f"test_conformance_{module}.py").read_text())
        found |= {one.name for one in tree.body if isinstance(one, ast.FunctionDef)}
    return sum(name.startswith("test_") and name not in left_out for name in found)


def _rows() -> Iterator[str]:
    cans = [CAPABILITIES[name] for name in ("local", "dask", "ray")]
    methods = " | ".join(", ".join(can.start_methods) for can in cans)
    yield f"| how workers are started (`context=`) | {methods} |"
    for flag in Capabilities._fields:
        if flag in ("name", "start_methods"):
            continue
        words = WORDS.get(flag, f"`{flag}`")
        yield f"| {words} | {' | '.join('yes' if getattr(can, flag) else 'no' for can in cans)} |"


def _instead() -> Iterator[str]:
    for flag, why in _INSTEAD.items():
        if not all(getattr(CAPABILITIES[name], flag) for name in NAMES):
            yield f"- {WORDS.get(flag, flag)}: {why}."


def page() -> str:
    """Return the page."""
    lines = [*_rows(), "", "## Where there is a no, and what there is in its place", ""]
    lines += [*_instead(), "", "## Programs of the suite that clusters do not share", ""]
    lines += ["| program | why | what a cluster does is shown by |", "|---|---|---|"]
    lines += [
        f"| `{d.test}` | {d.why} | {f'`{d.instead}`' if d.instead else ''} |" for d in DIFFERENCES
    ]
    return HEAD.format(shared=shared_tests()) + "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
