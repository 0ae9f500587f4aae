"""What went on over time: curves with the axis of the rows of workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from glasspool.observe.records import Recording
from glasspool.observe.tally import Course
from glasspool.views.report_page.markup import esc, section
from glasspool.views.report_page.scales import axis, grid
from glasspool.views.table import size

_HEIGHT = 100


def drawn(recording: Recording, seen: Course, workers: int) -> str:
    """Return the part of the page with throughput, workers at work and waiting tasks."""
    if not recording.tasks:
        return ""
    per_s = 1e9 / seen.width_ns
    rates = [(done + bad) * per_s for done, bad in zip(seen.done, seen.bad, strict=True)]
    bad = [count * per_s for count in seen.bad]
    told = [
        _curve(
            "tasks ended per second",
            rates,
            seen,
            "c-done",
            f"{max(rates):,.1f}".removesuffix(".0"),
            bad,
        ),
        _curve(
            "workers in tasks",
            seen.running,
            seen,
            "c-busy",
            f"{max(seen.running):.1f}",
            top=workers,
        ),
    ]
    told += _waiting(seen)
    for words, shares, style in (
        ("callback thread busy", seen.callback, "c-call"),
        ("iterable thread busy", seen.iterable, "c-iter"),
    ):
        if max(shares) > 0.01:
            peak = f"{min(1.0, max(shares)) * 100:.0f} %"
            told.append(_curve(words, shares, seen, style, peak, top=1))
    return section("Over time", "".join(told) + _axis(seen))


def _waiting(seen: Course) -> Iterator[str]:
    if seen.waiting is not None and max(seen.waiting) > 0:
        yield _curve("tasks waiting", seen.waiting, seen, "c-wait", f"{max(seen.waiting):,.0f}")
    if seen.waiting_bytes is not None and max(seen.waiting_bytes) >= 1e6:
        peak = size(round(max(seen.waiting_bytes)))
        yield _curve("arguments waiting", seen.waiting_bytes, seen, "c-wait", peak)


def _curve(
    words: str,
    values: Sequence[float],
    seen: Course,
    style: str,
    peak: str,
    beside: Sequence[float] = (),
    *,
    top: float | None = None,
) -> str:
    most = max(top or 0.0, *values) or 1.0
    count = len(values)
    span_s = seen.width_ns * count / 1e9
    shapes = f'<path class={style} d="{_area(values, most)}"/>'
    if any(beside):
        shapes += f'<path class=g-bad d="{_area(beside, most)}"/>'
    of = f" of {top:,.0f}" if top is not None and top > 1 else ""
    return (
        f"<div class=curve><p><b>{esc(words)}</b> <span>at most {esc(peak)}{of}</span></p><div class=plot>"
        f'<svg viewBox="0 0 {count} {_HEIGHT}" preserveAspectRatio=none role=img '
        f'aria-label="{esc(words)} over time, at most {esc(peak)}">'
        f"{grid(span_s, count, _HEIGHT)}{shapes}</svg></div></div>"
    )


def _area(values: Sequence[float], most: float) -> str:
    """Return steps from the left to the right; equal neighbours share one."""
    path, before = [f"M0 {_HEIGHT}"], None
    for at, value in enumerate(values):
        y = round(_HEIGHT * (1 - min(1.0, value / most)), 1)
        if y != before:
            path.append(f"H{at}V{y:g}")
            before = y
    return "".join([*path, f"H{len(values)}V{_HEIGHT}z"])


def _axis(seen: Course) -> str:
    return f"<div class=curve><p></p><div class=plot>{axis(seen.width_ns * seen.count / 1e9)}</div></div>"
