"""The mailbox: nothing that was put in lies unseen while its loop sleeps."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Iterator

import pytest

from glasspool.engines.local.mailbox import Mailbox

LIMIT_MS = 10_000


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    """Return a mailbox that is closed after the test."""
    box = Mailbox()
    yield box
    box.close()


def is_rung(box: Mailbox) -> bool:
    """Tell whether the descriptor is readable now."""
    return bool(select.select([box.fd], [], [], 0)[0])


def test_a_loop_that_is_up_is_not_rung_for(mailbox: Mailbox) -> None:
    """Putting costs no system call while the loop is at work; it looks before it sleeps."""
    mailbox.put(1)
    assert not is_rung(mailbox)
    assert mailbox.fall_asleep() is True
    mailbox.wake_up(False)
    assert list(mailbox.items) == [1]


def test_a_loop_that_sleeps_is_woken(mailbox: Mailbox) -> None:
    """Putting into the mailbox of a sleeping loop makes its descriptor readable, until it is up."""
    assert mailbox.fall_asleep() is False
    mailbox.put(1)
    mailbox.put(2)
    assert is_rung(mailbox)
    mailbox.wake_up(True)
    assert not is_rung(mailbox)
    assert list(mailbox.items) == [1, 2]


def test_a_nudge_wakes_only_for_something(mailbox: Mailbox) -> None:
    """What a put left unseen, because a signal cut it short, is found by a nudge."""
    mailbox.fall_asleep()
    mailbox.nudge()
    assert not is_rung(mailbox)
    mailbox.items.append("cut short")  # all that the put came to
    mailbox.nudge()
    assert is_rung(mailbox)


def test_waking_without_a_ring_is_no_error(mailbox: Mailbox) -> None:
    """A loop may say that it was rung when nobody rang, and a million rings are one."""
    mailbox.fall_asleep()
    mailbox.wake_up(True)
    mailbox.fall_asleep()
    for _ in range(70_000):  # more than a pipe has room for
        mailbox._wake()
    mailbox.wake_up(True)
    assert mailbox.fall_asleep() is False


def test_closing_twice_and_putting_after_it_are_no_errors() -> None:
    """What comes after the end of the loop is lost without a word."""
    box = Mailbox()
    fd = box.fd
    box.fall_asleep()
    box.close()
    box.close()
    box.put("late")
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_many_threads_and_one_loop_lose_nothing(mailbox: Mailbox) -> None:
    """Whatever the moment of a put, the loop that sleeps without a limit gets it, in order."""
    count, senders = 3000, 4
    poll = select.poll()
    poll.register(mailbox.fd, select.POLLIN)

    def send(sender: int) -> None:
        for number in range(count):
            mailbox.put((sender, number))

    threads = [threading.Thread(target=send, args=(sender,)) for sender in range(senders)]
    for thread in threads:
        thread.start()
    got: list[tuple[int, int]] = []
    while len(got) < count * senders:
        while mailbox.items:
            got.append(mailbox.items.popleft())
        if len(got) == count * senders:
            break
        rung = poll.poll(0 if mailbox.fall_asleep() else LIMIT_MS)
        assert rung or mailbox.items, "slept through a put"
        mailbox.wake_up(bool(rung))
    for thread in threads:
        thread.join()
    for sender in range(senders):
        assert [number for who, number in got if who == sender] == list(range(count))
