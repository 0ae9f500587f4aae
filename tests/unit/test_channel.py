"""The channel beyond sending and receiving: waiting until the reader has taken what was sent."""

from __future__ import annotations

import socket
import threading

from glasspool.engines.local import channel

LIMIT_S = 20.0


def test_waiting_ends_when_all_has_been_read():
    """Not before (nearly) the last message; and the buffer has its size again."""
    ours, theirs = channel.pair()
    with ours, theirs:
        size = theirs.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        for _ in range(8):
            channel.send(theirs, b"x" * 100)
        done = threading.Event()

        def wait() -> None:
            channel.wait_until_read(theirs)
            done.set()

        waiter = threading.Thread(target=wait)
        waiter.start()
        for _ in range(4):
            assert not done.is_set()
            assert ours.recv(1000)
        while not done.wait(0.01):
            assert ours.recv(1000)
        waiter.join(LIMIT_S)
        assert theirs.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == size
        channel.send(theirs, b"x" * 190_000)


def test_waiting_ends_with_the_reader():
    """A reader that is gone is told as such by the next send."""
    ours, theirs = channel.pair()
    with theirs:
        for _ in range(8):
            channel.send(theirs, b"x" * 100)
        ours.close()
        channel.wait_until_read(theirs)
