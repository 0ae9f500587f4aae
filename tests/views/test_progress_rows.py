"""Lines of a terminal's progress: they fit, whatever the width and the names."""

from __future__ import annotations

import io

import pytest
from rich.cells import cell_len

from glasspool import progress
from glasspool.progress import Pace, Running, Slow, State, Tally
from glasspool.views import progress_terminal as terminal

LABELS = (
    "f",
    "the photos of a long holiday in the mountains",
    "写真を小さくする" * 6,
    "[bold]\\[/]",
)


def a_state(label: str, total: int | None = 123_456, *, is_over: bool = False) -> State:
    """Return the state of a job in which everything has happened."""
    tally = Tally(total)
    tally.done, tally.failed, tally.lost, tally.skipped = 37_000, 12, 3, 7
    if is_over:
        tally.end(KeyboardInterrupt())
    slow = Slow(12, 4000.0, "写真" * 30, 3, 9)
    return progress.state(label, tally, Pace(0.0), Running(16, 2.5, slow), 0.0, 500.0)


@pytest.mark.parametrize("columns", [20, 40, 60, 79, 119, 300])
@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("total", [123_456, None])
def test_every_line_fits(label: str, columns: int, total: int | None) -> None:
    """A line that is wider than the terminal would take two, and the next drawing would begin too low."""
    lines = terminal.rows([a_state(label, total)] * 3, columns, 24)
    for line in lines:
        assert cell_len(line.plain) <= columns, line.plain
        assert "\n" not in line.plain


def test_what_matters_most_stays_on_a_narrow_line() -> None:
    """Percent and troubles before rate, running and bar."""
    wide, narrow = (terminal.row(a_state("f"), columns).plain for columns in (119, 60))
    for words in ("29 %", "37,022/123,456", "12 failed", "16 running", "74/s", "left", "━"):
        assert words in wide
    for words in ("29 %", "12 failed", "3 lost"):
        assert words in narrow


def test_many_jobs_never_fill_the_terminal() -> None:
    """Some lines are left for what the program prints; how many more there are is told."""
    lines = terminal.rows([a_state("f")] * 40, 79, 24)
    assert len(lines) == 22
    assert lines[-1].plain == "and 19 more"


def test_a_last_line_says_how_it_ended() -> None:
    """With the time that it took, and why it was cut short."""
    plain = terminal.last_row(a_state("f", is_over=True), 119).plain
    assert plain.endswith("in 8:20  interrupted")
    assert "86,434 cancelled" in plain


def test_colours_and_signs_are_those_that_the_stream_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without colours what is not done yet is drawn otherwise; without Unicode by plain signs."""
    monkeypatch.setenv("NO_COLOR", "1")
    half = terminal.bar(0.5, 10, False, False)
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    assert terminal.rendered(stream, [half]) == "━━━━━·····"
    assert (
        terminal.rendered(io.TextIOWrapper(io.BytesIO(), encoding="ascii"), [half]) == "=====-----"
    )
