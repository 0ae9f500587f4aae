"""How times and sizes are distributed: histograms with logarithmic scales, and percentiles by function."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Sequence
from itertools import chain

from glasspool.observe.tally import FunctionTally, percentile
from glasspool.views.report_page.markup import Cell, cut, esc, number, section, table
from glasspool.views.report_page.scales import Colours, how_long, mark
from glasspool.views.table import size

BY_DECADE = 6
_HEIGHT = 100
FUNCTIONS = 50

Say = Callable[[float], str]


def drawn(functions: Sequence[FunctionTally], colours: Colours) -> str:
    """Return the parts of the page on functions and on distributions."""
    if not functions:
        return ""
    told = [
        _histogram("run time of a task", _all(one.run_ns for one in functions), _time),
        _histogram("waiting for a worker", _all(one.wait_ns for one in functions), _time),
        _histogram("size of a result", _all(one.result_bytes for one in functions), _bytes),
    ]
    return section("Functions", _table(functions, colours), _HINT) + section(
        "Distributions", f"<div class=cards>{''.join(told)}</div>"
    )


_HINT = (
    "A task is one apply, or one chunk of a map: its items are the calls of the function. Times are of "
    "tasks. p50 is the median; 95 of 100 tasks took no longer than p95."
)


def _all(arrays: Iterable[array[int]]) -> list[int]:
    return sorted(chain.from_iterable(arrays))


def _time(value: float) -> str:
    return how_long(value / 1e9)


def _bytes(value: float) -> str:
    return size(round(value)).replace(" ", "\u00a0")


def _table(functions: Sequence[FunctionTally], colours: Colours) -> str:
    headings = [
        "function",
        "tasks",
        "items",
        "not done",
        "total",
        "mean",
        "p50",
        "p95",
        "p99",
        "longest",
    ]
    waits = any(one.wait_ns for one in functions)
    headings += ["waited p50", "waited p95"] if waits else []
    headings += ["result p50", "result p99"]
    rows = [_row(one, colours, waits) for one in functions[:FUNCTIONS]]
    rest = len(functions) - FUNCTIONS
    more = f"<p class=hint>{rest} more functions took less time.</p>" if rest > 0 else ""
    return table(headings, rows, style="figures") + more


def _row(one: FunctionTally, colours: Colours, waits: bool) -> list[Cell]:
    run, wait, sizes = sorted(one.run_ns), sorted(one.wait_ns), sorted(one.result_bytes)
    total = sum(run)
    swatch = f"<i class=f{colours.number(one.function)}></i>"
    return [
        Cell(f'{swatch}<span title="{esc(one.function)}">{esc(cut(one.function, 60))}</span>'),
        number(f"{one.tasks:,}", one.tasks),
        number(f"{one.items:,}", one.items),
        number(f"{one.bad:,}" if one.bad else "–", one.bad),
        _value(total, _time, bool(run)),
        _value(total / len(run) if run else 0, _time, bool(run)),
        *(_at(run, share, _time) for share in (0.5, 0.95, 0.99, 1.0)),
        *(_at(wait, share, _time) for share in (0.5, 0.95) if waits),
        *(_at(sizes, share, _bytes) for share in (0.5, 0.99)),
    ]


def _at(ordered: Sequence[int], share: float, say: Say) -> Cell:
    value = percentile(ordered, share)
    return _value(value or 0, say, value is not None)


def _value(value: float, say: Say, known: bool) -> Cell:
    return number(say(value) if known else "?", value if known else -1.0)


def _histogram(words: str, ordered: Sequence[int], say: Say) -> str:
    if not ordered:
        return ""
    low, counts = _counted(ordered)
    most = max(counts)
    bars = "".join(
        f"<rect x={at + 0.06:.2f} y={_HEIGHT * (1 - count / most):.1f} width=.88 "
        f"height={max(0.8, _HEIGHT * count / most):.1f}>"
        f"<title>{esc(_bar_words(low + at, count, say))}</title></rect>"
        for at, count in enumerate(counts)
        if count
    )
    marks = "".join(
        mark(at / len(counts), say(_edge(low + at)))
        for at in range(0, len(counts), BY_DECADE * (1 if len(counts) <= 30 else 2))
    )
    named = ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))
    shares = ", ".join(f"{name} {say(percentile(ordered, share) or 0)}" for share, name in named)
    return (
        f"<figure class=card><figcaption><b>{esc(words)}</b> <span>{len(ordered):,} tasks; "
        f"{esc(shares)}; largest {esc(say(ordered[-1]))}</span></figcaption>"
        f'<svg class=histogram viewBox="0 0 {len(counts)} {_HEIGHT}" preserveAspectRatio=none role=img '
        f'aria-label="{esc(words)}: {esc(shares)}">{bars}</svg>'
        f"<div class=axis aria-hidden=true>{marks}</div></figure>"
    )


def _bar_words(place: int, count: int, say: Say) -> str:
    return f"{count:,} from {say(_edge(place))} to {say(_edge(place + 1))}"


def _edge(place: int) -> float:
    return float(10 ** (place / BY_DECADE))


def _counted(ordered: Sequence[int]) -> tuple[int, list[int]]:
    """Count values by powers of ten, parted evenly; the first place begins at a whole power.

    Returns:
        The number of the first place, and how many values are in each.
    """
    places: dict[int, int] = {}
    for value in ordered:
        place = 0 if value < 1 else int(math.log10(value) * BY_DECADE + 1e-9)
        places[place] = places.get(place, 0) + 1
    low = min(places) // BY_DECADE * BY_DECADE
    high = (max(places) // BY_DECADE + 1) * BY_DECADE
    return low, [places.get(place, 0) for place in range(low, high)]
