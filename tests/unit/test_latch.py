"""The latch: turned once, seen by all, and no lock that a signal handler could meet."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType

import pytest

from glasspool.latch import Latch

LIMIT_S = 10.0


class NeverBack(Exception):
    """Raised by a signal handler in the middle of a wait."""


def test_a_latch_that_is_set_does_not_wait() -> None:
    """Whoever comes after ``set`` passes, and a second ``set`` changes nothing."""
    latch = Latch()
    assert not latch.is_set()
    latch.set()
    latch.set()
    assert latch.is_set()
    assert latch.wait()
    assert latch.wait(0)


@pytest.mark.parametrize("timeout", [0, -1, 0.01, 1e-9])
def test_a_wait_ends_with_its_time(timeout: float) -> None:
    """A wait that is not answered says so, and leaves nobody in the list."""
    latch = Latch()
    assert latch.wait(timeout) is False
    assert not latch._waiters


def test_a_very_long_time_is_no_error() -> None:
    """More seconds than a lock can count are as good as no limit."""
    latch = Latch()
    threading.Timer(0.01, latch.set).start()
    assert latch.wait(1e12)


def test_all_waiters_are_woken() -> None:
    """One ``set`` wakes every thread that waits, with and without a limit."""
    latch = Latch()
    woken: list[bool] = []
    threads = [
        threading.Thread(target=lambda i=i: woken.append(latch.wait(LIMIT_S if i % 2 else None)))
        for i in range(50)
    ]
    for thread in threads:
        thread.start()
    while len(latch._waiters or ()) < 50:  # nothing announces that a thread waits
        pass
    latch.set()
    for thread in threads:
        thread.join(LIMIT_S)
    assert woken == [True] * 50


def waiter(latch: Latch, timeout: float, seen: list[bool]) -> threading.Thread:
    """Start a thread that notes what its wait says."""
    thread = threading.Thread(target=lambda: seen.append(latch.wait(timeout)))
    thread.start()
    return thread


def test_no_waiter_is_forgotten() -> None:
    """A ``set`` at the same moment as a wait is seen by it, however often one tries."""
    for _ in range(300):
        latch, seen = Latch(), list[bool]()
        threads = [waiter(latch, LIMIT_S, seen) for _ in range(3)]
        latch.set()
        for thread in threads:
            thread.join(LIMIT_S)
        assert seen == [True] * 3


def test_waiters_with_short_limits_and_a_late_set() -> None:
    """Waiters that give up at the moment of ``set`` neither fail nor take another's wake-up."""
    for _ in range(100):
        latch, patient, hasty = Latch(), list[bool](), list[bool]()
        threads = [waiter(latch, LIMIT_S, patient)]
        threads += [waiter(latch, 0.0005, hasty) for _ in range(4)]
        threading.Timer(0.0005, latch.set).start()
        for thread in threads:
            thread.join(LIMIT_S)
            assert not thread.is_alive()
        assert patient == [True]
        assert len(hasty) == 4


def test_a_signal_handler_may_wait_for_the_same_latch() -> None:
    """A handler that waits while the main thread is inside the same wait gets its answer."""
    latch = Latch()
    answers: list[bool] = []
    inside = threading.Event()

    def handler(number: int, frame: FrameType | None) -> None:
        inside.set()
        answers.append(latch.wait(LIMIT_S))

    def interrupt() -> None:
        while not latch._waiters:  # until the main thread waits
            pass
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)  # type: ignore[arg-type]
        inside.wait(LIMIT_S)
        while len(latch._waiters) < 2:  # until the handler waits, too
            pass
        latch.set()

    before = signal.signal(signal.SIGUSR1, handler)
    helper = threading.Thread(target=interrupt)
    try:
        helper.start()
        assert latch.wait(LIMIT_S)
    finally:
        helper.join(LIMIT_S)
        signal.signal(signal.SIGUSR1, before)
    assert answers == [True]


def test_a_signal_handler_may_set_the_latch_that_is_waited_for() -> None:
    """A handler that turns the switch ends the wait that it interrupted."""
    latch = Latch()
    before = signal.signal(signal.SIGUSR1, lambda number, frame: latch.set())
    try:
        main = threading.main_thread().ident
        assert main is not None
        threading.Timer(0.02, signal.pthread_kill, (main, signal.SIGUSR1)).start()
        assert latch.wait(LIMIT_S)
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_handler_that_raises_ends_only_its_own_wait() -> None:
    """An interrupted waiter leaves the list; the others are woken as if it had never been."""
    latch = Latch()
    other: list[bool] = []

    def handler(number: int, frame: FrameType | None) -> None:
        raise NeverBack

    keeper = threading.Thread(target=lambda: other.append(latch.wait(LIMIT_S)))
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        keeper.start()
        main = threading.main_thread().ident
        assert main is not None
        threading.Timer(0.02, signal.pthread_kill, (main, signal.SIGUSR1)).start()
        with pytest.raises(NeverBack):
            latch.wait(LIMIT_S)
    finally:
        signal.signal(signal.SIGUSR1, before)
    latch.set()
    keeper.join(LIMIT_S)
    assert other == [True]
    assert latch.wait(0)


def test_the_limit_is_kept() -> None:
    """A wait lasts at least its limit, and not much longer."""
    latch = Latch()
    begun = time.monotonic()
    assert not latch.wait(0.05)
    assert 0.045 <= time.monotonic() - begun < 5


class Bell:
    """Somebody who waits without a thread."""

    def __init__(self) -> None:
        self.rung = 0

    def release(self) -> None:
        """Count."""
        self.rung += 1


def test_who_waits_without_a_thread_is_released_once() -> None:
    """Also beside threads; who has left is not released, and learns whether others are left."""
    latch = Latch()
    first, second, third = Bell(), Bell(), Bell()
    assert not latch.enter(first)
    assert not latch.enter(second)
    assert latch.leave(first)
    assert not latch.leave(second)
    assert not latch.enter(third)
    latch.set()
    latch.set()
    assert (first.rung, second.rung, third.rung) == (0, 0, 1)
    assert latch.enter(first)
    assert latch.leave(first)  # turned: nobody gives up
