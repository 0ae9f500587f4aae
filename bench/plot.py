"""A picture of ratios: one line per metric, on a logarithmic scale, as SVG. Pure.

To the right of the line at 1 is better than the standard library's pool. glasspool is a bar with the
range of its rounds, the others are dots. The colours follow the reader's light or dark mode.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from bench.contenders import BARE, BASELINE, OURS
from bench.report import Row, times

LABELS = 430
PLOT = 440
RIGHT = 60
LINE = 19
TOP = 58
DOTS = ("#e69f00", "#56b4e9", "#cc79a7", "#009e73", "#f0e442", "#d55e00", "#8f7ee7", "#a0785a")

STYLE = """
text { font: 12px system-ui, sans-serif; fill: #24292f }
.faint { fill: #656d76 } .grid { stroke: #d0d7de } .one { stroke: #24292f }
.win { fill: #1f77b4 } .loss { fill: #c6403b } .range { stroke: #24292f; stroke-width: 1.5 }
.dot { stroke: #24292f; stroke-width: 0.5 } .bare { stroke: #24292f; stroke-width: 2; fill: none }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .faint { fill: #9198a1 } .grid { stroke: #3d444d } .one { stroke: #e6edf3 }
  .win { fill: #4f9fdc } .loss { fill: #e5645e } .range { stroke: #e6edf3 }
  .dot { stroke: #e6edf3 } .bare { stroke: #e6edf3 }
}
"""


@dataclass(frozen=True, slots=True)
class Scale:
    """From ratios to places; logarithmic."""

    low: float
    high: float

    def at(self, ratio: float) -> float:
        """Return where a ratio stands; what is beyond the scale stands at its end."""
        ratio = min(max(ratio, self.low), self.high)
        span = math.log(self.high / self.low)
        return LABELS + PLOT * math.log(ratio / self.low) / span

    def ticks(self) -> Iterator[float]:
        """Give the ratios to be marked: 1, 10, 100, and 2 and 5 in between where there is room."""
        wide = math.log10(self.high / self.low) > 3
        for power in range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1):
            for step in (1,) if wide else (1, 2, 5):
                tick = float(f"{step}e{power}")
                if self.low <= tick <= self.high:
                    yield tick


def scale_of(ratios: Sequence[float]) -> Scale:
    """Return a scale on which all of these have a place, and 1 as well."""
    finite = [ratio for ratio in ratios if 0 < ratio < math.inf]
    return Scale(min([0.5, *finite]) * 0.85, max([2.0, *finite]) * 1.15)


def picture(rows: Sequence[Row], names: Sequence[str]) -> str:
    """Return the picture of the rows that have a ratio of ours to stock's."""
    rows = [row for row in rows if _ratio(row, OURS) is not None]
    others = [name for name in names if name not in (OURS, BASELINE, BARE)]
    shown = [OURS, *others, *([BARE] if BARE in names else [])]
    scale = scale_of([ratio for row in rows for name in shown if (ratio := _ratio(row, name))])
    height = TOP + LINE * len(rows) + 12
    width = LABELS + PLOT + RIGHT
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img">',
        "<title>How many times as good as the standard library's pool</title>",
        f"<style>{STYLE}</style>",
        *_legend(others, BARE in names),
        *_grid(scale, height),
    ]
    for number, row in enumerate(rows):
        lines += _line(row, TOP + LINE * number, scale, others)
    return "\n".join([*lines, "</svg>"]) + "\n"


def _ratio(row: Row, name: str) -> float | None:
    """Return the ratio to stock where it can be drawn."""
    ratio = row.ratio(name)
    return ratio if ratio is not None and 0 < ratio < math.inf else None


def _legend(others: Sequence[str], has_bare: bool) -> Iterator[str]:
    x = 8.0
    yield f'<rect class="win" x="{x}" y="8" width="14" height="10"/>'
    yield f'<text x="{x + 19}" y="17">{OURS}</text>'
    x += 90
    for name, colour in zip(others, DOTS, strict=False):
        yield f'<circle class="dot" cx="{x + 5}" cy="13" r="4.5" fill="{colour}"/>'
        yield f'<text x="{x + 14}" y="17">{escape(name)}</text>'
        x += 26 + 8 * len(name)
    if has_bare:
        yield f'<path class="bare" d="{_diamond(x + 5, 13)}"/>'
        yield f'<text x="{x + 14}" y="17">by hand, no pool</text>'


def _grid(scale: Scale, height: int) -> Iterator[str]:
    yield f'<text class="faint" x="8" y="{TOP - 12}">times as good as {BASELINE}: right is better</text>'
    for tick in scale.ticks():
        x = scale.at(tick)
        kind = "one" if tick == 1 else "grid"
        yield f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 6}" y2="{height - 8}"/>'
        yield (
            f'<text class="faint" x="{x:.1f}" y="{TOP - 12}" text-anchor="middle">{tick:g}</text>'
        )


def _line(row: Row, y: float, scale: Scale, others: Sequence[str]) -> Iterator[str]:
    ratio = row.ratio(OURS) or 1.0
    middle = y + LINE / 2
    start, end = sorted((scale.at(1), scale.at(ratio)))
    kind = "loss" if ratio < 1 else "win"
    yield f'<text x="{LABELS - 8}" y="{middle + 4}" text-anchor="end">{escape(row.words)}</text>'
    yield (
        f'<rect class="{kind}" x="{start:.1f}" y="{y + 4}" width="{max(end - start, 1):.1f}" '
        f'height="{LINE - 8}"/>'
    )
    ratios = row.ratios(OURS)
    low, high = scale.at(min(ratios)), scale.at(max(ratios))
    yield (f'<line class="range" x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}"/>')
    for name, colour in zip(others, DOTS, strict=False):
        other = _ratio(row, name)
        if other is not None:
            yield (
                f'<circle class="dot" cx="{scale.at(other):.1f}" cy="{middle}" r="4" '
                f'fill="{colour}"/>'
            )
    bare = _ratio(row, BARE)
    if bare is not None:
        yield f'<path class="bare" d="{_diamond(scale.at(bare), middle)}"/>'
    yield f'<text class="faint" x="{LABELS + PLOT + 6}" y="{middle + 4}">{times(ratio)}</text>'


def _diamond(x: float, y: float) -> str:
    return f"M{x - 5:.1f} {y} L{x:.1f} {y - 5} L{x + 5:.1f} {y} L{x:.1f} {y + 5} Z"
