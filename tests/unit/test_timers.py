"""Timers: calls that a loop makes later."""

from __future__ import annotations

from glasspool.engines.local.timers import Timers


def test_a_call_that_wants_to_be_made_again_at_once_does_not_keep_the_loop():
    """What a due call arranges is due at the next look, also if its time has come by then."""
    timers, made = Timers(), []

    def again() -> None:
        made.append(len(made))
        timers.later(0.0, again)

    timers.later(0.0, again)
    timers.run_due()
    assert made == [0]
    timers.run_due()
    assert made == [0, 1]


def test_calls_are_made_in_the_order_of_their_times():
    """The earliest first; of the same time, the one that was arranged first."""
    timers, made = Timers(), []
    for delay_s, name in ((0.0, "a"), (-1.0, "b"), (60.0, "c"), (0.0, "d")):
        timers.later(delay_s, lambda name=name: made.append(name))
    timers.run_due()
    assert made == ["b", "a", "d"]
    assert 50 < (timers.next_s() or 0) <= 60
