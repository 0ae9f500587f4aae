"""Waiting by trying: when a direct call is worth looking again and again for what comes at once.

To sleep until a message comes and to be woken costs some 25 to 50 microseconds where the processor has
gone idle meanwhile, on each side of a call: several times the work of a short call. In a run of short
calls both sides know that the next message is about to come, and so look for it a while before they
sleep. ``docs/internals/waiting.md`` has the figures.

Pure: numbers in, a decision out. Several callers use one ``Trying`` at the same time without a lock:
each step is one assignment, and a number that was lost costs one wait of the other kind.
"""

from __future__ import annotations

from collections.abc import Callable

TRY_NS = 100_000
"""Nobody tries for longer than this at a time: about what two wake-ups cost."""

SHORT_NS = 50_000
"""A run of short calls: so long, at most, are the tasks themselves, and the pauses between them."""

COSTLY_NS = 30_000
"""A call that takes so much longer than its task has waited for sleeping processors."""

SEEN = 2
"""It is tried after so many such calls in a row: one may have met anything."""

MOST_RESTS = 256
"""After trying in vain so many calls, at most, wait asleep before it is tried again."""

STAY_COSTS = 4
"""A worker that stayed awake for nothing has spent about so many times what a short pause saves."""

MOST_CREDIT = 16
"""Short pauses are remembered as worth so many at most."""

LOOK_ANEW = 8
"""From so many rests on it is looked again how many processors there are."""

ASLEEP, CALLER, BOTH = range(3)
"""Who waits by trying: nobody; the caller for the answer; the worker for the next call as well."""


class Trying:
    """Decides, call by call, who waits by trying.

    It is tried where sleeping has been seen to cost something: not so where caller and worker share a
    processor, as the one wakes while the other falls asleep. First the caller alone; when the answer has
    come in time, the two are on processors of their own, and the worker may try as well. Each time in
    vain ends it, for twice as many calls as the last time. A worker tries for the next call only while
    the short pauses between calls pay for those in which it did so for nothing.

    Args:
        processors: Tells how many processors the process may use; asked when it matters.
    """

    def __init__(self, processors: Callable[[], int]) -> None:
        self._processors = processors
        self._known: int = 0  # how many there are; 0: not looked yet
        self._who: int = ASLEEP
        self._costly: int = 0  # calls in a row that slept, and for which that was costly
        self._is_short: bool = False  # the last task was
        self._rests: int = 0  # so many calls slept after the last time in vain
        self._rests_left: int = 0
        self._in_time: int = 0  # how often in a row the answer has come in time since then
        self._credit: int = 0  # what short pauses have saved, or would have
        self._stays: bool = False  # a worker was asked to, in the last call

    @property
    def is_on(self) -> bool:
        """Whether trying has been found to be worth something; if not, ``who`` need not be asked."""
        return self._who != ASLEEP

    def who(self, pause_ns: int, busy: int) -> int:
        """Tell who waits by trying in a call that begins now.

        Args:
            pause_ns: For how long the worker has had nothing to do, since its last direct call.
            busy: How many processors this call and the rest of the pool's work use.
        """
        stayed, self._stays = self._stays, False
        if pause_ns > SHORT_NS:
            if stayed:
                self._credit -= STAY_COSTS
            return ASLEEP
        self._credit = min(self._credit + 1, MOST_CREDIT)
        if self._who == ASLEEP or not self._is_short:
            return ASLEEP
        if busy > (self._known or self._look()):
            return ASLEEP
        if self._credit < STAY_COSTS:
            return CALLER
        self._stays = self._who == BOTH
        return self._who

    def slept(self, waited_ns: int, ran_ns: int) -> None:
        """Take in a call whose caller slept: how long he waited, and how long the task ran of that."""
        self._is_short = ran_ns <= SHORT_NS
        if self._rests_left:
            self._rests_left -= 1
        elif not self._is_short or waited_ns - ran_ns < COSTLY_NS:
            self._costly = 0
        else:
            self._costly += 1
            if self._costly >= SEEN:
                self._who = max(self._who, CALLER)

    def tried(self, ran_ns: int, in_time: bool) -> None:
        """Take in a call whose caller tried: how long its task ran, and whether that was time enough."""
        self._is_short = ran_ns <= SHORT_NS
        if in_time:
            self._who = BOTH
            self._in_time += 1
            if self._in_time >= self._rests:
                self._rests = 0
        elif self._is_short:  # else it was the task: nothing is wrong with trying
            self._who = ASLEEP
            self._costly = self._in_time = 0
            self._rests = self._rests_left = min(2 * self._rests or 1, MOST_RESTS)
            if self._rests >= LOOK_ANEW:
                self._known = 0

    def _look(self) -> int:
        self._known = self._processors()
        return self._known
