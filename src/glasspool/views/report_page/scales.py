"""Axes and colours: round numbers to mark, and colours that all eyes can tell apart."""

from __future__ import annotations

import math
from collections.abc import Iterable

from glasspool.views.report_page.markup import cut, esc
from glasspool.views.table import duration

COLOURS = 7
"""So many functions have a colour of their own (Paul Tol's "bright" scheme); the others share one."""


def round_step(span: float, most: int) -> float:
    """Return the smallest of 1, 2, 5, 10 ... that parts a span into no more than so many steps."""
    if span <= 0:
        return 1.0
    step = 10.0 ** math.floor(math.log10(span / most))
    while span / step > most:
        for times in (2, 5, 10):
            if span / (step * times) <= most:
                return step * times
        step *= 10
    return step


def moments(span_s: float, most: int = 6) -> list[tuple[float, str]]:
    """Return what to mark on an axis of time: the share of it, 0 to 1, and the words."""
    if span_s <= 0:
        return [(0.0, "0 s")]
    step = round_step(span_s, most)
    count = int(span_s / step + 1e-9)
    return [(n * step / span_s, moment(n * step, step)) for n in range(count + 1)]


def moment(at_s: float, step_s: float) -> str:
    """Say a moment on an axis with such steps."""
    if at_s == 0:
        return "0 s"
    if step_s < 1e-3:
        return f"{at_s * 1e6:g} µs"
    if step_s < 1:
        return f"{at_s * 1e3:g} ms" if at_s < 1 else f"{at_s:g} s"
    if at_s < 120:
        return f"{at_s:g} s"
    minutes, seconds = divmod(round(at_s), 60)
    if minutes < 120:
        return f"{minutes} min" if not seconds else f"{minutes}:{seconds:02d} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d} h"


def axis(span_s: float) -> str:
    """Return the marks below a chart over time."""
    marks = moments(span_s)
    told = "".join(mark(at, words) for at, words in marks)
    return f"<div class=axis aria-hidden=true>{told}</div>"


def mark(at: float, words: str) -> str:
    """Return one mark of an axis; near its end the words are on the other side, where there is room."""
    side = " class=left" if at > 0.94 else ""
    return f'<span{side} style="left:{at * 100:.2f}%"><b>{esc(words)}</b></span>'


def grid(span_s: float, width: float, height: float) -> str:
    """Return the lines behind a chart over time."""
    path = "".join(f"M{at * width:.1f} 0v{height:g}" for at, _ in moments(span_s) if 0 < at < 1)
    return f'<path class=grid d="{path}"/>' if path else ""


class Colours:
    """Which function has which colour: the first few their own, all others one together."""

    def __init__(self, functions: Iterable[str]) -> None:
        self.functions: tuple[str, ...] = tuple(functions)
        self._numbers = {name: at for at, name in enumerate(self.functions[:COLOURS])}

    def number(self, function: str) -> int:
        """Return the number of a function's colour."""
        return self._numbers.get(function, COLOURS)

    @property
    def count(self) -> int:
        """How many colours are in use."""
        return min(len(self.functions), COLOURS + 1)

    def legend(self) -> str:
        """Return which colour stands for what."""
        told = [(f"f{at}", name) for name, at in self._numbers.items()]
        rest = len(self.functions) - len(told)
        if rest > 0:
            told.append((f"f{COLOURS}", f"{rest} other function{'' if rest == 1 else 's'}"))
        return "".join(
            f"<li><i class={style}></i>{esc(cut(name, 60))}</li>" for style, name in told
        )


def how_long(seconds: float) -> str:
    """Say a duration so that number and unit stay together, none as zero."""
    if 0 < seconds < 1e-6:
        return f"{seconds * 1e9:.0f}\u00a0ns"
    return (duration(max(0.0, seconds)) or "0 s").replace(" ", "\u00a0")
