"""Who waits by trying: decided from what was measured, call by call."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from glasspool.engines.local import waiting
from glasspool.engines.local.waiting import ASLEEP, BOTH, CALLER, Trying

US = 1000
COSTLY = waiting.COSTLY_NS + 5 * US


class Calls:
    """A caller with a policy: what he does in a row of calls, and how often he tried."""

    def __init__(self, processors: int = 2) -> None:
        self.looks = 0
        self.there_are = processors
        self.trying = Trying(self._look)

    def _look(self) -> int:
        self.looks += 1
        return self.there_are

    def call(
        self,
        pause_ns: int = 5 * US,
        ran_ns: int = 1 * US,
        asleep_ns: int = COSTLY,
        in_time: bool = True,
        busy: int = 2,
    ) -> int:
        """Make one call, and return who tried in it."""
        who = self.trying.who(pause_ns, busy) if self.trying.is_on else ASLEEP
        if who == ASLEEP:
            self.trying.slept(ran_ns + asleep_ns, ran_ns)
        else:
            self.trying.tried(ran_ns, in_time)
        return who

    def warm(self) -> None:
        """Make calls until both sides try."""
        for _ in range(50):
            if self.call() == BOTH:
                return
        raise AssertionError("never tried")


def test_where_sleeping_costs_it_is_tried() -> None:
    """First the caller alone; once the answer came in time, the worker as well."""
    calls = Calls()
    row = [calls.call() for _ in range(10)]
    assert row == [ASLEEP] * waiting.SEEN + [CALLER] * 3 + [BOTH] * 5
    assert calls.looks == 1


def test_where_sleeping_is_cheap_nobody_tries() -> None:
    """So on one processor; it is not even looked how many there are."""
    calls = Calls()
    assert {calls.call(asleep_ns=20 * US) for _ in range(1000)} == {ASLEEP}
    assert calls.looks == 0


def test_one_slow_call_is_no_reason() -> None:
    """It takes some in a row."""
    calls = Calls()
    costs = [COSTLY, 20 * US] * 100
    assert {calls.call(asleep_ns=cost) for cost in costs} == {ASLEEP}


def test_nobody_tries_after_a_pause() -> None:
    """A worker that has slept for long is not awake soon."""
    calls = Calls()
    assert {calls.call(pause_ns=waiting.SHORT_NS + 1) for _ in range(100)} == {ASLEEP}
    calls.warm()
    assert calls.call(pause_ns=10**9) == ASLEEP


def test_nobody_tries_for_a_long_task() -> None:
    """As long as the tasks are, the last one being taken for the next; one long one is no failure."""
    calls = Calls()
    calls.warm()
    long_ns = 10 * waiting.TRY_NS
    assert calls.call(ran_ns=long_ns, in_time=False) == BOTH
    assert {calls.call(ran_ns=long_ns) for _ in range(100)} == {ASLEEP}
    assert calls.call() == ASLEEP
    assert calls.call() == BOTH


def test_nobody_tries_where_processors_are_needed() -> None:
    """A caller and his worker take two; what else the pool does goes first."""
    calls = Calls()
    calls.warm()
    assert calls.call(busy=3) == ASLEEP
    assert calls.call(busy=2) == BOTH


def test_in_vain_it_is_tried_ever_more_rarely() -> None:
    """The rests double up to a limit; then it is looked again how many processors there are."""
    calls = Calls()
    row = [calls.call(in_time=False) for _ in range(20_000)]
    at = [i for i, who in enumerate(row) if who != ASLEEP]
    gaps = [after - before for before, after in pairwise(at)]
    assert gaps == sorted(gaps)
    assert gaps[0] < 10
    assert waiting.MOST_RESTS <= gaps[-1] <= waiting.MOST_RESTS + 5
    assert calls.looks > 10
    calls.there_are = 1
    assert {calls.call() for _ in range(2000)} <= {ASLEEP, CALLER}


def test_what_has_failed_now_and_then_is_forgiven() -> None:
    """After as many answers in time as there were rests, the next failure costs one rest again."""
    calls = Calls()
    for _ in range(20_000):
        calls.call(in_time=False)
    for _ in range(10 * waiting.MOST_RESTS):
        calls.call()
    assert calls.call(in_time=False) == BOTH
    assert BOTH in [calls.call() for _ in range(10)]


@given(
    st.lists(st.integers(1, 60), min_size=50, max_size=200),
    st.sampled_from([60 * US, 200 * US, 10**9]),
)
def test_workers_stay_awake_only_as_far_as_it_pays(runs: list[int], pause_ns: int) -> None:
    """Runs of calls with pauses between: what is spent for nothing has been saved before."""
    calls = Calls()
    short = vain = 0
    for length in runs:
        who = ASLEEP
        for index in range(length):
            who = calls.call(pause_ns=pause_ns if index == 0 else 5 * US)
            short += index > 0
        vain += who == BOTH
    assert vain * waiting.STAY_COSTS <= short


def test_pairs_of_calls_keep_no_worker_awake_each_time() -> None:
    """A worker that answers two calls every millisecond mostly sleeps in between."""
    calls = Calls()
    stays = 0
    for _ in range(1000):
        calls.call(pause_ns=10**6)
        stays += calls.call() == BOTH
    assert stays <= 1000 // waiting.STAY_COSTS


def test_long_runs_are_tried_to_the_end() -> None:
    """A pause after a hundred calls does not keep the next hundred from it."""
    calls = Calls()
    for _ in range(20):
        calls.call(pause_ns=10**9)
        row = [calls.call() for _ in range(100)]
    assert row.count(BOTH) > 90
