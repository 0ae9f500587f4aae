"""Pure: what all judges of a running program share: the series of sights, and where they put what they find.

A finding needs that nothing has moved for some time. One that has not yet lasted so long is *pending*: who
looks then looks again, and nothing is said of it in the end if it does not last.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field

from glasspool.observe import libraries, procfs
from glasspool.observe.diagnosis import Clue, Finding, LineOf, no_source
from glasspool.observe.why.movement import Actor, Series
from glasspool.snapshot import Frame

SURE_S = 0.5
"""For so long must a state last that no healthy program has for more than a moment."""

_LIBRARY = os.sep + "lib" + os.sep + "python"


@dataclass
class Case:
    """What is known, and what was found so far.

    ``long_s`` is for how long a thread must not move where a healthy program may rest for a while too.
    """

    series: Series
    long_s: float
    line_of: LineOf = no_source
    found: list[Finding] = field(default_factory=list)
    pending: list[Finding] = field(default_factory=list)

    def say(self, finding: Finding, *, lasts_s: float = SURE_S) -> None:
        """Note a finding, which counts if the series is as long as it takes."""
        enough = len(self.series.looks) > 1 and self.series.window_s >= lasts_s
        (self.found if enough else self.pending).append(finding)

    def has(self, *kinds: str) -> bool:
        """Tell whether something of one of these kinds was found, or may be."""
        return any(finding.kind in kinds for finding in (*self.found, *self.pending))

    # Words ----------------------------------------------------------------------------------------

    def since(self, actor: Actor) -> str:
        """Say for how long a thread has rested, as far as that is known."""
        asleep_s = self.series.extra.asleep_s.get(actor.tid)
        if asleep_s is not None and asleep_s > self.series.window_s:
            return f"for {seconds(asleep_s)}"
        return f"for at least {seconds(self.series.window_s)}"

    def place(self, frames: Iterable[Frame]) -> str:
        """Say where the program's own innermost call is."""
        frame = site(tuple(frames))
        if frame is None:
            return "at a place that is not known"
        source = self.line_of(frame.file, frame.line).strip()
        text = f"at {frame.file}:{frame.line}, in {frame.function}"
        return f"{text}: `{source}`" if source else text

    def clue(self, actor: Actor, text: str) -> Clue:
        """Tell what a thread was seen at, by its stack and by the kernel."""
        kernel = procfs.state_words(actor.os)
        rests = f", {self.since(actor)}" if actor.is_still else ""
        by = actor.process.dump.source if actor.python else "os"
        return Clue(
            f"{title(actor)} {text}; the kernel says: {kernel}{rests}", by, actor.pid, actor.tid
        )


def title(actor: Actor) -> str:
    """Name a thread and its process."""
    return f"thread {actor.tid} ({actor.name}) of process {actor.pid}"


def site(stack: tuple[Frame, ...]) -> Frame | None:
    """Return the innermost call of the program itself, else the innermost of all."""
    for frame in reversed(stack):
        if not is_library(frame.file):
            return frame
    return stack[-1] if stack else None


def is_library(file: str) -> bool:
    """Tell whether a file belongs to the standard library, or to one of the libraries of pools."""
    if file.startswith("<frozen") or libraries.library(file) or libraries.passes(file):
        return True
    return _LIBRARY in file and f"{os.sep}site-packages{os.sep}" not in file


def seconds(value: float) -> str:
    """Write a time."""
    return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"


def count(number: int, word: str) -> str:
    """Write a number of things."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def listed(items: Iterable[object]) -> str:
    """Write several things, not all if they are many."""
    words = [str(item) for item in items]
    return (
        ", ".join(words) if len(words) < 9 else f"{', '.join(words[:8])} and {len(words) - 8} more"
    )
