"""Callables by number: what travels by name has one for good, everything else one per job."""

from __future__ import annotations

import functools
import os
import threading
from typing import Any

import pytest

from glasspool.engines.local import payload, wire
from glasspool.engines.local.callables import Callables


def double(value: int) -> int:
    """Return twice the value."""
    return 2 * value


class Counter:
    """Has state."""

    def __init__(self) -> None:
        self.count = 0

    def step(self, value: int) -> int:
        """Count."""
        self.count += value
        return self.count

    def __call__(self, value: int) -> int:
        return self.step(value)


class Unhashable:
    """Can be called, and not be a key."""

    __hash__ = None  # type: ignore[assignment]

    def __call__(self) -> None:
        return None


class HashFails:
    """Can be called; looking at it closer fails."""

    def __hash__(self) -> int:
        raise RuntimeError("no hash today")

    def __call__(self) -> None:
        return None


class NoPickle:
    """Cannot be pickled."""

    def __reduce__(self) -> Any:
        raise ZeroDivisionError

    def __call__(self) -> None:
        return None


@pytest.fixture
def named() -> dict[int, str]:
    """Return the table of names that the callables fill."""
    return {}


@pytest.fixture
def callables(named: dict[int, str]) -> Callables:
    """Return an empty register."""
    return Callables(named.__setitem__)


@pytest.mark.parametrize("function", [double, len, int, Counter, os.path.join])
def test_by_name_is_for_good(callables: Callables, named: dict[int, str], function: Any) -> None:
    """A function, a class, a built-in: one number, the same for each call and job."""
    known = callables.by_reference(function)
    assert known is not None
    assert known is callables.by_reference(function) is callables.for_job(function)
    assert not known.for_one_job
    assert not known.by_value
    assert callables.get(known.number) is known
    assert named[known.number] == callables.name(known.number) == payload.callable_name(function)
    assert payload.load(known.body) is function  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "function",
    [Counter().step, Counter(), functools.partial(double, 3), "abc".upper, [].append, Unhashable()],
    ids=["bound method", "instance", "partial", "method of str", "method of list", "unhashable"],
)
def test_what_may_have_state_is_for_one_job(callables: Callables, function: Any) -> None:
    """A callable with something of its own has no number for good, and a new one for each job."""
    assert callables.by_reference(function) is None
    one, other = callables.for_job(function), callables.for_job(function)
    assert one.number != other.number
    assert one.for_one_job
    assert not one.by_value


def test_the_state_is_that_of_the_job(callables: Callables) -> None:
    """What a callable holds when the job is made is what its tasks get, whatever it holds later."""
    counter = Counter()
    one = callables.for_job(counter.step)
    counter.count = 100
    other = callables.for_job(counter.step)
    assert payload.load(one.body)(1) == 1  # type: ignore[arg-type]
    assert payload.load(other.body)(1) == 101  # type: ignore[arg-type]


def test_what_only_cloudpickle_takes_says_so(callables: Callables) -> None:
    """A lambda, and a function that hides behind another's name, travel by value."""

    def double(value: int) -> int:
        return 3 * value

    for function in (lambda value: 3 * value, double):
        assert callables.by_reference(function) is None
        known = callables.for_job(function)
        assert known.by_value
        assert known.for_one_job
        assert payload.load(known.body)(2) == 6  # type: ignore[arg-type]


def test_a_replaced_function_is_not_confused_with_the_new_one(
    callables: Callables, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name finds another function by now: the one that was asked for travels by value."""
    old = double
    monkeypatch.setitem(globals(), "double", lambda value: -value)
    known = callables.for_job(old)
    assert known.by_value
    assert payload.load(known.body)(2) == 4  # type: ignore[arg-type]


def test_errors_of_the_users_reach_the_caller(callables: Callables) -> None:
    """What cannot be pickled or looked up raises its own error, and leaves no number."""
    with pytest.raises(ZeroDivisionError):
        callables.for_job(NoPickle())
    with pytest.raises(RuntimeError, match="no hash today"):
        callables.for_job(HashFails())
    assert callables.for_job(double).number == 1


def test_a_forgotten_callable_has_no_name(callables: Callables) -> None:
    """After the job the number means nothing; forgetting twice is no error."""
    known = callables.for_job(Counter())
    callables.forget(known.number)
    callables.forget(known.number)
    assert callables.name(known.number) == "?"
    assert callables.name(12345) == "?"
    with pytest.raises(KeyError):
        callables.get(known.number)


def test_a_large_callable_lies_in_a_segment(callables: Callables) -> None:
    """State that does not fit a message goes in shared memory, once."""
    known = callables.for_job(functools.partial(double, b"x" * 500_000))
    assert isinstance(known.body, payload.Parcel)
    assert not known.flags & wire.BY_REFERENCE


def test_many_threads_get_numbers_of_their_own(callables: Callables) -> None:
    """No number is given out twice, however many ask at once."""
    numbers: list[int] = []
    start = threading.Barrier(4)

    def ask() -> None:
        start.wait()
        numbers.extend(callables.for_job(Counter()).number for _ in range(500))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(numbers)) == 2000


def test_names_come_from_built_in_attributes() -> None:
    """A name for views runs no code of the user's and is never missing."""

    class Loud:
        def __repr__(self) -> str:
            raise AssertionError("nobody asked")

        def __call__(self) -> None:
            return None

    assert payload.callable_name(Loud()).endswith("Loud")
    assert payload.callable_name(functools.partial(double, 1)).endswith("double")
    assert payload.callable_name(len) == "len"
    assert payload.callable_name(Counter().step).endswith("Counter.step")
