"""Where the workers' time went: a bar and a row of a table for each, and their sum against the wall time."""

from __future__ import annotations

from collections.abc import Sequence

from glasspool.observe.accounts import PARTS, Sum, WorkerAccount, sum_of
from glasspool.snapshot import WorkerTime
from glasspool.views.report_page.markup import Cell, esc, folded, number, section, table, text
from glasspool.views.report_page.scales import how_long

WORDS = {
    "start_s": "start",
    "initializer_s": "initializer",
    "waiting_s": "waiting",
    "receiving_s": "receiving",
    "running_s": "running",
    "sending_s": "sending",
    "exit_s": "exit",
}

ROWS = 250
"""More workers than that are told as a sum: nobody reads a table of a thousand rows."""

OPEN_ROWS = 32
BARS = 64

_HINT = (
    "start: from the fork or spawn to the initializer. waiting: nothing to do. receiving: messages taken and "
    "arguments rebuilt. running: in your functions. sending: results pickled and put away. exit: leaving. "
    "“not explained” is what these do not add up to."
)


def drawn(found: Sequence[WorkerAccount]) -> str:
    """Return the part of the page on the workers' time."""
    if not found:
        return section("Where the workers' time went", "<p>Nothing is known of any worker.</p>")
    whole = sum_of(found)
    shown = _most_telling(found)
    rows = folded(
        _count(shown, found), _table(shown, found, whole), is_open=len(shown) <= OPEN_ROWS
    )
    bars = "".join(_bar(one, shown) for one in shown[:BARS])
    many = " many" if len(shown) > 24 else ""
    rest = len(found) - BARS
    rows = (f"<p class=hint>and {rest:,} more workers</p>" if rest > 0 else "") + rows
    return section(
        "Where the workers' time went",
        f"{_sentence(whole, found)}{_legend()}{_whole_bar(whole)}"
        f'<div class="bars{many}" role=img aria-label="time of each worker; the table has the numbers">'
        f"{bars}</div>{rows}",
        _HINT,
    )


def _most_telling(found: Sequence[WorkerAccount]) -> Sequence[WorkerAccount]:
    """Return those that have a row: all, or the ones that lived longest, in the old order."""
    if len(found) <= ROWS:
        return found
    longest = sorted(found, key=lambda one: one.wall_s or one.time.whole_s, reverse=True)[:ROWS]
    kept = {one.pid for one in longest}
    return [one for one in found if one.pid in kept]


def _count(shown: Sequence[WorkerAccount], found: Sequence[WorkerAccount]) -> str:
    if len(shown) < len(found):
        return f"the {len(shown)} longest of {len(found)} workers, in figures"
    return "each worker in figures" if len(found) > 1 else "the worker in figures"


def _sentence(whole: Sum, found: Sequence[WorkerAccount]) -> str:
    inferred = sum(one.inferred for one in found)
    count = "One worker" if whole.workers == 1 else f"{whole.workers} workers"
    told = [
        f"{count} lived for <b>{how_long(whole.wall_s)}</b> altogether. Their accounts add up to "
        f"{how_long(whole.time.whole_s)}; not explained: <b>{_rest(whole.unexplained_s, whole.wall_s)}</b>."
    ]
    if inferred:
        told.append(
            f"{'The worker' if whole.workers == 1 else f'{inferred} of them'} left no account: "
            "what its tasks do not explain counts as waiting (marked ~)."
        )
    return f"<p>{' '.join(told)}</p>"


def _rest(rest_s: float, wall_s: float) -> str:
    share = rest_s / wall_s * 100 if wall_s > 0 else 0.0
    if abs(share) < 0.05 and abs(rest_s) < 0.0005:
        return "0 (0.0 %)"
    sign = "−" if rest_s < 0 else ""
    return f"{sign}{how_long(abs(rest_s))} ({abs(share):.1f} %)"


def _legend() -> str:
    told = "".join(f"<li><i class=t-{word}></i>{word}</li>" for word in WORDS.values())
    return f"<ul class=legend>{told}<li><i class=t-rest></i>not explained</li></ul>"


def _segments(time: WorkerTime, rest_s: float, scale_s: float) -> str:
    parts = [(WORDS[part], float(getattr(time, part))) for part in PARTS]
    parts.append(("rest", max(0.0, rest_s)))
    whole = sum(spent for _, spent in parts)
    scale_s = max(scale_s, whole)
    told = []
    for word, spent in parts:
        if scale_s <= 0 or spent / scale_s < 0.0005:
            continue  # less than half a pixel
        name = "not explained" if word == "rest" else word
        share = f"{spent / whole * 100:.1f} %"
        told.append(
            f'<i class=t-{word} style="width:{spent / scale_s * 100:.2f}%" '
            f'title="{name}: {how_long(spent)} ({share})"></i>'
        )
    return f"<span class=bar>{''.join(told)}</span>"


def _whole_bar(whole: Sum) -> str:
    bar = _segments(whole.time, whole.unexplained_s, whole.wall_s)
    shares = [
        f"{WORDS[part]} {whole.share(part) * 100:.0f} %"
        for part in sorted(PARTS, key=lambda part: -whole.share(part))
        if whole.share(part) >= 0.005
    ]
    return f'<div class="bars all"><div><b>all</b>{bar}</div></div><p class=hint>{", ".join(shares)}</p>'


def _bar(one: WorkerAccount, all_of_them: Sequence[WorkerAccount]) -> str:
    longest = max(other.wall_s or other.time.whole_s for other in all_of_them)
    return f"<div><b>{esc(_label(one))}</b>{_segments(one.time, one.unexplained_s, longest)}</div>"


def _label(one: WorkerAccount) -> str:
    place = one.name if one.slot is None else str(one.slot)
    if one.node:
        place = f"{one.node} {place}"
    return f"{place}.{one.generation + 1}" if one.generation else place


def _table(shown: Sequence[WorkerAccount], found: Sequence[WorkerAccount], whole: Sum) -> str:
    parts = [WORDS[part] for part in PARTS]
    headings = ["slot", "pid", "tasks", *parts, "sum", "wall", "not explained", "ended"]
    foot = [
        Cell("all"),
        number(str(whole.workers), whole.workers),
        number(f"{whole.tasks:,}", whole.tasks),
        *_times(whole.time),
        _seconds(whole.time.whole_s),
        _seconds(whole.wall_s),
        number(_rest(whole.unexplained_s, whole.wall_s), whole.unexplained_s),
        text("" if len(shown) == len(found) else f"{len(found) - len(shown)} more are in the sum"),
    ]
    return table(headings, [_row(one) for one in shown], foot=foot, style="figures")


def _row(one: WorkerAccount) -> list[Cell]:
    ended = one.ended_as or ""
    if one.reason:
        ended = f"{ended}: {one.reason}" if ended else one.reason
    mark = "~" if one.inferred else ""
    return [
        Cell(esc(_label(one)), one.slot, "n"),
        Cell(str(one.pid), one.pid, "n"),
        number(f"{one.tasks:,}", one.tasks),
        *_times(one.time, mark),
        _seconds(one.time.whole_s),
        _seconds(one.wall_s),
        number(
            "?" if one.wall_s is None else _rest(one.unexplained_s, one.wall_s), one.unexplained_s
        ),
        text(ended),
    ]


def _times(time: WorkerTime, mark: str = "") -> list[Cell]:
    return [_seconds(float(getattr(time, part)), mark) for part in PARTS]


def _seconds(value: float | None, mark: str = "") -> Cell:
    if value is None:
        return number("?", None)
    return number(f"{mark if value else ''}{how_long(value)}" if value else "–", value)
